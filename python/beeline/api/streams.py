"""Streams: what a task or method that yields returns. Async iteration and Ray's other names, added to the core's type.

As in Ray, every item is an object of its own that the caller owns, and an exception of user code is the last item.
"""

from __future__ import annotations

import collections
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from beeline import _core
from beeline.api import object_ref

ObjectRefGenerator = _core.ObjectRefGenerator

# What `num_returns` may be beside a number.
STREAMING, DYNAMIC = "streaming", "dynamic"
_YIELDS = {STREAMING: 1, DYNAMIC: 2}


class DynamicObjectRefGenerator:
    """The references of all items of a task with num_returns="dynamic", which ended before. Taken one by one."""

    def __init__(self, refs: Iterable[Any]) -> None:
        self._refs = collections.deque(refs)

    def __iter__(self) -> Iterator[Any]:
        """The references that are left; each is given once."""
        while self._refs:
            yield self._refs.popleft()

    def __len__(self) -> int:
        """How many are left."""
        return len(self._refs)


def collection(*binaries: bytes) -> DynamicObjectRefGenerator:
    """What the core's pickle of a collection calls."""
    return DynamicObjectRefGenerator([_core.ObjectRef(binary) for binary in binaries])


def returns_of(num_returns: int | str) -> tuple[int, int]:
    """(number of returns, how they are given) for the core."""
    if isinstance(num_returns, int):
        return num_returns, 0
    return 1, _YIELDS[num_returns]


def check(num_returns: Any, is_generator: bool, what: str) -> None:
    """Raises ValueError for "streaming" or "dynamic" of what does not yield; warns of "dynamic", as Ray."""
    if not isinstance(num_returns, str):
        return
    if not is_generator:
        raise ValueError(
            f"num_returns='{num_returns}' can only be used with generator functions (functions that use 'yield'). "
            f"{what} is not a generator function."
        )
    if num_returns == DYNAMIC:
        warnings.warn(
            "num_returns='dynamic' is deprecated. Use num_returns='streaming' instead.",
            DeprecationWarning,
            stacklevel=4,
        )


async def _anext(stream: Any) -> Any:
    """The next reference; other coroutines run while it is waited for."""
    while True:
        item = stream.peek()
        if not _core.ready(item):
            await object_ref.when_ready(item)
        try:
            taken = stream.next_within(0)
        except StopIteration:
            raise StopAsyncIteration from None
        if taken is not None:  # another coroutine was faster
            return taken


def _not_supported(name: str) -> Any:
    def refuse(stream: Any, *args: Any) -> NoReturn:
        raise NotImplementedError(f"`gen.{name}` is not supported.")

    return refuse


def _async_not_supported(name: str) -> Any:
    async def refuse(stream: Any, *args: Any) -> NoReturn:
        raise NotImplementedError(f"`gen.{name}` is not supported.")

    return refuse


def _refuse_to_pickle(stream: Any, *protocol: int) -> NoReturn:
    raise TypeError(
        "You cannot return or pass a generator to other task. Serializing an ObjectRefGenerator is not allowed: pass "
        "the references that it gives, or hand them on as they come."
    )


def install() -> None:
    """Adds the methods to the core's type; once, at import."""
    methods = {"__aiter__": lambda stream: stream, "__anext__": _anext, "__reduce_ex__": _refuse_to_pickle}
    for name in ("send", "throw", "close"):
        methods |= {name: _not_supported(name), f"a{name}": _async_not_supported(f"a{name}")}
    for name, function in methods.items():
        setattr(ObjectRefGenerator, name, function)
    ObjectRefGenerator.__module__ = "beeline"
