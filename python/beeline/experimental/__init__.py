"""What Ray has under `ray.experimental` for direct transport."""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from beeline.tensors.transport_manager import (
        CommunicatorMetadata,
        FetchRequest,
        TensorTransportManager,
        TensorTransportMetadata,
    )

_OF_MANAGERS = ("CommunicatorMetadata", "FetchRequest", "TensorTransportManager", "TensorTransportMetadata")


def __getattr__(name: str) -> object:
    if name in _OF_MANAGERS:  # for those who write a transport: imported when it is named
        from beeline.tensors import transport_manager

        return getattr(transport_manager, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_OF_MANAGERS})


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
