"""`ActorPoolExecutor`: actors behind the interface of `concurrent.futures`. Ray has no such class."""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any

from beeline.api import cluster, session
from beeline.util.worker_pool import NO_KEYWORDS, Failure, PoolClosedError, WorkerPool


class ActorPoolExecutor(Executor):
    """Runs functions in actors, at most `max_workers` at once, the first to be submitted first.

    Args:
        max_workers: How many actors, which start here and stay; None: the CPUs of the session, which is started if
            there is none.
        initializer, initargs: Called in each actor before anything else.
        max_tasks_per_child: After so many calls an actor is replaced by a fresh one; None: never.
        actor_options: Options of the actors, as of `@remote`. They hold no CPU unless one says so.

    Raises ValueError or TypeError for bad arguments, ActorDiedError where the initializer raised. As
    `concurrent.futures.ProcessPoolExecutor`, but: functions and arguments are pickled by cloudpickle, and when they
    are submitted; an actor that dies costs the call that it ran, which raises ActorDiedError, and is replaced.
    Executors that are dropped do what they have, and end. A callback of a future must not wait for another future.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_child: int | None = None,
        actor_options: Mapping[str, Any] | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if max_tasks_per_child is not None and max_tasks_per_child <= 0:
            raise ValueError("max_tasks_per_child must be >= 1")
        session.ensure()
        size = max_workers or max(1, int(cluster.cluster_resources().get("CPU", 1)))
        self._workers = WorkerPool(size, initializer, initargs, max_tasks_per_child, actor_options)
        weakref.finalize(self, self._workers.close).atexit = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Has `fn(*args, **kwargs)` called in an actor; its future can be cancelled until that begins.

        Raises RuntimeError after shutdown(), TypeError for what cannot be pickled.
        """
        return self._submit(fn, [(args, kwargs)], lambda results: _value(results[0]))

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[Any]:
        """An iterator over `fn(*arguments)` for the arguments of `zip(*iterables)`, in their order.

        Args:
            fn, *iterables: As of the builtin `map`; they are gone through at once.
            timeout: Seconds from now until which results may come; then TimeoutError.
            chunksize: How many calls go to an actor together.

        Raises ValueError for a bad chunksize; when iterated, what the calls raise.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        end = None if timeout is None else time.monotonic() + timeout
        arguments = zip(*iterables, strict=False)
        futures = []
        while chunk := list(itertools.islice(arguments, chunksize)):
            calls: list[Any] = [(args, NO_KEYWORDS) for args in chunk]
            futures.append(self._submit(fn, calls, lambda results: results))
        return _results(futures, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. Those that were taken are done, unless `cancel_futures` cancels those not begun.

        With `wait` it returns when they are done and the actors are gone.
        """
        self._workers.close()
        if cancel_futures:
            for job in self._workers.drop_waiting():
                job.settle(_Cancelled())
        if wait:
            self._workers.join()

    def _submit(self, fn: Callable[..., Any], calls: list[Any], finish: Callable[[list[Any]], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        begin = future.set_running_or_notify_cancel
        try:
            job = self._workers.make_job(fn, calls, lambda outcome: _settle(future, outcome, finish), begin)
            self._workers.submit(job)
        except PoolClosedError:
            raise RuntimeError("cannot schedule new futures after shutdown") from None
        return future


class _Cancelled(Exception):  # noqa: N818 - an outcome, which nobody raises
    """Settles a job that was dropped before it began."""


def _settle(future: Future[Any], outcome: list[Any] | BaseException, finish: Callable[[list[Any]], Any]) -> None:
    if isinstance(outcome, _Cancelled):
        if future.cancel():
            future.set_running_or_notify_cancel()
        return
    if future.cancelled() or (not future.running() and not future.set_running_or_notify_cancel()):
        return
    try:
        if isinstance(outcome, BaseException):
            raise outcome
        value = finish(outcome)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)


def _value(result: Any) -> Any:
    if isinstance(result, Failure):
        raise result.error()
    return result


def _results(futures: list[Future[Any]], end: float | None) -> Iterator[Any]:
    """The results of chunks; those that are left are cancelled when it ends early."""
    futures.reverse()
    try:
        while futures:
            yield from map(_value, futures[-1].result(None if end is None else end - time.monotonic()))
            futures.pop()
    finally:
        for future in futures:
            future.cancel()
