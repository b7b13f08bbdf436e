"""What Ray has under `ray.experimental` for direct transport."""

from beeline.experimental.direct import (
    register_tensor_transport,
    set_target_device_for_ref,
    set_target_for_ref,
    transfer_stats,
    wait_tensor_freed,
)
from beeline.experimental.nixl import (
    deregister_nixl_memory,
    register_nixl_memory,
    register_nixl_memory_pool,
    set_nixl_cuda_stream,
)
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
    "deregister_nixl_memory",
    "register_nixl_memory",
    "register_nixl_memory_pool",
    "register_tensor_transport",
    "set_nixl_cuda_stream",
    "set_target_device_for_ref",
    "set_target_for_ref",
    "transfer_stats",
    "wait_tensor_freed",
]
