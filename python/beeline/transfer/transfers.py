"""Transfers that were started or prepared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from beeline import _core
from beeline.transfer.subscription import DEFAULT_TIMEOUT_S


class Transfer:
    """A transfer that was started, see `Agent.fetch_async`. Awaitable."""

    def __init__(self, future: Future[Any], cancel: Callable[[], None]) -> None:
        self._future = future
        self._cancel = cancel

    def result(self, timeout_s: float | None = None) -> Any:
        """What the call would have returned, or raises what it would have raised. TimeoutError after `timeout_s`."""
        return self._future.result(timeout_s)

    def done(self) -> bool:
        """Whether it has ended, in whatever way: nothing of it is written later."""
        return self._future.done()

    def cancel(self) -> None:
        """Ends it soon: `result` then raises TransferCancelledError, unless it had ended before.

        Returns at once; once `done`, nothing of it is written later.
        """
        self._cancel()

    def add_done_callback(self, function: Callable[[Transfer], Any]) -> None:
        """Calls `function(self)` once it has ended, on a thread of the agent."""
        self._future.add_done_callback(lambda _: function(self))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        future = asyncio.wrap_future(self._future)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.cancel()
            await asyncio.wait([future])  # then nothing is written any more
            if not future.cancelled():
                future.exception()  # taken, or asyncio complains that nobody did
            raise


class Batch:
    """A prepared fetch, see `Agent.prepare`. One thread at a time."""

    def __init__(self, batch: _core.Batch) -> None:
        self._batch = batch

    @property
    def nbytes(self) -> int:
        """Bytes that one run reads of the owner's memory."""
        return self._batch.nbytes

    def run(self, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> None:
        """Fills the targets; raises as `Agent.fetch`."""
        self._batch.run(timeout_s)
