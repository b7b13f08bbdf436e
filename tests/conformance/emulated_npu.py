"""Memory of the NPU of THE EMULATOR of HiXL (tests/emulators/hixl), for this process, and arrays in it.

The processor cannot touch it. torch's CPU build makes no NPU tensors: arrays are shown by DLPack. Used by tests and by
the owner's process alike.
"""

import ctypes
import functools
import os

import torch

from tests.conformance.emulated_gpu import POISON, capsule_of

NPU = 12
LIBRARY = "HIXL_EMULATOR_LIBRARY"


@functools.cache
def emulator():
    """The library that the agents of this process have opened, or will open."""
    library = ctypes.CDLL(os.environ[LIBRARY])
    library.hixl_emulator_allocate.restype = ctypes.c_size_t
    library.hixl_emulator_allocate.argtypes = [ctypes.c_size_t]
    library.hixl_emulator_free.argtypes = [ctypes.c_size_t]
    library.hixl_emulator_copy.argtypes = [ctypes.c_size_t] * 3
    return library


class Allocation:
    """Freed when nobody refers to it."""

    def __init__(self, storage):
        self.nbytes = storage.nbytes()
        self.address = emulator().hixl_emulator_allocate(max(1, self.nbytes))
        assert self.address
        emulator().hixl_emulator_copy(self.address, storage.data_ptr(), self.nbytes)

    def __del__(self):
        emulator().hixl_emulator_free(self.address)


class NpuTensor:
    """What a tensor of the CPU is, on the NPU: its storage, shape and strides."""

    def __init__(self, like):
        self.like = like
        self.memory = Allocation(like.untyped_storage())

    @property
    def shape(self):
        return self.like.shape

    def cpu(self):
        """A copy, with the same strides."""
        raw = torch.empty(self.memory.nbytes, dtype=torch.uint8)
        emulator().hixl_emulator_copy(raw.data_ptr(), self.memory.address, self.memory.nbytes)
        like = self.like
        raw = raw[: raw.numel() // like.element_size() * like.element_size()]
        return torch.as_strided(raw.view(like.dtype), like.shape, like.stride(), like.storage_offset())

    def __dlpack_device__(self):
        return NPU, 0

    def __dlpack__(self, **options):
        return capsule_of(self, (NPU, 0), self.memory.address)


def poisoned(like):
    """Memory for a tensor of that shape, without gaps, on the NPU."""
    raw = torch.full((max(1, like.numel() * like.element_size()),), POISON, dtype=torch.uint8)
    return NpuTensor(raw[: like.numel() * like.element_size()].view(like.dtype).reshape(like.shape))


def on_npu(expression):
    """As the owner writes them: a list of tensors, on its NPU."""
    return f"[NpuTensor(t) for t in {expression}]"
