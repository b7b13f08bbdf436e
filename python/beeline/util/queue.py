"""`Queue`: a first-in, first-out queue that lives in an actor, for any process that has it, and for coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from beeline.api import objects
from beeline.api.actor import make_actor_class
from beeline.exceptions import CoreError, SessionLostError

# A get() that waits is a call under way. Were there a bound, that many of them would keep the put() out that they wait
# for.
MAX_CALLS = 1_000_000


class Empty(queue.Empty):
    """Nothing, or not enough, was in the queue in time."""


class Full(queue.Full):
    """The queue had no room in time."""


class Queue:
    """A queue in an actor of its own. Passed to tasks and actors it is the same queue.

    Args:
        maxsize: How many items fit; 0: no bound.
        actor_options: Options of the actor, as of `@remote`.

    It ends with shutdown(), or when nobody has it any more. Every method raises ActorDiedError when the actor is dead,
    and AttributeError, as Ray, after shutdown() of this very object. Items come as copies, as results of actors do.
    """

    def __init__(self, maxsize: int = 0, actor_options: Mapping[str, Any] | None = None) -> None:
        if not isinstance(maxsize, int):
            raise TypeError(f"maxsize must be an int, got {type(maxsize).__name__}")
        self.maxsize = maxsize
        options = {"max_concurrency": MAX_CALLS, **(actor_options or {})}
        self.actor: Any = make_actor_class(_QueueActor, {}).options(**options).remote(maxsize)

    def __len__(self) -> int:
        """As qsize()."""
        return self.qsize()

    def size(self) -> int:
        """As qsize()."""
        return self.qsize()

    def qsize(self) -> int:
        """How many items are in the queue."""
        return int(objects.get(self._living().qsize.remote()))

    def empty(self) -> bool:
        """Whether nothing is in the queue."""
        return bool(objects.get(self._living().empty.remote()))

    def full(self) -> bool:
        """Whether `maxsize` items are in the queue."""
        return bool(objects.get(self._living().full.remote()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Adds an item at the end.

        Args:
            item: Anything that pickles.
            block: Whether to wait for room.
            timeout: Seconds to wait at most; None: without bound. Means nothing without `block`.

        Raises Full where there was no room, ValueError for a negative timeout. The item was not added then.
        """
        ref = self._putting(item, block, timeout)
        with self._waiting_for(ref):
            objects.get(ref)

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As put(), for coroutines. When cancelled while it waits, it adds nothing."""
        ref = self._putting(item, block, timeout)
        with self._waiting_for(ref):
            await ref

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Takes the first item.

        Args:
            block: Whether to wait for one.
            timeout: Seconds to wait at most; None: without bound. Means nothing without `block`.

        Raises Empty where there was none, ValueError for a negative timeout.
        """
        ref = self._getting(block, timeout)
        with self._waiting_for(ref, gives_back=True):
            return objects.get(ref)

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """As get(), for coroutines. When cancelled it takes nothing: an item that was on its way goes back."""
        ref = self._getting(block, timeout)
        with self._waiting_for(ref, gives_back=True):
            return await ref

    def put_nowait(self, item: Any) -> None:
        """As put(item, block=False)."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """As get(block=False)."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Adds all items, in order. Raises Full where not all have room, and adds none; TypeError for no iterable."""
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        ref = self._living().put_nowait_batch.remote(list(items))
        with self._waiting_for(ref):
            objects.get(ref)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """The first `num_items` items, in order.

        Raises Empty where there are fewer, and takes none; TypeError or ValueError for a bad number.
        """
        if not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        ref = self._living().get_nowait_batch.remote(num_items)
        with self._waiting_for(ref):
            return list(objects.get(ref))

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """Ends the queue for everybody who has it; what is in it is gone. Nothing happens the second time.

        Args:
            force: Kill the actor at once, instead of letting it finish the calls that came before.
            grace_period_s: Seconds after which it is killed all the same.
        """
        actor, self.actor = self.actor, None
        if not actor:
            return
        if force or objects.wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)[1]:
            objects.kill(actor, no_restart=True)

    def _living(self) -> Any:
        if self.actor is None:
            raise AttributeError("This queue was shut down: shutdown() was called, and its actor has ended.")
        return self.actor

    def _putting(self, item: Any, block: bool, timeout: float | None) -> Any:
        if not block:
            return self._living().put_nowait.remote(item)
        return self._living().put.remote(item, _checked(timeout))

    def _getting(self, block: bool, timeout: float | None) -> Any:
        if not block:
            return self._living().get_nowait.remote()
        return self._living().get.remote(_checked(timeout))

    @contextlib.contextmanager
    def _waiting_for(self, ref: Any, gives_back: bool = False) -> Iterator[None]:
        """Around the wait for a call. When it is interrupted, the call is withdrawn."""
        try:
            yield
        except (Empty, Full) as error:  # without the trace of the actor: it is nobody's fault
            kind = Empty if isinstance(error, Empty) else Full
            raise kind(*getattr(error, "cause", error).args) from None
        except Exception:
            raise
        except BaseException:  # KeyboardInterrupt, also that of a task that is cancelled, or asyncio.CancelledError
            self._withdraw(ref, gives_back)
            raise

    def _withdraw(self, ref: Any, gives_back: bool) -> None:
        """Nobody waits for the call any more: it is cancelled, and an item that it has taken meanwhile goes back."""
        with contextlib.suppress(CoreError, SessionLostError):  # nothing to withdraw it from
            objects.cancel(ref)
            if gives_back and self.actor is not None:
                self.actor.put_back.remote(ref)  # does not run where the call has no value


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


class _QueueActor:
    """What a Queue's methods call."""

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: asyncio.Queue[Any] = asyncio.Queue(maxsize)
        # What was taken by calls that nobody waits for any more: the first items of the queue.
        self._returned: deque[Any] = deque()

    def qsize(self) -> int:
        return len(self._returned) + self._items.qsize()

    def empty(self) -> bool:
        return not self.qsize()

    def full(self) -> bool:
        return 0 < self._maxsize <= self.qsize()

    async def put(self, item: Any, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._items.put(item)
        except TimeoutError:
            raise Full(f"No room within {timeout} s: {self._state()}") from None

    async def get(self, timeout: float | None) -> Any:
        if self._returned:
            return self._returned.popleft()
        try:
            async with asyncio.timeout(timeout):
                return await self._items.get()
        except TimeoutError:
            raise Empty(f"No item within {timeout} s") from None
        finally:
            self._refill()

    def put_nowait(self, item: Any) -> None:
        self.put_nowait_batch([item])

    def put_nowait_batch(self, items: list[Any]) -> None:
        if 0 < self._maxsize < len(items) + self.qsize():
            raise Full(f"No room for {len(items)} more: {self._state()}")
        for item in items:
            self._items.put_nowait(item)

    def get_nowait(self) -> Any:
        return self.get_nowait_batch(1)[0]

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        if num_items > self.qsize():
            raise Empty(f"{num_items} items were asked for: {self._state()}")
        returned = [self._returned.popleft() for _ in range(min(num_items, len(self._returned)))]
        return returned + [self._items.get_nowait() for _ in range(num_items - len(returned))]

    def put_back(self, item: Any) -> None:
        self._returned.appendleft(item)
        self._refill()

    def _refill(self) -> None:
        """While `_items` is empty, calls may wait in it, which what came back must reach."""
        if self._returned and self._items.empty():
            self._items.put_nowait(self._returned.popleft())

    def _state(self) -> str:
        return f"there are {self.qsize()} in the queue, of {self._maxsize or 'any number'} at most"
