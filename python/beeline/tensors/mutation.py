"""Finds writes to tensors that were published with isolation="live" while a consumer still reads them.

torch counts the in-place writes to a tensor (`_version`). The counters are compared where a call of this process
starts and ends. What they cannot see (`.data`, numpy aliases, fused optimizers, inference tensors) goes unnoticed.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any, NamedTuple

from beeline import _core

_log = logging.getLogger("beeline")
_last = threading.local()
_lock = threading.Lock()


class _Publication(NamedTuple):
    where: str  # "Learner.weights", "put at train.py:12"
    tensors: list[tuple[weakref.ref[Any], int]]  # with the version that was published


_live: dict[bytes, _Publication] = {}


def remember(tensors: list[Any]) -> None:
    """Called by dumps: these tensors belong to the object that this thread publishes next."""
    _last.tensors = tensors


def published(ref_binary: bytes, where: str | None = None) -> None:
    """The object of the last `remember` of this thread has got its id; `where` names its origin, else the task's."""
    tensors = getattr(_last, "tensors", None)
    if not tensors:
        return
    _last.tensors = None
    if where is None:
        task = _core.current_task()
        where = task.function_name() if task else "a task"
    counted = [(weakref.ref(tensor), tensor._version) for tensor in tensors if not tensor.is_inference()]
    with _lock:
        _live[ref_binary] = _Publication(where, counted)


def check() -> None:
    """Reports publications whose tensors were written while somebody reads them. A write after the last reader is
    the next version's business and only noted. Publications whose tensors are gone are forgotten.
    """
    with _lock:
        publications = list(_live.items())
    for ref_binary, publication in publications:
        alive = [(ref, ref(), version) for ref, version in publication.tensors]
        if all(tensor is None for _, tensor, _ in alive):
            with _lock:
                _live.pop(ref_binary, None)
            continue
        written = [tensor for _, tensor, version in alive if tensor is not None and tensor._version != version]
        if not written:
            continue
        readers = _core.publication_readers(ref_binary)
        if readers:
            message = _message(publication, written, readers)
            _log.warning(message)
            _core.mark_mutated(ref_binary, message)
        current = [(ref, tensor._version) for ref, tensor, _ in alive if tensor is not None]
        with _lock:
            if ref_binary in _live:
                _live[ref_binary] = _Publication(publication.where, current)


def _message(publication: _Publication, written: list[Any], readers: int) -> str:
    first = written[0]
    dtype = str(first.dtype).removeprefix("torch.")
    return (
        f"{len(written)} of {len(publication.tensors)} tensors published by {publication.where} were written while "
        f"{readers} consumer(s) still read them; the first is {dtype} {list(first.shape)}. What they see is "
        'undefined. Publish with isolation="snapshot", or wait with '
        "beeline.experimental.wait_tensor_freed(tensor) before writing."
    )
