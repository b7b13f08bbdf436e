"""Polling, for what nobody tells of."""

import time
from pathlib import Path


def until(condition, timeout_s=60):
    """What `condition()` gives once that is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.01)
    return value


def is_gone(pid):
    """Whether no process (zombies aside) has this id."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def is_stopped(pid):
    """Whether all threads of the process have seen a SIGSTOP."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if (thread / "stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            return False
    return True
