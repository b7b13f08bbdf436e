"""`ray.util.queue.Queue`."""

import asyncio
import importlib
import queue
import time

from outcome import raised, until


def _module(ray):
    return importlib.import_module(f"{ray.__name__}.util.queue")


def _new(ray, *args, **kwargs):
    return _module(ray).Queue(*args, **kwargs)


def _gives(ray, call):
    """What the call returns, or which of the queue's exceptions it raises."""
    module = _module(ray)
    try:
        return call()
    except module.Empty as error:
        return ["Empty", isinstance(error, queue.Empty)]
    except module.Full as error:
        return ["Full", isinstance(error, queue.Full)]


def case_first_in_first_out(ray):
    q = _new(ray)
    for item in (1, "two", [3], None):
        q.put(item)
    return [len(q), [q.get() for _ in range(4)], q.empty()]


def case_sizes(ray):
    q = _new(ray, 2)
    sizes = [[q.qsize(), q.size(), len(q), q.empty(), q.full()]]
    for _ in range(2):
        q.put(0)
        sizes.append([q.qsize(), q.size(), len(q), q.empty(), q.full()])
    return [q.maxsize, sizes]


def case_full(ray):
    q = _new(ray, 1)
    q.put(1)
    began = time.monotonic()
    got = [
        _gives(ray, lambda: q.put_nowait(2)),
        _gives(ray, lambda: q.put(2, block=False)),
        _gives(ray, lambda: q.put(2, timeout=0.2)),
        time.monotonic() - began >= 0.2,
    ]
    return [got, q.get(), q.empty()]


def case_empty(ray):
    q = _new(ray)
    began = time.monotonic()
    got = [
        _gives(ray, q.get_nowait),
        _gives(ray, lambda: q.get(block=False)),
        _gives(ray, lambda: q.get(timeout=0.2)),
        time.monotonic() - began >= 0.2,
    ]
    q.put(1)
    return [got, q.get(timeout=5)]


def case_zero_and_negative_sizes_are_no_bound(ray):
    queues = [_new(ray), _new(ray, 0), _new(ray, -1)]
    for q in queues:
        q.put_nowait_batch(range(50))
    return [[q.full(), q.qsize()] for q in queues]


def case_bad_timeouts(ray):
    q = _new(ray)
    return [
        raised(ray, lambda: q.put(1, timeout=-1), "timeout", "non-negative"),
        raised(ray, lambda: q.get(timeout=-0.1), "timeout", "non-negative"),
        raised(ray, lambda: asyncio.run(q.put_async(1, timeout=-1)), "non-negative"),
        raised(ray, lambda: asyncio.run(q.get_async(timeout=-1)), "non-negative"),
        q.empty(),
    ]


def case_batches(ray):
    q = _new(ray, 5)
    q.put_nowait_batch([1, 2, 3])
    got = [q.get_nowait_batch(0), q.get_nowait_batch(2), q.qsize()]
    q.put_nowait_batch(range(4))
    return [got, q.get_nowait_batch(5)]


def case_batches_are_all_or_nothing(ray):
    q = _new(ray, 3)
    q.put_nowait_batch([1, 2])
    return [
        _gives(ray, lambda: q.put_nowait_batch([3, 4])),
        _gives(ray, lambda: q.get_nowait_batch(3)),
        q.get_nowait_batch(2),
    ]


def case_bad_batches(ray):
    q = _new(ray)
    return [
        raised(ray, lambda: q.put_nowait_batch(5), "Iterable"),
        raised(ray, lambda: q.get_nowait_batch("a"), "int"),
        raised(ray, lambda: q.get_nowait_batch(-1), "num_items"),
    ]


def case_a_blocked_get_is_woken(ray):
    q = _new(ray)
    ref = ray.remote(lambda q: q.get()).remote(q)
    pending = ray.wait([ref], timeout=0.3)[1] == [ref]
    q.put("woken")
    return [pending, ray.get(ref)]


def case_a_blocked_put_is_woken(ray):
    q = _new(ray, 1)
    q.put("first")
    ref = ray.remote(lambda q: q.put("second")).remote(q)
    pending = ray.wait([ref], timeout=0.3)[1] == [ref]
    got = [q.get(), q.get()]
    return [pending, got, ray.get(ref)]


def case_producers_and_consumers(ray):
    q = _new(ray, 3)

    @ray.remote(num_cpus=0)
    def produce(q, start):
        for i in range(start, start + 10):
            q.put(i)

    @ray.remote(num_cpus=0)
    def consume(q, n):
        return [q.get() for _ in range(n)]

    consumers = [consume.remote(q, 10) for _ in range(2)]
    producers = [produce.remote(q, start) for start in (0, 100)]
    ray.get(producers)
    got = sum(ray.get(consumers), [])
    return [sorted(got), q.empty()]


