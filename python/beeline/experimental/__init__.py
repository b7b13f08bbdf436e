"""What Ray has under `ray.experimental` for direct transport."""

from beeline.experimental.direct import register_tensor_transport, set_target_for_ref, wait_tensor_freed
from beeline.tensors.transport_manager import (
    CommunicatorMetadata,
    FetchRequest,
    TensorTransportManager,
    TensorTransportMetadata,
)

__all__ = [
    "CommunicatorMetadata",
    "FetchRequest",
    "TensorTransportManager",
    "TensorTransportMetadata",
    "register_tensor_transport",
    "set_target_for_ref",
    "wait_tensor_freed",
]
