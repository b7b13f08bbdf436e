"""`WorkerPool`: a fixed number of actors that run functions, the first to come first, each one at a time.

What `multiprocessing.Pool`, `joblib` and `executor` stand on. Threads: any may submit; one of the pool's own settles
what is done and gives the next job out. A worker that dies costs the job that it ran, and is replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from beeline import _core
from beeline.api import objects, session
from beeline.api.actor import ActorHandle, make_actor_class
from beeline.exceptions import ActorDiedError, CoreError, SessionLostError, dump_task_error, load_task_error

_log = logging.getLogger("beeline")

# Positional and keyword arguments of one call of a function.
Call = tuple[Iterable[Any], Mapping[str, Any]]
# Of the many calls that have none.
NO_KEYWORDS: Mapping[str, Any] = {}


class PoolClosedError(ValueError):
    """The pool takes no more jobs."""


class Failure(NamedTuple):
    """Stands among the results for a call that raised."""

    payload: bytes

    def error(self) -> BaseException:
        """What the function raised; its `__cause__` shows where, in the worker."""
        task_error = load_task_error(self.payload)
        task_error.cause.__cause__ = task_error
        return task_error.cause


class Job(NamedTuple):
    """Calls of one function that one worker makes."""

    ref: Any  # to the function and its calls
    settle: Callable[[list[Any] | BaseException], None]
    begin: Callable[[], bool]


_Settled = list[tuple[Job, list[Any] | BaseException]]


class PoolActor:
    """A worker of the pool."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: Iterable[Any]) -> None:
        if initializer is not None:
            initializer(*initargs)

    def ping(self) -> None:
        """Answers once the worker is there."""

    def run(self, batch: tuple[Callable[..., Any], list[Call]]) -> list[Any]:
        """The results of the calls, a Failure for each that raised."""
        function, calls = batch
        results: list[Any] = []
        for args, kwargs in calls:
            try:
                results.append(function(*args, **kwargs))
            except Exception as error:
                name = getattr(function, "__name__", type(function).__name__)
                results.append(Failure(dump_task_error(error, name)))
        return results


