"""GPUs of AN EMULATOR of NVIDIA's driver (tests/emulators/cuda), for this process: memory, streams, and arrays on them.

torch's CPU build makes no CUDA tensors: arrays are shown by DLPack. Used by tests and by the owner's process alike.
"""

import ctypes
import os

import torch

from beeline.transfer.references import dtype_row

CUDA = 2
LIBRARY = "BEELINE_CUDA_LIBRARY"
POISON = 0xEE


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class ManagedTensor(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class VersionedTensor(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p), ("flags", ctypes.c_uint64), ("tensor", Tensor),
    ]  # fmt: skip


class Driver:
    """The emulator's calls; a code that is not 0 is an exception."""

    def __init__(self):
        self._library = ctypes.CDLL(os.environ[LIBRARY])
        self.call("cuInit", 0)
        self._contexts = {}

    def call(self, name, *arguments):
        code = getattr(self._library, name)(*arguments)
        assert code == 0, f"{name}: {code}"

    def on(self, device, name, *arguments):
        """A call with that GPU's context current."""
        if device not in self._contexts:
            context = ctypes.c_void_p()
            self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            self._contexts[device] = context
        self.call("cuCtxSetCurrent", self._contexts[device])
        self.call(name, *arguments)

    def calls(self, name):
        """How often this process has called it."""
        return self._library.cuEmulatorCalls(name.encode())

    def opened(self):
        """How many allocations of other processes are open in this one."""
        return self._library.cuEmulatorOpened()

    def fail(self, name, code, times=1):
        self.call("cuEmulatorFail", name.encode(), code, times)

    def stream(self, device=0):
        """The handle of a stream that does not wait for the default one."""
        handle = ctypes.c_void_p()
        self.on(device, "cuStreamCreate", ctypes.byref(handle), 1)
        return handle.value

    def finish(self, device=0, stream=0):
        self.on(device, "cuStreamSynchronize", ctypes.c_void_p(stream))

    def read(self, address, nbytes, device=0):
        """Bytes of a GPU, as a tensor of uint8."""
        raw = torch.empty(nbytes, dtype=torch.uint8)
        if nbytes:
            to = ctypes.c_void_p(raw.data_ptr())
            self.on(device, "cuMemcpyDtoH_v2", to, ctypes.c_uint64(address), ctypes.c_size_t(nbytes))
        return raw


_driver = None


def driver():
    global _driver
    if _driver is None:
        _driver = Driver()
    return _driver


class Allocation:
    """Freed when nobody refers to it."""

    def __init__(self, nbytes, device, pooled=False):
        address = ctypes.c_uint64()
        make = "cuEmulatorAllocPooled" if pooled else "cuMemAlloc_v2"
        driver().on(device, make, ctypes.byref(address), ctypes.c_size_t(max(1, nbytes)))
        self.address, self.nbytes, self.device = address.value, nbytes, device

    def __del__(self):
        driver().on(self.device, "cuMemFree_v2", ctypes.c_uint64(self.address))


def capsule_of(array, device, address, versioned=True, readonly=False):
    """DLPack's form of an array whose storage lies there: `array.like` says of what shape, dtype and strides it is, and
    the array keeps what the capsule refers to."""
    like = array.like
    array._managed = VersionedTensor(major=1) if versioned else ManagedTensor()
    if versioned:
        array._managed.flags = int(readonly)
    count = like.dim()
    array._shape = (ctypes.c_int64 * count)(*like.shape)
    array._strides = (ctypes.c_int64 * count)(*like.stride())
    code, bits, lanes = dtype_row(like.dtype)
    offset = like.storage_offset() * like.element_size()
    array._managed.tensor = Tensor(address, *device, count, code, bits, lanes, array._shape, array._strides, offset)
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(ctypes.addressof(array._managed), b"dltensor_versioned" if versioned else b"dltensor", None)


class DeviceTensor:
    """What a tensor of the CPU is, on a GPU: its storage, shape and strides. Parts share the allocation."""

    def __init__(self, like, device=0, *, pooled=False, versioned=True, allocation=None):
        self.like = like
        self.versioned = versioned
        self.readonly = False
        self.memory = allocation or self._moved(like, device, pooled)
        self.device = self.memory.device

    @staticmethod
    def _moved(like, device, pooled):
        storage = like.untyped_storage()
        memory = Allocation(storage.nbytes(), device, pooled)
        if memory.nbytes:
            from_host = ctypes.c_void_p(storage.data_ptr())
            to = ctypes.c_uint64(memory.address)
            driver().on(device, "cuMemcpyHtoD_v2", to, from_host, ctypes.c_size_t(memory.nbytes))
        return memory

    def __getitem__(self, index):
        return DeviceTensor(self.like[index], allocation=self.memory)

    @property
    def shape(self):
        return self.like.shape

    @property
    def address(self):
        return self.memory.address + self.like.storage_offset() * self.like.element_size()

    def cpu(self):
        """A copy, with the same strides."""
        size = self.like.element_size()
        raw = driver().read(self.memory.address, self.memory.nbytes // size * size, self.device)
        return torch.as_strided(
            raw.view(self.like.dtype), self.like.shape, self.like.stride(), self.like.storage_offset()
        )

    def fill(self, value, run_us=0, stream=0):
        """A kernel that runs for a while, and then sets every byte of the allocation; returns at once."""
        driver().on(
            self.device, "cuEmulatorFill", ctypes.c_uint64(self.memory.address), value,
            ctypes.c_size_t(self.memory.nbytes), ctypes.c_uint64(run_us), ctypes.c_void_p(stream),
        )  # fmt: skip

    def __dlpack_device__(self):
        return CUDA, self.device

    def __dlpack__(self, *, stream=None, **options):
        assert stream == 1, "the consumer works behind the default stream"
        if not self.versioned and options:
            raise TypeError("no such options")
        return capsule_of(self, (CUDA, self.device), self.memory.address, self.versioned, self.readonly)


def poisoned(like, device=0, *, keeps_strides=False):
    """Memory for a tensor of that shape, without gaps, on a GPU: row-major, or with strides that leave none."""
    raw = torch.full((max(1, like.numel() * like.element_size()),), POISON, dtype=torch.uint8)
    dense = raw[: like.numel() * like.element_size()].view(like.dtype).reshape(like.shape)
    if keeps_strides:
        dense = dense.as_strided(like.shape, like.stride())
    return DeviceTensor(dense, device)


def content(tensor):
    """A copy of a torch tensor on a GPU whose torch cannot read it, or of an array of ours."""
    if isinstance(tensor, DeviceTensor):
        return tensor.cpu()
    assert tensor.device.type == "cuda", tensor.device
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    raw = driver().read(tensor.data_ptr(), reach * tensor.element_size(), tensor.device.index)
    return torch.as_strided(raw.view(tensor.dtype), tensor.shape, tensor.stride())


def on_gpu(expression, device=0):
    """As the owner writes them: a list or dict of tensors, on its GPU."""
    return (
        f"(lambda made: {{k: DeviceTensor(t, {device}) for k, t in made.items()}} if isinstance(made, dict) else "
        f"[DeviceTensor(t, {device}) for t in made])({expression})"
    )
