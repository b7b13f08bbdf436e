"""Runs rows: every contender in fresh child processes, interleaved over the rounds, under one lock per machine."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.registry import SCALE, Contender, Measured, Row, result

ROOT = Path(__file__).resolve().parent.parent
LOCK = Path(tempfile.gettempdir()) / "beeline.bench.lock"
GRACE_S = 8.0


@dataclass(frozen=True)
class Job:
    """One kind of child process. Rows that share a probe share its jobs."""

    probe: str
    contender: Contender
    timeout_s: float


@dataclass
class Outcome:
    """What a job's children of all rounds gave: SI samples by pick, or the last error."""

    samples: dict[str, list[float]]
    error: str | None = None
    left: int = 0  # processes that outlived their child, most of any round


def jobs_of(row: Row, engines: tuple[str, ...]) -> dict[str, Job]:
    """The jobs a row needs, by contender name; the limit's name is "limit"."""
    jobs = {
        contender.name: Job(row.probe, contender, row.timeout_s)
        for contender in (row.ours, *row.peers)
        if contender.engine in (*engines, "none")
    }
    if row.limit:
        jobs["limit"] = Job(row.limit.probe, Contender("limit", "none"), row.timeout_s)
    return jobs


@contextlib.contextmanager
def machine_lock() -> Iterator[None]:
    """Two benchmarks at once would measure each other. A caller that runs us under flock(1) holds it already."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}") == str(LOCK):
                yield
                return
    with LOCK.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_child(job: Job, quick: bool) -> dict:
    """Runs one child to its end and returns its answer: {"samples": …} or {"error": …}. Leaves no process behind."""
    tag = secrets.token_hex(8)
    contender = job.contender
    command = [sys.executable, "-m", "benchmarks._child", "--engine", contender.engine, "--probe", job.probe]
    command += ["--variant", contender.variant, *(["--quick"] if quick else [])]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, **dict(contender.env), processes.TAG: tag, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    # Workers import the rows' actors: compiled once, not in every start that is measured.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile("w+") as answer_file:
        child = subprocess.Popen(
            [*command, "--fd", str(answer_file.fileno())],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(answer_file.fileno(),),
            start_new_session=True,
        )
        try:
            status: int | str = child.wait(job.timeout_s)
        except subprocess.TimeoutExpired:
            status = f"no answer within {job.timeout_s:g} s"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            left = processes.end(tag, GRACE_S if child.returncode == 0 else 1.0)
        answer_file.seek(0)
        text = answer_file.read()
        output.seek(0)
        tail = output.read()[-1500:].decode(errors="replace").strip()
    try:
        answer = json.loads(text)
    except json.JSONDecodeError:
        return {"error": f"the child gave no figures ({status}); its output ends: {tail}"}
    if left and "error" not in answer:
        answer["left"] = len(left)
    return answer


def run_group(jobs: list[Job], rounds: int, quick: bool, step: Callable[[Job], None]) -> dict[Job, Outcome]:
    """All jobs once per round, starting with another one in every round: A B C, B C A, …"""
    outcomes = {job: Outcome({}) for job in jobs}
    for turn in range(rounds):
        shift = turn % len(jobs)
        for job in jobs[shift:] + jobs[:shift]:
            step(job)
            outcome = outcomes[job]
            if outcome.error:
                continue
            with machine_lock():
                answer = run_child(job, quick)
            if "error" in answer:
                outcome.error = answer["error"]
                continue
            for pick, samples in answer["samples"].items():
                outcome.samples.setdefault(pick, []).extend(samples)
            outcome.left = max(outcome.left, answer.get("left", 0))
    return outcomes


def measured(outcome: Outcome, pick: str, unit: str) -> Measured:
    """A contender's samples in the row's unit. Figures of rounds before a failure do not hide the failure."""
    if outcome.error:
        return Measured(error=outcome.error)
    if pick not in outcome.samples:
        return Measured(error=f"the probe gave no {pick!r}, only {', '.join(sorted(outcome.samples))}")
    left = f"left {outcome.left} processes running after its end" if outcome.left else None
    return Measured([sample * SCALE[unit] for sample in outcome.samples[pick]], left)


def groups(rows: list[Row]) -> list[list[Row]]:
    """Rows by probe, in order: they are measured in the same children."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.probe, []).append(row)
    return list(found.values())


def run(
    rows: list[Row],
    engines: tuple[str, ...],
    rounds: int,
    quick: bool,
    step: Callable[[Job], None] = lambda job: None,
    finished: Callable[[list[dict]], None] = lambda rows: None,
) -> list[dict]:
    """Measures the rows; `step` is told each child before it starts, `finished` all rows there are after each group."""
    results: dict[str, dict] = {}
    for group in groups(rows):
        needed = {row.key: jobs_of(row, engines) for row in group}
        jobs = list(dict.fromkeys(job for by_name in needed.values() for job in by_name.values()))
        outcomes = run_group(jobs, rounds, quick, step) if jobs else {}
        for row in group:
            figures = {}
            for name, job in needed[row.key].items():
                pick = row.limit.pick if name == "limit" and row.limit else row.pick
                figures[name] = measured(outcomes[job], pick, row.unit)
            results[row.key] = result(row, figures, quick)
        finished(list(results.values()))
    return [results[row.key] for row in rows]


def children(rows: list[Row], engines: tuple[str, ...], rounds: int) -> int:
    """How many child processes a run will take."""
    return rounds * sum(len({job for row in group for job in jobs_of(row, engines).values()}) for group in groups(rows))


def describe_machine() -> dict:
    """What a reader has to know about the machine to compare figures."""
    model = "unknown"
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as f:
        model = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    with open("/proc/meminfo") as f:
        total_kib = next(int(line.split()[1]) for line in f if line.startswith("MemTotal"))
    versions = {}
    from importlib import metadata

    for package in ("beeline", "ray", "torch", "numpy", "nixl", "mooncake-transfer-engine-non-cuda", "torchmonarch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(total_kib / 2**20, 1),
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "packages": versions,
        "load_at_start": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def commit() -> str:
    """The commit measured, with "+changes" where the working tree differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
