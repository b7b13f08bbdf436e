"""Memory of this process that `tensor_transport="nixl"` finds registered, as Ray names it."""

from __future__ import annotations

from typing import Any

from beeline.api import session
from beeline.exceptions import TransportUnavailableError
from beeline.tensors import registered


def register_nixl_memory(tensor: Any) -> None:
    """Keeps the memory under a tensor registered: all of its storage, until deregister_nixl_memory was called as often.

    Objects whose tensors all lie in such memory without gaps are not registered by themselves. The tensor's memory is
    not freed before.

    Raises TypeError for anything but a torch tensor, TransportUnavailableError where NIXL is not installed or the
    device is not served.
    """
    _manager("register_nixl_memory", tensor).memory.keep(tensor)


def deregister_nixl_memory(tensor: Any) -> None:
    """Undoes one register_nixl_memory of the tensor's memory; without one it does nothing.

    Objects that lie there keep it registered for themselves. Raises as register_nixl_memory.
    """
    _manager("deregister_nixl_memory", tensor).memory.let_go(tensor)


def register_nixl_memory_pool(size: int, device: Any) -> None:
    """Makes a pool, registered once, that tensors of objects are copied into from here on, unless all lie in memory
    that was registered.

    The producer may write to them at once; their place in the pool is free when nobody refers to the object. Making an
    object raises NixlOutOfMemoryError (a RuntimeError) where the pool has no room.

    Args:
        size: Bytes.
        device: Of the pool: torch.device("cpu").

    Raises ValueError where this process has one, or for a size below 1; TransportUnavailableError as
    register_nixl_memory.
    """
    if size < 1:
        raise ValueError(f"A pool has at least one byte, got {size}.")
    _manager("register_nixl_memory_pool", None).memory.make_pool(size, device)


def set_nixl_cuda_stream(stream: Any) -> None:
    """What the stream holds when a CUDA tensor is published, by any transport, is done before consumers read it.

    None, as at first: torch's current stream then. In this version NIXL itself serves no CUDA tensors.
    """
    from beeline.tensors import engine_paths

    engine_paths.set_cuda_stream(stream)


def _manager(what: str, tensor: Any) -> Any:
    import torch

    from beeline.transfer import nixl  # not at import: it brings the transfer engine's API

    if tensor is not None and not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{what} takes a torch.Tensor, got {type(tensor).__name__}.")
    if not nixl.library():
        raise TransportUnavailableError(f"{what}: NIXL is not installed: pip install nixl==1.5.1 nixl-cu12==1.5.1.")
    if tensor is not None and tensor.device.type != "cpu":
        raise TransportUnavailableError(
            f"{what}: NIXL serves memory of the CPU here, the tensor is on {tensor.device}."
        )
    session.ensure()
    return registered.manager("nixl")
