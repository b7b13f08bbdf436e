"""Groups by NCCL, for tensors of CUDA devices: torch's own, where it was built with NCCL. Not yet run on a GPU."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from beeline.util.collective.collective_group.torch_group import REDUCTIONS, TorchGroup
from beeline.util.collective.meeting import Meeting
from beeline.util.collective.types import Backend, BarrierOptions, ReduceOp

LOOPBACK = "127.0.0.1"
MEETING_S = 30.0


class NCCLGroup(TorchGroup):
    """One rank of an NCCL group; its tensors are on the device that is current when the group is made.

    Ranks are not asked whether they agree: in NCCL that would cost a synchronisation of the device. What does not fit
    together ends by torch's watchdog. Raises as TorchGLOOGroup.
    """

    devices = ("cuda",)

    def __init__(self, world_size: int, rank: int, group_name: str) -> None:
        super().__init__(world_size, rank, group_name)
        self._device = torch.device("cuda", torch.cuda.current_device())
        with Meeting(group_name, world_size, rank, MEETING_S) as meeting:
            self._store = self._make_store(meeting, rank, world_size)
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = self._timeout
            self._group = dist.ProcessGroupNCCL(self._store, rank, world_size, options)
        with torch.cuda.device(self._device):
            self.barrier()  # the communicator comes to be with its first operation

    @staticmethod
    def _make_store(meeting: Meeting, rank: int, world_size: int) -> Any:
        """NCCL asks more of a store, and for longer, than the meeting can give."""
        timeout = timedelta(seconds=meeting.left_s())
        if rank == 0:
            store = dist.TCPStore(LOOPBACK, 0, world_size, True, timeout, wait_for_workers=False)
            meeting.set("port", str(store.port).encode())
            return store
        port = int(meeting.get("port"))
        return dist.TCPStore(LOOPBACK, port, world_size, False, timeout, wait_for_workers=False)

    def destroy_group(self) -> None:
        """Aborts what is under way."""
        if self._group is not None:
            self._group.abort()
        super().destroy_group()

    def barrier(self, barrier_options: BarrierOptions | None = None) -> None:
        """See `beeline.util.collective.barrier`."""
        with self._doing("barrier", None, barrier_options or BarrierOptions()) as timeout:
            one = torch.ones(1, device=self._device)
            self._living().allreduce(one, dist.ReduceOp.SUM, timeout).wait()
            torch.cuda.current_stream(self._device).synchronize()

    @classmethod
    def missing(cls) -> str | None:
        """What this process lacks for it."""
        if not dist.is_available() or not dist.is_nccl_available():
            return "torch was built without NCCL"
        return None if torch.cuda.is_available() else "torch sees no CUDA device"

    @classmethod
    def backend(cls) -> str:
        """Its name."""
        return Backend.NCCL

    def _header_device(self) -> str:
        return str(self._device)

    def _agree(self, operation: str, tensor: torch.Tensor | None, detail: int, timeout: timedelta) -> None:
        """Nothing is asked."""

    def _reduce_parts(self, result: torch.Tensor, parts: list[torch.Tensor], op: ReduceOp, timeout: timedelta) -> None:
        self._living().reduce_scatter(result, parts, REDUCTIONS[op], timeout).wait()
