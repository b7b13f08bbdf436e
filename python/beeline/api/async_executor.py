"""Runs the calls of an async actor: an event loop in the worker's main thread, fed by the core.

Calls start in the order they came. At most `max_concurrency` run at once; the core keeps the others. Plain methods of
an async actor run in the loop as well, as in Ray. Everything here runs in the loop's thread.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from beeline import _core
from beeline.api import objects
from beeline.api.runtime_context import async_task
from beeline.exceptions import AsyncioActorExit, TaskCancelledError


class AsyncExecutor:
    """One per worker of an async actor."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._running: dict[bytes, asyncio.Task[None]] = {}
        self._limit = 1
        self._instance: Any = None
        self._methods: dict[str, Callable[..., Any]] = {}
        # Streams that wait for their callers to take something, by task.
        self._paused: dict[bytes, asyncio.Future[None]] = {}

    def construct(self, make: Callable[[], Any]) -> Any:
        """Runs the actor's constructor in the loop, so that it may create tasks; returns the instance."""

        async def call() -> Any:
            return make()

        return self._loop.run_until_complete(call())

    def run(self, instance: Any, max_concurrency: int) -> None:
        """Executes calls until the core says that the process is to exit."""
        self._instance, self._limit = instance, max_concurrency
        objects.BlockingGet.is_warned_of = True
        _core.set_cancelled_callback(self._cancel)
        _core.set_room_callback(self._resume)
        self._loop.add_reader(_core.calls_fileno(), self._take_calls)
        self._loop.call_soon(self._take_calls)
        try:
            self._loop.run_forever()
        finally:
            self._loop.remove_reader(_core.calls_fileno())
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())

    def _take_calls(self) -> None:
        create_task, running = self._loop.create_task, self._running
        calls = _core.next_calls(self._limit - len(running))
        if calls is None:
            self._loop.stop()
            return
        for task, method, args, kwargs in calls:
            running[task.task_id()] = create_task(self._execute(task, method, args, kwargs))

    async def _execute(self, task: Any, method: str, args: Any, kwargs: Any) -> None:
        async_task.set(task)
        try:
            function = self._methods.get(method)
            if function is None:
                function = self._methods[method] = getattr(self._instance, method)
            value = function(*args, **kwargs)
            if type(value) is CoroutineType:
                value = await value
            if _core.streams(task):
                await self._stream(task, value)
        except (AsyncioActorExit, SystemExit):
            _core.reply_error(task, SystemExit(0))  # the core ends the actor, which answers the caller
        except asyncio.CancelledError:
            _core.reply_error(task, _cancelled(task))
        except BaseException as error:
            if _core.streams(task):
                _core.finish_stream(task, error)
            else:
                _core.reply_error(task, _cancelled(task, error) if _was_told(task) else error)
        else:
            if _core.streams(task):
                _core.finish_stream(task, None)
            elif _was_told(task):  # as Ray, whatever the coroutine made of it
                _core.reply_error(task, _cancelled(task))
            else:
                _core.reply(task, value)
        self._end(task.task_id())

    async def _stream(self, task: Any, items: Any) -> None:
        """Sends what a generator yields. Others have their turn after each item."""
        if type(items) is not AsyncGeneratorType:
            items = _stepwise(items)
        try:
            async for item in items:
                if not _core.send_item(task, item):
                    return  # the caller is gone
                await asyncio.sleep(0)
                while not _core.has_room(task):
                    paused = self._paused[task.task_id()] = self._loop.create_future()
                    await paused
        finally:
            await items.aclose()

    def _resume(self, task: Any) -> None:
        """Called by next_calls when the caller has taken something."""
        paused = self._paused.pop(task.task_id(), None)
        if paused is not None and not paused.done():
            paused.set_result(None)

    def _end(self, task_id: bytes) -> None:
        was_full = len(self._running) >= self._limit
        self._running.pop(task_id, None)
        self._paused.pop(task_id, None)
        if was_full or not self._running:  # the last one may have been what the exit waited for
            self._take_calls()

    def _cancel(self, task: Any) -> None:
        """Called by next_calls. A coroutine that has not started yet would never run its own handler."""
        task_id = task.task_id()
        running = self._running.get(task_id)
        if running is None:
            return
        never_ran = inspect.getcoroutinestate(running.get_coro()) == inspect.CORO_CREATED  # type: ignore[arg-type]
        running.cancel()
        if never_ran:
            _core.reply_error(task, _cancelled(task))
            self._end(task_id)


def _was_told(task: Any) -> bool:
    """Whether the running coroutine was cancelled while it could still hear of it: what has ended before counts."""
    if not task.is_cancelled():
        return False
    running = asyncio.current_task()
    return running is not None and running.cancelling() > 0


def _cancelled(task: Any, raised: BaseException | None = None) -> TaskCancelledError:
    error = TaskCancelledError(error_message=f"{task.function_name()} was cancelled.")
    error.__cause__ = raised
    return error


async def _stepwise(items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item
