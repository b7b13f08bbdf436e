"""Groups by gloo, for tensors of the CPU, over the loopback interface."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

from beeline.util.collective.collective_group.torch_group import TorchGroup
from beeline.util.collective.meeting import Meeting
from beeline.util.collective.types import Backend

LOOPBACK = "127.0.0.1"
# For the ranks to find each other.
MEETING_S = 30.0


class _Store(dist.Store):  # type: ignore[misc]
    """By what torch has the ranks tell each other where they are."""

    def __init__(self, meeting: Meeting) -> None:
        super().__init__()
        self._meeting = meeting

    def clone(self) -> _Store:
        return self

    def set(self, key: str, value: Any) -> None:
        self._meeting.set(key, value.encode() if isinstance(value, str) else bytes(value))

    def get(self, key: str) -> bytes:
        return self._meeting.get(key)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        for key in keys:
            self._meeting.get(key)


class TorchGLOOGroup(TorchGroup):
    """One rank of a gloo group.

    Args:
        world_size, rank, group_name: As init_collective_group has them.
        gloo_timeout: Milliseconds for the ranks to find each other, and for each operation; None: 30 s and 30 minutes.

    Raises RuntimeError and TimeoutError where the ranks do not find each other (`Meeting`).
    """

    devices = ("cpu",)

    def __init__(self, world_size: int, rank: int, group_name: str, gloo_timeout: int | None = None) -> None:
        timeout_s = None if gloo_timeout is None else gloo_timeout / 1000
        super().__init__(world_size, rank, group_name, timeout_s)
        with Meeting(group_name, world_size, rank, timeout_s or MEETING_S) as meeting:
            options = dist.ProcessGroupGloo._Options()
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=LOOPBACK)]
            options._timeout = timedelta(seconds=meeting.left_s())
            self._store = _Store(meeting)
            try:
                self._group = dist.ProcessGroupGloo(self._store, rank, world_size, options)
            except RuntimeError as error:
                first_line = str(error).partition("\n")[0]
                raise RuntimeError(
                    f"The {world_size} ranks of the collective group {group_name!r} could not connect by gloo; rank "
                    f"{rank} got: {first_line}"
                ) from error
        self._group._set_default_timeout(self._timeout)

    @classmethod
    def missing(cls) -> str | None:
        """What this process lacks for it."""
        return None if dist.is_available() and dist.is_gloo_available() else "torch was built without gloo"

    @classmethod
    def backend(cls) -> str:
        """Its name."""
        return Backend.GLOO
