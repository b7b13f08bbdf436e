"""Tensor transports that are classes: those that the program registered, and the transfer engine's paths.

`shipments` moves values by them.
"""

from __future__ import annotations

import functools
import logging
import pickle
import sys
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle

from beeline.tensors import announcements, jax_values

# Modes by their names: the same number in every process. They travel in one signed byte.
FIRST_MODE, LAST_MODE = 3, 111
FIRST_BUILTIN_MODE = 112
# Names of the transfer engine's paths that are transports; a name's place is its number's.
BUILTIN = ("cma", "tcp", "ucx", "nixl", "gloo", "cuda_ipc", "nccl")

_log = logging.getLogger("beeline")
_lock = threading.Lock()
_registered: dict[str, Registration] = {}
_adopted: set[str] = set()  # names of those that another process registered
_managers: dict[str, Any] = {}


@dataclass(frozen=True)
class Registration:
    """One transport: what `register` was given."""

    name: str  # lower case
    devices: tuple[str, ...]
    manager_class: bytes  # pickled
    data_type: type | None  # of the tensors; None: torch.Tensor and jax.Array, which are not imported for that

    @property
    def mode(self) -> int:
        """Its number."""
        return _number_of(self.name)

    def is_tensor(self, value: Any) -> bool:
        """Whether the value is one of those that it moves. Of tensors around others (DTensor), it moves those."""
        if hasattr(type(value), "__tensor_flatten__"):
            return False
        if self.data_type is not None:
            return isinstance(value, self.data_type)
        torch = sys.modules.get("torch")
        return (torch is not None and isinstance(value, torch.Tensor)) or jax_values.is_array(value)


def _number_of(name: str) -> int:
    if name in BUILTIN:
        return FIRST_BUILTIN_MODE + BUILTIN.index(name)
    return FIRST_MODE + zlib.crc32(name.encode()) % (LAST_MODE - FIRST_MODE + 1)


def register(
    transport_name: str, devices: Sequence[str], transport_manager_class: type, data_type: type, *, taken: set[str]
) -> None:
    """See `beeline.experimental.register_tensor_transport`; `taken` are names that Beeline uses itself."""
    from beeline.tensors.transport_manager import TensorTransportManager

    name = transport_name.lower()
    required = ("extract_tensor_transport_metadata", "recv_multiple_tensors", "garbage_collect", "is_one_sided")
    is_manager = isinstance(transport_manager_class, type) and (
        issubclass(transport_manager_class, TensorTransportManager)
        or all(callable(getattr(transport_manager_class, method, None)) for method in required)  # a class for Ray's
    )
    if not is_manager:
        raise ValueError(
            f"transport_manager_class {getattr(transport_manager_class, '__name__', transport_manager_class)} must be "
            "a subclass of TensorTransportManager."
        )
    own = Registration(name, tuple(devices), cloudpickle.dumps(transport_manager_class), data_type)
    with _lock:
        # A worker has what its maker registered before it imports the module that registers it, too.
        if (name in _registered and name not in _adopted) or name in taken:
            raise ValueError(f"Transport {transport_name.upper()} already registered.")
        for other in _registered.values():
            if other.mode == own.mode and other.name != name:
                raise ValueError(f"The names {other.name} and {name} have the same number: choose another one.")
        _adopted.discard(name)
        _registered[name] = own
    announcements.put(own.mode, own)


@functools.cache
def _builtin() -> dict[str, Registration]:
    from beeline.tensors import engine_paths

    return {
        name: Registration(name, manager.devices, cloudpickle.dumps(manager), None)
        for name, manager in engine_paths.MANAGERS.items()
    }


def find(name: str) -> Registration | None:
    """The transport of that name (lower case), or None. Another process of the session may have registered it."""
    if name in BUILTIN:
        return _builtin()[name]
    found = _registered.get(name)
    if found is None:
        announced = _announced(_number_of(name))
        found = announced if announced is not None and announced.name == name else None
    return found


def of_mode(mode: int) -> Registration | None:
    """The transport of that number, or None. Another process of the session may have registered it."""
    known = (*_registered.values(), *_builtin().values())
    return next((each for each in known if each.mode == mode), None) or _announced(mode)


def _announced(number: int) -> Registration | None:
    registration = announcements.find(number)
    if registration is not None:
        adopt([registration])
    return registration


def announce() -> None:
    """Tells a session that has just begun what this process has registered."""
    for registration in list(_registered.values()):
        announcements.put(registration.mode, registration)


def manager(name: str) -> Any:
    """This process's manager of a transport that `find` finds."""
    registration = find(name)
    assert registration is not None
    return load_manager(registration.name, registration.manager_class)


def names() -> list[str]:
    """All that are registered in this process."""
    return list(_registered)


def export() -> list[Registration]:
    """What a worker needs to produce values by the transports of this process."""
    return list(_registered.values())


def adopt(registrations: list[Registration]) -> None:
    """Registers what another process has exported; its own come first."""
    with _lock:
        for registration in registrations:
            if registration.name in _registered:
                continue
            if any(other.mode == registration.mode for other in _registered.values()):
                _log.warning("The tensor transport %s has the number of another one here: left out", registration.name)
                continue
            _registered[registration.name] = registration
            _adopted.add(registration.name)


def load_manager(name: str, manager_class: bytes) -> Any:
    """This process's manager of a transport of that pickled class, made when it is first needed."""
    if name not in _managers:
        made = pickle.loads(manager_class)()  # the program's code: without the lock
        with _lock:
            _managers.setdefault(name, made)
    return _managers[name]
