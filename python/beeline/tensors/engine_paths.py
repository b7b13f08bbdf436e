"""Tensor transports that copy: the transfer engine's paths under their own names, each a manager of Ray's kind.

Each process of a session has one agent of the engine, opened when the first value needs it. What "auto" and "shm" map
without a copy is the core's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from typing import Any, ClassVar

from beeline.exceptions import OutOfDiskError, TransferTimeoutError
from beeline.tensors import fetch_time, jax_values
from beeline.tensors.nixl_memory import Memory, as_bytes
from beeline.tensors.transport_manager import CommunicatorMetadata, TensorTransportManager, TensorTransportMetadata
from beeline.transfer import Agent, TensorRef, TensorRefs


class EngineMetadata(TensorTransportMetadata):
    """Besides shapes and dtypes: references to the registered tensors, as bytes; or `parts`, to the bytes of each."""

    refs: bytes = b""
    parts: tuple[bytes, ...] = ()
    of_jax: tuple[int, ...] = ()  # places of jax arrays among the tensors


def _describe(tensors: list[Any]) -> EngineMetadata:
    """Of torch tensors."""
    device = tensors[0].device.type if tensors else None
    return EngineMetadata([(tensor.shape, tensor.dtype) for tensor in tensors], device)


class _Stream:
    """What `set_nixl_cuda_stream` was given, in this process."""

    value: Any = None


def set_cuda_stream(stream: Any) -> None:
    """See `beeline.experimental.set_nixl_cuda_stream`."""
    _Stream.value = stream


def _stream_for(tensors: list[Any]) -> Any:
    """Raises ValueError for CUDA tensors that are not on the stream's device."""
    stream = _Stream.value
    on_gpus = [tensor for tensor in tensors if tensor.device.type == "cuda"]
    if stream is None or not on_gpus:
        return None
    for tensor in on_gpus:
        if tensor.device != stream.device:
            raise ValueError(
                f"The stream of set_nixl_cuda_stream is on {stream.device}, a tensor of shape {list(tensor.shape)} on "
                f"{tensor.device}: set another one, or None."
            )
    return stream


class EngineTransport(TensorTransportManager):
    """One path of the transfer engine. Subclasses say which."""

    path: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)  # of the tensors that it serves
    listens: ClassVar[bool] = False  # served by agents with a TCP address alone

    def __init__(self) -> None:
        self._registered: dict[str, Any] = {}  # by object: the references, which keep its tensors registered

    def tensor_transport_backend(self) -> str:
        """As Ray writes names."""
        return self.path.upper()

    @staticmethod
    def is_one_sided() -> bool:
        """Consumers read by themselves."""
        return True

    @staticmethod
    def can_abort_transport() -> bool:
        """A fetch that failed has ended on both sides."""
        return True

    def actor_has_tensor_transport(self, actor: Any) -> bool:
        """Every process can open an agent."""
        return True

    def extract_tensor_transport_metadata(self, obj_id: str, rdt_object: list[Any]) -> EngineMetadata:
        """Registers the tensors where they are; a lazy conjugate or negative is made real first. jax's as torch's."""
        of_jax = tuple(place for place, tensor in enumerate(rdt_object) if jax_values.is_array(tensor))
        tensors = [jax_values.shown(each) if place in of_jax else each for place, each in enumerate(rdt_object)]
        metadata = _describe(tensors)
        metadata.of_jax = of_jax
        real = [tensor.detach().resolve_conj().resolve_neg() for tensor in tensors]
        refs = _agents.get(listening=self.listens).register(real, stream=_stream_for(real), path=self.path)
        metadata.refs = refs.to_bytes()
        self._registered[obj_id] = refs
        return metadata

    def get_communicator_metadata(
        self, src_actor: Any, dst_actor: Any, backend: str | None = None
    ) -> CommunicatorMetadata:
        """None is needed: references say where the tensors are."""
        return CommunicatorMetadata()

    def recv_multiple_tensors(
        self,
        obj_id: str,
        tensor_transport_metadata: TensorTransportMetadata,
        communicator_metadata: CommunicatorMetadata,
        target_buffers: list[Any] | None = None,
    ) -> list[Any]:
        """Copies them by this path and no other, within what is left of the `get`'s timeout, or of `fetch_time`.

        Raises GetTimeoutError or ObjectFetchTimedOutError where that was too little, and what `Agent.fetch` raises.
        """
        assert isinstance(tensor_transport_metadata, EngineMetadata)
        fetched = self._fetch(TensorRefs.from_bytes(tensor_transport_metadata.refs), target_buffers)
        for place in tensor_transport_metadata.of_jax if target_buffers is None else ():
            fetched[place] = jax_values.of_tensor(fetched[place])
        return fetched

    def _fetch(self, refs: Any, targets: list[Any] | None) -> list[Any]:
        time = fetch_time.left()
        agent = _agents.get(listening=self.listens)
        try:
            fetched: list[Any] = agent.fetch(refs, targets, path=self.path, timeout_s=time.seconds)
            return fetched
        except TransferTimeoutError as error:
            raise time.error(error) from error

    def send_multiple_tensors(
        self,
        tensors: list[Any],
        tensor_transport_metadata: TensorTransportMetadata,
        communicator_metadata: CommunicatorMetadata,
    ) -> None:
        """Never called: consumers read by themselves."""
        raise NotImplementedError

    def garbage_collect(self, obj_id: str, tensor_transport_meta: TensorTransportMetadata, tensors: list[Any]) -> None:
        """Undoes the registration."""
        self._registered.pop(obj_id, None)

    def abort_transport(self, obj_id: str, communicator_metadata: CommunicatorMetadata) -> None:
        """Nothing goes on after a fetch that failed."""


