"""Short messages between agents, such as that bytes which were pushed are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from beeline import _core
from beeline.transfer.subscription import DEFAULT_TIMEOUT_S


@dataclass(frozen=True)
class Notification:
    """What one agent told another one.

    Args:
        sender_id: Of the agent that sent it: the `id` in its address, of one life of it.
        sender: Its name, as it says it; need not be unique.
        payload: What it says; opaque to the engine.
    """

    sender_id: str
    sender: str
    payload: bytes


class Notifications:
    """What other agents send under a topic, see `Agent.notifications`. Ends with its last reference.

    Each is taken once. Those of one sender come in the order in which it sent them. Threads may share it; of event
    loops one.

        async for notification in agent.notifications("blocks"):
            ...
    """

    def __init__(self, topic: str, notifications: _core.Notifications) -> None:
        self._own = notifications
        self._turn: asyncio.Lock | None = None
        self.topic = topic

    def wait(self, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Notification:
        """The one that has waited longest; waits for it.

        Raises:
            TransferTimeoutError: None came in time.
            PeerLostError: The agent that takes them was closed, and none is left.
        """
        return Notification(*self._own.next(timeout_s))

    def poll(self) -> Notification | None:
        """As `wait`, but None at once where there is none."""
        row = self._own.poll()
        return None if row is None else Notification(*row)

    def stats(self) -> dict[str, int]:
        """`waiting` now; `refused` and `dropped` so far, for they were more than the limit."""
        return self._own.stats()

    def __aiter__(self) -> AsyncIterator[Notification]:
        return self

    async def __anext__(self) -> Notification:
        """As `wait`, for as long as it takes. Cancelling it loses none."""
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn:  # a loop watches a descriptor for one task
            loop = asyncio.get_running_loop()
            while True:
                self._own.drain()
                notification = self.poll()
                if notification is not None:
                    return notification
                there = loop.create_future()
                loop.add_reader(self._own.fileno(), _settle, there)
                try:
                    await there
                finally:
                    loop.remove_reader(self._own.fileno())


def _settle(there: asyncio.Future[None]) -> None:
    if not there.done():
        there.set_result(None)
