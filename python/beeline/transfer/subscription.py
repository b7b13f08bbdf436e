"""What another agent publishes under a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from beeline import _core
from beeline.exceptions import PeerLostError, StaleReferenceError
from beeline.transfer.bounds import ends_at, left_s
from beeline.transfer.references import TensorRef, TensorRefs, as_given

if TYPE_CHECKING:
    from beeline.transfer.agent import Agent

DEFAULT_TIMEOUT_S = 60.0


class Subscription:
    """Versions that another agent publishes under a name. Ends with its last reference. Thread-safe.

    Each reader takes the newest version; those that came and went meanwhile are passed over. A version is read whole
    or not at all: one that is replaced while it is fetched is given up for its successor.

    One that relays has each version brought near before it gives it: as the publisher has it, where that shares memory
    with this agent; as another subscriber on this host has it; or as a copy of this agent's own, got from the publisher
    or a subscriber, which others then get from here. The references are of that copy: fetching from them moves nothing
    over the network, and they can be mapped. A parent that fails is given up for another one, with a warning by
    the logger "beeline.transfer".
    """

    def __init__(self, agent: Agent, name: str, subscription: _core.Subscription) -> None:
        self._agent = agent
        self._subscription = subscription
        self.name = name

    def latest(self) -> tuple[int, TensorRef | TensorRefs] | None:
        """The newest version and its references: a `TensorRef` where a single tensor was published.

        None where there is none (yet), or none any more: it was withdrawn. Does not wait: of one that relays it is the
        newest that was brought near.
        """
        number, refs = self._subscription.latest()
        return None if refs is None else (number, as_given(refs))

    def wait(
        self, newer_than: int = 0, *, timeout_s: float | None = DEFAULT_TIMEOUT_S
    ) -> tuple[int, TensorRef | TensorRefs]:
        """The newest version after `newer_than`, as `latest`.

        Raises:
            TransferTimeoutError: There was none in time, or it could not be brought near in time.
            PeerLostError: The publisher is gone.
            TornReadError: It was brought near with another checksum than the publisher took.
            ObjectStoreFullError: There is no memory for a copy to be relayed.
        """
        number, refs = self._subscription.newer_than(newer_than, timeout_s)
        assert refs is not None
        return number, as_given(refs)

    def fetch(
        self,
        out: Any = None,
        *,
        newer_than: int = 0,
        dtype: Any = None,
        block: tuple[int, int] | None = None,
        verify: bool = False,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> tuple[int, Any]:
        """Waits for a version after `newer_than` and copies it, as `Agent.fetch`; returns its number, too."""
        return self._read(
            lambda refs, left: self._agent.fetch(refs, out, dtype=dtype, block=block, verify=verify, timeout_s=left),
            newer_than,
            timeout_s,
        )

    def map(self, *, newer_than: int = 0, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> tuple[int, Any]:
        """Waits for a version after `newer_than` and maps it, as `Agent.map`; returns its number, too."""
        return self._read(lambda refs, left: self._agent.map(refs, timeout_s=left), newer_than, timeout_s)

    def _read(
        self, read: Callable[[TensorRef | TensorRefs, float | None], Any], newer_than: int, timeout_s: float | None
    ) -> tuple[int, Any]:
        until = ends_at(timeout_s)
        while True:
            number, refs = self.wait(newer_than, timeout_s=left_s(until))
            try:
                return number, read(refs, left_s(until))
            except (StaleReferenceError, PeerLostError) as error:
                if self._subscription.needs_copies:
                    continue  # another subscriber's copy, which is gone: the next one is looked for
                if isinstance(error, PeerLostError):
                    raise
                newer_than = number  # replaced meanwhile: its successor is on its way