class TorchPoolActor(PoolActor):
    """The same with torch imported, which it has from its zygote: for a program that has torch itself."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: Iterable[Any]) -> None:
        import torch  # noqa: F401 - this name is what gets it a worker with torch

        super().__init__(initializer, initargs)


class _Worker:
    """One place in the pool and the actor that has it now."""

    def __init__(self, actor: ActorHandle) -> None:
        self.actor = actor
        self.jobs = 0


class WorkerPool:
    """See the file.

    Args:
        size: How many workers.
        initializer, initargs: Called in each worker before anything else.
        jobs_per_worker: After so many a worker is replaced by a fresh one; None: never.
        actor_options: Options of the actors, as of `@remote`.

    Raises ValueError or TypeError for bad options, and ActorDiedError where an initializer raised; nothing runs then.
    """

    def __init__(
        self,
        size: int,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        jobs_per_worker: int | None = None,
        actor_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.size = size
        self._jobs_per_worker = jobs_per_worker
        cls = TorchPoolActor if "torch" in sys.modules else PoolActor
        actor_class = make_actor_class(cls, {"num_cpus": 0}).options(**(actor_options or {}))
        arguments = (initializer, tuple(initargs))
        self._new_actor: Callable[[], ActorHandle] = lambda: actor_class.remote(*arguments)
        # Guards what follows. The session's lock comes before it: nothing under it may start or end a session.
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._running: dict[_Worker, Job] = {}
        self._leaving: list[Any] = []  # of each worker that was told to exit: what it answers
        self._is_closed = False
        self._is_killed = False
        self._workers = [_Worker(self._new_actor()) for _ in range(size)]
        self._idle = deque(self._workers)
        try:
            objects.get([worker.actor.ping.remote() for worker in self._workers])
        except BaseException:
            for worker in self._workers:
                objects.kill(worker.actor)
            raise
        self._completed = _core.CompletionQueue()
        session.current.dependents.add(self)
        self._thread = threading.Thread(target=self._serve, name="beeline-worker-pool", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether no job is taken any more."""
        return self._is_closed

    def make_job(
        self,
        function: Callable[..., Any],
        calls: list[Call],
        settle: Callable[[list[Any] | BaseException], None],
        begin: Callable[[], bool] = lambda: True,
    ) -> Job:
        """A job to submit. What it needs is pickled here and now.

        Args:
            function, calls: What to call with what.
            settle: Is given the list of results and Failures, or what kept the job from being done. Must not block.
            begin: Asked when the job's turn has come; False drops it without `settle`.

        Raises TypeError for what cannot be pickled, PoolClosedError when the pool is closed.
        """
        if self._is_closed:
            raise PoolClosedError("Pool not running")
        return Job(objects.put((function, calls)), settle, begin)

    def submit(self, job: Job) -> None:
        """Has the job done. Raises PoolClosedError when the pool is closed."""
        with self._lock:
            if self._is_closed:
                raise PoolClosedError("Pool not running")
            self._waiting.append(job)
            unsent = self._assign()
        _settle_all(unsent)

    def close(self) -> None:
        """Takes no more jobs; what was taken is done, then the workers exit."""
        self._is_closed = True
        self._wake()

    def kill(self) -> None:
        """Ends the workers at once. Jobs that are not done are settled with ActorDiedError."""
        with self._lock:
            if self._is_killed:
                return
            self._is_closed = self._is_killed = True
            waiting = self._take_waiting()
            actors = [worker.actor for worker in self._workers]
        with contextlib.suppress(CoreError, SessionLostError):  # they have ended with the session
            for actor in actors:
                objects.kill(actor)
        error = ActorDiedError(None, "The pool was terminated before this was run.")
        _settle_all([(job, error) for job in waiting])
        self._wake()

    def drop_waiting(self) -> list[Job]:
        """The jobs that no worker has yet; they will not be done."""
        with self._lock:
            return self._take_waiting()

    def join(self) -> None:
        """Waits until a closed or killed pool has done what it had to do and its workers are gone."""
        self._thread.join()
        with contextlib.suppress(CoreError, SessionLostError):
            _core.wait(self._leaving, len(self._leaving), None)

    def session_ended(self) -> None:
        """Settles what will not be done any more."""
        with self._lock:
            self._is_closed = self._is_killed = True
            lost = [*self._running.values(), *self._take_waiting()]
            self._running.clear()
        error = SessionLostError("The session has ended, and the pool with it.")
        _settle_all([(job, error) for job in lost])
        self._wake()

    def _take_waiting(self) -> list[Job]:
        jobs = list(self._waiting)
        self._waiting.clear()
        return jobs

    def _wake(self) -> None:
        os.eventfd_write(self._completed.fileno(), 1)

    def _assign(self) -> _Settled:
        """Gives waiting jobs to idle workers; returns those that could not be sent, to settle. With the lock."""
        unsent: _Settled = []
        while self._waiting and self._idle:
            job = self._waiting.popleft()
            if not job.begin():
                continue
            worker = self._idle.popleft()
            try:
                ref = worker.actor.run.remote(job.ref)
                self._completed.add(ref, (worker, job, ref))
            except Exception as error:  # the session has just ended
                self._idle.append(worker)
                unsent.append((job, error))
                continue
            worker.jobs += 1
            self._running[worker] = job
        return unsent

    def _serve(self) -> None:
        while True:
            self._completed.wait(None)
            self._finish_completed()
            with self._lock:
                if self._is_closed and not self._waiting and not self._running:
                    if not self._is_killed:
                        self._leaving += _dismissed(self._idle)
                    return

    def _finish_completed(self) -> None:
        for worker, job, ref in self._completed.drain():
            outcome: list[Any] | BaseException
            try:
                outcome = _core.get((ref,), 0)[0]
            except Exception as error:
                outcome = error
            successor = self._successor(worker, isinstance(outcome, ActorDiedError))
            with self._lock:
                if self._running.pop(worker, None) is None:
                    continue  # settled when the session ended
                if successor is not None and not self._is_killed:
                    worker.actor, worker.jobs = successor, 0
                self._idle.append(worker)
                unsent = self._assign()
            _settle_all([(job, outcome), *unsent])

    def _successor(self, worker: _Worker, has_died: bool) -> ActorHandle | None:
        """An actor to take the worker's place, if it has died or done what one may do. Without the lock."""
        is_worn = worker.jobs == self._jobs_per_worker
        if self._is_killed or not (is_worn or has_died):
            return None
        if has_died:
            _log.warning("A worker of a pool has died while it ran a job; another one takes its place.")
        else:
            left = [answer for answer in self._leaving if not _core.ready(answer)]
            self._leaving = left + _dismissed([worker])
        with session.kept() as is_running, contextlib.suppress(CoreError, SessionLostError):
            if is_running:
                return self._new_actor()
        return None


def _settle_all(outcomes: _Settled) -> None:
    for job, outcome in outcomes:
        try:
            job.settle(outcome)
        except Exception:
            _log.exception("A result of a pool of workers could not be handed over")


def _dismissed(workers: Iterable[_Worker]) -> list[Any]:
    """What the workers answer that were told to exit; nothing where the session has just ended."""
    with contextlib.suppress(CoreError, SessionLostError):
        return [worker.actor.__ray_terminate__.remote() for worker in workers]
    return []
