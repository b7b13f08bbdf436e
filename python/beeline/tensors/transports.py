"""Names of tensor transports, and what each means on one machine. Names are honoured strictly, in any case."""

from __future__ import annotations

from beeline.exceptions import TransportUnavailableError
from beeline.tensors import registered

# Modes of _core.put and hooks.dumps.
OBJECT_STORE = 0
DIRECT_LIVE = 1
DIRECT_SNAPSHOT = 2

ISOLATIONS = ("live", "snapshot")
USABLE = {
    "auto": "the best path for each pair of processes; on one machine: shm",
    "shm": "direct, through shared arenas of the producer",
    "cma": "a copy by the kernel, out of the producer's memory as it is when it is fetched",
    "ucx": "a copy by UCX, where it is installed",
    "nixl": "a copy by NIXL, where it is installed",
    "gloo": "a copy by torch's gloo, without a collective group of the program",
    "tcp": "a copy through a socket, for comparison: on one machine the others are faster",
    "cuda_ipc": "a copy of a CUDA tensor by the driver, out of the producer's memory as it is when it is fetched",
    "nccl": "a copy of a CUDA tensor to another GPU by NCCL, without a collective group of the program",
    "object_store": "a copy in the object store; arrays come back read-only",
}


def mode_for(transport: str | None, isolation: str | None = None) -> int:
    """The mode that a transport's name and an isolation stand for; no transport means the object store.

    Raises TypeError for names that are no strings, TransportUnavailableError (a ValueError) for an unknown
    transport, ValueError for an unknown isolation or one without a direct transport.
    """
    if transport is not None and not isinstance(transport, str):
        raise TypeError(f"tensor_transport must be a string, got {type(transport).__name__}.")
    name = "object_store" if transport is None else transport.lower()
    is_class = name in registered.BUILTIN or name not in USABLE
    if is_class and (registration := registered.find(name)) is not None:
        if isolation == "snapshot":
            raise ValueError(f'isolation="snapshot" needs tensor_transport="auto" or "shm", not {transport!r}.')
        return registration.mode
    if name not in USABLE:
        usable = "; ".join(f'"{key}": {text}' for key, text in USABLE.items())
        usable += "".join(f'; "{own}": registered by the program' for own in registered.names())
        raise TransportUnavailableError(f"There is no tensor transport '{transport}'. There are: {usable}.")
    if isolation is not None and isolation not in ISOLATIONS:
        raise ValueError(f"isolation must be one of {', '.join(ISOLATIONS)}; got {isolation!r}.")
    if name == "object_store":
        if isolation == "live":
            raise ValueError('isolation="live" needs a direct transport: tensor_transport="auto" or "shm".')
        return OBJECT_STORE
    return DIRECT_SNAPSHOT if isolation == "snapshot" else DIRECT_LIVE
