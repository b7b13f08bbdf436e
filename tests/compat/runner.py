"""Runs cases on an engine in child processes, collects their outcomes and says whether two engines agree.

One child serves all cases, so that they share one `init`. A case that hangs or takes its process down costs only
itself: the rest goes on in a new child. By hand:

    python tests/compat/runner.py ray tasks objects.put_and_get     (prints what each case gave)
    python tests/compat/runner.py both tasks                        (prints where they disagree)
    python tests/compat/runner.py record                            (keeps what Ray gives for every case; see record.py)
    python tests/compat/runner.py record tasks objects              (the same for these groups)

A group with NEEDS_DASHBOARD asks Ray's dashboard, which is there with `pip install "ray[default]"` alone: record such a
group with that installed. Without it Ray's outcomes of the group are those of the record, also in `./dev test --full`.
"""

import builtins
import concurrent.futures
import dataclasses
import importlib
import importlib.util
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

import record

HERE = pathlib.Path(__file__).resolve().parent
CHILD_TIMEOUT_S = 900
# A terminal's signals as a shell gives them, also where nohup or a background job ignored them: an engine's workers
# inherit what the child has, and are not interrupted by what they ignore.
AS_FROM_A_SHELL = ("env", "--default-signal=HUP,INT")
_children = set()  # that run now
_is_over = threading.Event()  # no more of them
ENGINES = ("ray", "beeline")


@dataclasses.dataclass
class Outcome:
    """What a case gave: `value` (plain data), or `broke` with the text that explains why there is none."""

    value: object = None
    broke: str | None = None
    seconds: float = 0.0


def cases():
    """{"group.case": whether it belongs to the full set only}; a group that shares no session comes last."""
    groups = [importlib.import_module(f"cases.{path.stem}") for path in sorted((HERE / "cases").glob("[a-z]*.py"))]
    groups.sort(key=lambda group: not getattr(group, "SHARED_SESSION", True))
    return {
        f"{group.__name__.split('.')[-1]}.{name.removeprefix('case_')}": getattr(case, "full", False)
        for group in groups
        for name, case in vars(group).items()
        if name.startswith("case_")
    }


def not_yet(name):
    """Whether the case, or its whole group, is known to be missing from this version of Beeline."""
    group_name, case_name = name.split(".")
    group = importlib.import_module(f"cases.{group_name}")
    return getattr(group, "NOT_YET", False) or getattr(getattr(group, f"case_{case_name}"), "not_yet", False)


def needs_dashboard(name):
    """Whether the case asks Ray's dashboard."""
    return getattr(importlib.import_module(f"cases.{name.split('.')[0]}"), "NEEDS_DASHBOARD", False)


def can_ask(engine, name):
    """Whether the case can run on the engine here: not on Ray where it needs a dashboard that is not installed."""
    return engine != "ray" or not needs_dashboard(name) or importlib.util.find_spec("aiohttp_cors") is not None


def run(engine, names, at_once=1):
    """Runs the named cases; returns {name: Outcome}, with an entry for every name.

    So many children at once share the groups among them: most cases wait more than they work.
    """
    known = list(cases())
    why = 'needs a dashboard: pip install "ray[default]", then python tests/compat/runner.py record GROUP'
    outcomes = {name: Outcome(broke=why) for name in names if not can_ask(engine, name)}
    remaining = sorted(set(names) - outcomes.keys(), key=known.index)
    groups = [list(group) for _, group in itertools.groupby(remaining, key=lambda name: name.split(".")[0])]
    shares = [list(itertools.chain.from_iterable(groups[first::at_once])) for first in range(at_once)]
    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        try:
            for share in threads.map(lambda share: _run_share(engine, share), shares):
                outcomes.update(share)
        except BaseException:  # such as Ctrl-C, which the children do not get
            _is_over.set()
            raise
        finally:
            for child in list(_children):
                _end_session(child)
    return outcomes


def _run_share(engine, remaining):
    """Runs the cases in one child, and in another one what is left where that is lost."""
    outcomes = {}
    while remaining and not _is_over.is_set():
        with tempfile.TemporaryDirectory(prefix="compat-") as folder:
            finished, blamed, text = _run_child(engine, remaining, pathlib.Path(folder))
        outcomes.update(finished)
        remaining = [name for name in remaining if name not in finished]
        if blamed is not None:
            outcomes[blamed] = Outcome(broke=f"hung or took its process down:\n{text}")
            remaining.remove(blamed)
        elif not finished:  # the engine does not come up
            outcomes.update({name: Outcome(broke=f"no case could run:\n{text}") for name in remaining})
            remaining = []
    return outcomes