def case_items_of_one_producer_keep_their_order(ray):
    q = _new(ray)

    @ray.remote
    def produce(q):
        for i in range(30):
            q.put(i)

    ref = produce.remote(q)
    got = [q.get(timeout=30) for _ in range(30)]
    ray.get(ref)
    return got == list(range(30))


def case_coroutines(ray):
    q = _new(ray, 2)

    async def main():
        await q.put_async(1)
        await q.put_async(2, block=False)
        got = [await q.get_async(), await q.get_async(block=False), await q.get_async(timeout=5) if len(q) else None]
        waiting = asyncio.ensure_future(q.get_async())
        await asyncio.sleep(0.1)
        early = waiting.done()
        await q.put_async(3)
        return [got, early, await waiting]

    return asyncio.run(main())


def case_coroutines_at_the_bounds(ray):
    q = _new(ray, 1)

    async def gives(make):
        module = _module(ray)
        try:
            return await make
        except (module.Empty, module.Full) as error:
            return [isinstance(error, queue.Empty), isinstance(error, queue.Full)]

    async def main():
        empty = [await gives(q.get_async(block=False)), await gives(q.get_async(timeout=0.1))]
        await q.put_async(1)
        full = [await gives(q.put_async(2, block=False)), await gives(q.put_async(2, timeout=0.1))]
        return [empty, full, await q.get_async()]

    return asyncio.run(main())


def case_many_coroutines_wait(ray):
    q = _new(ray)

    async def main():
        takers = [asyncio.ensure_future(q.get_async()) for _ in range(50)]
        await asyncio.gather(*(q.put_async(i) for i in range(50)))
        return sorted(await asyncio.gather(*takers))

    return asyncio.run(main()) == list(range(50))


def case_in_an_async_actor(ray):
    @ray.remote
    class Relay:
        def __init__(self, source, sink):
            self.source, self.sink = source, sink

        async def run(self, n):
            for _ in range(n):
                await self.sink.put_async(2 * await self.source.get_async())

    source, sink = _new(ray), _new(ray)
    done = Relay.remote(source, sink).run.remote(3)
    source.put_nowait_batch([1, 2, 3])
    ray.get(done)
    return sink.get_nowait_batch(3)


def case_a_queue_in_a_queue(ray):
    outer, inner = _new(ray), _new(ray)
    outer.put({"reply_to": inner})
    ray.get(ray.remote(lambda q: q.get()["reply_to"].put("answer")).remote(outer))
    return inner.get()


def case_references_as_items(ray):
    q = _new(ray)
    q.put([ray.put("boxed")])
    q.put_nowait_batch([[ray.put(i)] for i in range(2)])
    return [ray.get(q.get()[0]), [ray.get(box[0]) for box in q.get_nowait_batch(2)]]


def case_a_reference_itself_is_its_value(ray):
    q = _new(ray)
    q.put(ray.put("value"))
    return q.get()


def case_unpicklable_items(ray):
    import threading

    q = _new(ray)
    return [raised(ray, lambda: q.put(threading.Lock())), q.empty()]


def case_options_of_the_actor(ray):
    q = _new(ray, actor_options={"name": "a queue with a name", "num_cpus": 0.5})
    q.put(1)
    found = ray.get_actor("a queue with a name")
    return [found == q.actor, ray.get(found.qsize.remote())]


def case_bad_options_of_the_actor(ray):
    return raised(ray, lambda: _new(ray, actor_options={"no_such_option": 1}), "no_such_option")


def case_shutdown(ray):
    q = _new(ray)
    other = ray.remote(lambda q: q).remote(q)
    other = ray.get(other)
    q.put(1)
    q.shutdown()
    q.shutdown()
    dead = until(lambda: (outcome := raised(ray, other.qsize)) != "returned" and outcome)
    return [q.actor, dead, raised(ray, lambda: q.put(1))]


def case_forced_shutdown(ray):
    q = _new(ray)
    waiting = q.actor.get.remote(None)
    q.shutdown(force=True)
    return raised(ray, lambda: ray.get(waiting, timeout=20))


def case_the_actor_is_killed(ray):
    q = _new(ray)
    q.put(1)
    ray.kill(q.actor)
    return [
        until(lambda: (outcome := raised(ray, q.qsize)) != "returned" and outcome),
        raised(ray, lambda: q.put(1)),
        raised(ray, lambda: q.get(timeout=1)),
    ]


def case_a_get_whose_task_was_cancelled(ray):
    q = _new(ray)

    @ray.remote
    def take(q):
        return q.get()

    ref = take.remote(q)
    ray.wait([ref], timeout=0.5)
    ray.cancel(ref, force=True)
    return raised(ray, lambda: ray.get(ref, timeout=20)) != "returned"
