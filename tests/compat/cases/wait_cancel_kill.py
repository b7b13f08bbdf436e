"""wait, cancel and kill."""

import contextlib
import os
import tempfile
import time

from outcome import full, process_is_gone, raised, raised_at_last, until


def _gate(ray):
    """An actor whose `wait` returns once `open` was called, and a task that waits on it."""

    @ray.remote(max_concurrency=20)
    class Gate:
        def __init__(self):
            import threading

            self.event = threading.Event()

        def wait(self, value=None):
            self.event.wait(30)
            return value

        def open(self):
            self.event.set()

        def pid(self):
            return os.getpid()

    return Gate.remote()


def case_wait_splits_ready_from_not_ready(ray):
    gate = _gate(ray)
    refs = [gate.wait.remote(1), ray.put(2), gate.wait.remote(3), ray.put(4)]
    ready, rest = ray.wait(refs, num_returns=2, timeout=20)
    before = [[refs.index(r) for r in ready], [refs.index(r) for r in rest]]
    gate.open.remote()
    ready, rest = ray.wait(refs, num_returns=4, timeout=20)
    return [before, [refs.index(r) for r in ready], rest]


def case_wait_returns_no_more_than_asked_for(ray):
    refs = [ray.put(i) for i in range(5)]
    outcomes = []
    for ready, rest in (ray.wait(refs), ray.wait(refs, num_returns=2)):
        # Which ones differs from run to run on Ray.
        outcomes.append([len(ready), len(rest), sorted(refs.index(r) for r in ready + rest)])
    return outcomes


def case_wait_timeouts(ray):
    gate = _gate(ray)
    ref = gate.wait.remote()
    results = [ray.wait([ref], timeout=t) for t in (0, 0.05)]
    return [[ready, rest == [ref]] for ready, rest in results]


def case_wait_returns_what_is_ready_at_the_timeout(ray):
    gate = _gate(ray)
    refs = [gate.wait.remote(), ray.put(1), gate.wait.remote()]
    ready, rest = ray.wait(refs, num_returns=3, timeout=0.3)
    return [[refs.index(r) for r in ready], [refs.index(r) for r in rest]]


def case_wait_keeps_the_order_given(ray):
    @ray.remote
    class A:
        async def nap(self, s):
            import asyncio

            await asyncio.sleep(s)

    a = A.remote()
    ray.get(a.nap.remote(0))
    refs = [a.nap.remote(s) for s in (0.3, 0.2, 0.1)]
    ready, rest = ray.wait(refs, num_returns=3)
    return [[refs.index(r) for r in ready], rest]


def case_wait_in_a_loop_drains(ray):
    @ray.remote
    def f(i):
        return i

    pending, got = [f.remote(i) for i in range(20)], []
    while pending:
        ready, pending = ray.wait(pending)
        got += ray.get(ready)
    return sorted(got)


def case_wait_without_fetching(ray):
    ready, rest = ray.wait([ray.put(1)], fetch_local=False)
    return [len(ready), len(rest)]


def case_wait_for_nothing(ray):
    return raised(ray, lambda: ray.wait([]))


def case_wait_wrong_use(ray):
    ref = ray.put(1)
    return [
        raised(ray, lambda: ray.wait(ref), "list"),
        raised(ray, lambda: ray.wait([ref, ref]), "unique"),
        raised(ray, lambda: ray.wait([ref], num_returns=2), "num_returns"),
        raised(ray, lambda: ray.wait([ref], num_returns=0), "num_returns"),
        raised(ray, lambda: ray.wait([ref, 5])),
        raised(ray, lambda: ray.wait([ref], timeout=-1), "timeout"),
    ]


def case_cancel_a_task_that_waits_for_its_argument(ray):
    gate = _gate(ray)
    blocked = ray.remote(lambda x: x).remote(gate.wait.remote())
    dependent = ray.remote(lambda x: x).remote(blocked)
    ray.cancel(blocked)
    return [raised(ray, lambda: ray.get(blocked, timeout=20)), raised(ray, lambda: ray.get(dependent, timeout=20))]


def case_cancel_a_queued_task(ray):
    gate = _gate(ray)

    @ray.remote(num_cpus=4)
    def hold(gate):
        time.sleep(1.0)
        return "held"

    first = hold.remote(gate)
    queued = hold.remote(gate)
    ray.cancel(queued)
    return [raised(ray, lambda: ray.get(queued, timeout=20)), ray.get(first, timeout=30)]


def _spinner(ray, **options):
    """A remote function that says that it runs, keeps Python code busy, and says when it is interrupted."""

    @ray.remote(**{"max_retries": 0, **options})
    def spin(folder, name):
        open(os.path.join(folder, name), "w").close()
        try:
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            open(os.path.join(folder, f"{name} interrupted"), "w").close()
            raise

    return spin


