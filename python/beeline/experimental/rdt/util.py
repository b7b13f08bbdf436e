"""What tensor transports use of Ray's module of this path."""

from __future__ import annotations

from typing import Any

from beeline.tensors import registered
from beeline.tensors.transport_manager import TensorTransportMetadata


def create_empty_tensors_from_metadata(
    tensor_transport_meta: TensorTransportMetadata, device: str | None = None
) -> list[Any]:
    """Tensors for what the metadata describe: their shapes and dtypes, with nothing in them.

    Args:
        tensor_transport_meta: What the producer's manager said of its tensors.
        device: Where they are to be; None: where the producer's are.
    """
    import torch

    where = tensor_transport_meta.tensor_device if device is None else device
    return [torch.empty(shape, dtype=dtype, device=where) for shape, dtype in tensor_transport_meta.tensor_meta]


def get_tensor_transport_manager(transport_name: str) -> Any:
    """This process's manager of the transport of that name, in any case; made where there is none yet.

    Raises ValueError where neither Beeline nor a process of the session has a transport of that name by a manager.
    """
    name = transport_name.lower()
    if registered.find(name) is None:
        raise ValueError(f"Unsupported tensor transport protocol: {transport_name}")
    return registered.manager(name)
