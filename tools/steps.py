"""Steps of ./dev: a short line with seconds on the terminal, the full output in build/logs, one checkout lock."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LOGS = BUILD / "logs"
VENV = ROOT / ".venv"
TAIL_LINES = 40
FIRST_ERRORS = 12
ERROR_LINE = re.compile(r"\berror: |^FAILED")
HEARTBEAT_S = 60.0


class StepError(Exception):
    """A step ended with an error, which has been printed with the tail of its log."""


def environment(**extra: str) -> dict[str, str]:
    """The environment of every command: the virtual environment first, and nothing of the caller's Python path."""
    env = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    env["PATH"] = f"{VENV / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["VIRTUAL_ENV"] = str(VENV)
    env["PYTHONNOUSERSITE"] = "1"
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    env.setdefault("CXX", "c++")
    env.update(extra)
    return env


def step(title: str, command: Sequence[str | Path], *, timeout_s: float, env: dict[str, str] | None = None) -> Path:
    """Runs a command and returns the log that holds all of its output.

    Raises StepError when it exits with an error or runs past `timeout_s`; its whole process group has ended then.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / (title.lower().replace(" ", "-").replace("+", "-") + ".log")
    started = time.monotonic()
    say(f"  {title} ...")
    with log.open("wb") as output:
        output.write(("$ " + " ".join(map(str, command)) + "\n").encode())
        output.flush()
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=env or environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        problem = _wait(process, title, started, timeout_s)
    if problem:
        _print_tail(title, problem, log)
        raise StepError(title)
    say(f"  {title}: {time.monotonic() - started:.1f} s")
    return log


def _wait(process: subprocess.Popen[bytes], title: str, started: float, timeout_s: float) -> str | None:
    """Waits with a sign of life every minute; returns what went wrong, or None."""
    try:
        while True:
            left = started + timeout_s - time.monotonic()
            try:
                code = process.wait(timeout=max(0.0, min(left, HEARTBEAT_S)))
            except subprocess.TimeoutExpired:
                if left <= HEARTBEAT_S:
                    _end_group(process)
                    return f"still running after {timeout_s:.0f} s"
                say(f"  {title}: {time.monotonic() - started:.0f} s so far")
                continue
            return None if code == 0 else f"exit status {code}"
    except BaseException:
        _end_group(process)
        raise


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
            return


def _print_tail(title: str, problem: str, log: Path) -> None:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    # A compiler's first errors can be far above the end, where other jobs went on.
    errors = [line for line in lines[:-TAIL_LINES] if ERROR_LINE.search(line)]
    for line in errors[:FIRST_ERRORS]:
        print(f"  > {line}")
    for line in lines[-TAIL_LINES:]:
        print(f"  | {line}")
    say(f"  {title}: FAILED, {problem}. All of it: {log.relative_to(ROOT)}")


def foreground(command: Sequence[str | Path], env: dict[str, str] | None = None) -> int:
    """Runs a command on this terminal and returns its exit status. Ctrl-C reaches it, and is left to it."""
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT, env=env or environment())
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, previous)


def say(text: str) -> None:
    """Prints one line at once, also into a pipe."""
    print(text, flush=True)


class Lock:
    """The checkout's lock: one ./dev builds, or any number run what was built.

    The holder's command stands in the file, so that those who wait can say for whom.
    """

    def __init__(self, purpose: str) -> None:
        BUILD.mkdir(exist_ok=True)
        self._purpose = f"./dev {purpose} (pid {os.getpid()})"
        self._file = (BUILD / "dev.lock").open("a+")

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """Alone: for whatever changes .venv or build/."""
        self._take(fcntl.LOCK_EX)
        self._file.truncate(0)
        self._file.write(self._purpose)
        self._file.flush()
        with self._until_done():
            yield

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Beside others that run; nobody rebuilds underneath."""
        self._take(fcntl.LOCK_SH)
        with self._until_done():
            yield

    def _take(self, kind: int) -> None:
        try:
            fcntl.flock(self._file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            say(f"waiting for another ./dev; the last to build was {self._file.read() or 'unnamed'}")
            fcntl.flock(self._file, kind)

    @contextlib.contextmanager
    def _until_done(self) -> Iterator[None]:
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
