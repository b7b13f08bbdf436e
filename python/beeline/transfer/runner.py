"""Transfers that were started: the core runs them on its threads, some at a time with each peer."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from beeline import _core
from beeline.transfer.transfers import Transfer

# Is given how many seconds it may take; None: for ever.
Work = Callable[[_core.Cancellation, float | None], Any]


class Runner:
    """Thread-safe. What was started is waited for by `close()`, and at the end of the interpreter."""

    def __init__(self) -> None:
        self._runner = _core.Runner()
        self._finalizer = weakref.finalize(self, self._runner.close)

    def start(self, peer: str, work: Work, timeout_s: float | None) -> Transfer:
        """Runs it now, or once fewer than four run with the peer. Its time runs from here on."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # it ends by its cancellation alone

        def run(cancellation: _core.Cancellation, left_s: float | None) -> None:
            try:
                result = work(cancellation, left_s)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        return Transfer(future, self._runner.start(peer, timeout_s, run, future.set_exception).cancel)

    def close(self) -> None:
        """Waits for all that were started. None are afterwards: ValueError."""
        self._finalizer()
