"""Actors: state, methods, order of calls, handles and wrong use."""

import os
import time

import numpy as np
from outcome import full, process_is_gone, raised, until


def _counter(ray, **options):
    class Counter:
        def __init__(self, start=0, *, step=1):
            self.value, self.step = start, step

        def add(self, n=1):
            self.value += n * self.step
            return self.value

        def pid(self):
            return os.getpid()

    return ray.remote(**options)(Counter) if options else ray.remote(Counter)


def case_state_is_kept(ray):
    counter = _counter(ray).remote(10, step=2)
    return ray.get([counter.add.remote(), counter.add.remote(5), counter.add.remote(n=1)])


def case_two_actors_are_two_processes(ray):
    Counter = _counter(ray)
    a, b = Counter.remote(), Counter.remote(100)
    pids = ray.get([a.pid.remote(), b.pid.remote()])
    return [len({*pids, os.getpid()}), ray.get([a.add.remote(), b.add.remote()])]


def _log(ray):
    """An actor that keeps what it is given in order."""

    @ray.remote
    class Log:
        def __init__(self):
            self.seen = []

        def append(self, item):
            self.seen.append(item)
            return self.seen

        def read(self):
            return self.seen

    return Log.remote()


def case_calls_of_one_caller_run_in_order(ray):
    log = _log(ray)
    for i in range(300):
        log.append.remote(i)
    return ray.get(log.read.remote()) == list(range(300))


def case_a_waiting_argument_holds_back_later_calls(ray):
    @ray.remote
    def slow():
        time.sleep(0.4)
        return "first"

    log = _log(ray)
    log.append.remote(slow.remote())
    return ray.get(log.append.remote("second"))


def case_method_with_two_results(ray):
    @ray.remote
    class A:
        @ray.method(num_returns=2)
        def pair(self):
            return 1, 2

        def plain(self):
            return 3, 4

    a = A.remote()
    first, second = a.pair.remote()
    return [ray.get([second, first]), ray.get(a.plain.options(num_returns=2).remote()), ray.get(a.plain.remote())]


def case_method_without_result(ray):
    @ray.remote
    class A:
        @ray.method(num_returns=0)
        def nothing(self):
            return None

    return A.remote().nothing.remote()


def case_inheritance_static_and_class_methods(ray):
    class Base:
        kind = "base"

        def __init__(self, x):
            self.x = x

        def who(self):
            return "base"

        @classmethod
        def named(cls):
            return cls.kind

        @staticmethod
        def double(x):
            return 2 * x

    @ray.remote
    class Child(Base):
        kind = "child"

        def __init__(self, x):
            super().__init__(x + 1)

        def who(self):
            return [super().who(), self.x]

    child = Child.remote(1)
    return ray.get([child.who.remote(), child.named.remote(), child.double.remote(4)])


def case_inherited_method_decorator(ray):
    class Base:
        @ray.method(num_returns=2)
        def pair(self):
            return 1, 2

    @ray.remote
    class Child(Base):
        pass

    return ray.get(Child.remote().pair.remote())


def case_private_and_special_methods(ray):
    @ray.remote
    class A:
        def _private(self):
            return "private"

        def __len__(self):
            return 7

        def __call__(self, x):
            return x + 1

    a = A.remote()
    return ray.get([a._private.remote(), a.__len__.remote(), a.__call__.remote(1)])


def case_ready_and_call(ray):
    counter = _counter(ray).remote(5)
    return [
        ray.get(counter.__ray_ready__.remote()),
        ray.get(counter.__ray_call__.remote(lambda self, n: self.value + n, 2)),
    ]


