"""Methods that yield; streams awaited, waited for and cancelled."""

import asyncio
import os
import tempfile
import time

from outcome import full, raised
from stream_helpers import counting, dynamic, fails, still_at, stops, taken


def _actor(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.made = 0

        def count(self, n, fails=False):
            for i in range(n):
                self.made += 1
                yield i * 10
            if fails:
                raise ValueError("midway")

        def made_so_far(self):
            return self.made

        def plain(self):
            return 5

        def leave(self):
            yield 1
            ray.actor.exit_actor()

        @ray.method(_generator_backpressure_num_objects=2)
        def paced(self, n):
            yield from self.count(n)

        def slow(self):
            yield 1
            time.sleep(30)
            yield 2

    return A.remote()


def _async_actor(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.made = 0

        async def count(self, n, fails=False):
            for i in range(n):
                await asyncio.sleep(0)
                self.made += 1
                yield i * 10
            if fails:
                raise ValueError("midway")

        async def made_so_far(self):
            return self.made

        def plain(self, n):
            for i in range(n):
                yield i

        async def forever(self):
            number = 0
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.01)

        async def total(self, other):
            total = 0
            async for ref in other.count.remote(4):
                total += await ref
            return total

    return A.remote()


# ----- streams of actors


def case_method_streams(ray):
    a = _actor(ray)
    return [taken(ray, a.count.remote(3)), ray.get(a.made_so_far.remote())]


def case_method_that_fails_midway(ray):
    a = _actor(ray)
    return [taken(ray, a.count.remote(1, True)), ray.get(a.plain.remote())]


def case_method_with_a_number_of_returns(ray):
    return ray.get(_actor(ray).count.options(num_returns=2).remote(2))


def case_calls_behind_a_stream_wait_for_it(ray):
    a = _actor(ray)
    stream = a.count.remote(50)
    made = ray.get(a.made_so_far.remote())
    return [made, len(list(stream))]


def case_an_actor_that_leaves_midway(ray):
    stream = _actor(ray).leave.remote()
    return [ray.get(next(stream)), taken(ray, stream), stops(stream)]


def case_an_actor_that_is_killed_midway(ray):
    a = _actor(ray)
    stream = a.slow.remote()
    first = ray.get(next(stream))
    ray.kill(a)
    return [first, taken(ray, stream), fails(ray, stream.completed())["caught_as"]]


def case_two_streams_of_one_actor_at_once(ray):
    @ray.remote(max_concurrency=2)
    class A:
        def count(self, n):
            for i in range(n):
                yield i

    a = A.remote()
    return [taken(ray, stream) for stream in [a.count.remote(3), a.count.remote(4)]]


def case_async_method_streams(ray):
    return taken(ray, _async_actor(ray).count.remote(3))


def case_async_method_that_fails_midway(ray):
    return taken(ray, _async_actor(ray).count.remote(1, True))


def case_plain_generator_of_an_async_actor(ray):
    return taken(ray, _async_actor(ray).plain.remote(3))


def case_many_async_streams_at_once(ray):
    a = _async_actor(ray)
    return [taken(ray, stream) for stream in [a.count.remote(n) for n in range(5)]]


def case_streams_can_be_awaited(ray):
    a, b = _async_actor(ray), _async_actor(ray)
    return ray.get(b.total.remote(a))


def case_async_for_in_the_driver(ray):
    async def consume():
        return [await ref async for ref in counting(ray).remote(3)]

    return asyncio.run(consume())


def case_async_for_over_a_failure(ray):
    async def consume():
        seen = []
        async for ref in counting(ray).remote(1, True):
            try:
                seen.append(await ref)
            except ValueError:
                seen.append("failed")
        return seen

    return asyncio.run(consume())


def case_two_streams_awaited_together(ray):
    async def consume(n):
        return [await ref async for ref in counting(ray).remote(n)]

    async def both():
        return await asyncio.gather(consume(2), consume(3))

    return asyncio.run(both())


# ----- waiting, cancelling


def case_wait_for_a_stream(ray):
    stream = counting(ray).remote(2)
    ready, others = ray.wait([stream])
    return [ready[0] is stream, others, taken(ray, stream)]


def case_wait_for_a_stream_that_is_not_ready(ray):
    stream = _actor(ray).slow.remote()
    next(stream)
    ready, others = ray.wait([stream], timeout=0.1)
    return [ready, others[0] is stream]


def case_wait_for_a_stream_that_has_ended(ray):
    stream = counting(ray).remote(1)
    list(stream)
    ready, others = ray.wait([stream], timeout=10)
    return [ready[0] is stream, others]


def case_wait_for_streams_and_references(ray):
    slow = _actor(ray).slow.remote()
    next(slow)
    reference = ray.put(1)
    ready, others = ray.wait([slow, reference], timeout=10)
    return [ready[0] is reference, others[0] is slow]


def case_a_cancelled_task_ends_its_stream(ray):
    @ray.remote
    def forever():
        while True:
            time.sleep(0.01)
            yield 1

    stream = forever.remote()
    ray.get(next(stream))
    ray.cancel(stream)
    return [taken(ray, stream)[-1], fails(ray, stream.completed())["caught_as"], stops(stream)]


def case_a_cancelled_async_stream(ray):
    stream = _async_actor(ray).forever.remote()
    ray.get(next(stream))
    ray.cancel(stream)
    return [taken(ray, stream)[-1], fails(ray, stream.completed())["caught_as"]]


def case_force_is_not_for_methods(ray):
    stream = _async_actor(ray).forever.remote()
    return raised(ray, lambda: ray.cancel(stream, force=True), "force=True")


def case_streaming_of_a_method_that_does_not_yield(ray):
    return raised(ray, lambda: _actor(ray).plain.options(num_returns="streaming").remote(), "generator")


def case_dynamic_returns_of_a_method(ray):
    return taken(ray, ray.get(dynamic(_actor(ray).count).remote(2)))


@full
def case_an_actor_that_restarts_midway(ray):
    @ray.remote(max_restarts=1, max_task_retries=1)
    class A:
        def count(self, path):
            yield 1
            yield 2
            if not os.path.exists(path):
                open(path, "w").close()
                time.sleep(0.3)
                os._exit(1)
            yield 3

    return taken(ray, A.remote().count.remote(tempfile.mktemp()))


def case_a_method_that_pauses(ray):
    a = _actor(ray)
    return taken(ray, a.paced.remote(6))


def case_an_async_method_that_pauses(ray):
    a = _async_actor(ray)
    stream = a.count.options(_generator_backpressure_num_objects=2).remote(6)
    at = [still_at(lambda: ray.get(a.made_so_far.remote()), 2)]
    next(stream)
    at.append(still_at(lambda: ray.get(a.made_so_far.remote()), 3))
    return [at, taken(ray, stream)]
