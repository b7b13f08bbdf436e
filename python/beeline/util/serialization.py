"""Ways to pickle classes that have none, or another than the program wants; by Ray's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beeline.tensors import serializers


def register_serializer(cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """From now on instances of `cls` that leave this process are pickled as `serializer(instance)`.

    Args:
        cls: The class itself; instances of derived classes are pickled as before.
        serializer: Makes something that can be pickled. Called in this process.
        deserializer: Makes the instance of that. Pickled along, and called where the value arrives.

    Holds in this process alone, for arguments, results, `put` and what functions refer to. Tensors and arrays that the
    core pickles itself are not asked about.
    """
    if not isinstance(cls, type):
        raise TypeError(f"register_serializer() takes a class, got {type(cls).__name__}")
    for function in (serializer, deserializer):
        if not callable(function):
            raise TypeError(f"serializer and deserializer must be callable, got {type(function).__name__}")
    serializers.register(cls, lambda instance: (deserializer, (serializer(instance),)))


def deregister_serializer(cls: type) -> None:
    """Undoes register_serializer() for `cls`; nothing happens where it was not called."""
    serializers.deregister(cls)
