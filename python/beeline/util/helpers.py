"""Results as they come: `as_completed` and `map_unordered`, by Ray's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from beeline.api import objects

DEFAULT_CHUNK_SIZE = 10
DEFAULT_BACKPRESSURE_SIZE = 100


def as_completed(
    refs: Sequence[Any], *, chunk_size: int = DEFAULT_CHUNK_SIZE, yield_obj_refs: bool = False, **kwargs: Any
) -> Iterator[Any]:
    """An iterator over the results of `refs`, those that are ready first.

    Args:
        refs: References, all different.
        chunk_size: How many to wait for at once; with 1 each comes as soon as it is there.
        yield_obj_refs: Give the references instead of their values.
        **kwargs: For `wait`: timeout (seconds for each chunk; what has come by then is given), fetch_local.

    Raises, when iterated, ValueError for a bad chunk_size or `num_returns`, and what the tasks raise.
    """
    _check_chunk(chunk_size, kwargs)
    left = list(refs)
    while left:
        ready, left = objects.wait(left, num_returns=min(chunk_size, len(left)), **kwargs)
        yield from ready if yield_obj_refs else objects.get(ready)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = DEFAULT_BACKPRESSURE_SIZE,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """An iterator over the results of `fn.remote(item)`, those that are ready first.

    Args:
        fn: A remote function, or a method of an actor.
        items: Taken as they are submitted.
        backpressure_size: How many calls may be under way before results are waited for; None: no bound.
        chunk_size, yield_obj_refs, **kwargs: As of as_completed().

    Raises, when iterated, ValueError for bad arguments, and what the tasks raise.
    """
    if backpressure_size is not None and backpressure_size <= 0:
        raise ValueError("backpressure_size must be positive.")
    _check_chunk(chunk_size, kwargs)
    refs: list[Any] = []
    for item in items:
        refs.append(fn.remote(item))
        if backpressure_size is not None and len(refs) >= backpressure_size:
            ready, refs = objects.wait(refs, num_returns=min(chunk_size, len(refs)), **kwargs)
            yield from ready if yield_obj_refs else objects.get(ready)
    yield from as_completed(refs, chunk_size=chunk_size, yield_obj_refs=yield_obj_refs, **kwargs)


def _check_chunk(chunk_size: int, wait_arguments: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError("`chunk_size` must be >= 1")
    if "num_returns" in wait_arguments:
        raise ValueError("Use the `chunk_size` argument instead of `num_returns`.")
