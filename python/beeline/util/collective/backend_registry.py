"""Which class makes groups of a backend: gloo and NCCL by torch, and what the program registers."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from typing import Any

from beeline.util.collective.collective_group.base_collective_group import BaseGroup
from beeline.util.collective.types import Backend

# Their modules import torch, which a driver that only declares groups need not have.
_BUILT_IN = {
    "GLOO": ("beeline.util.collective.collective_group.torch_gloo_collective_group", "TorchGLOOGroup"),
    "NCCL": ("beeline.util.collective.collective_group.nccl_collective_group", "NCCLGroup"),
}
_lock = threading.Lock()
_registered: dict[str, type[BaseGroup]] = {}


def register_collective_backend(name: str, group_cls: type[BaseGroup]) -> None:
    """Makes a backend of the program's own usable by its name, in this process; each actor that uses it calls this too.

    Args:
        name: For `backend=`, in any case; `Backend.NAME` from here on.
        group_cls: A subclass of `BaseGroup`, called with (world_size, rank, group_name).

    Raises TypeError for a class that is none, ValueError for a name that is taken.
    """
    if not (isinstance(group_cls, type) and issubclass(group_cls, BaseGroup)):
        raise TypeError(f"{group_cls} is not a subclass of BaseGroup")
    key = name.upper()
    with _lock:
        if key in _registered or key in _BUILT_IN:
            raise ValueError(f"Backend {key} already registered")
        _registered[key] = group_cls
    setattr(Backend, key, key)


def group_class(name: str) -> type[Any]:
    """The class of a backend's groups. Raises ValueError for a backend that there is not, or that lacks its library."""
    key = name.upper()
    if key in _registered:
        return _registered[key]
    if key not in _BUILT_IN:
        raise ValueError(f"Backend {key} not registered: register_collective_backend({key!r}, ...) does that")
    if importlib.util.find_spec("torch") is None:
        raise ValueError(f"Backend {key} not registered: torch is not installed")
    module, attribute = _BUILT_IN[key]
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    if (missing := found.missing()) is not None:
        raise ValueError(f"Backend {key} not registered: {missing}")
    return found


def is_registered(name: str) -> bool:
    """Whether groups of the backend can be made as far as this process can tell without torch."""
    key = name.upper()
    if key == "NCCL":
        return is_available(key)
    return key in _registered or (key in _BUILT_IN and importlib.util.find_spec("torch") is not None)


def is_available(name: str) -> bool:
    """Whether groups of the backend can be made in this process."""
    try:
        return bool(group_class(name).check_backend_availability())
    except (ValueError, AttributeError):
        return False
