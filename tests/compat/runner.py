"""Runs groups of cases on an engine in child processes and collects their outcomes.

One child serves all cases of a group, so that they share one `init`. A case that hangs or takes its process down
costs only itself: the rest goes on in a new child. By hand:

    python tests/compat/runner.py ray tasks objects.put_and_get     (prints what each case gave)
"""

import dataclasses
import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
GROUP_TIMEOUT_S = 600
ENGINES = ("ray", "beeline")


@dataclasses.dataclass
class Outcome:
    """What a case gave: `value` (plain data), or `broke` with the text that explains why there is none."""

    value: object = None
    broke: str | None = None


def groups():
    """Names of all groups, in file order."""
    return sorted(path.stem for path in (HERE / "cases").glob("[a-z]*.py"))


def cases(group):
    """{name: whether it belongs to the full set only} of a group, in source order."""
    module = importlib.import_module(f"cases.{group}")
    found = {name.removeprefix("case_"): case for name, case in vars(module).items() if name.startswith("case_")}
    return {name: getattr(case, "full", False) for name, case in found.items()}


def run_group(engine, group, names):
    """Runs the named cases of a group; returns {name: Outcome}, with an entry for every name."""
    outcomes = {}
    remaining = list(names)
    while remaining:
        with tempfile.TemporaryDirectory(prefix="compat-") as folder:
            finished, blamed, text = _run_child(engine, group, remaining, pathlib.Path(folder))
        outcomes.update(finished)
        remaining = [name for name in remaining if name not in finished]
        if not remaining:
            break
        if blamed is None:  # the engine did not come up, or died between two cases
            outcomes.update({name: Outcome(broke=f"no case could run:\n{text}") for name in remaining})
            break
        outcomes[blamed] = Outcome(broke=f"hung or took its process down:\n{text}")
        remaining.remove(blamed)
    return outcomes


def _run_child(engine, group, names, folder):
    """One child over `names`: ({name: Outcome} of finished cases, the case it died in, the end of its output)."""
    report, output = folder / "report", folder / "output"
    report.touch()
    environment = dict(
        os.environ,
        COMPAT_REPORT=str(report),
        PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_DEDUP_LOGS="0",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    )
    with output.open("w") as sink:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "child.py"), engine, group, *names],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=HERE,
            start_new_session=True,
        )
    try:
        child.wait(GROUP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _end_session(child)
    finished, running = {}, None
    for line in report.read_text().splitlines():
        entry = json.loads(line)
        running = entry["case"] if "started" in entry else None
        if running is None:
            finished[entry["case"]] = Outcome(entry.get("outcome"), entry.get("broke"))
    return finished, running, output.read_text(errors="replace")[-6000:]


def _end_session(child):
    """Kills what is left of the child's own session, so that one engine's remains cannot slow the next."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def main(arguments):
    engine, *wanted = arguments
    sys.path.insert(0, str(HERE))
    failed = 0
    for group in groups():
        known = cases(group)
        names = [
            name
            for name, full in known.items()
            if f"{group}.{name}" in wanted or group in wanted or "full" in wanted or (not wanted and not full)
        ]
        if not names:
            continue
        began = time.monotonic()
        outcomes = run_group(engine, group, names)
        for name, outcome in outcomes.items():
            failed += outcome.broke is not None
            print(f"{group}.{name}: {'BROKE ' + outcome.broke if outcome.broke else json.dumps(outcome.value)}")
        print(f"-- {group}: {len(names)} cases, {time.monotonic() - began:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
