"""`Pool`: the interface of `multiprocessing.Pool` over actors, as Ray's `ray.util.multiprocessing.Pool`."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sized
from multiprocessing import TimeoutError
from typing import Any

from beeline.api import addresses, cluster, notices, session
from beeline.util.multiprocessing.results import AsyncResult, Callbacks, IMapIterator, Outcome
from beeline.util.worker_pool import NO_KEYWORDS, Call, WorkerPool


class Pool:
    """Actors that run functions. Starts a session where there is none.

    Args:
        processes: How many actors; None: the CPUs of the session. They hold no CPU unless ray_remote_args say so.
        initializer, initargs: Called in each actor before anything else.
        maxtasksperchild: After so many tasks (chunks, of the methods that have chunks) an actor is replaced by a fresh
            one; None, 0 or -1: never.
        context: Has no effect but a warning.
        ray_address: As init's address, where this process is in no session yet.
        ray_remote_args: Options of the actors, as of `@remote`.

    A task waits until an actor is free, in the order of submission. Functions and arguments are pickled by cloudpickle
    when they are submitted. An actor that dies costs the task that it ran, which raises ActorDiedError, and is
    replaced. A pool that is dropped does what it has, and ends.

    Raises ValueError for more processes than the session has CPUs or other bad arguments, ActorDiedError where the
    initializer raised.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        if processes is not None and processes <= 0:
            raise ValueError("Processes in the pool must be >0.")
        if maxtasksperchild is not None and maxtasksperchild < -1:
            raise ValueError(f"maxtasksperchild must be positive, or None for no bound; got {maxtasksperchild}")
        if context is not None:
            notices.without_effect("context of Pool", "workers are actors; their options are ray_remote_args")
        _ensure_session(processes, ray_address)
        cpus = int(cluster.cluster_resources().get("CPU", 0))
        size = cpus if processes is None else processes
        if size == 0:
            raise ValueError("Processes in the pool must be >0; the session has no CPU, so name a number.")
        if size > cpus:
            raise ValueError(
                f"Tried to start a pool with {size} processes, but there are only {cpus} CPUs in the session. Start "
                "fewer, or name more CPUs to init(num_cpus=...)."
            )
        bound = maxtasksperchild if maxtasksperchild and maxtasksperchild > 0 else None
        self._workers = WorkerPool(size, initializer, initargs or (), bound, ray_remote_args)
        self._callbacks = Callbacks()
        self._iterators: weakref.WeakSet[IMapIterator] = weakref.WeakSet()
        weakref.finalize(self, self._workers.close).atexit = False

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """`func(*args, **kwargs)` in an actor. Raises what it raises, ActorDiedError if the actor dies meanwhile."""
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """As apply(), but returns at once.

        Args:
            func, args, kwargs: What to call.
            callback: Is given the result, before AsyncResult.get() returns it; not if there is none.
            error_callback: Is given what was raised instead.

        Callbacks run in a thread of this process, one at a time. Raises ValueError when the pool is closed, TypeError
        for what cannot be pickled.
        """
        return self._start(func, [[(tuple(args or ()), dict(kwargs or {}))]], callback, error_callback, is_single=True)

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """The list of `func(item)` for each item.

        Args:
            func: What to call.
            iterable: Gone through at once.
            chunksize: How many items make up a task; None: such that each actor gets about four tasks.

        Raises what a call raises, of several the first by place, when all are done; ValueError for a bad chunksize or
        when the pool is closed.
        """
        return list(self.map_async(func, iterable, chunksize).get())

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """As map(), but returns at once. `callback` is given the list, `error_callback` the first error to come."""
        calls: list[Call] = [((item,), NO_KEYWORDS) for item in iterable]
        return self._start(func, self._chunks(calls, chunksize), callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """As map(), of `func(*item)`."""
        return list(self.starmap_async(func, iterable, chunksize=chunksize).get())

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        callback: Callable[[list[Any]], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        *,
        chunksize: int | None = None,
    ) -> AsyncResult:
        """As map_async(), of `func(*item)`."""
        calls: list[Call] = [(tuple(item), NO_KEYWORDS) for item in iterable]
        return self._start(func, self._chunks(calls, chunksize), callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1) -> IMapIterator:
        """An iterator over `func(item)` in the items' order.

        Args:
            func: What to call.
            iterable: Gone through as results are taken: there is at most one task per actor whose results nobody has
                seen. So it may be endless; close() takes all that is left of it.
            chunksize: How many items make up a task; None: as of map(), 1 where `iterable` has no length.

        Raises TypeError for what is not iterable, ValueError for a bad chunksize or when the pool is closed.
        """
        return self._imap(func, iterable, chunksize, is_ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator:
        """As imap(), in the order in which the tasks are done."""
        return self._imap(func, iterable, chunksize, is_ordered=False)

    def close(self) -> None:
        """Takes no more tasks. What was taken is done, what imap() has been given included; then the actors exit."""
        for iterator in list(self._iterators):
            iterator.submit_rest()
        self._workers.close()

    def terminate(self) -> None:
        """Ends the actors at once. Tasks that are not done raise ActorDiedError."""
        self._workers.kill()

    def join(self) -> None:
        """Waits until the actors have exited, after close() or terminate(). Raises ValueError before."""
        if not self._workers.is_closed:
            raise ValueError("Pool is still running")
        self._workers.join()

    def __enter__(self) -> Pool:
        """The pool. Raises ValueError when it is closed."""
        self._check_running()
        return self

    def __exit__(self, *exc: object) -> None:
        """As terminate()."""
        self.terminate()

    def __reduce__(self) -> tuple[Any, ...]:
        """Raises NotImplementedError: a pool stays where it was made, as those of multiprocessing do."""
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _check_running(self) -> None:
        if self._workers.is_closed:
            raise ValueError("Pool not running")

    def _start(
        self,
        func: Callable[..., Any],
        chunks: list[list[Call]],
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
        is_single: bool = False,
    ) -> AsyncResult:
        self._check_running()
        result = AsyncResult(len(chunks), self._callbacks, callback, error_callback, is_single)
        jobs = [
            self._workers.make_job(func, calls, functools.partial(result.settle, index))
            for index, calls in enumerate(chunks)
        ]
        for job in jobs:
            self._workers.submit(job)
        return result

    def _chunks(self, calls: list[Call], chunksize: int | None) -> list[list[Call]]:
        size = self._chunksize(len(calls)) if chunksize is None else _checked(chunksize)
        return [calls[start : start + size] for start in range(0, len(calls), size)]

    def _chunksize(self, count: int) -> int:
        return max(1, -(-count // (4 * self._workers.size)))

    def _imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None, is_ordered: bool
    ) -> IMapIterator:
        self._check_running()
        if chunksize is None:
            chunksize = self._chunksize(len(iterable)) if isinstance(iterable, Sized) else 1
        iterator = IMapIterator(
            self,
            functools.partial(_submit, self._workers, func),
            iterable,
            _checked(chunksize),
            self._workers.size,
            is_ordered,
        )
        self._iterators.add(iterator)
        return iterator


def _submit(
    workers: WorkerPool, func: Callable[..., Any], settle: Callable[[Outcome], None], calls: list[Call]
) -> None:
    workers.submit(workers.make_job(func, calls, settle))


def _checked(chunksize: int) -> int:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize}")
    return chunksize


def _ensure_session(processes: int | None, ray_address: str | None) -> None:
    if session.is_initialized():
        return
    is_joined = addresses.session_to_join(ray_address) is not None
    session.init(ray_address, num_cpus=None if is_joined else processes)


__all__ = ["AsyncResult", "IMapIterator", "Pool", "TimeoutError"]
