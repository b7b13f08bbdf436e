"""The event loop of an async actor, with a core that only queues calls."""

import asyncio
import collections
import os
import random

import pytest

from beeline.api import async_executor
from beeline.exceptions import AsyncioActorExit, TaskCancelledError


class FakeTask:
    def __init__(self, number, cancelled=()):
        self.number, self.cancelled = number, cancelled

    def task_id(self):
        return self.number.to_bytes(24, "big")

    def function_name(self):
        return "A.f"

    def is_cancelled(self):
        return self.number in self.cancelled


class FakeCore:
    """Queues calls; records replies; ends the loop once as many have come as were asked for."""

    def __init__(self):
        self.readable, self.writable = os.pipe2(os.O_NONBLOCK)
        self.queue = collections.deque()
        self.cancels, self.all_cancels = [], set()
        self.replies = {}
        self.expected = 0
        self.cancelled = None
        # Of streams: what was sent, how much of it the caller takes, and who waits for that.
        self.items = {}
        self.taken = {}
        self.resumed = None

    def set_cancelled_callback(self, callback):
        self.cancelled = callback

    def set_room_callback(self, callback):
        self.resumed = callback

    def streams(self, task):
        return task.number in self.taken

    def send_item(self, task, item):
        self.items.setdefault(task.number, []).append(item)
        return self.taken[task.number] is not None

    def has_room(self, task):
        return len(self.items[task.number]) <= self.taken[task.number]

    def finish_stream(self, task, error):
        self._replied(task, error)

    def take(self, number, count):
        self.taken[number] += count
        self.wake()

    def calls_fileno(self):
        return self.readable

    def current_task(self):
        return None

    def wake(self):
        os.write(self.writable, b"x")

    def next_calls(self, limit):
        assert limit >= 0
        try:
            os.read(self.readable, 4096)
        except BlockingIOError:
            pass
        cancels, self.cancels = self.cancels, []
        self.all_cancels.update(cancels)
        for number in cancels:
            self.cancelled(FakeTask(number))
        for number in self.taken:
            self.resumed(FakeTask(number))
        if len(self.replies) >= self.expected:
            return None
        return [self.queue.popleft() for _ in range(min(limit, len(self.queue)))]

    def submit(self, method, *args):
        self.expected += 1
        self.queue.append((FakeTask(self.expected, self.all_cancels), method, args, {}))

    def submit_stream(self, method, *args, taken=1 << 30):
        self.submit(method, *args)
        self.taken[self.expected] = taken

    def _replied(self, task, outcome):
        assert task.number not in self.replies, "answered twice"
        self.replies[task.number] = outcome
        self.wake()

    def reply(self, task, value):
        self._replied(task, value)

    def reply_error(self, task, error):
        self._replied(task, error)


@pytest.fixture
def core(monkeypatch):
    fake = FakeCore()
    monkeypatch.setattr(async_executor, "_core", fake)
    monkeypatch.setattr(async_executor.objects.BlockingGet, "is_warned_of", False)
    yield fake
    os.close(fake.readable)
    os.close(fake.writable)
    asyncio.set_event_loop(None)


def execute(make, max_concurrency=1000):
    executor = async_executor.AsyncExecutor()
    executor.run(executor.construct(make), max_concurrency)


class Actor:
    def __init__(self):
        self.background = asyncio.get_running_loop().create_task(asyncio.sleep(0))
        self.seen, self.running, self.most = [], 0, 0

    async def mark(self, i):
        self.seen.append(i)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        return i

    def plain(self):
        asyncio.get_running_loop()
        return list(self.seen)

    async def fail(self):
        raise KeyError("inside")

    async def sleep(self):
        await asyncio.sleep(1000)

    async def leave(self):
        raise AsyncioActorExit

    async def own_number(self):
        before = async_executor.async_task.get().number
        await asyncio.sleep(0)
        assert before == async_executor.async_task.get().number
        return before


def test_calls_start_in_order_and_are_answered(core):
    for i in range(50):
        core.submit("mark", i)
    core.submit("plain")
    execute(Actor)
    assert [core.replies[n] for n in range(1, 51)] == list(range(50))
    assert core.replies[51] == list(range(50))


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_max_concurrency_bounds_what_runs(core, limit):
    actors = []

    def make():
        actors.append(Actor())
        return actors[0]

    for i in range(30):
        core.submit("mark", i)
    execute(make, limit)
    assert actors[0].most == limit and actors[0].seen == list(range(30))


def test_errors_are_answers(core):
    core.submit("fail")
    core.submit("no_such_method")
    core.submit("mark", 1)
    execute(Actor)
    assert isinstance(core.replies[1], KeyError) and isinstance(core.replies[2], AttributeError)
    assert core.replies[3] == 1


