"""Control of direct objects: when a published tensor may be written again, and where a fetched one goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from beeline import _core
from beeline.exceptions import GetTimeoutError
from beeline.tensors import registered, transports


def register_tensor_transport(
    transport_name: str, devices: Sequence[str], transport_manager_class: type, data_type: type
) -> None:
    """Makes a tensor transport of the program's own usable by its name: `@method(tensor_transport=...)`, `put`.

    In any process of the session, before it is first named there; actors may be older, and find it when they first
    produce a value by it, after a restart as well. Consumers need nothing.
    As Ray's (`ray.experimental.register_tensor_transport`, 2.60).

    Args:
        transport_name: For `tensor_transport`, in any case.
        devices: Types of devices whose tensors it serves, such as ["npu"]. Another device is refused when a value is
            sent.
        transport_manager_class: A subclass of `TensorTransportManager`, or one written for Ray's. Pickled. By a
            two-sided one actors receive and send, not drivers and tasks.
        data_type: What it moves: torch.Tensor, jax.Array.

    Raises ValueError for a name that is taken, and a class that is no manager; OutOfDiskError where the session's
    folder has no room for it.
    """
    taken = set(transports.USABLE)
    registered.register(transport_name, devices, transport_manager_class, data_type, taken=taken)


def wait_tensor_freed(tensor: Any, timeout: float | None = None) -> None:
    """Waits until no published object refers to the tensor's memory; then it may be written.

    Args:
        tensor: A torch.Tensor or numpy array of this process; one that was never published is free.
        timeout: Seconds to wait at most; None: without bound.

    Raises GetTimeoutError (also a TimeoutError) where it is still published after that time; nothing has changed.
    """
    address, nbytes = _span(tensor)
    if not nbytes:
        return
    began = time.monotonic()
    if not _core.wait_unpublished(address, nbytes, timeout):
        holders = _core.holds_overlapping(address, nbytes)
        raise GetTimeoutError(
            f"The tensor of shape {list(tensor.shape)} is still published by {holders} object(s) after "
            f"{time.monotonic() - began:.3f} s. Drop their references, or wait longer."
        )


def transfer_stats() -> dict[str, int]:
    """What this process has sent in its session, by the path that it took, and fetched, as `beeline status` shows it.

    `inline_bytes` travelled inside messages (skeletons of values included), `mapped_bytes` were published where they
    are, `copied_bytes` were copied once into shared memory to be published, and `fetched_bytes` are what this process
    has read of others that way; each with `_objects`. The rest is about objects that were moved, spilled or lost. What
    transports that copy have moved (`"cma"`, `"cuda_ipc"`, ...) is in `beeline.transfer.counters`. Not in Ray.

    Raises SessionLostError where this process is in no session.
    """
    return _core.transfer_stats()


def _span(tensor: Any) -> tuple[int, int]:
    """(address, bytes) of the range that the elements span."""
    if hasattr(tensor, "data_ptr"):
        if tensor.device.type == "meta":
            raise ValueError("wait_tensor_freed takes a tensor with memory, got one on meta.")
        extent = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        return tensor.data_ptr(), extent * tensor.element_size() if tensor.numel() else 0
    if hasattr(tensor, "__array_interface__"):
        import numpy

        low, high = numpy.lib.array_utils.byte_bounds(tensor)
        return low, high - low
    raise TypeError(f"wait_tensor_freed takes a tensor or an array, got {type(tensor).__name__}.")


def set_target_for_ref(ref: Any, target: Sequence[Any]) -> None:
    """The object's tensors are written into `target` when this process fetches it, and the value holds those.

    Args:
        ref: An ObjectRef whose value has as many tensors as `target`.
        target: A list of torch tensors, in the order in which the value holds its tensors, of their shapes and dtypes.

    Raises TypeError for anything else. `get` raises TargetMismatchError where number, shape or dtype differ, and
    writes nothing then.
    """
    if not isinstance(ref, _core.ObjectRef):
        raise TypeError(f"set_target_for_ref takes an ObjectRef, got {type(ref).__name__}.")
    found = list(target)
    for index, tensor in enumerate(found):
        if not hasattr(tensor, "copy_"):
            raise TypeError(f"Target {index} must be a torch.Tensor, got {type(tensor).__name__}.")
    _core.set_target(ref, found)


def set_target_device_for_ref(ref: Any, target_device: Any) -> None:
    """The object's tensors come to a device when this process fetches it, wherever their producer has them.

    Args:
        ref: An ObjectRef.
        target_device: "cpu", "cuda:0", or a torch.device. In place of what was set for the reference before.

    Raises TypeError for anything but a reference, RuntimeError (torch's) for what is no device, ValueError for one that
    this process cannot make tensors on.
    """
    import torch

    if not isinstance(ref, _core.ObjectRef):
        raise TypeError(f"set_target_device_for_ref takes an ObjectRef, got {type(ref).__name__}.")
    device = torch.device(target_device)
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        why = "torch sees no CUDA device here" if device.type == "cuda" else "cpu and cuda are served"
        raise ValueError(f"Tensors cannot be fetched onto target device {device}: {why}.")
    _core.set_target(ref, device)
