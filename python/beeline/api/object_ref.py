"""What an ObjectRef can do beyond identity: `await`, futures, typing. Added to the core's type, so there is one."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from beeline import _core
from beeline.exceptions import TaskError

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

ObjectRef = _core.ObjectRef

_loop_queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _core.CompletionQueue] = weakref.WeakKeyDictionary()
_thread_lock = threading.Lock()
_thread_queue: _core.CompletionQueue | None = None


def _settle(ref: Any, future: Any) -> None:
    """Gives a future what its reference holds; one that was cancelled meanwhile is left alone."""
    if future.cancelled():
        return
    try:
        value = _core.get((ref,), 0)[0]
    except BaseException as error:
        if isinstance(error, StopIteration) and isinstance(error, TaskError):
            error = TaskError(*error._fields())  # a future takes no StopIteration
        future.set_exception(error)
    else:
        future.set_result(value)


def _drain(queue: Any) -> None:
    for settle, ref, future in queue.drain():
        settle(ref, future)


def _queue_of(loop: asyncio.AbstractEventLoop) -> Any:
    queue = _loop_queues.get(loop)
    if queue is None:
        queue = _loop_queues[loop] = _core.CompletionQueue()
        loop.add_reader(queue.fileno(), _drain, queue)
    return queue


def _as_future(ref: Any) -> asyncio.Future[Any]:
    """An asyncio future of the running loop for this reference's value or error."""
    loop = sys.modules["asyncio"].get_running_loop()
    future = loop.create_future()
    _queue_of(loop).add(ref, (_settle, ref, future))
    return future


def _wake(ref: Any, future: Any) -> None:
    if not future.cancelled():
        future.set_result(None)


def when_ready(ref: Any) -> asyncio.Future[None]:
    """An asyncio future of the running loop that is done when the reference has a value or an error."""
    loop = sys.modules["asyncio"].get_running_loop()
    future = loop.create_future()
    _queue_of(loop).add(ref, (_wake, ref, future))
    return future


def _await(ref: Any) -> Generator[Any, None, Any]:
    """`await ref`: the value, or raises what `get` would. Other coroutines run meanwhile."""
    if _core.ready(ref):
        return _core.get((ref,), 0)[0]
    return (yield from _as_future(ref))


def _settle_concurrent(ref: Any, future: concurrent.futures.Future[Any]) -> None:
    if future.set_running_or_notify_cancel():
        _settle(ref, future)


def _serve_futures(queue: Any) -> None:
    while True:
        queue.wait(None)
        _drain(queue)


def _future(ref: Any) -> concurrent.futures.Future[Any]:
    """A concurrent.futures.Future for this reference's value or error. It may be waited for by any thread."""
    import concurrent.futures  # not at import: it costs milliseconds that most programs need not spend

    global _thread_queue
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    with _thread_lock:
        if _thread_queue is None:
            _thread_queue = _core.CompletionQueue()
            threading.Thread(target=_serve_futures, args=(_thread_queue,), name="beeline-futures", daemon=True).start()
        _thread_queue.add(ref, (_settle_concurrent, ref, future))
    return future


class TaskID(bytes):
    """A task's id: 24 bytes; `hex()` as Ray's."""

    def binary(self) -> bytes:
        """The bytes themselves."""
        return bytes(self)

    def __repr__(self) -> str:
        """For people."""
        return f"TaskID({self.hex()})"


def _task_id(ref: Any) -> TaskID:
    """The id of the task that made the object."""
    return TaskID(ref.binary()[:24])


def _call_site(ref: Any) -> str:
    """What made the object: a task's name, or nothing for `put`."""
    return ref.task_name()


def _class_getitem(cls: type, item: Any) -> type:
    """`ObjectRef[int]` in annotations is ObjectRef."""
    return cls


def install() -> None:
    """Adds the methods to the core's type; once, at import."""
    for name, function in {
        "__await__": _await,
        "as_future": _as_future,
        "future": _future,
        "task_id": _task_id,
        "call_site": _call_site,
    }.items():
        setattr(ObjectRef, name, function)
    ObjectRef.__class_getitem__ = classmethod(_class_getitem)  # type: ignore[attr-defined]
    ObjectRef.__module__ = "beeline"
