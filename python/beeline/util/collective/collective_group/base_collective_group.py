"""`BaseGroup`: one rank of a collective group. A class that is written for Ray's base works here unchanged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class BaseGroup(ABC):
    """One rank of a group.

    Tensors come in lists: one for each device of the process. Operations return when their tensors may be read and
    written again.
    """

    def __init__(self, world_size: int, rank: int, group_name: str) -> None:
        self._world_size = world_size
        self._rank = rank
        self._group_name = group_name

    @property
    def rank(self) -> int:
        """Of this process."""
        return self._rank

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self._world_size

    @property
    def group_name(self) -> str:
        """As the program named it."""
        return self._group_name

    def destroy_group(self) -> None:  # noqa: B027 - a group may have nothing to let go of
        """Lets go of what the group holds."""

    @classmethod
    def backend(cls) -> str:
        """The backend's name."""
        raise NotImplementedError

    @classmethod
    @abstractmethod
    def check_backend_availability(cls) -> bool:
        """Whether groups can be made in this process."""

    @abstractmethod
    def allreduce(self, tensor: Any, allreduce_options: Any) -> None:
        """Every rank's tensor becomes the reduction of all."""

    @abstractmethod
    def barrier(self, barrier_options: Any) -> None:
        """Returns once every rank has called it."""

    @abstractmethod
    def reduce(self, tensor: Any, reduce_options: Any) -> None:
        """The root's tensor becomes the reduction of all; the others stay."""

    @abstractmethod
    def allgather(self, tensor_list: Any, tensor: Any, allgather_options: Any) -> None:
        """Every rank's tensor, in the order of ranks."""

    @abstractmethod
    def broadcast(self, tensor: Any, broadcast_options: Any) -> None:
        """Every rank's tensor becomes the root's."""

    @abstractmethod
    def reducescatter(self, tensor: Any, tensor_list: Any, reducescatter_options: Any) -> None:
        """A rank's tensor becomes the reduction of what the ranks have for it."""

    @abstractmethod
    def send(self, tensor: Any, send_options: Any) -> None:
        """To one rank, which calls `recv`."""

    @abstractmethod
    def recv(self, tensor: Any, recv_options: Any) -> None:
        """From one rank, which calls `send`."""
