"""Monarch's actors of the `transfer` benchmarks: one owns a buffer, one reads it. Only where Monarch is installed."""

from __future__ import annotations

import torch
from monarch.actor import Actor, endpoint
from monarch.rdma import RDMABuffer

from benchmarks.peers import check
from benchmarks.timing import clock

TIMEOUT_S = 60


class Owner(Actor):
    """Holds one registered buffer at a time."""

    @endpoint
    async def register(self, size: int) -> RDMABuffer:
        self._memory = torch.ones(size, dtype=torch.uint8)
        self._buffer = RDMABuffer(self._memory)
        return self._buffer


class Reader(Actor):
    """Reads into memory of its own, and takes the time itself."""

    @endpoint
    async def read(self, buffer: RDMABuffer, size: int, calls: int, blocks: int, warm: int) -> list[float]:
        target = torch.zeros(size, dtype=torch.uint8)
        for _ in range(1 + warm):
            await buffer.read_into(target, timeout=TIMEOUT_S)
        check(target)
        samples = []
        for _ in range(blocks):
            start = clock()
            for _ in range(calls):
                await buffer.read_into(target, timeout=TIMEOUT_S)
            samples.append((clock() - start) / calls)
        return samples
