"""Groups by a process group of torch's. What the program does with torch.distributed is neither needed nor touched.

A rank that is told of another size than its peer ends the process in gloo, and waits for ever in NCCL. So ranks compare
what they are about to do before they do it, where the backend can tell them cheaply.
"""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy
import torch
import torch.distributed as dist

from beeline.util.collective.collective_group.base_collective_group import BaseGroup
from beeline.util.collective.types import (
    AllGatherOptions,
    AllReduceOptions,
    BarrierOptions,
    BroadcastOptions,
    RecvOptions,
    ReduceOp,
    ReduceOptions,
    ReduceScatterOptions,
    SendOptions,
)

# Of operations, where neither the group nor the call says otherwise: torch's own.
DEFAULT_TIMEOUT = timedelta(minutes=30)

_TAG = 0
_OPERATIONS = ("allreduce", "barrier", "reduce", "allgather", "broadcast", "reducescatter")
REDUCTIONS = {
    ReduceOp.SUM: dist.ReduceOp.SUM,
    ReduceOp.PRODUCT: dist.ReduceOp.PRODUCT,
    ReduceOp.MIN: dist.ReduceOp.MIN,
    ReduceOp.MAX: dist.ReduceOp.MAX,
}
_NUMBERS = {op: number for number, op in enumerate(ReduceOp)}


class _MisfitError(RuntimeError):
    """The ranks differ; the group goes on."""


class Dense:
    """A tensor as torch's groups take it, without gaps and in the order of its indices; a copy where it is not so."""

    def __init__(self, value: Any, devices: Sequence[str], *, filled: bool) -> None:
        self._own = as_tensor(value, filled=filled).detach()
        if self._own.layout is not torch.strided or self._own.device.type not in devices:
            raise ValueError(
                f"Groups of this backend take dense tensors on {' or '.join(devices)}; one of shape "
                f"{list(self._own.shape)} is {self._own.layout} on {self._own.device}."
            )
        self.tensor = self._own.resolve_conj().resolve_neg().contiguous()

    def give_back(self) -> None:
        """What was filled is in the caller's tensor from here on."""
        if self.tensor is not self._own:
            self._own.copy_(self.tensor)

    def bytes(self) -> torch.Tensor:
        """The same memory, without a dtype that a backend may not know."""
        return self.tensor.reshape(-1).view(torch.uint8)


def as_tensor(value: Any, *, filled: bool) -> torch.Tensor:
    """A torch tensor of the same memory. Raises ValueError for an array that is to be filled and is read-only."""
    if isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, numpy.ndarray):
        raise ValueError(f"Collective groups take torch.Tensor and numpy.ndarray, not {type(value)}.")
    if not value.flags.writeable:
        if filled:
            raise ValueError(
                f"An array of shape {list(value.shape)} that an operation is to fill is read-only, as those are that "
                "were fetched from the object store: copy() it first."
            )
        value = value.copy()
    return torch.from_numpy(value)


