"""What collective operations are told: backends, reductions, and an options class for each operation; Ray's names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

# An operation's `timeout_ms` where nothing was said: the group's own.
unset_timeout_ms = timedelta(milliseconds=-1)


class Backend:
    """`Backend("gloo")` is the backend's name as groups have it, "GLOO"; a name that there is not is a ValueError."""

    NCCL = "NCCL"
    GLOO = "GLOO"
    UNRECOGNIZED = "unrecognized"

    def __new__(cls, name: str) -> str:  # type: ignore[misc]
        """In any case; "torch_gloo" is gloo."""
        wanted = "GLOO" if name.upper() == "TORCH_GLOO" else name.upper()
        if getattr(cls, wanted, cls.UNRECOGNIZED) == cls.UNRECOGNIZED:
            known = sorted(key for key in vars(cls) if key.isupper() and key != "UNRECOGNIZED")
            raise ValueError(
                f"Unrecognized backend: '{name}'. There are {', '.join(known)}; register_collective_backend adds more."
            )
        return wanted


class ReduceOp(Enum):
    """How elements of the ranks become one."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3


@dataclass
class AllReduceOptions:
    """Of allreduce."""

    reduceOp: ReduceOp = ReduceOp.SUM  # noqa: N815 - Ray's name
    timeout_ms: timedelta = unset_timeout_ms


@dataclass
class BarrierOptions:
    """Of barrier."""

    timeout_ms: timedelta = unset_timeout_ms


@dataclass
class ReduceOptions:
    """Of reduce; `root_tensor` is the tensor of the root that gets the result, where it has several."""

    reduceOp: ReduceOp = ReduceOp.SUM  # noqa: N815 - Ray's name
    root_rank: int = 0
    root_tensor: int = 0
    timeout_ms: timedelta = unset_timeout_ms


@dataclass
class AllGatherOptions:
    """Of allgather."""

    timeout_ms: timedelta = unset_timeout_ms


@dataclass
class BroadcastOptions:
    """Of broadcast; `root_tensor` as of ReduceOptions."""

    root_rank: int = 0
    root_tensor: int = 0
    timeout_ms: timedelta = unset_timeout_ms


@dataclass
class ReduceScatterOptions:
    """Of reducescatter."""

    reduceOp: ReduceOp = ReduceOp.SUM  # noqa: N815 - Ray's name
    timeout_ms: timedelta = unset_timeout_ms


@dataclass
class SendOptions:
    """Of send; `n_elements` of the tensor, 0: all."""

    dst_rank: int = 0
    dst_gpu_index: int = 0
    n_elements: int = 0
    timeout_ms: timedelta = unset_timeout_ms


@dataclass
class RecvOptions:
    """Of recv, likewise."""

    src_rank: int = 0
    src_gpu_index: int = 0
    n_elements: int = 0
    timeout_ms: timedelta = unset_timeout_ms
