"""Actors whose methods are coroutines."""

import asyncio
import time

from outcome import raised


def case_coroutines_run_side_by_side(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.arrived, self.go = 0, asyncio.Event()

        async def meet(self, n):
            self.arrived += 1
            if self.arrived == n:
                self.go.set()
            await self.go.wait()
            return self.arrived

    a = A.remote()
    return ray.get([a.meet.remote(20) for _ in range(20)])


def case_max_concurrency_is_a_limit(ray):
    @ray.remote(max_concurrency=2)
    class A:
        def __init__(self):
            self.running = self.most = 0

        async def f(self):
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.02)
            self.running -= 1

        async def read(self):
            return self.most

    a = A.remote()
    ray.get([a.f.remote() for _ in range(8)])
    return ray.get(a.read.remote())


def case_one_at_a_time(ray):
    # Not in which order: Ray does not promise one for async actors.
    @ray.remote(max_concurrency=1)
    class A:
        def __init__(self):
            self.inside = 0
            self.most = 0

        async def f(self, i):
            self.inside += 1
            self.most = max(self.most, self.inside)
            await asyncio.sleep(0.002 * (5 - i))
            self.inside -= 1
            return self.most

    a = A.remote()
    return ray.get([a.f.remote(i) for i in range(5)])


def case_await_a_ref_inside(ray):
    @ray.remote
    def double(x):
        return 2 * x

    @ray.remote
    class A:
        async def f(self, x):
            return await double.remote(x)

        async def both(self):
            return await asyncio.gather(double.remote(1), double.remote(2))

    a = A.remote()
    return ray.get([a.f.remote(4), a.both.remote()])


def case_await_a_call_to_itself(ray):
    @ray.remote
    class A:
        async def outer(self):
            return await ray.get_runtime_context().current_actor.inner.remote() + 1

        async def inner(self):
            return 1

    return ray.get(A.remote().outer.remote())


def case_await_an_error(ray):
    @ray.remote
    def fail():
        raise ValueError("awaited")

    @ray.remote
    class A:
        async def f(self):
            try:
                await fail.remote()
            except ValueError as error:
                return "awaited" in str(error)

    return ray.get(A.remote().f.remote())


def case_exceptions(ray):
    @ray.remote
    class A:
        async def fail(self):
            await asyncio.sleep(0)
            raise KeyError("async gone")

        async def fine(self):
            return 1

    a = A.remote()
    return [raised(ray, lambda: ray.get(a.fail.remote()), "async gone", "fail"), ray.get(a.fine.remote())]


def case_plain_methods_run_in_the_same_loop(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.in_init = asyncio.get_event_loop() is not None

        async def mark(self):
            self.loop = asyncio.get_running_loop()

        def same(self):
            return asyncio.get_event_loop() is self.loop

    a = A.remote()
    ray.get(a.mark.remote())
    return ray.get(a.same.remote())


def case_background_task_lives_on(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.event = asyncio.Event()

        async def start(self):
            self.background = asyncio.create_task(self.work())

        async def work(self):
            await asyncio.sleep(0.05)
            self.event.set()

        async def wait(self):
            await self.event.wait()
            return "worked"

    a = A.remote()
    ray.get(a.start.remote())
    return ray.get(a.wait.remote())


def case_async_method_with_two_results(ray):
    @ray.remote
    class A:
        @ray.method(num_returns=2)
        async def f(self):
            return 1, 2

    return ray.get(A.remote().f.remote())


def case_driver_awaits(ray):
    @ray.remote
    class A:
        async def f(self, x):
            await asyncio.sleep(0.01 * x)
            return x

    a = A.remote()

    async def main():
        first = await a.f.remote(1)
        rest = await asyncio.gather(*(a.f.remote(x) for x in (3, 2, 1)))
        done, pending = await asyncio.wait([asyncio.ensure_future(wrap(a.f.remote(x))) for x in (1, 2)])
        return [first, rest, len(done), len(pending)]

    async def wrap(ref):
        return await ref

    return asyncio.run(main())


def case_wait_for_with_a_timeout(ray):
    @ray.remote
    class A:
        async def slow(self):
            await asyncio.sleep(30)

        async def quick(self):
            return "quick"

    a = A.remote()

    async def main():
        try:
            await asyncio.wait_for(wrap(a.slow.remote()), 0.1)
        except TimeoutError:
            return ["timed out", await a.quick.remote()]

    async def wrap(ref):
        return await ref

    return asyncio.run(main())


def case_cancel_a_coroutine(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.cancelled, self.started = False, asyncio.Event()

        async def slow(self):
            self.started.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                self.cancelled = True
                raise

        async def wait_started(self):
            await self.started.wait()

        async def was_cancelled(self):
            return self.cancelled

    a = A.remote()
    ref = a.slow.remote()
    ray.get(a.wait_started.remote())
    ray.cancel(ref)
    return [raised(ray, lambda: ray.get(ref, timeout=20)), ray.get(a.was_cancelled.remote())]


def case_a_coroutine_that_goes_on_after_it_was_cancelled(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.started = asyncio.Event()

        async def slow(self, fails):
            self.started.set()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return 1 / 0 if fails else "kept"

        async def wait_started(self):
            await self.started.wait()

    outcomes = []
    for fails in (False, True):
        a = A.remote()
        ref = a.slow.remote(fails)
        ray.get(a.wait_started.remote())
        ray.cancel(ref)
        outcomes.append(raised(ray, lambda ref=ref: ray.get(ref, timeout=20)))
    return outcomes


def case_async_constructor_work(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.queue = asyncio.Queue()

        async def put(self, x):
            await self.queue.put(x)

        async def take(self):
            return await self.queue.get()

    a = A.remote()
    taken = [a.take.remote() for _ in range(3)]
    for i in range(3):
        a.put.remote(i)
    return sorted(ray.get(taken))


def case_blocking_get_inside_still_answers(ray):
    @ray.remote
    def one():
        return 1

    @ray.remote
    class A:
        async def f(self):
            return ray.get(one.remote())

    return ray.get(A.remote().f.remote())


def case_context_is_per_call(ray):
    @ray.remote
    class A:
        async def task_id(self):
            before = ray.get_runtime_context().get_task_id()
            await asyncio.sleep(0.01)
            return before == ray.get_runtime_context().get_task_id()

    a = A.remote()
    return ray.get([a.task_id.remote() for _ in range(5)])


def case_sleeping_costs_no_wall_time(ray):
    @ray.remote
    class A:
        async def nap(self):
            await asyncio.sleep(0.2)

    a = A.remote()
    ray.get(a.nap.remote())
    began = time.monotonic()
    ray.get([a.nap.remote() for _ in range(50)])
    return time.monotonic() - began < 5