def test_a_running_coroutine_can_be_cancelled(core):
    class Cancelling(Actor):
        async def cancel(self, *numbers):
            core.cancels.extend(numbers)
            core.wake()

    core.submit("sleep")
    core.submit("cancel", 1)
    execute(Cancelling)
    assert isinstance(core.replies[1], TaskCancelledError) and core.replies[2] is None


@pytest.mark.parametrize("fails", [False, True])
def test_nobody_gets_what_a_cancelled_coroutine_makes_of_it(core, fails):
    class Going(Actor):
        async def cancel(self, *numbers):
            core.cancels.extend(numbers)
            core.wake()

        async def go_on(self):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return 1 / 0 if fails else "kept"

    core.submit("go_on")
    core.submit("cancel", 1)
    execute(Going)
    assert isinstance(core.replies[1], TaskCancelledError) and core.replies[2] is None
    assert isinstance(core.replies[1].__cause__, ZeroDivisionError if fails else type(None))


def test_what_had_ended_before_it_heard_of_its_cancellation_counts(core):
    class Quick(Actor):
        async def end(self):
            core.all_cancels.add(1)  # the core knows, and the loop has not asked it
            return "kept"

    core.submit("end")
    execute(Quick)
    assert core.replies == {1: "kept"}


def test_a_coroutine_that_never_ran_is_answered_when_cancelled(core):
    executor = async_executor.AsyncExecutor()
    executor._instance = executor.construct(Actor)
    executor._limit = 10
    core.set_cancelled_callback(executor._cancel)
    core.submit("sleep")
    core.expected = 2  # the process goes on afterwards
    executor._take_calls()
    core.cancels = [1]
    executor._take_calls()  # the loop has not run in between
    assert isinstance(core.replies[1], TaskCancelledError) and not executor._running
    executor._loop.run_until_complete(asyncio.sleep(0))


def test_each_call_has_a_context_of_its_own(core):
    for _ in range(20):
        core.submit("own_number")
    execute(Actor)
    assert core.replies == {n: n for n in range(1, 21)}


def test_leaving_is_told_to_the_core(core):
    core.submit("leave")
    core.submit("mark", 5)
    execute(Actor)
    assert isinstance(core.replies[1], SystemExit) and core.replies[2] == 5


def test_random_programs_answer_every_call_once(core):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for i in range(500):
        method = rng.choice(["mark", "plain", "fail", "own_number"])
        core.submit(method, *([i] if method == "mark" else []))
    execute(Actor, rng.randrange(1, 20))
    assert len(core.replies) == 500


class Streaming:
    """Yields, and tells the core meanwhile what its caller has taken."""

    def __init__(self, core):
        self.core, self.made, self.closed = core, 0, False

    async def count(self, n, fails=False):
        try:
            for i in range(n):
                self.made += 1
                yield i
                await asyncio.sleep(0)
            if fails:
                raise ValueError("midway")
        finally:
            self.closed = True

    def plain(self, n):
        yield from range(n)

    async def cancel(self, number):
        while self.made == 0:
            await asyncio.sleep(0)
        self.core.cancels.append(number)
        self.core.wake()

    async def watch(self, number, wanted):
        while self.made < wanted:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        seen = self.made
        self.core.take(number, 2)
        return seen


def test_items_are_sent_one_by_one_and_then_the_end(core):
    core.submit_stream("count", 3)
    core.submit_stream("plain", 2)
    execute(lambda: Streaming(core))
    assert core.items == {1: [0, 1, 2], 2: [0, 1]}
    assert core.replies == {1: None, 2: None}


def test_an_error_ends_a_stream(core):
    core.submit_stream("count", 1, True)
    execute(lambda: Streaming(core))
    assert core.items == {1: [0]}
    assert isinstance(core.replies[1], ValueError)


def test_a_stream_pauses_until_something_was_taken(core):
    core.submit_stream("count", 4, taken=1)
    core.submit("watch", 1, 2)
    core.submit("watch", 1, 4)
    execute(lambda: Streaming(core))
    assert core.replies[2] == 2
    assert core.replies[3] == 4
    assert core.items == {1: [0, 1, 2, 3]}


def test_a_stream_without_a_caller_is_closed(core):
    made = []
    core.submit_stream("count", 10)
    core.taken[1] = None
    execute(lambda: made.append(Streaming(core)) or made[0])
    assert core.items == {1: [0]}
    assert made[0].closed


def test_a_paused_stream_can_be_cancelled(core):
    core.submit_stream("count", 10, taken=0)
    core.submit("cancel", 1)
    execute(lambda: Streaming(core))
    assert isinstance(core.replies[1], TaskCancelledError)