def case_no_init(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    return ray.get(A.remote().f.remote())


def case_refs_as_constructor_and_method_arguments(ray):
    counter = _counter(ray).remote(ray.put(5), step=ray.put(2))
    return ray.get([counter.add.remote(ray.put(1)), counter.add.remote(n=ray.put(2))])


def case_result_of_one_actor_to_another(ray):
    Counter = _counter(ray)
    a, b = Counter.remote(), Counter.remote()
    return ray.get(b.add.remote(a.add.remote(4)))


def case_handle_as_an_argument(ray):
    @ray.remote
    def use(counter, boxed):
        return ray.get([counter.add.remote(), boxed["c"][0].add.remote()])

    counter = _counter(ray).remote()
    return [ray.get(use.remote(counter, {"c": [counter]})), ray.get(counter.add.remote())]


def case_handle_through_put(ray):
    counter = _counter(ray).remote()
    again = ray.get(ray.put([counter]))[0]
    return [ray.get(again.add.remote()), ray.get(counter.add.remote()), again == counter, hash(again) == hash(counter)]


def case_handle_keeps_the_actor_alive(ray):
    @ray.remote
    class Holder:
        def __init__(self, box):
            self.box = box

        def use(self):
            return ray.get(self.box[0].add.remote())

    holder = Holder.remote([_counter(ray).remote()])
    return ray.get([holder.use.remote(), holder.use.remote()])


def case_actor_creates_an_actor_and_returns_its_handle(ray):
    Counter = _counter(ray)

    @ray.remote
    class Factory:
        def make(self):
            return Counter.remote(7)

    factory = Factory.remote()  # it owns the other one, which ends with it
    counter = ray.get(factory.make.remote())
    total = ray.get(counter.add.remote())
    del factory
    return total


def case_current_actor_gives_a_handle_to_itself(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.n = 0

        def me(self):
            return ray.get_runtime_context().current_actor

        def touch(self):
            self.n += 1
            return self.n

    a = A.remote()
    me = ray.get(a.me.remote())
    return [ray.get(me.touch.remote()), ray.get(a.touch.remote()), me == a]


def case_actor_ends_with_its_last_handle(ray):
    counter = _counter(ray).remote()
    pid = ray.get(counter.pid.remote())
    del counter
    return until(lambda: process_is_gone(pid))


def case_calls_in_flight_survive_the_last_handle(ray):
    @ray.remote
    class A:
        def slow(self):
            time.sleep(0.3)
            return "done"

    return ray.get(A.remote().slow.remote())


def case_exit_actor(ray):
    @ray.remote
    class A:
        def leave(self):
            ray.actor.exit_actor()

        def pid(self):
            return os.getpid()

    a = A.remote()
    pid = ray.get(a.pid.remote())
    return [
        raised(ray, lambda: ray.get(a.leave.remote())),
        until(lambda: process_is_gone(pid)),
        raised(ray, lambda: ray.get(a.pid.remote())),
    ]


def case_terminate_lets_earlier_calls_finish(ray):
    counter = _counter(ray).remote()
    pid = ray.get(counter.pid.remote())
    ref = counter.add.remote()
    counter.__ray_terminate__.remote()
    return [ray.get(ref), until(lambda: process_is_gone(pid))]


def case_exception_leaves_the_actor_usable(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.n = 0

        def fail(self):
            self.n += 1
            raise KeyError("gone")

        def read(self):
            return self.n

    a = A.remote()
    return [raised(ray, lambda: ray.get(a.fail.remote()), "gone", "fail"), ray.get(a.read.remote())]


def case_exception_in_the_constructor(ray):
    @ray.remote
    class Broken:
        def __init__(self):
            raise ValueError("bad start")

        def f(self):
            pass

    a = Broken.remote()
    return [raised(ray, lambda: ray.get(a.f.remote()), "bad start", "ValueError", "__init__") for _ in range(2)]


def case_crash(ray):
    @ray.remote
    class A:
        def crash(self):
            os._exit(1)

        def f(self):
            return 1

    a = A.remote()
    return [raised(ray, lambda: ray.get(a.crash.remote())), raised(ray, lambda: ray.get(a.f.remote()))]


def case_crash_in_the_constructor(ray):
    @ray.remote
    class A:
        def __init__(self):
            os._exit(1)

        def f(self):
            return 1

    a = A.remote()
    return raised(ray, lambda: ray.get(a.f.remote()))


def case_pending_calls_fail_when_the_actor_dies(ray):
    @ray.remote
    class A:
        def slow(self):
            time.sleep(30)

        def f(self):
            return 1

    a = A.remote()
    ray.get(a.f.remote())
    refs = [a.slow.remote(), a.f.remote(), a.f.remote()]
    ray.kill(a)
    return [raised(ray, lambda ref=ref: ray.get(ref)) for ref in refs]


def case_direct_use(ray):
    Counter = _counter(ray)
    counter = Counter.remote()
    return [
        raised(ray, lambda: Counter(), "Counter", "cannot be instantiated directly", ".remote()"),
        raised(ray, lambda: counter.add(), "cannot be called directly", ".remote()"),
    ]


def case_unknown_method(ray):
    counter = _counter(ray).remote()
    return raised(ray, lambda: counter.no_such_method.remote(), "no_such_method")


def case_wrong_arguments(ray):
    Counter = _counter(ray)
    counter = Counter.remote()
    return [
        raised(ray, lambda: Counter.remote(1, 2, 3), "too many positional"),
        raised(ray, lambda: Counter.remote(wrong=1), "wrong"),
        raised(ray, lambda: counter.add.remote(1, 2), "too many positional"),
        raised(ray, lambda: counter.add.remote(wrong=1), "wrong"),
        ray.get(counter.add.remote()),
    ]


def case_unpicklable_argument_leaves_the_actor_usable(ray):
    import threading

    counter = _counter(ray).remote()
    return [raised(ray, lambda: counter.add.remote(threading.Lock()), "lock"), ray.get(counter.add.remote())]


def case_unpicklable_result_leaves_the_actor_usable(ray):
    @ray.remote
    class A:
        def bad(self):
            import threading

            return threading.Lock()

        def good(self):
            return 1

    a = A.remote()
    return [raised(ray, lambda: ray.get(a.bad.remote()), "lock"), ray.get(a.good.remote())]


def case_representation_and_type(ray):
    counter = _counter(ray).remote()
    text = repr(counter)
    return [text.startswith("Actor("), "Counter" in text, counter._actor_id.hex() in text, type(counter).__name__]


def case_repr_of_the_instance_in_tracebacks(ray):
    @ray.remote
    class Named:
        def __repr__(self):
            return "TheNamedOne"

        def fail(self):
            raise ValueError("x")

    a = Named.remote()
    return raised(ray, lambda: ray.get(a.fail.remote()), "Named.fail", "TheNamedOne")


def case_calls_from_two_callers_are_each_in_order(ray):
    @ray.remote
    def write(log, who):
        ray.get([log.append.remote([who, i]) for i in range(50)])

    log = _log(ray)
    ray.get([write.remote(log, "a"), write.remote(log, "b")])
    seen = ray.get(log.read.remote())
    return [[i for who, i in seen if who == caller] == list(range(50)) for caller in "ab"]


@full
def case_many_actors(ray):
    Counter = _counter(ray, num_cpus=0)
    counters = [Counter.remote(i) for i in range(12)]
    return ray.get([counter.add.remote() for counter in counters])


def case_results_outlive_an_actor_that_is_dropped(ray):
    @ray.remote
    class A:
        def make(self):
            return [os.getpid(), np.full(1 << 17, 7)]

    a = A.remote()
    large = a.make.remote()
    pid = ray.get(ray.remote(lambda result: result[0]).remote(large))
    del a
    gone = bool(until(lambda: process_is_gone(pid)))
    return [gone, int(ray.get(large)[1].sum())]
