"""get, put, wait, kill, cancel, get_actor: what a program does with references and handles."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from beeline import _core
from beeline.api import actor as actors
from beeline.api import session
from beeline.api.streams import ObjectRefGenerator
from beeline.tensors import mutation, transports

_log = logging.getLogger("beeline")
ObjectRef = _core.ObjectRef


class BlockingGet:
    """Whether the next blocking `get` is warned of: set in the worker of an async actor, once."""

    is_warned_of = False


def _warn_of_blocking_get() -> None:
    BlockingGet.is_warned_of = False
    if os.environ.get("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "1") == "1":
        _log.warning(
            "Using blocking get inside async actor. This blocks the event loop. Please use `await` on object ref "
            "with asyncio.gather if you want to yield execution to the event loop instead."
        )


def get(object_refs: Any, *, timeout: float | None = None, _use_object_store: bool = False) -> Any:
    """The value of a reference, or the list of values of a list of references.

    Args:
        object_refs: An ObjectRef or a list of them.
        timeout: Seconds to wait at most; None: without bound; 0: only what is ready.
        _use_object_store: Values that an actor made for a transport that copies, or a registered one, come from it as
            results without a transport do. "auto" and "shm" map either way.

    Waits until all are ready, or one has failed. Arrays from the object store are read-only views; tensors and
    what came by direct transport are copy-on-write.

    Raises:
        GetTimeoutError: not ready in time; the tasks go on.
        The task's own exception (also a RayTaskError), RayActorError, ObjectLostError ...: the first one that failed.
        ValueError, TypeError: what was given is no reference.
    """
    if _use_object_store:
        from beeline.tensors import shipments

        with shipments.by_object_store():
            return get(object_refs, timeout=timeout)
    if not _core.is_running():
        session.ensure()
    if BlockingGet.is_warned_of:
        _warn_of_blocking_get()
    if type(object_refs) is ObjectRef:
        return _core.get((object_refs,), timeout)[0]
    if type(object_refs) is ObjectRefGenerator:  # as in Ray: what gives references is given back
        return object_refs
    if not isinstance(object_refs, list):
        raise ValueError(
            f"Invalid type of object refs, {type(object_refs)}, is given. 'object_refs' must either be an ObjectRef "
            "or a list of ObjectRefs. "
        )
    for ref in object_refs:
        if type(ref) is not ObjectRef:
            raise TypeError(f"Attempting to call `get` on the value {ref!r}, which is not a beeline.ObjectRef.")
    return _core.get(object_refs, timeout)


def put(value: Any, *, _tensor_transport: str | None = None, isolation: str | None = None) -> Any:
    """Stores a value and returns a reference to it. This process owns it.

    Args:
        value: Anything that pickles, but no ObjectRef itself.
        _tensor_transport: "auto" or "shm": its tensors stay where they are and are fetched from this process;
            None or "object_store": the value is copied.
        isolation: "live" (default): do not write the tensors before the consumers are done; "snapshot": consumers
            see them as they are now.

    Raises:
        TypeError: an ObjectRef, or something that cannot be pickled (nothing stored).
        TransportUnavailableError: a transport that cannot be used, or not for one of the tensors (nothing stored).
        ObjectStoreFullError: the arena quota is exhausted (nothing stored).
    """
    if isinstance(value, ObjectRef):
        raise TypeError(
            "Calling 'put' on a beeline.ObjectRef is not allowed. If you really want to do this, you can wrap the "
            "ObjectRef in a list and call 'put' on it."
        )
    if not _core.is_running():
        session.ensure()
    if _tensor_transport is None and isolation is None:
        return _core.put(value, transports.OBJECT_STORE)
    mode = transports.mode_for("auto" if _tensor_transport is None else _tensor_transport, isolation)
    caller = sys._getframe(1)
    with mutation.origin(f"put at {os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}"):
        return _core.put(value, mode)


def wait(
    ray_waitables: Sequence[Any], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[Any], list[Any]]:
    """Waits until `num_returns` of the references are ready (a value or an error), or the timeout has passed.

    Args:
        ray_waitables: A list of distinct ObjectRefs, and of ObjectRefGenerators: ready when their next item is, or
            when they have ended.
        num_returns: How many to wait for.
        timeout: Seconds to wait at most; None: without bound.
        fetch_local: On one machine every object is local: both values mean the same.

    Returns (ready, others): both in the order given, ready with at most num_returns of them.
    Raises TypeError or ValueError for bad arguments.
    """
    if isinstance(ray_waitables, ObjectRef):
        raise TypeError(f"wait() expected a list of beeline.ObjectRef, got a single beeline.ObjectRef {ray_waitables}")
    if not isinstance(ray_waitables, list):
        raise TypeError(f"wait() expected a list of beeline.ObjectRef, got {type(ray_waitables)}")
    if timeout is not None and timeout < 0:
        raise ValueError(f"The 'timeout' argument must be nonnegative. Received {timeout}")
    for ref in ray_waitables:
        if not isinstance(ref, ObjectRef | ObjectRefGenerator):
            raise TypeError(f"wait() expected a list of beeline.ObjectRef, got list containing {type(ref)}")
    session.ensure()
    if not ray_waitables:
        return [], []
    if len(ray_waitables) != len(set(ray_waitables)):
        raise ValueError("Wait requires a list of unique ray_waitables.")
    if num_returns <= 0:
        raise ValueError(f"Invalid number of objects to return {num_returns}.")
    if num_returns > len(ray_waitables):
        raise ValueError(
            "num_returns cannot be greater than the number of ray_waitables provided to wait: "
            f"{num_returns} > {len(ray_waitables)}."
        )
    ready: list[Any] = []
    others: list[Any] = []
    refs = [item.peek() if type(item) is ObjectRefGenerator else item for item in ray_waitables]
    for ref, is_ready in zip(ray_waitables, _core.wait(refs, num_returns, timeout), strict=True):
        (ready if is_ready and len(ready) < num_returns else others).append(ref)
    return ready, others


def kill(actor: Any, *, no_restart: bool = True) -> None:
    """Ends an actor at once, with whatever it runs; its calls raise ActorDiedError.

    With no_restart=False an actor with restarts left is restarted. Raises ValueError for anything but a handle.
    """
    if not isinstance(actor, actors.ActorHandle):
        raise ValueError(f"kill() only supported for actors. For tasks, try cancel(). Got: {type(actor)}.")
    session.require()
    _core.kill_actor(actor._beeline_actor, no_restart)


def cancel(ray_waitable: Any, *, force: bool = False, recursive: bool = True) -> None:
    """Cancels the task that makes an object; `get` then raises TaskCancelledError. A finished task is left alone.

    A running task gets a KeyboardInterrupt (with force=True its process ends), a coroutine is cancelled, a plain
    actor's method can ask `get_runtime_context().is_canceled()`. What a method returns after that, nobody gets. With
    recursive=True subtasks are cancelled too.

    Raises TypeError for anything but a reference, ValueError for force=True with an actor's method.
    """
    if isinstance(ray_waitable, ObjectRefGenerator):
        ray_waitable = ray_waitable.completed()
    if not isinstance(ray_waitable, ObjectRef):
        raise TypeError(f"cancel() only supported for object refs. For actors, try kill(). Got: {type(ray_waitable)}.")
    session.require()
    _core.cancel(ray_waitable, force, recursive)


def get_actor(name: str, namespace: str | None = None) -> actors.ActorHandle:
    """A handle to the actor of that name in the namespace (None: the session's).

    The handle does not keep the actor alive. Raises ValueError if there is no such actor.
    """
    if not name:
        raise ValueError("Please supply a non-empty value to get_actor")
    session.ensure()
    handle = actors.find_actor(name, namespace)
    if handle is None:
        where = namespace or session.current.namespace
        raise ValueError(
            f"Failed to look up actor with name '{name}'. This could be because 1. You are trying to look up a named "
            "actor you didn't create. 2. The named actor died. 3. You did not use a namespace matching the namespace "
            f"of the actor (looked in '{where}')."
        )
    return handle
