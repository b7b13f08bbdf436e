"""Transports of your own that are written in Python: the C interface `beeline/transport_plugin.h` as a class."""

from __future__ import annotations

import abc
import atexit
import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

from beeline import _core

# One for the host's memory, as DLPack numbers devices.
HOST = 1

Operation = Literal["read", "write"]
Memory = _core.TransportMemory
Run = _core.TransportRun
Wait = _core.TransportWait


class Transport(abc.ABC):
    """One more path of the agents that are opened with it: `Agent(plugins=[MyTransport()])`, on both sides.

    It appears in `explain()`, is chosen by its measured speed, and can be required by `path=`. How a transfer runs:

        owner                                        reader
        open(), once an agent                        open(), once an agent
                              <- asks ->             contact of the owner, once a peer
        contact()             -- bytes -->           connect(contact)
                              <- asks ->             the key of a region, once a region
        expose(memory)        -- key -->             transfer(connection, runs with keys)
        withdraw(exposure) when the registration ends

    Contacts and keys are opaque to Beeline, at most 1 MiB each; they travel over the agents' own connection, to agents
    that were admitted. An engine, an exposure and a connection are whatever objects the methods give.

    - Every method may be called by several threads at once, on threads that Python did not start as well.
    - The runs of one `transfer()` are of one region and one local device.
    - `connect()` and `transfer()` call `wait.check()` every few milliseconds and let out what it raises.
    - When `transfer()` returns, whatever its outcome, nothing writes to local memory any more.
    - `withdraw()` returns when no peer can reach the memory any more; the memory may then be anything else.
    - After `fork()` nothing of the parent's engine is called in the child; when the interpreter ends, nothing at all.
    - What it raises: `PeerLostError` (the way to the peer has ended), `TransportUnavailableError` (it does not do it)
      and any exception of another kind have the agent try another path, unless the caller named this one;
      `StaleReferenceError` says that the memory is exposed no more.

    Attributes:
        name: Of the path.
        device_types: Of memory on either side, as DLPack numbers them: 1 is the host's, 2 CUDA.
        same_host_only: Peers of other hosts are not offered.
        can_write: `transfer()` takes "write", and `expose()` writable memory.
        named_only: The path is taken only by callers who name it.
        expected_gbps: 10^9 bytes a second of a large transfer, until some were measured.
    """

    name: str
    device_types: Collection[int] = (HOST,)
    same_host_only: bool = False
    can_write: bool = False
    named_only: bool = False
    expected_gbps: float = 1.0

    @abc.abstractmethod
    def open(self, agent_name: str) -> Any:
        """An engine for an agent; called when something first needs it."""

    @abc.abstractmethod
    def close(self, engine: Any) -> None:
        """After everything of the engine was withdrawn and disconnected."""

    @abc.abstractmethod
    def contact(self, engine: Any) -> bytes:
        """By what peers find the engine."""

    @abc.abstractmethod
    def expose(self, engine: Any, memory: Memory, writable: bool) -> tuple[Any, bytes]:
        """(exposure, key): by the key peers reach the memory until `withdraw()`; `memory.view()` is good as long."""

    @abc.abstractmethod
    def withdraw(self, engine: Any, exposure: Any) -> None:
        """Ends what `expose()` began."""

    @abc.abstractmethod
    def connect(self, engine: Any, peer_name: str, contact: bytes, wait: Wait) -> Any:
        """A connection to the peer whose engine has that contact."""

    @abc.abstractmethod
    def disconnect(self, engine: Any, connection: Any) -> None:
        """Ends a connection, when no transfer is under way by it."""

    @abc.abstractmethod
    def transfer(self, engine: Any, connection: Any, operation: Operation, runs: Sequence[Run], wait: Wait) -> None:
        """Fills local memory out of the peer's ("read"), or the peer's out of it ("write").

        A run is `count` pieces of `length` bytes: the first at `offset` of what has the key, and at the address
        `local`; each next one `stride` and `local_stride` bytes further. `run.view()` spans all of them here, and is
        good for the call.
        """

    def quiet(self, engine: Any, connection: Any, wait: Wait) -> None:  # noqa: B027, likewise
        """Called before a "write" that follows one which has failed: until nothing of that reaches the peer's memory
        any more. Without it that is not waited for."""

    def count_refusals(self, engine: Any, count: Callable[[], None]) -> None:  # noqa: B027, it may be left out
        """Called after `open()`: `count()` is for each peer that the engine turns away, and shows in the agent's
        counters. Any thread may call it, as long as it likes."""


_METHODS = ("open", "close", "contact", "expose", "withdraw", "connect", "disconnect", "transfer")


class Plugins(NamedTuple):
    """What `Agent(plugins=)` was given, by kind."""

    libraries: list[str]
    transports: list[tuple[Any, str, bool, bool, bool, int, float]]


def row(transport: Any) -> tuple[Any, str, bool, bool, bool, int, float]:
    """A transport as the core takes it. Raises TypeError or ValueError for what is none."""
    missing = [method for method in _METHODS if not callable(getattr(transport, method, None))]
    name = getattr(transport, "name", None)
    if missing or not isinstance(name, str) or not name:
        what = f"methods {', '.join(missing)}" if missing else "a name"
        raise TypeError(
            f"a plug-in is the path of a library, or a beeline.transfer.Transport: {transport!r} lacks {what}"
        )
    types = 0
    for device_type in getattr(transport, "device_types", (HOST,)):
        if not 0 < device_type < 64:
            raise ValueError(f"device_types of transport {name!r}: {device_type} is no number of DLPack's")
        types |= 1 << device_type
    flags = (bool(getattr(transport, flag, False)) for flag in ("same_host_only", "can_write", "named_only"))
    same_host_only, can_write, named_only = flags
    gbps = float(getattr(transport, "expected_gbps", 1.0))
    return transport, name, same_host_only, can_write, named_only, types, gbps


def sort_out(plugins: Sequence[str | os.PathLike[str] | Transport]) -> Plugins:
    """What an agent is opened with: its plug-ins, and last the paths of this package that are written in Python."""
    from beeline.transfer import gloo

    libraries = [os.fspath(each) for each in plugins if isinstance(each, (str, os.PathLike))]
    transports = [row(each) for each in plugins if not isinstance(each, (str, os.PathLike))]
    if gloo.is_installed():
        transports.append(row(gloo.GlooTransport()))
    return Plugins(libraries, transports)


# Registered before any engine's own: so it runs after them.
atexit.register(_core.end_python_transports)
