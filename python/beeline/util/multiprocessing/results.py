"""What the methods of `Pool` return at once: `AsyncResult`, and the iterators of `imap`.

Results are settled by the pool's thread. What the program wants to be called runs in another one, one after the other.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import TimeoutError
from typing import Any, NamedTuple

from beeline.util.worker_pool import NO_KEYWORDS, Call, Failure

_log = logging.getLogger("beeline")

Outcome = list[Any] | BaseException
# Hands calls to the pool: a function to be given their outcome, the calls.
Submit = Callable[[Callable[[Outcome], None], list[Call]], None]


class Callbacks:
    """Calls what it is given, in order, in a thread that lives while there is something to call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], Any]] = deque()
        self._is_running = False

    def call(self, function: Callable[[], Any]) -> None:
        """Has it called soon. What it raises is logged."""
        with self._lock:
            self._calls.append(function)
            if self._is_running:
                return
            self._is_running = True
        threading.Thread(target=self._run, name="beeline-pool-callbacks", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._calls:
                    self._is_running = False
                    return
                function = self._calls.popleft()
            try:
                function()
            except BaseException:  # also what asks a thread to exit: this one has other callbacks to run
                _log.exception("A callback of a pool raised")


class AsyncResult:
    """Stands for the results of an `..._async` method. A pool makes it."""

    def __init__(
        self,
        chunks: int,
        callbacks: Callbacks,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
        is_single: bool,
    ) -> None:
        self._outcomes: list[Outcome | None] = [None] * chunks
        self._missing = chunks
        self._callbacks = callbacks
        self._callback = callback
        self._error_callback = error_callback
        self._is_single = is_single
        self._lock = threading.Lock()
        self._has_failed = False
        self._done = threading.Event()
        if not chunks:
            self._finish()

    def settle(self, index: int, outcome: Outcome) -> None:
        """Takes the outcome of a chunk. The first error calls `error_callback`, the last chunk `callback`."""
        self._outcomes[index] = outcome
        error = _first_error(outcome)
        with self._lock:
            is_first_error = error is not None and not self._has_failed
            self._has_failed |= error is not None
            self._missing -= 1
            is_last = not self._missing
        if is_first_error and self._error_callback is not None:
            call, raised = self._error_callback, error
            self._callbacks.call(lambda: call(raised))  # type: ignore[arg-type]
        if is_last:
            self._finish()

    def wait(self, timeout: float | None = None) -> None:
        """Returns when all is done and its callbacks have run, or after `timeout` seconds."""
        self._done.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """The result, or the list of results.

        Raises multiprocessing.TimeoutError after `timeout` seconds; what the function raised, of several errors the
        first by place; ActorDiedError where a worker died that ran a part of it.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"No result within {timeout} s")
        for outcome in self._outcomes:
            if (error := _first_error(outcome)) is not None:
                raise error
        return self._value()

    def ready(self) -> bool:
        """Whether all is done and its callbacks have run."""
        return self._done.is_set()

    def successful(self) -> bool:
        """Whether nothing was raised. Raises ValueError before all is done."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return not self._has_failed

    def _value(self) -> Any:
        results = list(itertools.chain.from_iterable(self._outcomes))  # type: ignore[arg-type]
        return results[0] if self._is_single else results

    def _finish(self) -> None:
        call = self._callback
        if call is not None and not self._has_failed:
            self._callbacks.call(lambda: call(self._value()))
        if self._callback is None and self._error_callback is None:
            self._done.set()
        else:
            self._callbacks.call(self._done.set)


class _Lost(NamedTuple):
    """Stands among the results for a chunk without any."""

    reason: BaseException

    def error(self) -> BaseException:
        return self.reason


class IMapIterator:
    """An iterator over results; the arguments are taken from `iterable` as workers can have them. A pool makes it.

    What a call raised is raised in its place, and the iteration can go on; so is what `iterable` raises, which is its
    end. A worker that dies costs the results of a chunk: ActorDiedError, once.
    """

    def __init__(
        self, pool: Any, submit: Submit, iterable: Iterable[Any], chunksize: int, ahead: int, is_ordered: bool
    ) -> None:
        self._pool = pool  # which would be closed if nobody held it
        self._submit = submit
        self._arguments: Iterator[Any] | None = iter(iterable)
        self._chunksize = chunksize
        self._is_ordered = is_ordered
        self._changed = threading.Condition()
        self._arrived: dict[int, Outcome] = {}  # by place, in the order of arrival
        self._unseen = 0  # how many have arrived and made no room for another chunk yet
        self._submitted = 0
        self._taken = 0
        self._results: deque[Any] = deque()
        for _ in range(ahead):
            self._submit_chunk()

    def __iter__(self) -> IMapIterator:
        """Itself."""
        return self

    def __next__(self) -> Any:
        """As next()."""
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result. Raises multiprocessing.TimeoutError after `timeout` seconds, StopIteration at the end."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._make_up()
            if self._results:
                break
            if self._taken == self._submitted:
                raise StopIteration
            self._take(end)
        result = self._results.popleft()
        if isinstance(result, Failure | _Lost):
            raise result.error()
        return result

    def submit_rest(self) -> None:
        """Takes all that is left of the arguments: the pool will take no more."""
        while self._arguments is not None:
            self._submit_chunk()

    def _take(self, end: float | None) -> None:
        """Waits for the next chunk's results, or for room for another chunk."""
        with self._changed:
            while (place := self._next_place()) is None:
                if self._unseen:
                    return
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("No result in time")
                self._changed.wait(left)
            outcome = self._arrived.pop(place)
        self._taken += 1
        self._results.extend([_Lost(outcome)] if isinstance(outcome, BaseException) else outcome)

    def _next_place(self) -> int | None:
        if self._is_ordered:
            return self._taken if self._taken in self._arrived else None
        return next(iter(self._arrived), None)

    def _make_up(self) -> None:
        with self._changed:
            room, self._unseen = self._unseen, 0
        for _ in range(room):
            self._submit_chunk()

    def _submit_chunk(self) -> None:
        if self._arguments is None:
            return
        calls: list[Call] = []
        raised = None
        try:
            for argument in itertools.islice(self._arguments, self._chunksize):
                calls.append(((argument,), NO_KEYWORDS))
        except Exception as error:
            raised = error
        if len(calls) < self._chunksize:
            self._arguments = None
        if calls:
            settle = self._place()
            try:
                self._submit(settle, calls)
            except Exception as error:  # cannot be pickled, or the pool takes no more
                settle(error)
        if raised is not None:
            self._place()(raised)

    def _place(self) -> Callable[[Outcome], None]:
        place = self._submitted
        self._submitted += 1

        def settle(outcome: Outcome) -> None:
            with self._changed:
                self._arrived[place] = outcome
                self._unseen += 1
                self._changed.notify_all()

        return settle


def _first_error(outcome: Outcome | None) -> BaseException | None:
    if isinstance(outcome, BaseException):
        return outcome
    return next((result.error() for result in outcome or () if isinstance(result, Failure)), None)
