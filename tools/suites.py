"""The test suites of ./dev: which commands they are, and what their reports (JUnit) count."""

import os
import platform
import random
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tools import wheels
from tools.environment import PYTHON, ucx
from tools.steps import BUILD, ROOT, StepError, environment, say, step

REPORTS = BUILD / "reports"
PYTHON_TEST_FOLDERS = ("tests/python", "tests/conformance", "tests/compat", "tests/system")
# Read by C++ tests that repeat or randomise: run a tenth of the rounds. Set for sanitizers, which are ten times slower.
SHORT_ENV = "BEELINE_TEST_SHORT"
FULL_REPEATS = 5
# A step of tests ends here even if a test's own watchdog does not. What a push runs of Python takes ten minutes on two
# cores; --full has 80 in all.
SUITE_TIMEOUT_S = 2400.0
FULL_SUITE_TIMEOUT_S = 3600.0


@dataclass
class Outcome:
    """What a suite's report counts; `ran` is False where no report came to be, for example after a compile error."""

    suite: str
    ran: bool = False
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    why_skipped: Counter[str] = field(default_factory=Counter)
    clean_exit: bool = False

    @property
    def good(self) -> bool:
        """Whether the suite did all it should: tests ran, none failed, and its command agrees."""
        return self.ran and self.passed > 0 and self.failed == 0 and self.clean_exit

    def line(self) -> str:
        """The suite's line in the summary."""
        if not self.ran:
            return f"  {self.suite:<16} did not run"
        note = "" if self.clean_exit or self.failed else "  (ended with an error after its tests)"
        return f"  {self.suite:<16} {self.passed} passed, {self.failed} failed, {self.skipped} skipped{note}"


def cpp(preset: str, suite: str, *, short: bool, repeats: int = 1, arguments: list[str] | None = None) -> Outcome:
    """Builds a preset's C++ unit tests and runs them under ctest."""
    outcome = Outcome(suite)
    report = _fresh_report(f"cpp-{preset}")
    # UCX is not instrumented, and at the end of a process LeakSanitizer stumbles over it.
    env = environment(**(ucx() if preset == "release" else {}), **({SHORT_ENV: "1"} if short else {}))
    jobs = str(os.cpu_count() or 2)
    try:
        step(f"configure {preset}", ["cmake", "--preset", preset], timeout_s=300, env=env)
        step(f"compile {preset}", ["cmake", "--build", "--preset", preset, "-j", jobs], timeout_s=1800, env=env)
        command = [*_address_layout(preset), "ctest", "--preset", preset, "-j", jobs, "--output-junit", str(report)]
        if repeats > 1:
            command += ["--repeat", f"until-fail:{repeats}"]
        limit_s = SUITE_TIMEOUT_S if short or repeats == 1 else FULL_SUITE_TIMEOUT_S
        step(f"test {preset}", [*command, *(arguments or [])], timeout_s=limit_s, env=env)
        outcome.clean_exit = True
    except StepError:
        pass
    return count(outcome, report)


def python(*, full: bool, arguments: list[str] | None = None) -> Outcome:
    """Runs the Python tests against the installed wheel."""
    outcome = Outcome("Python")
    report = _fresh_report("python")
    folders = [folder for folder in PYTHON_TEST_FOLDERS if any((ROOT / folder).rglob("test_*.py"))]
    # -P: the checkout's own folders get onto the path by pyproject.toml alone, and python/ is not among them.
    command: list[str | Path] = [PYTHON, "-P", "-m", "pytest", "-q", f"--junitxml={report}"]
    # Tests come in an order of their own each time; the log's first line has the seed that repeats one.
    command.append(f"--randomly-seed={random.randrange(1 << 32)}")
    command += [] if full else ["-m", "not full"]
    try:
        limit_s = FULL_SUITE_TIMEOUT_S if full else SUITE_TIMEOUT_S
        step("test python", [*command, *(arguments or []), *folders], timeout_s=limit_s)
        outcome.clean_exit = True
    except StepError:
        pass
    return count(outcome, report)


def wheel() -> Outcome:
    """Makes a wheel to give away for the interpreter that runs this, checks it and tries it."""
    outcome = Outcome("wheel", ran=True)
    try:
        outcome.passed = len(wheels.make("{}.{}".format(*sys.version_info)))
        outcome.clean_exit = True
    except StepError:
        outcome.failed = 1
    return outcome


def count(outcome: Outcome, report: Path) -> Outcome:
    """Adds a JUnit report's test cases to an outcome; a case is failed, skipped or passed."""
    if not report.is_file():
        return outcome
    outcome.ran = True
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            outcome.failed += 1
        elif (skipped := case.find("skipped")) is not None or case.get("status") in {"notrun", "disabled"}:
            outcome.skipped += 1
            outcome.why_skipped[(skipped.get("message") if skipped is not None else None) or "disabled"] += 1
        else:
            outcome.passed += 1
    return outcome


def summarize(outcomes: list[Outcome]) -> int:
    """Prints a line for each suite and the sum; returns the exit status."""
    say("summary")
    for outcome in outcomes:
        say(outcome.line())
        for reason, times in sorted(outcome.why_skipped.items()):
            say(f"    {times} skipped: {reason}")
    say(f"{sum(o.passed for o in outcomes)} passed, {sum(o.failed for o in outcomes)} failed")
    return 0 if all(outcome.good for outcome in outcomes) else 1


def _fresh_report(name: str) -> Path:
    REPORTS.mkdir(parents=True, exist_ok=True)
    report = REPORTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    return report


def _address_layout(preset: str) -> list[str]:
    """GCC 12's ThreadSanitizer cannot start where the kernel randomises addresses widely: off with it, if allowed."""
    setarch = shutil.which("setarch")
    if preset != "tsan" or not setarch:
        return []
    prefix = [setarch, platform.machine(), "-R"]
    allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    return prefix if allowed else []
