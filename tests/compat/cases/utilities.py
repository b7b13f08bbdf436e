"""Small names of `ray.util`, and the methods that every actor has."""

import functools
import importlib
import io
import os
import threading
import time

from outcome import process_is_gone, raised, until


class Locked:
    """Cannot be pickled, but for what is registered for it."""

    def __init__(self, value):
        self.value, self.lock = value, threading.Lock()


def case_inspect_what_can_be_pickled(ray):
    said = io.StringIO()
    ok, found = ray.util.inspect_serializability({"a": [1, lambda: 2]}, name="fine", print_file=said)
    return [ok, len(found), said.getvalue() != ""]


def case_inspect_a_closure(ray):
    lock, number = threading.Lock(), 5

    def uses_both():
        return lock, number

    ok, found = ray.util.inspect_serializability(uses_both, name="uses_both", print_file=io.StringIO())
    (failure,) = found
    return [ok, failure.obj is lock, list(failure.path), failure.parent is uses_both]


def case_inspect_an_attribute(ray):
    class Holder:
        def __init__(self):
            self.lock = threading.Lock()

    ok, found = ray.util.inspect_serializability(Holder(), name="holder", print_file=io.StringIO())
    return [ok, len(found)]


def case_inspect_the_value_itself(ray):
    lock = threading.Lock()
    ok, found = ray.util.inspect_serializability(lock, name="the_lock", print_file=io.StringIO())
    (failure,) = found
    return [ok, failure.obj is lock, list(failure.path), failure.parent is lock or failure.parent is None]


def case_inspect_tells_its_failures_apart(ray):
    lock = threading.Lock()

    def inner():
        return lock

    def outer():
        return inner

    ok, found = ray.util.inspect_serializability(outer, name="outer", print_file=io.StringIO())
    (failure,) = found
    return [ok, failure.obj is lock, list(failure.path), "lock" in repr(failure), "inner" in repr(failure)]


def case_a_registered_serializer(ray):
    ray.util.register_serializer(Locked, serializer=lambda x: x.value, deserializer=Locked)
    try:
        value = Locked("kept")
        stored = ray.get(ray.put(value)).value
        passed = ray.get(ray.remote(lambda x: [x.value, type(x).__name__]).remote(value))
        nested = ray.get(ray.remote(lambda x: x["a"][0].value).remote({"a": [value]}))
        captured = ray.get(ray.remote(lambda: value.value).remote())
    finally:
        ray.util.deregister_serializer(Locked)
    return [stored, passed, nested, captured, raised(ray, lambda: ray.put(value))]


def case_an_unregistered_serializer(ray):
    ray.util.deregister_serializer(Locked)
    return raised(ray, lambda: ray.put(Locked(1)))


def case_a_serializer_in_the_worker(ray):
    @ray.remote
    def make():
        ray.util.register_serializer(Locked, serializer=lambda x: x.value + 1, deserializer=Locked)
        return Locked(1)

    return ray.get(make.remote()).value


def case_as_completed(ray):
    @ray.remote
    def f(x):
        time.sleep(x)
        return x

    ray.get([f.remote(0) for _ in range(3)])
    refs = [f.remote(x) for x in (1.5, 0.01)]
    return [
        list(ray.util.as_completed(refs, chunk_size=1)),
        sorted(ray.util.as_completed([f.remote(0) for _ in range(25)])) == [0] * 25,
        list(ray.util.as_completed([])),
        sorted(ray.get(list(ray.util.as_completed(refs, yield_obj_refs=True)))),
    ]


def case_as_completed_of_an_error(ray):
    @ray.remote
    def fail():
        raise ValueError("not completed")

    return [
        raised(ray, lambda: list(ray.util.as_completed([fail.remote()])), "not completed"),
        raised(ray, lambda: list(ray.util.as_completed([fail.remote()], chunk_size=0)), "chunk_size"),
        raised(ray, lambda: list(ray.util.as_completed([fail.remote()], num_returns=1)), "num_returns"),
    ]


def case_map_unordered(ray):
    @ray.remote
    def f(x):
        return 2 * x

    @ray.remote
    class A:
        def g(self, x):
            return 3 * x

    a = A.remote()
    return [
        sorted(ray.util.map_unordered(f, range(20), backpressure_size=4, chunk_size=2)),
        sorted(ray.util.map_unordered(f, [], backpressure_size=None)),
        sorted(ray.util.map_unordered(a.g, range(3), backpressure_size=None)),
        raised(ray, lambda: list(ray.util.map_unordered(f, [1], backpressure_size=0)), "backpressure_size"),
        raised(ray, lambda: list(ray.util.map_unordered(f, [1], chunk_size=0)), "chunk_size"),
    ]


def case_map_unordered_is_lazy(ray):
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = ray.util.map_unordered(ray.remote(lambda x: x), items(), backpressure_size=5, chunk_size=1)
    first = next(results)
    return [first in range(5), len(taken) <= 5]