def _said(folder, what):
    return bool(until(lambda: what in os.listdir(folder)))


def _spinning(ray, folder, **options):
    """A task that runs until it is cancelled."""
    ref = _spinner(ray, **options).remote(folder, "task")
    assert _said(folder, "task")
    return ref


def _cancel_a_running_task(ray, **options):
    with tempfile.TemporaryDirectory() as folder:
        ref = _spinning(ray, folder, **options)
        ray.cancel(ref)
        return [raised(ray, lambda: ray.get(ref, timeout=20)), _said(folder, "task interrupted")]


def case_cancel_a_running_task_interrupts_it(ray):
    return _cancel_a_running_task(ray)


def case_cancel_a_running_task_is_not_retried(ray):
    return _cancel_a_running_task(ray, max_retries=3)


def case_cancel_by_force(ray):
    with tempfile.TemporaryDirectory() as folder:
        ref = _spinning(ray, folder)
        ray.cancel(ref, force=True)
        outcome = raised(ray, lambda: ray.get(ref, timeout=20))
    return ["RayError" in outcome["caught_as"], ray.get(ray.remote(lambda: 1).remote())]


def case_cancel_a_finished_task(ray):
    ref = ray.remote(lambda: "kept").remote()
    ray.get(ref)
    return [ray.cancel(ref), ray.get(ref)]