def _run_child(engine, names, folder):
    """One child over `names`: ({name: Outcome} of finished cases, the case it died in, the end of its output)."""
    report, output = folder / "report", folder / "output"
    report.touch()
    environment = dict(
        os.environ,
        COMPAT_REPORT=str(report),
        BEELINE_TMPDIR=str(folder),  # where sessions of other children are not found
        PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_DEDUP_LOGS="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    )
    with output.open("w") as sink:
        child = subprocess.Popen(
            [*AS_FROM_A_SHELL, sys.executable, str(HERE / "child.py"), engine, *names],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=HERE,
            start_new_session=True,
        )
    _children.add(child)
    try:
        child.wait(CHILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _end_session(child)
        _children.discard(child)
    finished, running = {}, None
    for line in report.read_text().splitlines():
        entry = json.loads(line)
        running = entry["case"] if "started" in entry else None
        if running is None:
            finished[entry["case"]] = Outcome(entry.get("outcome"), entry.get("broke"), entry["seconds"])
    return finished, running, output.read_text(errors="replace")[-6000:]


def _end_session(child):
    """Kills what is left of the child's own session, so that one engine's remains cannot slow the next."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def disagreements(ray, beeline, where="outcome"):
    """Where Beeline's outcome does not keep what Ray's promises, as lines of text; none if it does.

    Values are equal. An error is caught by the same names of Ray and at least the same of Python, and its message
    mentions at least what Ray's does.
    """
    if isinstance(ray, dict) and isinstance(beeline, dict) and "caught_as" in ray and "caught_as" in beeline:
        return _error_disagreements(ray, beeline, where)
    if type(ray) is type(beeline) and isinstance(ray, dict) and ray.keys() == beeline.keys():
        return [text for key in ray for text in disagreements(ray[key], beeline[key], f"{where}[{key!r}]")]
    if type(ray) is type(beeline) and isinstance(ray, list) and len(ray) == len(beeline):
        return [text for i in range(len(ray)) for text in disagreements(ray[i], beeline[i], f"{where}[{i}]")]
    same = type(ray) is type(beeline) and ray == beeline
    return [] if same else [f"{where}: Ray gave {ray!r}, Beeline {beeline!r}"]


def _error_disagreements(ray, beeline, where):
    of_ray, of_beeline = (
        [name for name in error["caught_as"] if not hasattr(builtins, name)] for error in (ray, beeline)
    )
    missing = set(ray["caught_as"]) - set(beeline["caught_as"])
    texts = []
    if of_ray != of_beeline or missing:
        texts.append(f"{where}: Ray's error is caught as {ray['caught_as']}, Beeline's as {beeline['caught_as']}")
    unsaid = [fact for fact, said in ray["mentions"].items() if said and not beeline["mentions"][fact]]
    if unsaid:
        texts.append(f"{where}: Beeline's message does not mention {unsaid}: {beeline['message']!r}")
    return texts


def keep_record(groups):
    """Runs every case, or all those of the groups, on Ray and writes the record; not if one broke.

    Without groups, those that need a dashboard stay as they are where there is none.
    """
    wanted = [name for name in cases() if not groups or name.split(".")[0] in groups]
    left_out = [name for name in wanted if not groups and not can_ask("ray", name)]
    if left_out:
        print(f"{len(left_out)} cases need Ray's dashboard, which is not installed: their record stays")
    results = run("ray", [name for name in wanted if name not in left_out])
    broken = {name: outcome.broke for name, outcome in results.items() if outcome.broke}
    for name, why in broken.items():
        print(f"FAILED {name}\n    {why}")
    if not broken:
        record.write({name: outcome.value for name, outcome in results.items()})
    print(f"{len(results)} cases, {len(broken)} failed; the record is {'as it was' if broken else 'written'}")
    return 1 if broken else 0


def main(arguments):
    """Runs whole groups or single cases by name; without a name the default set, with `full` everything."""
    engine, *wanted = arguments
    sys.path.insert(0, str(HERE))
    if engine == "record":
        return keep_record(wanted)
    names = [
        name
        for name, full in cases().items()
        if name in wanted or name.split(".")[0] in wanted or "full" in wanted or (not wanted and not full)
    ]
    results = {engine: run(engine, names) for engine in (ENGINES if engine == "both" else [engine])}
    failures = 0
    for name in names:
        outcomes = {engine: outcome[name] for engine, outcome in results.items()}
        texts = [f"{engine} broke: {outcome.broke}" for engine, outcome in outcomes.items() if outcome.broke]
        if len(outcomes) == 2 and not texts:
            texts = disagreements(outcomes["ray"].value, outcomes["beeline"].value)
        failures += bool(texts)
        seconds = ", ".join(f"{outcome.seconds:.1f} s" for outcome in outcomes.values())
        if texts:
            print(f"FAILED {name} ({seconds})\n    " + "\n    ".join(texts))
        else:
            print(f"{name} ({seconds}): {json.dumps(next(iter(outcomes.values())).value)}")
    print(f"{len(names)} cases, {failures} failed")
    for engine, outcome in results.items():
        print(f"{engine}: {sum(o.seconds for o in outcome.values()):.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
