"""Which processes belong to a benchmark child, what memory they take, and their end.

A child carries a random tag in its environment; whatever it starts inherits it, daemons included.
"""

from __future__ import annotations

import os
import signal
import time

TAG = "BEELINE_BENCH_TAG"


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return int(f.read().rsplit(b")", 1)[1].split()[1])
    except (OSError, IndexError):
        return 0


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def descendants(pid: int) -> set[int]:
    """All living descendants of a process. One that left its parent (a daemon) is not among them."""
    children: dict[int, list[int]] = {}
    for other in _pids():
        children.setdefault(_parent(other), []).append(other)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return {other for other in found if _alive(other)}


def tagged(tag: str) -> set[int]:
    """All living processes whose environment holds the tag."""
    needle = f"{TAG}={tag}".encode()
    found = set()
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if needle in f.read().split(b"\0") and _alive(pid):
                    found.add(pid)
        except OSError:
            continue
    return found


def session() -> set[int]:
    """Processes of this child's session, without the child itself."""
    return (tagged(os.environ.get(TAG, "")) | descendants(os.getpid())) - {os.getpid()}


def pss_bytes(pids: set[int]) -> int:
    """Proportional set size of the processes together; one that has just ended counts as zero."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup") as f:
                total += next(int(line.split()[1]) * 1024 for line in f if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total


def end(tag: str, grace_s: float) -> list[int]:
    """Waits for the tagged processes to end, then kills those that stayed; returns those."""
    deadline = time.monotonic() + grace_s
    while (left := tagged(tag)) and time.monotonic() < deadline:
        time.sleep(0.05)
    family = set(left).union(*(descendants(pid) for pid in left))
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return sorted(left)
