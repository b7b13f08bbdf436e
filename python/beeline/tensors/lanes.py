"""A lane: what one two-sided tensor transport does in this process, one operation at a time, on a thread of its own.

Classes that are written for Ray need not be thread-safe: Ray runs their sends and receives on one thread of an actor.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# That an operation whose other side has failed has to end: one that was aborted, and one that cannot be.
ABORTED_S = 2.0
LEFT_ALONE_S = 0.2


class Busy(Exception):  # noqa: N818 - a state of the lane
    """An operation with the same peer that nobody waits for any more has not ended."""


class Late(Exception):  # noqa: N818 - what becomes a timeout with the words of `fetch_time`
    """The time of a transfer is over."""


class Operation:
    """A send or a receive. `over` is ready to be read when it has ended."""

    def __init__(self, what: str, call: Callable[[], Any]) -> None:
        self.what = what
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_over = False
        self.over, self._running = socket.socketpair()
        self._call: Callable[[], Any] | None = call

    def close(self) -> None:
        """Nobody looks at it any more; it has ended."""
        self.over.close()

    def run(self) -> None:
        """On the lane's thread."""
        assert self._call is not None
        try:
            self.result = self._call()
        except BaseException as error:
            self.error = error
        self._call = None  # and with it the tensors
        self.is_over = True
        self._running.close()


class Lane:
    """One transport in this process. Thread-safe."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._turn = threading.Lock()
        self._left: dict[str, Operation] = {}  # by peer; each is one operation of a dictionary, by whoever has the turn
        self._calls: queue.SimpleQueue[Operation | None] | None = None  # of the thread; by whoever has the turn

    @contextlib.contextmanager
    def turn(self, peer: str, until: float) -> Iterator[None]:
        """Nobody else has the lane meanwhile. Raises Late, or Busy where an operation with this peer hangs."""
        self.wait_for_left(peer, min(until, time.monotonic() + LEFT_ALONE_S))
        if not self._turn.acquire(timeout=max(0.0, until - time.monotonic())):
            raise Late("other transfers by it have taken all the time")
        try:
            self.wait_for_left(peer, 0)
            yield
        finally:
            self._turn.release()

    def wait_for_left(self, peer: str, until: float) -> None:
        """Until what was left hanging with the peer has ended. Raises Busy where it has not."""
        left = self._left.get(peer)
        if left is None:
            return
        left.over.settimeout(max(0.001, until - time.monotonic()))
        try:
            left.over.recv(1)
        except TimeoutError:
            raise Busy(
                f"an earlier transfer between the two processes failed, and its {left.what} has not ended: what it "
                "still takes or sends would be this one's. Restart the actor, or have the class abort "
                "(can_abort_transport)"
            ) from None
        self._left.pop(peer, None)
        left.close()

    def begin(self, what: str, call: Callable[[], Any]) -> Operation:
        """Runs it on the lane's thread. By whoever has the turn."""
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            threading.Thread(target=_work, args=(self._calls,), name=f"beeline-{self.name}"[:15], daemon=True).start()
        operation = Operation(what, call)
        self._calls.put(operation)
        return operation

    def leave(self, peer: str, operation: Operation) -> None:
        """Others do not wait for the operation, if it has not ended, but the peer's next does. By who has the turn."""
        if operation.is_over:
            operation.close()
            return
        self._left[peer] = operation
        assert self._calls is not None
        self._calls.put(None)
        self._calls = None


def _work(calls: queue.SimpleQueue[Operation | None]) -> None:
    while (operation := calls.get()) is not None:
        operation.run()
        del operation
