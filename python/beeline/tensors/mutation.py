"""Finds writes to tensors that were published with isolation="live" while a consumer still reads them.

torch counts the in-place writes to a tensor (`_version`). The counters are compared where a call of this process
starts and ends. What they cannot see (`.data`, numpy aliases, fused optimizers, inference tensors) goes unnoticed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

from beeline import _core

_log = logging.getLogger("beeline")
_last = threading.local()
_lock = threading.Lock()


class _Publication(NamedTuple):
    where: str  # "Learner.weights", "put at train.py:12"
    tensors: list[tuple[weakref.ref[Any], int]]  # with the version that was published


_live: dict[int, _Publication] = {}


def remember(tensors: list[Any]) -> None:
    """Called by dumps: these tensors belong to what this thread publishes next, if it is published in place."""
    _last.counted = [(weakref.ref(tensor), tensor._version) for tensor in tensors if not tensor.is_inference()]


@contextlib.contextmanager
def origin(where: str) -> Iterator[None]:
    """What this thread publishes meanwhile comes from `where`, not from the task that runs."""
    _last.where = where
    try:
        yield
    finally:
        _last.where = None


def published(publication: int, where: str | None = None) -> None:
    """Called by the core: the tensors of the last `remember` of this thread are published in place."""
    counted = getattr(_last, "counted", None)
    if not counted:
        return
    _last.counted = None
    where = where or getattr(_last, "where", None)
    if where is None:
        task = _core.current_task()
        where = task.function_name() if task else "a task"
    with _lock:
        _live[publication] = _Publication(where, counted)


def check() -> None:
    """Reports publications whose tensors were written while somebody reads them. A write after the last reader is
    the next version's business and only noted. Publications that are over, or whose tensors are gone, are forgotten.
    """
    with _lock:
        publications = list(_live.items())
    for number, publication in publications:
        readers = _core.publication_readers(number)
        alive = [(ref, ref(), version) for ref, version in publication.tensors]
        if readers < 0 or all(tensor is None for _, tensor, _ in alive):
            with _lock:
                _live.pop(number, None)
            continue
        written = [tensor for _, tensor, version in alive if tensor is not None and tensor._version != version]
        if not written:
            continue
        if readers:
            message = _message(publication, written, readers)
            _log.warning(message)
            _core.mark_mutated(number)
        current = [(ref, tensor._version) for ref, tensor, _ in alive if tensor is not None]
        with _lock:
            if number in _live:
                _live[number] = _Publication(publication.where, current)


def _message(publication: _Publication, written: list[Any], readers: int) -> str:
    first = written[0]
    dtype = str(first.dtype).removeprefix("torch.")
    return (
        f"{len(written)} of {len(publication.tensors)} tensors published by {publication.where} were written while "
        f"{readers} consumer(s) still read them; the first is {dtype} {list(first.shape)}. What they see is "
        'undefined. Publish with isolation="snapshot", or wait with '
        "beeline.experimental.wait_tensor_freed(tensor) before writing."
    )
