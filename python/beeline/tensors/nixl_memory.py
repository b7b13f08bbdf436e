"""Memory that the program keeps registered for `tensor_transport="nixl"`, and pools that tensors are copied into.

What lies in it is not registered for each object: the object's references are parts of one registration. Both sides of
it are bytes; consumers make tensors of them.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from beeline.exceptions import TransportUnavailableError
from beeline.transfer import TensorRef

# Blocks of a pool begin on a boundary of every dtype.
ALIGNMENT = 64


class NixlOutOfMemoryError(RuntimeError):
    """The pool has no room for an object's tensors; nothing of it was published."""


@dataclass
class _Kept:
    refs: Any  # of the whole storage; holds the registration
    nbytes: int
    times: int


class _Pool:
    """Blocks of one tensor of bytes, the first that is large enough. Needs the lock of the `Memory` that it is of."""

    def __init__(self, memory: Any, ref: TensorRef) -> None:
        self.memory = memory
        self.ref = ref
        self.size = memory.numel()
        self.free: list[tuple[int, int]] = [(0, self.size)]  # (start, end), by start

    def take(self, nbytes: int) -> tuple[int, int] | None:
        length = max(1, -(-nbytes // ALIGNMENT)) * ALIGNMENT
        for index, (start, end) in enumerate(self.free):
            if end - start >= length:
                self.free[index : index + 1] = [(start + length, end)] if end - start > length else []
                return start, start + length
        return None

    def give_back(self, block: tuple[int, int]) -> None:
        start, end = block
        at = bisect.bisect(self.free, block)
        if at < len(self.free) and self.free[at][0] == end:
            end = self.free.pop(at)[1]
        if at > 0 and self.free[at - 1][1] == start:
            start = self.free.pop(at - 1)[0]
            at -= 1
        self.free.insert(at, (start, end))


class Memory:
    """What this process keeps registered, in this session. Thread-safe."""

    def __init__(self, register: Callable[[Any], Any]) -> None:
        self._register = register  # TensorRef of a tensor
        self._lock = threading.Lock()
        self._kept: dict[int, _Kept] = {}  # by the storage's address; all need the lock
        self._pool: _Pool | None = None
        self._blocks: dict[str, list[tuple[int, int]]] = {}  # by object

    def keep(self, tensor: Any) -> None:
        """See `beeline.experimental.register_nixl_memory`."""
        storage = tensor.untyped_storage()
        with self._lock:
            if (kept := self._kept.get(storage.data_ptr())) is not None:
                kept.times += 1
                return
            self._kept[storage.data_ptr()] = _Kept(self._register(_bytes_of(storage)), storage.nbytes(), 1)

    def let_go(self, tensor: Any) -> None:
        """See `beeline.experimental.deregister_nixl_memory`."""
        address = tensor.untyped_storage().data_ptr()
        with self._lock:
            if (kept := self._kept.get(address)) is None:
                return
            kept.times -= 1
            if not kept.times:
                del self._kept[address]

    def make_pool(self, size: int, device: Any) -> None:
        """See `beeline.experimental.register_nixl_memory_pool`."""
        import torch

        with self._lock:
            if self._pool is not None:
                raise ValueError("A memory pool is already registered. Only one memory pool is supported.")
            memory = torch.zeros(size, dtype=torch.uint8, device=device)
            self._pool = _Pool(memory, self._register(memory))

    def parts(self, obj_id: str, tensors: list[Any]) -> list[TensorRef] | None:
        """References to the bytes of each tensor, None where they are to be registered.

        They are where they lie, if all lie in kept memory without gaps; otherwise in the pool, if there is one.
        Raises NixlOutOfMemoryError.
        """
        for tensor in tensors:
            if str(tensor.layout) != "torch.strided":
                raise TransportUnavailableError(f"nixl moves dense tensors; one of shape {list(tensor.shape)} is not.")
        with self._lock:
            where = [self._part_of(tensor) for tensor in tensors]
            found = [ref for ref in where if ref is not None]
            if len(found) == len(tensors):
                return found
            return None if self._pool is None or found else self._copied(self._pool, obj_id, tensors)

    def ended(self, obj_id: str) -> None:
        """Nobody refers to the object any more."""
        with self._lock:
            for block in self._blocks.pop(obj_id, []):
                if self._pool is not None:
                    self._pool.give_back(block)

    def _part_of(self, tensor: Any) -> TensorRef | None:
        kept = self._kept.get(tensor.untyped_storage().data_ptr())
        if kept is None or not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
            return None
        start = tensor.storage_offset() * tensor.element_size()
        end = start + tensor.numel() * tensor.element_size()
        return kept.refs[start:end] if end <= kept.nbytes else None

    def _copied(self, pool: _Pool, obj_id: str, tensors: list[Any]) -> list[TensorRef]:
        blocks: list[tuple[int, int]] = []
        for tensor in tensors:
            nbytes = tensor.numel() * tensor.element_size()
            block = pool.take(nbytes)
            if block is None:
                for taken in blocks:
                    pool.give_back(taken)
                largest = max((end - start for start, end in pool.free), default=0)
                raise NixlOutOfMemoryError(
                    f"The NIXL memory pool of {pool.size} bytes has no room for {len(tensors)} tensors of "
                    f"{sum(each.numel() * each.element_size() for each in tensors)} bytes in all: the largest free "
                    f"block is {largest} bytes. Drop references to objects, or give register_nixl_memory_pool more."
                )
            blocks.append(block)
        parts = []
        for tensor, (start, _) in zip(tensors, blocks, strict=True):
            nbytes = tensor.numel() * tensor.element_size()
            real = tensor.detach().resolve_conj().resolve_neg().contiguous()
            pool.memory[start : start + nbytes].copy_(as_bytes(real))
            parts.append(pool.ref[start : start + nbytes])
        self._blocks[obj_id] = blocks
        return parts


def as_bytes(tensor: Any) -> Any:
    """The memory of a tensor without gaps, as one of bytes."""
    import torch

    return tensor.detach().reshape(-1).view(torch.uint8)


def _bytes_of(storage: Any) -> Any:
    import torch

    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, 0, (storage.nbytes(),), (1,))
