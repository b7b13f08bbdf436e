"""The interface of tensor transports that a program brings along: Ray's `TensorTransportManager`, by the same names.

A class that is written for Ray's interface (`ray.experimental`, 2.60) works here unchanged, and the other way round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


@dataclass
class CommunicatorMetadata:
    """What both sides need to find each other; nothing for most one-sided transports."""


@dataclass
class TensorTransportMetadata:
    """What a receiver needs to know of an object's tensors. Subclasses add keys, addresses and the like; pickled.

    Args:
        tensor_meta: (shape, dtype) of each tensor.
        tensor_device: The type of their device: "cpu", "cuda", "npu".
    """

    tensor_meta: list[tuple[Any, Any]]
    tensor_device: str | None = None


@dataclass
class FetchRequest:
    """A fetch that was begun, and its tensors."""

    obj_id: str
    tensors: list[Any]


class TensorTransportManager(ABC):
    """A tensor transport. Each process makes one of it, without arguments, when it first needs it."""

    @abstractmethod
    def tensor_transport_backend(self) -> str:
        """The transport's name."""

    @staticmethod
    @abstractmethod
    def is_one_sided() -> bool:
        """Whether receivers read by themselves; otherwise the producer sends while they receive."""

    @staticmethod
    @abstractmethod
    def can_abort_transport() -> bool:
        """Whether `abort_transport` ends a transfer. Beeline kills no actor where it does not."""

    @abstractmethod
    def actor_has_tensor_transport(self, actor: Any) -> bool:
        """Whether the actor can use it."""

    @abstractmethod
    def extract_tensor_transport_metadata(self, obj_id: str, rdt_object: list[Any]) -> TensorTransportMetadata:
        """On the producer: registers the object's tensors, and says what receivers need to know.

        The tensors are kept, and must not be written, until `garbage_collect`.
        """

    @abstractmethod
    def get_communicator_metadata(
        self, src_actor: Any, dst_actor: Any, backend: str | None = None
    ) -> CommunicatorMetadata:
        """On the receiver: what the two sides need to find each other. A handle is None where that side is the driver.

        Of two-sided transports neither is.
        """

    @abstractmethod
    def recv_multiple_tensors(
        self,
        obj_id: str,
        tensor_transport_metadata: TensorTransportMetadata,
        communicator_metadata: CommunicatorMetadata,
        target_buffers: list[Any] | None = None,
    ) -> list[Any]:
        """On the receiver: the object's tensors, in `target_buffers` where those are given."""

    def fetch_multiple_tensors(
        self,
        obj_id: str,
        tensor_transport_metadata: TensorTransportMetadata,
        communicator_metadata: CommunicatorMetadata,
        target_buffers: list[Any] | None = None,
    ) -> FetchRequest:
        """Begins what `recv_multiple_tensors` does; by default does it."""
        tensors = self.recv_multiple_tensors(obj_id, tensor_transport_metadata, communicator_metadata, target_buffers)
        return FetchRequest(obj_id, tensors)

    def wait_fetch_complete(self, fetch_request: FetchRequest, timeout: float = -1) -> list[Any]:
        """The tensors of a fetch that was begun. Seconds; -1: without bound. Raises TimeoutError."""
        return fetch_request.tensors

    @abstractmethod
    def send_multiple_tensors(
        self,
        tensors: list[Any],
        tensor_transport_metadata: TensorTransportMetadata,
        communicator_metadata: CommunicatorMetadata,
    ) -> None:
        """Of two-sided transports, on the producer: runs while the receiver is in `recv_multiple_tensors`."""

    @abstractmethod
    def garbage_collect(self, obj_id: str, tensor_transport_meta: TensorTransportMetadata, tensors: list[Any]) -> None:
        """On the producer: nobody refers to the object any more."""

    @abstractmethod
    def abort_transport(self, obj_id: str, communicator_metadata: CommunicatorMetadata) -> None:
        """Ends a transfer that failed."""
