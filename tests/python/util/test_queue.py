"""What `Queue` does where Ray's loses items or stands still."""

import asyncio
import pickle
import queue

import pytest

import beeline as ray
from beeline.util.queue import Empty, Full, Queue, _QueueActor
from tests.python.util.waiting import until


@pytest.fixture
def make_queue():
    queues = []

    def make(*args, **kwargs):
        queues.append(Queue(*args, **kwargs))
        return queues[-1]

    yield make
    for one in queues:
        one.shutdown(force=True)


def waiting(q):
    """How many get() and put() the actor has under way, this question aside."""
    return ray.get(q.actor.__ray_call__.remote(lambda self: len(self._items._getters) + len(self._items._putters)))


async def test_a_get_that_is_cancelled_takes_nothing(make_queue):
    q = make_queue()
    takers = [asyncio.ensure_future(q.get_async()) for _ in range(5)]
    while waiting(q) < 5:
        await asyncio.sleep(0)
    for taker in takers[:4]:
        taker.cancel()
    await asyncio.gather(*takers[:4], return_exceptions=True)
    for i in range(3):
        await q.put_async(i)
    taken = [await takers[4], await q.get_async(timeout=30), await q.get_async(timeout=30)]
    assert sorted(taken) == [0, 1, 2]


async def test_items_of_cancelled_gets_are_never_lost(make_queue):
    q = make_queue()
    q.put_nowait_batch(range(200))
    got = []

    async def take():
        got.append(await q.get_async())

    for round_ in range(200):
        taker = asyncio.ensure_future(take())
        for _ in range(round_ % 7):
            await asyncio.sleep(0)
        taker.cancel()
        await asyncio.gather(taker, return_exceptions=True)
    while len(got) < 200:
        got.append(await q.get_async(timeout=30))
    assert sorted(got) == list(range(200))
    assert q.empty()


async def test_a_put_that_is_cancelled_adds_nothing(make_queue):
    q = make_queue(1)
    await q.put_async("first")
    putter = asyncio.ensure_future(q.put_async("second"))
    while not waiting(q):
        await asyncio.sleep(0)
    putter.cancel()
    await asyncio.gather(putter, return_exceptions=True)
    until(lambda: not waiting(q))
    assert q.get() == "first"
    assert q.empty()


def test_a_task_that_is_cancelled_takes_nothing(make_queue):
    q = make_queue()
    ref = ray.remote(lambda q: q.get()).remote(q)
    until(lambda: waiting(q))
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    until(lambda: not waiting(q))
    q.put("kept")
    assert q.get(timeout=60) == "kept"


def test_more_wait_than_an_async_actor_runs_by_default(make_queue):
    q = make_queue()
    takers = [q.actor.get.remote(None) for _ in range(1500)]
    q.put_nowait_batch(range(1500))
    assert sorted(ray.get(takers, timeout=100)) == list(range(1500))


def test_no_time_at_all_is_enough_for_what_is_there(make_queue):
    q = make_queue(1)
    q.put("there", timeout=0)
    with pytest.raises(Full):
        q.put("no room", timeout=0)
    assert q.get(timeout=0) == "there"
    with pytest.raises(Empty):
        q.get(timeout=0)


def test_full_and_empty_are_no_errors_of_tasks(make_queue):
    q = make_queue(1)
    q.put(1)
    for call in (lambda: q.put(2, timeout=0.01), lambda: q.put_nowait(2), lambda: q.put_nowait_batch([2])):
        with pytest.raises(queue.Full, match="there are 1 in the queue, of 1 at most") as raised:
            call()
        assert not isinstance(raised.value, ray.exceptions.RayTaskError)
    q.get()
    for call in (lambda: q.get(timeout=0.01), q.get_nowait, lambda: q.get_nowait_batch(1)):
        with pytest.raises(queue.Empty) as raised:
            call()
        assert not isinstance(raised.value, ray.exceptions.RayTaskError)


def test_what_came_back_is_the_first_of_a_batch(make_queue):
    q = make_queue()
    q.put_nowait_batch([2, 3])
    ray.get(q.actor.put_back.remote(1))
    assert [q.qsize(), q.get_nowait_batch(2), q.get_nowait()] == [3, [1, 2], 3]


@pytest.mark.parametrize("maxsize", [0, 1])
async def test_what_came_back_reaches_who_waits(maxsize):
    actor = _QueueActor(maxsize)
    takers = [asyncio.ensure_future(actor.get(None)) for _ in range(3)]
    await asyncio.sleep(0)
    actor.put_nowait("x")  # wakes one, which has not run yet
    actor.put_back("y")
    actor.put_back("z")
    assert sorted(await asyncio.wait_for(asyncio.gather(*takers), 60)) == ["x", "y", "z"]
    assert actor.empty()


def test_batches_of_any_iterable(make_queue):
    q = make_queue(3)
    q.put_nowait_batch(x for x in "ab")
    assert q.get_nowait_batch(2) == ["a", "b"]


def test_maxsize_is_a_number():
    with pytest.raises(TypeError, match="maxsize"):
        Queue("5")


def test_a_queue_that_was_shut_down_says_so(make_queue):
    q = make_queue()
    q.shutdown()
    for call in (lambda: q.put(1), q.get, q.qsize, lambda: q.put_nowait_batch([1]), lambda: q.get_nowait_batch(1)):
        with pytest.raises(AttributeError, match="shut down"):
            call()


def test_exceptions_of_the_queue_can_be_pickled():
    for error in (Full("no room"), Empty()):
        assert type(pickle.loads(pickle.dumps(error))) is type(error)


def test_queue_by_attribute():
    assert ray.util.queue.Queue is Queue
    with pytest.raises(AttributeError, match="no_such_module"):
        _ = ray.util.no_such_module