def case_cancel_a_queued_actor_call(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.n = 0

        def slow(self):
            time.sleep(1.0)
            return "slow"

        def add(self):
            self.n += 1
            return self.n

    a = A.remote()
    ray.get(a.__ray_ready__.remote())
    slow, queued = a.slow.remote(), a.add.remote()
    ray.cancel(queued)
    # No later call here: on Ray 2.60 it would wait 30 s for the cancelled one's turn, and fail.
    return [raised(ray, lambda: ray.get(queued, timeout=20)), ray.get(slow)]


def case_cancel_an_actor_call_by_force(ray):
    gate = _gate(ray)
    ref = gate.wait.remote()
    return raised(ray, lambda: ray.cancel(ref, force=True), "force")


def case_cancel_spreads_to_children(ray):
    child = _spinner(ray)

    @ray.remote(max_retries=0)
    def parent(folder):
        return ray.get(child.remote(folder, "child"))

    with tempfile.TemporaryDirectory() as folder:
        ref = parent.remote(folder)
        assert _said(folder, "child")
        ray.cancel(ref)
        return [raised(ray, lambda: ray.get(ref, timeout=20)), _said(folder, "child interrupted")]


def case_cancel_leaves_children_where_it_is_not_recursive(ray):
    @ray.remote(max_retries=0)
    def child(folder):
        open(os.path.join(folder, "child"), "w").close()
        until(lambda: os.path.exists(os.path.join(folder, "go on")))
        open(os.path.join(folder, "child finished"), "w").close()

    @ray.remote(max_retries=0)
    def parent(folder):
        return ray.get(child.remote(folder))

    with tempfile.TemporaryDirectory() as folder:
        ref = parent.remote(folder)
        assert _said(folder, "child")
        ray.cancel(ref, recursive=False)
        outcome = raised(ray, lambda: ray.get(ref, timeout=20))
        open(os.path.join(folder, "go on"), "w").close()
        return [outcome, _said(folder, "child finished")]


def case_cancel_by_force_reaches_children(ray):
    @ray.remote(max_retries=0)
    def child(folder):
        with open(os.path.join(folder, "writing"), "w") as file:
            file.write(str(os.getpid()))
        os.rename(file.name, os.path.join(folder, "child"))
        time.sleep(60)

    @ray.remote(max_retries=0)
    def parent(folder):
        return ray.get(child.remote(folder))

    outcomes = []
    for recursive in (True, False):  # without, a child ends with its owner's process
        with tempfile.TemporaryDirectory() as folder:
            ref = parent.remote(folder)
            assert _said(folder, "child")
            with open(os.path.join(folder, "child")) as file:
                pid = int(file.read())
            ray.cancel(ref, force=True, recursive=recursive)
            outcome = raised(ray, lambda ref=ref: ray.get(ref, timeout=20))
            outcomes.append(["RayError" in outcome["caught_as"], until(lambda pid=pid: process_is_gone(pid))])
    return outcomes


@contextlib.contextmanager
def _cancelled(ray, method, **options):
    """(reference, folder) of an actor's call that is running, has said so there, and was cancelled."""
    with tempfile.TemporaryDirectory() as folder:
        ref = method.options(**options).remote(folder) if options else method.remote(folder)
        assert _said(folder, "work")
        ray.cancel(ref[0] if isinstance(ref, list) else ref)
        yield ref, folder


def case_a_running_call_can_ask_whether_it_is_cancelled(ray):
    class A:
        def work(self, folder):
            context = ray.get_runtime_context()
            before = context.is_canceled()
            open(os.path.join(folder, "work"), "w").close()
            seen = until(context.is_canceled)
            open(os.path.join(folder, f"before {before}, then {seen}"), "w").close()
            return "cleaned up"

        def ask(self):
            return ray.get_runtime_context().is_canceled()

    outcomes = []
    for concurrency in (1, 3):
        a = ray.remote(A).options(max_concurrency=concurrency).remote()
        with _cancelled(ray, a.work) as (ref, folder):
            outcomes.append(raised(ray, lambda ref=ref: ray.get(ref, timeout=30)))
            outcomes += [_said(folder, "before False, then True"), ray.get(a.ask.remote(), timeout=20)]
    return outcomes


def case_what_a_call_gives_after_it_was_cancelled(ray):
    @ray.remote
    class A:
        def work(self, folder, gives=lambda: "kept"):
            open(os.path.join(folder, "work"), "w").close()
            until(ray.get_runtime_context().is_canceled)
            return gives()

        def pair(self, folder):
            return self.work(folder), 2

        def fail(self, folder):
            return self.work(folder, lambda: 1 / 0)

        def f(self):
            return "f"

    a, outcomes = A.remote(), []
    for method, count in ((a.work, 1), (a.pair, 2), (a.fail, 1)):
        with _cancelled(ray, method, num_returns=count) as (given, _):
            for ref in given if count > 1 else [given]:
                outcomes.append(raised(ray, lambda ref=ref: ray.get(ref, timeout=20)))
                passed_on = ray.remote(lambda x: x).remote(ref)
                outcomes.append(raised(ray, lambda ref=passed_on: ray.get(ref, timeout=20)))
    return [*outcomes, ray.get(a.f.remote(), timeout=20)]


def case_a_task_that_was_interrupted_can_ask_whether_it_is_cancelled(ray):
    @ray.remote(max_retries=0)
    def work(folder):
        context = ray.get_runtime_context()
        open(os.path.join(folder, "work"), "w").close()
        try:
            until(lambda: False)
        except KeyboardInterrupt:
            open(os.path.join(folder, f"cancelled: {context.is_canceled()}"), "w").close()
            raise

    with tempfile.TemporaryDirectory() as folder:
        ref = work.remote(folder)
        assert _said(folder, "work")
        ray.cancel(ref)
        return [raised(ray, lambda: ray.get(ref, timeout=30)), _said(folder, "cancelled: True")]


def case_who_cannot_ask_whether_it_is_cancelled(ray):
    @ray.remote
    class A:
        async def ask(self):
            return ray.get_runtime_context().is_canceled()

    return [
        raised(ray, lambda: ray.get_runtime_context().is_canceled()),
        raised(ray, lambda: ray.get(A.remote().ask.remote()), "async actor"),
        ray.get(ray.remote(lambda: ray.get_runtime_context().is_canceled()).remote()),
    ]


def case_cancel_wrong_use(ray):
    return [raised(ray, lambda: ray.cancel(5)), raised(ray, lambda: ray.cancel([ray.put(1)]))]


def case_kill(ray):
    gate = _gate(ray)
    pid = ray.get(gate.pid.remote())
    pending = gate.wait.remote()
    ray.kill(gate)
    return [
        raised(ray, lambda: ray.get(pending, timeout=20)),
        until(lambda: process_is_gone(pid)),
        raised(ray, lambda: ray.get(gate.pid.remote(), timeout=20)),
    ]


def case_kill_before_the_actor_started(ray):
    gate = _gate(ray)
    ray.kill(gate)
    return raised(ray, lambda: ray.get(gate.pid.remote(), timeout=20))


def case_kill_twice(ray):
    gate = _gate(ray)
    ray.kill(gate)
    return [raised(ray, lambda: ray.kill(gate)), raised_at_last(ray, lambda: ray.get(gate.pid.remote(), timeout=20))]


def case_kill_from_a_task(ray):
    gate = _gate(ray)
    pid = ray.get(gate.pid.remote())

    @ray.remote
    def end(boxed):
        ray.kill(boxed[0])

    ray.get(end.remote([gate]))
    return until(lambda: process_is_gone(pid))


def case_kill_wrong_use(ray):
    return [raised(ray, lambda: ray.kill(5)), raised(ray, lambda: ray.kill(ray.put(1)))]


def case_results_survive_the_kill(ray):
    gate = _gate(ray)
    ref = gate.pid.remote()
    pid = ray.get(ref)
    ray.kill(actor=gate)
    until(lambda: process_is_gone(pid))
    return ray.get(ref, timeout=20) == pid


@full
def case_a_hundred_waits(ray):
    gate = _gate(ray)
    ref = gate.wait.remote()
    return sum(len(ray.wait([ref], timeout=0)[0]) for _ in range(100))
