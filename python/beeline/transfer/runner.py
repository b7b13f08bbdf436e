"""What runs transfers that were started: on threads, some at a time with each peer, each within its own bounds."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from beeline import _core
from beeline.exceptions import TransferCancelledError, TransferTimeoutError
from beeline.transfer.transfers import Transfer

# With one peer: more at a time move no faster. What waits for them waits for this peer alone.
AT_ONCE = 4
# Of all peers, and one that watches those that wait.
MAX_THREADS = 1024

# A thread looks again then: there are waits that are longer than it can sleep.
LONGEST_S = 3600.0

# Is given how many seconds it may take.
Work = Callable[[_core.Cancellation, float], Any]


class _Started:
    def __init__(self, peer: str, work: Work, timeout_s: float | None) -> None:
        self.peer = peer
        self.work: Work | None = work  # let go of once it ran
        self.timeout_s = timeout_s
        self.until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        self.cancellation = _core.Cancellation.make()
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # it ends by its cancellation alone

    def run(self) -> None:
        work, self.work = self.work, None
        assert work is not None
        try:
            result = work(self.cancellation, max(0.0, self.until - time.monotonic()))
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Runner:
    """Thread-safe. Its threads begin with the first transfer, and end with `close()`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # All of these need its lock.
        self._running: Counter[str] = Counter()  # by peer
        self._waiting: dict[str, deque[_Started]] = {}  # likewise; none is empty
        self._watched_until = -math.inf  # when the thread that watches those that wait looks again
        self._threads: ThreadPoolExecutor | None = None

    def start(self, peer: str, work: Work, timeout_s: float | None) -> Transfer:
        """Runs it now, or once fewer than AT_ONCE run with the peer. Its time runs from here on."""
        started = _Started(peer, work, timeout_s)
        with self._changed:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="beeline-transfer")
            if self._running[peer] < AT_ONCE:
                self._threads.submit(self._run, started)
                self._running[peer] += 1
            else:
                self._waiting.setdefault(peer, deque()).append(started)
                self._watch(self._threads, started)
        return Transfer(started.future, functools.partial(self._cancel, started))

    def close(self) -> None:
        """Waits for all that were started. None are afterwards: RuntimeError."""
        with self._changed:
            if self._threads is None:
                return
            threads = self._threads
        threads.shutdown()

    def _run(self, started: _Started) -> None:
        following: _Started | None = started
        del started
        while following is not None:
            following.run()
            following = self._next(following.peer)

    def _next(self, peer: str) -> _Started | None:
        with self._changed:
            if peer in self._waiting:
                following = self._waiting[peer][0]
                self._withdraw(following)
                return following
            self._running[peer] -= 1
            if self._running[peer] == 0:
                del self._running[peer]
            return None

    # With the lock held. False where it waits no more.
    def _withdraw(self, started: _Started) -> bool:
        queue = self._waiting.get(started.peer, ())
        if started not in queue:
            return False
        self._waiting[started.peer].remove(started)
        if not self._waiting[started.peer]:
            del self._waiting[started.peer]
        if not self._waiting:
            self._changed.notify_all()
        return True

    def _cancel(self, started: _Started) -> None:
        started.cancellation.cancel()
        with self._changed:
            has_waited = self._withdraw(started)
        if has_waited:
            started.future.set_exception(TransferCancelledError("cancelled before it began"))

    # With the lock held: ends `started` in time if it waits as long.
    def _watch(self, threads: ThreadPoolExecutor, started: _Started) -> None:
        if started.until == math.inf:
            return
        if self._watched_until == -math.inf:
            self._watched_until = started.until
            threads.submit(self._end_late)
        elif started.until < self._watched_until:
            self._changed.notify_all()

    def _end_late(self) -> None:
        while late := self._take_late():
            for each in late:
                each.future.set_exception(
                    TransferTimeoutError(
                        f"the deadline passed ({each.timeout_s} s) while {AT_ONCE} transfers that were started earlier "
                        f"went on with the same agent: {each.peer}"
                    )
                )

    def _take_late(self) -> list[_Started]:
        """Waits until some have waited for too long; an empty list when none are left that could."""
        with self._changed:
            while waiting := [each for queue in self._waiting.values() for each in queue if each.until < math.inf]:
                now = time.monotonic()
                late = [each for each in waiting if each.until <= now]
                for each in late:
                    self._withdraw(each)
                if late:
                    return late
                self._watched_until = min(each.until for each in waiting)
                self._changed.wait(min(self._watched_until - now, LONGEST_S))
            self._watched_until = -math.inf
            return []