def case_log_once(ray):
    debug = importlib.import_module(f"{ray.__name__}.util.debug")
    firsts = [ray.util.log_once("compat key"), ray.util.log_once("compat key"), ray.util.log_once("compat other")]
    debug.reset_log_once("compat key")
    again = [ray.util.log_once("compat key"), ray.util.log_once("compat other")]
    debug.reset_log_once()
    return [firsts, again, ray.util.log_once("compat other")]


def case_log_once_is_of_the_process(ray):
    ray.util.log_once("compat process")
    return ray.get(ray.remote(lambda: ray.util.log_once("compat process")).remote())


def case_about_the_node(ray):
    here = ray.util.get_node_ip_address()
    there = ray.get(ray.remote(lambda: ray.util.get_node_ip_address()).remote())
    return [here == there == ray.nodes()[0]["NodeManagerAddress"], ray.util.get_node_instance_id()]


def case_names_of_accelerators(ray):
    names = ("NVIDIA_A100", "NVIDIA_H100", "NVIDIA_TESLA_T4", "AMD_INSTINCT_MI300x", "GOOGLE_TPU_V4", "NVIDIA_L4")
    return {name: getattr(ray.util.accelerators, name) for name in names}


def case_call_in_an_actor(ray):
    @ray.remote
    class A:
        def __init__(self):
            self.n = 3

    a = A.remote()
    return [
        ray.get(a.__ray_call__.remote(lambda self, x, y=0: [self.n, x, y], 1, y=2)),
        ray.get(a.__ray_call__.options(num_returns=2).remote(lambda self: (1, 2))),
        raised(ray, lambda: ray.get(a.__ray_call__.remote(lambda self: self.missing)), "missing"),
        raised(ray, lambda: a.__ray_call__.remote()),
        raised(ray, lambda: a.__ray_call__(abs), "__ray_call__.remote"),
    ]


def case_call_sets_state(ray):
    @ray.remote
    class A:
        def read(self):
            return self.added

    a = A.remote()
    a.__ray_call__.remote(lambda self: setattr(self, "added", "set from outside"))
    return ray.get(a.read.remote())


def case_standard_methods_of_an_async_actor(ray):
    @ray.remote
    class A:
        async def f(self):
            return os.getpid()

    a = A.remote()
    ready = ray.get(a.__ray_ready__.remote())
    called = ray.get(a.__ray_call__.remote(lambda self: type(self).__name__))
    pid = ray.get(a.f.remote())
    a.__ray_terminate__.remote()
    return [ready, called, until(lambda: process_is_gone(pid))]


def case_ready_waits_for_the_constructor(ray):
    @ray.remote
    class Slow:
        def __init__(self):
            time.sleep(0.5)

    @ray.remote
    class Broken:
        def __init__(self):
            raise ValueError("never ready")

    slow = Slow.remote()
    ref = slow.__ray_ready__.remote()
    early = ray.wait([ref], timeout=0.05)[0]
    return [early, ray.get(ref), raised(ray, lambda: ray.get(Broken.remote().__ray_ready__.remote()), "never ready")]


def case_a_terminated_actor_is_not_restarted(ray):
    @ray.remote(max_restarts=3)
    class A:
        def pid(self):
            return os.getpid()

    a = A.remote()
    pid = ray.get(a.pid.remote())
    ended = raised(ray, lambda: ray.get(a.__ray_terminate__.remote(), timeout=30))
    gone = until(lambda: process_is_gone(pid))
    return [ended, gone, raised(ray, lambda: ray.get(a.pid.remote(), timeout=30))]


def case_exit_of_an_async_actor(ray):
    @ray.remote(max_restarts=3)
    class A:
        async def leave(self):
            ray.actor.exit_actor()

        async def pid(self):
            return os.getpid()

    a = A.remote()
    pid = ray.get(a.pid.remote())
    left = raised(ray, lambda: ray.get(a.leave.remote(), timeout=30))
    return [left, until(lambda: process_is_gone(pid)), raised(ray, lambda: ray.get(a.pid.remote(), timeout=30))]


def case_exit_deep_in_a_call(ray):
    @ray.remote
    class A:
        def leave(self):
            try:
                self.helper()
            except Exception:
                return "caught"

        def helper(self):
            ray.actor.exit_actor()

    return raised(ray, lambda: ray.get(A.remote().leave.remote(), timeout=30))


def case_exit_outside_of_an_actor(ray):
    return [
        raised(ray, ray.actor.exit_actor, "exit_actor", "actor"),
        raised(ray, lambda: ray.get(ray.remote(ray.actor.exit_actor).remote()), "exit_actor"),
    ]


def case_exit_lets_earlier_results_out(ray):
    @ray.remote
    class A:
        def one(self):
            return 1

        def leave(self):
            ray.actor.exit_actor()

    a = A.remote()
    refs = [a.one.remote() for _ in range(20)]
    a.leave.remote()
    return ray.get(refs) == [1] * 20


def case_partials_in_an_actor(ray):
    @ray.remote
    class A:
        pass

    return ray.get(A.remote().__ray_call__.remote(functools.partial(lambda y, self: y, 7)))
