"""Fixtures of the fault tests: drivers in processes of their own, ended with everything they started."""

import pathlib
import shutil
import signal
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import processes


@pytest.fixture(autouse=True)
def session_folder(monkeypatch):
    """A folder of the test's own for sessions, so that what it stops or finds stale is its own; short, for sockets."""
    folder = tempfile.mkdtemp(prefix="bl-", dir="/tmp")
    monkeypatch.setenv("BEELINE_TMPDIR", folder)
    yield pathlib.Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def terminal_signals():
    """Drivers inherit a terminal's signals as a shell gives them, also where nohup or a background job ignored them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start_driver(tmp_path, session_folder):
    """`start_driver(script)` runs a script (see processes.Driver); whatever is left of it is killed at the end."""
    drivers = []

    def start(script, **options):
        driver = processes.Driver(script, tmp_path / f"driver{len(drivers)}.py", **options)
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        driver.end()
