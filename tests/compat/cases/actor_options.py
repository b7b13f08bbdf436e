"""Options of actors: concurrency, restarts, retries and limits."""

import asyncio
import os
import threading
import time

from outcome import full, raised, raised_at_last, until


def case_one_call_at_a_time_by_default(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.running = self.most = 0

        def f(self):
            self.running += 1
            self.most = max(self.most, self.running)
            time.sleep(0.02)
            self.running -= 1
            return self.most

    a = A.remote()
    return max(ray.get([a.f.remote() for _ in range(5)]))


def case_max_concurrency_runs_calls_in_threads(ray):
    @ray.remote(max_concurrency=3)
    class A:
        def __init__(self):
            self.barrier = threading.Barrier(3)

        def meet(self):
            self.barrier.wait(20)
            return "met"

    a = A.remote()
    return ray.get([a.meet.remote() for _ in range(3)])


def case_max_concurrency_is_a_limit(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.lock, self.running, self.most = threading.Lock(), 0, 0

        def f(self):
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
            time.sleep(0.05)
            with self.lock:
                self.running -= 1

        def read(self):
            return self.most

    a = A.options(max_concurrency=2).remote()
    ray.get([a.f.remote() for _ in range(8)])
    return ray.get(a.read.remote())


def case_threaded_actor_gets_within_calls(ray):
    @ray.remote(max_concurrency=2)
    class A:
        def __init__(self):
            self.go = threading.Event()

        def wait(self):
            return self.go.wait(20)

        def open(self):
            self.go.set()

    a = A.remote()
    waiting = a.wait.remote()
    ray.get(a.open.remote())
    return ray.get(waiting)


def case_concurrency_groups(ray):
    @ray.remote(concurrency_groups={"io": 1, "compute": 1})
    class A:
        def __init__(self):
            self.go = threading.Event()

        @ray.method(concurrency_group="io")
        def wait(self):
            return self.go.wait(20)

        @ray.method(concurrency_group="compute")
        def open(self):
            self.go.set()

    a = A.remote()
    waiting = a.wait.remote()
    ray.get(a.open.remote())
    return ray.get(waiting)


def _grouped(ray, **options):
    """An actor that tells how many calls of a method ran at once, at most; `is_async` makes its methods coroutines."""

    class Grouped:
        def __init__(self):
            self.running, self.most, self.lock = {}, {}, threading.Lock()

        def enter(self, name):
            with self.lock:
                self.running[name] = self.running.get(name, 0) + 1
                self.most[name] = max(self.running[name], self.most.get(name, 0))

        def leave(self, name):
            with self.lock:
                self.running[name] -= 1

    class Threaded(Grouped):
        @ray.method(concurrency_group="io")
        def io(self, name="io"):
            self.enter(name)
            time.sleep(0.3)
            self.leave(name)

        def other(self, name="other"):
            self.enter(name)
            time.sleep(0.3)
            self.leave(name)

        @ray.method(concurrency_group="report")
        def report(self):
            return self.most

    class Async(Grouped):
        @ray.method(concurrency_group="io")
        async def io(self, name="io"):
            self.enter(name)
            await asyncio.sleep(0.3)
            self.leave(name)

        async def other(self, name="other"):
            self.enter(name)
            await asyncio.sleep(0.3)
            self.leave(name)

        @ray.method(concurrency_group="report")
        async def report(self):
            return self.most

    kind = Async if options.pop("is_async", False) else Threaded
    return ray.remote(concurrency_groups={"io": 2, "report": 1}, **options)(kind).remote()


def case_each_concurrency_group_has_its_limit(ray):
    outcomes = []
    for a in (_grouped(ray), _grouped(ray, max_concurrency=3), _grouped(ray, is_async=True, max_concurrency=3)):
        ray.get(a.report.remote())
        refs = [method.remote() for _ in range(5) for method in (a.io, a.other)]
        ray.get(refs)
        outcomes.append(ray.get(a.report.remote()))
    return outcomes


def case_a_call_may_choose_its_concurrency_group(ray):
    a = _grouped(ray)
    ray.get(a.report.remote())
    ray.get([a.other.options(concurrency_group="io").remote("chosen") for _ in range(4)])
    return ray.get(a.report.remote())["chosen"]


def case_concurrency_group_that_the_class_does_not_name(ray):
    def start(**options):
        class A:
            @ray.method(concurrency_group="unknown")
            def f(self):
                pass

        return (ray.remote(**options) if options else ray.remote)(A).remote()

    return [raised(ray, start), raised(ray, lambda: start(concurrency_groups={"io": 1}))]


def _crashing(ray, **options):
    class Crashing:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

        def crash(self):
            os._exit(1)

        def pid(self):
            return os.getpid()

        def restarted(self):
            return ray.get_runtime_context().was_current_actor_reconstructed

    return ray.remote(**options)(Crashing).remote()


def _answer(ray, call):
    """The first answer of an actor that may be restarting."""

    def attempt():
        try:
            return [ray.get(call())]
        except ray.exceptions.ActorUnavailableError:
            return None

    return until(attempt)[0]


def case_max_restarts(ray):
    a = _crashing(ray, max_restarts=1)
    before = [ray.get(a.add.remote()), ray.get(a.add.remote()), ray.get(a.restarted.remote())]
    first_crash = raised(ray, lambda: ray.get(a.crash.remote()))
    after = [_answer(ray, a.add.remote), ray.get(a.restarted.remote())]
    second_crash = raised(ray, lambda: ray.get(a.crash.remote()))
    return [before, first_crash, after, second_crash, raised(ray, lambda: ray.get(a.add.remote()))]


@full
def case_restart_is_a_new_process(ray):
    a = _crashing(ray, max_restarts=-1)
    first = ray.get(a.pid.remote())
    pids = {first}
    for _ in range(2):
        raised(ray, lambda: ray.get(a.crash.remote()))
        pids.add(_answer(ray, a.pid.remote))
    return len(pids)


def case_constructor_arguments_survive_a_restart(ray):
    @ray.remote(max_restarts=1)
    class A:
        def __init__(self, x, *, y):
            self.xy = [x, y]

        def read(self):
            return self.xy

        def crash(self):
            os._exit(1)

    a = A.remote(ray.put("x"), y="y")
    raised(ray, lambda: ray.get(a.crash.remote()))
    return _answer(ray, a.read.remote)


def case_kill_with_restart(ray):
    a = _crashing(ray, max_restarts=1)
    ray.get(a.add.remote())
    pid = ray.get(a.pid.remote())
    ray.kill(a, no_restart=False)
    until(lambda: _answer(ray, a.pid.remote) != pid)
    return ray.get(a.add.remote())


def case_kill_without_restart_ends_a_restartable_actor(ray):
    a = _crashing(ray, max_restarts=-1)
    ray.get(a.add.remote())
    ray.kill(a)
    return raised_at_last(ray, lambda: ray.get(a.add.remote()))


def _crash_twice(ray, **options):
    @ray.remote(**options)
    class A:
        def f(self, folder):
            attempts = len(os.listdir(folder))
            open(os.path.join(folder, str(attempts)), "w").close()
            if attempts < 2:
                os._exit(1)
            return attempts

    return A.remote()


def case_max_task_retries(ray):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        a = _crash_twice(ray, max_restarts=2, max_task_retries=2)
        return ray.get(a.f.remote(folder))


def case_retry_exceptions_on_a_method(ray):
    @ray.remote(max_task_retries=3)
    class A:
        def __init__(self):
            self.n = 0

        @ray.method(retry_exceptions=[ValueError])
        def f(self):
            self.n += 1
            if self.n < 3:
                raise ValueError
            return self.n

        def g(self):
            self.n += 1
            raise ValueError

        def read(self):
            return self.n

    a = A.remote()
    return [ray.get(a.f.remote()), raised(ray, lambda: ray.get(a.g.remote())), ray.get(a.read.remote())]


def _overtaken(ray, **options):
    """Whether a call whose argument is not there yet is overtaken by a later one, and what each of them found."""

    @ray.remote(max_concurrency=2)
    class Gate:
        def __init__(self):
            self.event = threading.Event()

        def wait(self, value):
            self.event.wait(30)
            return value

        def open(self):
            self.event.set()

    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def append(self, item):
            self.seen.append(item)
            return self.seen

    gate, log = Gate.remote(), Log.options(**options).remote()
    ray.get(log.__ray_ready__.remote())
    first, second = log.append.remote(gate.wait.remote("first")), log.append.remote("second")
    overtaken = bool(ray.wait([second], timeout=20 if options.get("allow_out_of_order_execution") else 0.5)[0])
    gate.open.remote()
    return [overtaken, *ray.get([first, second])]


def case_a_waiting_argument_is_overtaken_where_that_is_allowed(ray):
    return [_overtaken(ray, allow_out_of_order_execution=allowed) for allowed in (True, False)] + [_overtaken(ray)]


def case_calls_that_run_at_once_cannot_be_kept_in_order(ray):
    class Plain:
        def f(self):
            return "f"

    class Async:
        async def f(self):
            return "f"

    def call(kind, allowed, **options):
        actor = ray.remote(kind).options(allow_out_of_order_execution=allowed, **options).remote()
        return ray.get(actor.f.remote())

    return [
        raised(ray, lambda: call(Async, False), "allow_out_of_order_execution"),
        raised(ray, lambda: call(Plain, False, max_concurrency=2), "allow_out_of_order_execution"),
        raised(ray, lambda: call(Plain, "yes"), "allow_out_of_order_execution"),
        [call(Async, True), call(Plain, True, max_concurrency=2), call(Plain, False)],
    ]


def case_options_of_a_wrong_type_or_value(ray):
    class A:
        pass

    return [
        raised(ray, lambda: ray.remote(max_restarts=-2)(A), "max_restarts"),
        raised(ray, lambda: ray.remote(max_restarts="x")(A), "max_restarts"),
        raised(ray, lambda: ray.remote(max_concurrency="x")(A), "max_concurrency"),
        raised(ray, lambda: ray.remote(no_such_option=1)(A), "no_such_option"),
        raised(ray, lambda: ray.remote(max_retries=1)(A), "max_retries"),
        raised(ray, lambda: ray.remote(num_returns=2)(A), "num_returns"),
        raised(ray, lambda: ray.remote(A).options(no_such_option=1).remote(), "no_such_option"),
        raised(ray, lambda: ray.remote(A).options(lifetime="forever").remote(), "lifetime", "detached"),
        raised(ray, lambda: ray.remote(A).options(max_concurrency=0).remote()),
    ]


def case_options_do_not_change_the_class(ray):
    @ray.remote(max_concurrency=1)
    class A:
        def f(self):
            return threading.active_count() > 0

    wide = A.options(max_concurrency=2, name="wide_one")
    a, b = wide.remote(), A.remote()
    return [ray.get([a.f.remote(), b.f.remote()]), ray.get_actor("wide_one") == a]


def case_method_options(ray):
    @ray.remote
    class A:
        def f(self):
            return 1, 2

    a = A.remote()
    method = a.f.options(num_returns=2, name="renamed")
    return [ray.get(method.remote()), raised(ray, lambda: a.f.options(no_such_option=1).remote())]


def case_bad_method_decorator(ray):
    return [
        raised(ray, lambda: ray.method(no_such_option=1)(lambda self: None), "no_such_option"),
        raised(ray, lambda: ray.method()(lambda self: None)),
    ]


@full
def case_max_pending_calls(ray):
    @ray.remote(max_pending_calls=2)
    class A:
        def slow(self):
            time.sleep(1)

    a = A.remote()
    until(lambda: ray.get(a.__ray_ready__.remote()))

    def flood():
        for _ in range(10):
            a.slow.remote()

    return raised(ray, flood, "pending")
