"""`ActorPool`: work given to whichever of a set of actors is free, results in order or as they come.

One pool is for one thread, as in Ray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from beeline.api import objects
from beeline.api.actor import ActorHandle
from beeline.exceptions import ActorDiedError, TaskError

Submitted = Callable[[Any, Any], Any]


class _Task:
    """A call that an actor of the pool runs. Its place is the number of its submission."""

    def __init__(self, place: int, actor: ActorHandle, future: Any) -> None:
        self.place = place
        self.actor = actor
        self.future = future  # what the function returned: a reference, or a list of them
        self.refs: list[Any] = list(future) if isinstance(future, list) else [future]


class ActorPool:
    """Actors that share work; each has one task at a time, and the others wait.

    Args:
        actors: Handles of the actors.

    An actor that dies leaves the pool, and the task it had raises ActorDiedError. When none is left, each task that
    still waits raises it in its turn, until push() brings another actor.
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle = list(actors)
        self._running: dict[int, _Task] = {}  # by place
        self._waiting: deque[tuple[Submitted, Any]] = deque()
        self._next_place = 0
        self._next_returned = 0
        self._last_death: ActorDiedError | None = None

    def map(self, fn: Submitted, values: Iterable[Any]) -> Iterator[Any]:
        """Gives `fn(actor, value)` for each value to the pool; an iterator over the results, in the values' order.

        Args:
            fn: Makes the call, and returns its reference or list of references.
            values: Taken at once.

        Results of earlier submissions that nobody has taken are dropped; those tasks run all the same.
        """
        self._submit_all(fn, values)
        return self._results(self.get_next)

    def map_unordered(self, fn: Submitted, values: Iterable[Any]) -> Iterator[Any]:
        """As map(), with the results in the order in which they are ready."""
        self._submit_all(fn, values)
        return self._results(self.get_next_unordered)

    def submit(self, fn: Submitted, value: Any) -> None:
        """Calls `fn(actor, value)` with a free actor, now or as soon as get_next() finds that there is one."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        try:
            future = fn(actor, value)
        except BaseException:  # nothing was submitted
            self._idle.append(actor)
            raise
        self._running[self._next_place] = _Task(self._next_place, actor, future)
        self._next_place += 1

    def has_next(self) -> bool:
        """Whether there are results, ready or not, that were not taken."""
        return bool(self._running) or self._is_stranded()

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission.

        Args:
            timeout: Seconds to wait at most; None: without bound.
            ignore_if_timedout: One that is not ready in time is dropped; its actor goes on with it, and gets its next
                task behind it.

        Raises:
            TimeoutError: not ready in time; kept for the next call unless ignore_if_timedout.
            StopIteration: nothing was submitted that was not taken.
            ValueError: get_next_unordered() has taken a later one.
            What the task raised, ActorDiedError if its actor has died: that task is done with.
        """
        if not self._running:
            self._raise_stranded()
        later = [place for place in self._running if place >= self._next_returned]
        if not later:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        task = self._running[min(later)]
        if not _is_ready(task, timeout):
            self._timed_out(task, ignore_if_timedout)
        return self._take(task)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """A result that is ready, the one submitted first if there are several; else the first that will be.

        As get_next(). With ignore_if_timedout, where none is ready in time, the one submitted first is dropped.
        """
        if not self._running:
            self._raise_stranded()
        tasks = list(self._running.values())
        task = _first_ready(tasks, timeout)
        if task is None:
            self._timed_out(tasks[0], ignore_if_timedout)
            raise AssertionError("unreachable")
        return self._take(task)

    def has_free(self) -> bool:
        """Whether an actor is free and no task waits."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle | None:
        """Takes a free actor out of the pool; None if there is none."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle) -> None:
        """Adds an actor, which gets a waiting task at once. Raises ValueError for one that is in the pool already."""
        if actor in self._idle or any(task.actor == actor for task in self._running.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._free(actor)

    def _submit_all(self, fn: Submitted, values: Iterable[Any]) -> None:
        while self._running:
            self._free(self._remove(next(iter(self._running.values()))))
        self._waiting.clear()  # of a pool without actors
        for value in values:
            self.submit(fn, value)

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def _timed_out(self, task: _Task, is_dropped: bool) -> None:
        message = "Timed out waiting for result"
        if is_dropped:
            self._free(self._remove(task))
            message += f". The task {task.future} has been ignored."
        raise TimeoutError(message)

    def _take(self, task: _Task) -> Any:
        actor = self._remove(task)
        try:
            value = objects.get(task.future)
        except ActorDiedError as error:
            if _is_of(error, actor):
                self._last_death = error
                self._assign()
            else:
                self._free(actor)
            raise
        except BaseException:
            self._free(actor)
            raise
        self._free(actor)
        return value

    def _remove(self, task: _Task) -> ActorHandle:
        del self._running[task.place]
        self._next_returned = max(self._next_returned, task.place + 1)
        return task.actor

    def _free(self, actor: ActorHandle) -> None:
        self._idle.append(actor)
        self._assign()

    def _assign(self) -> None:
        if self._waiting and self._idle:
            self.submit(*self._waiting.popleft())

    def _is_stranded(self) -> bool:
        """Whether tasks wait for actors that are all dead."""
        return bool(self._waiting) and self._last_death is not None and not self._idle and not self._running

    def _raise_stranded(self) -> None:
        if not self._is_stranded():
            raise StopIteration("No more results to get")
        assert self._last_death is not None
        self._waiting.popleft()
        raise ActorDiedError(
            self._last_death.actor_id,
            "The actors of the pool have all died, so this task was not submitted; push() adds another one. The last "
            f"one: {self._last_death}",
        )


def _is_of(error: ActorDiedError, actor: ActorHandle) -> bool:
    """Whether it is this actor that has died, not another one, which the task has asked or had a result of."""
    return not isinstance(error, TaskError) and error.actor_id in (None, actor._actor_id.hex())


def _is_ready(task: _Task, timeout: float | None) -> bool:
    if timeout is None:
        return True  # `get` waits
    return len(objects.wait(task.refs, num_returns=len(task.refs), timeout=timeout)[0]) == len(task.refs)


def _first_ready(tasks: list[_Task], timeout: float | None) -> _Task | None:
    """Whichever is ready first, with all its references; None if none was in time."""
    owners = {ref: task for task in tasks for ref in task.refs}
    missing = {task.place: len(task.refs) for task in tasks}
    refs = list(owners)
    while True:
        ready, refs = objects.wait(refs, num_returns=1, timeout=timeout)
        if not ready:
            return None
        task = owners[ready[0]]
        missing[task.place] -= 1
        if not missing[task.place]:
            return task