class TorchGroup(BaseGroup):
    """One rank. Collective operations are called by one thread at a time, in the same order by all ranks."""

    devices: tuple[str, ...] = ()  # types of those whose tensors it takes

    def __init__(self, world_size: int, rank: int, group_name: str, timeout_s: float | None = None) -> None:
        super().__init__(world_size, rank, group_name)
        self._timeout = DEFAULT_TIMEOUT if timeout_s is None else timedelta(seconds=timeout_s)
        self._group: Any = None  # by the subclass
        # A message is a header and a body, which those of other threads must not come between.
        self._sending = [threading.Lock() for _ in range(world_size)]
        self._receiving = [threading.Lock() for _ in range(world_size)]

    @classmethod
    def missing(cls) -> str | None:
        """What this process lacks for the backend, None if nothing."""
        return None

    @classmethod
    def check_backend_availability(cls) -> bool:
        """Whether groups can be made in this process."""
        return cls.missing() is None

    def destroy_group(self) -> None:
        """Closes the connections: operations that others have under way fail."""
        self._group = None

    def allreduce(self, tensor: list[Any], allreduce_options: AllReduceOptions | None = None) -> None:
        """See `beeline.util.collective.allreduce`."""
        options = allreduce_options or AllReduceOptions()
        dense = self._dense(tensor[0], filled=True)
        with self._doing("allreduce", dense.tensor, options) as timeout:
            self._agree("allreduce", dense.tensor, _NUMBERS[options.reduceOp], timeout)
            if dense.tensor.numel():
                self._living().allreduce(dense.tensor, REDUCTIONS[options.reduceOp], timeout).wait()
        dense.give_back()

    def barrier(self, barrier_options: BarrierOptions | None = None) -> None:
        """See `beeline.util.collective.barrier`."""
        with self._doing("barrier", None, barrier_options or BarrierOptions()) as timeout:
            self._agree("barrier", None, 0, timeout)

    def reduce(self, tensor: list[Any], reduce_options: ReduceOptions | None = None) -> None:
        """See `beeline.util.collective.reduce`."""
        options = reduce_options or ReduceOptions()
        is_root = options.root_rank == self._rank
        dense = self._dense(tensor[0], filled=is_root)
        with self._doing("reduce", dense.tensor, options) as timeout:
            self._agree("reduce", dense.tensor, 16 * options.root_rank + _NUMBERS[options.reduceOp], timeout)
            if dense.tensor.numel():
                # Others' tensors are scratch memory to torch.
                taken = dense.tensor if is_root else dense.tensor.clone()
                self._living().reduce(taken, options.root_rank, REDUCTIONS[options.reduceOp], timeout).wait()
        if is_root:
            dense.give_back()

    def allgather(
        self, tensor_list: list[list[Any]], tensor: list[Any], allgather_options: AllGatherOptions | None = None
    ) -> None:
        """See `beeline.util.collective.allgather`."""
        given = self._dense(tensor[0], filled=False)
        results = [self._dense(each, filled=True) for each in tensor_list[0]]
        self._check_like(given.tensor, results, "allgather")
        with self._doing("allgather", given.tensor, allgather_options or AllGatherOptions()) as timeout:
            self._agree("allgather", given.tensor, 0, timeout)
            if given.tensor.numel():
                self._living().allgather([each.bytes() for each in results], given.bytes(), timeout).wait()
        for each in results:
            each.give_back()

    def broadcast(self, tensor: list[Any], broadcast_options: BroadcastOptions | None = None) -> None:
        """See `beeline.util.collective.broadcast`."""
        options = broadcast_options or BroadcastOptions()
        is_root = options.root_rank == self._rank
        dense = self._dense(tensor[0], filled=not is_root)
        with self._doing("broadcast", dense.tensor, options) as timeout:
            self._agree("broadcast", dense.tensor, options.root_rank, timeout)
            if dense.tensor.numel():
                self._living().broadcast(dense.bytes(), options.root_rank, timeout).wait()
        if not is_root:
            dense.give_back()

    def reducescatter(
        self, tensor: list[Any], tensor_list: list[list[Any]], reducescatter_options: ReduceScatterOptions | None = None
    ) -> None:
        """See `beeline.util.collective.reducescatter`. gloo has none: each part is reduced to its rank."""
        options = reducescatter_options or ReduceScatterOptions()
        result = self._dense(tensor[0], filled=True)
        parts = [self._dense(each, filled=False) for each in tensor_list[0]]
        self._check_like(result.tensor, parts, "reducescatter")
        with self._doing("reducescatter", result.tensor, options) as timeout:
            self._agree("reducescatter", result.tensor, _NUMBERS[options.reduceOp], timeout)
            if result.tensor.numel():
                self._reduce_parts(result.tensor, [each.tensor for each in parts], options.reduceOp, timeout)
        result.give_back()

    def send(self, tensor: list[Any], send_options: SendOptions) -> None:
        """See `beeline.util.collective.send`."""
        peer = send_options.dst_rank
        dense = self._dense(tensor[0], filled=False)
        body = _first(dense.tensor, send_options.n_elements)
        with self._doing(f"send to rank {peer}", body, send_options) as timeout, self._sending[peer]:
            header = self._header(body.numel() * body.element_size(), _number_of(body.dtype))
            self._living().send([header], peer, _TAG).wait(timeout)
            if body.numel():
                self._living().send([body.view(torch.uint8)], peer, _TAG).wait(timeout)

    def recv(self, tensor: list[Any], recv_options: RecvOptions) -> None:
        """See `beeline.util.collective.recv`."""
        peer = recv_options.src_rank
        dense = self._dense(tensor[0], filled=True)
        body = _first(dense.tensor, recv_options.n_elements)
        with self._doing(f"recv from rank {peer}", body, recv_options) as timeout, self._receiving[peer]:
            header = self._header(0, 0)
            self._living().recv([header], peer, _TAG).wait(timeout)
            nbytes, dtype = header.tolist()
            expected = (body.numel() * body.element_size(), _number_of(body.dtype))
            if (nbytes, dtype) != expected:
                if nbytes:  # it is on its way
                    dropped = torch.empty(nbytes, dtype=torch.uint8, device=body.device)
                    self._living().recv([dropped], peer, _TAG).wait(timeout)
                raise _MisfitError(
                    f"rank {peer} has sent {nbytes} bytes of {_name_of(dtype)}, and {expected[0]} of "
                    f"{_name_of(expected[1])} were to be received; they were dropped"
                )
            if nbytes:
                self._living().recv([body.view(torch.uint8)], peer, _TAG).wait(timeout)
        dense.give_back()

    def _dense(self, value: Any, *, filled: bool) -> Dense:
        return Dense(value, self.devices, filled=filled)

    def _header(self, *numbers: int) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._header_device())

    def _header_device(self) -> str:
        return "cpu"

    def _living(self) -> Any:
        group = self._group
        if group is None:
            raise RuntimeError("the group was destroyed here")
        return group

    def _reduce_parts(self, result: torch.Tensor, parts: list[torch.Tensor], op: ReduceOp, timeout: timedelta) -> None:
        for rank, part in enumerate(parts):
            taken = part.clone()
            self._living().reduce(taken, rank, REDUCTIONS[op], timeout).wait()
            if rank == self._rank:
                result.copy_(taken)

    def _check_like(self, tensor: torch.Tensor, others: list[Dense], what: str) -> None:
        for index, other in enumerate(others):
            if other.tensor.shape != tensor.shape or other.tensor.dtype != tensor.dtype:
                raise ValueError(
                    f"{what}: tensor {index} of the list is {other.tensor.dtype} {list(other.tensor.shape)}, the "
                    f"single one {tensor.dtype} {list(tensor.shape)}; they must be alike."
                )

    def _agree(self, operation: str, tensor: torch.Tensor | None, detail: int, timeout: timedelta) -> None:
        """Compares with all ranks what comes next. Raises RuntimeError, at all of them, where they differ."""
        shape = (0, 0) if tensor is None else (tensor.numel(), _number_of(tensor.dtype))
        own = self._header(_OPERATIONS.index(operation), *shape, detail)
        all_ranks = [torch.empty_like(own) for _ in range(self._world_size)]
        self._living().allgather(all_ranks, own, timeout).wait()
        told = [tuple(each.tolist()) for each in all_ranks]
        if len(set(told)) > 1:
            raise _MisfitError("the ranks do not agree: " + "; ".join(map(_describe, range(len(told)), told)))

    @contextlib.contextmanager
    def _doing(self, what: str, tensor: torch.Tensor | None, options: Any) -> Iterator[timedelta]:
        """Around an operation; gives its time. Its errors say what it was."""
        timeout = options.timeout_ms if options.timeout_ms > timedelta(0) else self._timeout
        try:
            with torch.no_grad():
                yield timeout
        except RuntimeError as error:
            of = "" if tensor is None else f" of {tensor.dtype} {list(tensor.shape)}"
            advice = ""
            if not isinstance(error, _MisfitError):
                advice = (
                    f" A rank has ended, or waited for more than {timeout.total_seconds():g} s: destroy the group in "
                    "every rank and make it anew."
                )
            first_line = str(error).partition("\n")[0]
            raise RuntimeError(
                f"{what}{of} in the collective group {self._group_name!r} (rank {self._rank} of {self._world_size}) "
                f"failed: {first_line}.{advice}"
            ) from error


def _first(tensor: torch.Tensor, n_elements: int) -> torch.Tensor:
    flat = tensor.reshape(-1)
    if n_elements > flat.numel():
        raise ValueError(f"n_elements {n_elements} is more than the {flat.numel()} elements of the tensor.")
    return flat[:n_elements] if n_elements else flat


def _number_of(dtype: torch.dtype) -> int:
    return zlib.crc32(str(dtype).encode())


def _name_of(number: int) -> str:
    names = {_number_of(value): str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)}
    return names.get(number, "an unknown dtype").removeprefix("torch.")


def _describe(rank: int, told: tuple[int, ...]) -> str:
    operation, elements, dtype, detail = told
    name = _OPERATIONS[operation]
    if name == "barrier":
        return f"rank {rank} is in barrier"
    root = f" to rank {detail // 16}" if name == "reduce" else f" from rank {detail}" if name == "broadcast" else ""
    reduction = list(ReduceOp)[detail % 16].name if "reduce" in name else ""
    return f"rank {rank} is in {name}{root} of {elements} elements of {_name_of(dtype)} {reduction}".rstrip()