class Cma(EngineTransport):
    """The kernel copies out of the producer's memory."""

    path = "cma"


class Tcp(EngineTransport):
    """Through sockets of this host."""

    path = "tcp"
    listens = True


class Ucx(EngineTransport):
    """UCX's one-sided operations."""

    path = "ucx"


class Nixl(EngineTransport):
    """NIXL, within this host; of memory that the program keeps registered, without registering it again."""

    path = "nixl"

    def __init__(self) -> None:
        super().__init__()
        self._memory: tuple[Agent, Memory] | None = None

    @property
    def memory(self) -> Memory:
        """Of this session. Opens the agent."""
        agent = _agents.get(listening=self.listens)
        if self._memory is None or self._memory[0] is not agent:  # of a session before, or of a fork's parent
            self._memory = agent, Memory(agent.register)
        return self._memory[1]

    def extract_tensor_transport_metadata(self, obj_id: str, rdt_object: list[Any]) -> EngineMetadata:
        """References to parts of kept memory or of the pool, where they lie there; raises NixlOutOfMemoryError."""
        is_torchs = bool(rdt_object) and not any(map(jax_values.is_array, rdt_object))
        parts = self.memory.parts(obj_id, rdt_object) if is_torchs else None
        if parts is None:
            return super().extract_tensor_transport_metadata(obj_id, rdt_object)
        metadata = _describe(rdt_object)
        metadata.parts = tuple(part.to_bytes() for part in parts)
        self._registered[obj_id] = parts
        return metadata

    def recv_multiple_tensors(
        self,
        obj_id: str,
        tensor_transport_metadata: TensorTransportMetadata,
        communicator_metadata: CommunicatorMetadata,
        target_buffers: list[Any] | None = None,
    ) -> list[Any]:
        """As EngineTransport, likewise where there are parts."""
        assert isinstance(tensor_transport_metadata, EngineMetadata)
        if not tensor_transport_metadata.parts:
            return super().recv_multiple_tensors(
                obj_id, tensor_transport_metadata, communicator_metadata, target_buffers
            )
        refs = [TensorRef.from_bytes(part) for part in tensor_transport_metadata.parts]
        if target_buffers is not None and all(target.is_contiguous() for target in target_buffers):
            self._fetch(refs, [as_bytes(target) for target in target_buffers])
            return target_buffers
        return [
            fetched.view(dtype).reshape(shape)
            for fetched, (shape, dtype) in zip(
                self._fetch(refs, None), tensor_transport_metadata.tensor_meta, strict=True
            )
        ]

    def garbage_collect(self, obj_id: str, tensor_transport_meta: TensorTransportMetadata, tensors: list[Any]) -> None:
        """Its place in the pool is free again."""
        super().garbage_collect(obj_id, tensor_transport_meta, tensors)
        if self._memory is not None:
            self._memory[1].ended(obj_id)


class Gloo(EngineTransport):
    """torch's ProcessGroupGloo, a group for each pair of processes."""

    path = "gloo"


class CudaIpc(EngineTransport):
    """Memory of GPUs, opened by the consumer."""

    path = "cuda_ipc"
    devices = ("cuda",)


class Nccl(EngineTransport):
    """Memory of GPUs, from one GPU to another one; a communicator for each pair of processes."""

    path = "nccl"
    devices = ("cuda",)


MANAGERS: dict[str, type[EngineTransport]] = {
    manager.path: manager for manager in (Cma, Tcp, Ucx, Nixl, Gloo, CudaIpc, Nccl)
}


class _Agents:
    """This process's agents in its session: one that listens on TCP, where that is asked for, and one that does not."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """In a child of fork() as well: its parent's agents are of no use there, and the lock may be held for ever."""
        self._lock = threading.Lock()
        self._opened: dict[bool, Agent] = {}

    def get(self, *, listening: bool) -> Agent:
        from beeline.api import session

        with self._lock:
            if listening not in self._opened:
                folder = os.path.join(session.current.info["session_dir"], "agents")
                os.makedirs(folder, mode=0o700, exist_ok=True)
                tcp, token = ("127.0.0.1:0", _session_token(folder)) if listening else (None, "")
                self._opened[listening] = Agent(f"process {os.getpid()}", folder=folder, tcp=tcp, token=token)
                session.current.dependents.add(self)
            return self._opened[listening]

    def session_ended(self) -> None:
        with self._lock:
            closing, self._opened = self._opened, {}
        for agent in closing.values():
            agent.close()


_agents = _Agents()


def _session_token(folder: str) -> str:
    """What agents of the session ask of whoever connects; made by the first one. The folder is the user's alone.

    Raises OutOfDiskError where there is no room for it.
    """
    path = os.path.join(folder, "token")
    own = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        return file.read()
    try:
        with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(own, path)  # all of it, or nothing
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutOfDiskError(f'No room for the token of tensor_transport="tcp" in {folder}: {error.strerror}') from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(own)
    with open(path) as file:
        return file.read()
