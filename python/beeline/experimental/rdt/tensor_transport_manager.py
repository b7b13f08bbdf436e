"""The interface of tensor transports, where Ray has it."""

from beeline.tensors.transport_manager import (
    CommunicatorMetadata,
    FetchRequest,
    TensorTransportManager,
    TensorTransportMetadata,
)

__all__ = ["CommunicatorMetadata", "FetchRequest", "TensorTransportManager", "TensorTransportMetadata"]
