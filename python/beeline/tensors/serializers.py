"""How instances of classes are pickled that the program has registered a way for; this process's alone."""

from __future__ import annotations

import io
from collections import ChainMap
from collections.abc import Callable
from typing import Any

import cloudpickle

Reducer = Callable[[Any], tuple[Any, ...]]

_registered: dict[type, Reducer] = {}
# Read by every pickler when it starts; cloudpickle's own table, which other libraries use, is not touched.
dispatch_table: ChainMap[type, Any] = ChainMap(_registered, *cloudpickle.Pickler.dispatch_table.maps)


class DefinitionPickler(cloudpickle.Pickler):
    """cloudpickle, with what is registered: for functions, classes and whatever they refer to."""

    dispatch_table = dispatch_table


def dumps(value: Any) -> bytes:
    """The pickle of a definition; raises what pickling it raises."""
    file = io.BytesIO()
    DefinitionPickler(file, protocol=5).dump(value)
    return file.getvalue()


def register(cls: type, reducer: Reducer) -> None:
    """Instances of exactly `cls` are pickled as `reducer` says, as `copyreg.pickle` has it."""
    _registered[cls] = reducer


def deregister(cls: type) -> None:
    """Forgets what was registered for `cls`."""
    _registered.pop(cls, None)
