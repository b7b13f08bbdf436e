"""Actors with names, namespaces and lifetimes of their own."""

from outcome import full, process_is_gone, raised, until


def _counter(ray):
    @ray.remote
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

        def pid(self):
            import os

            return os.getpid()

    return Counter


def case_get_actor(ray):
    counter = _counter(ray).options(name="by_name").remote()
    found = ray.get_actor("by_name")
    return [ray.get(counter.add.remote()), ray.get(found.add.remote()), found == counter]


def case_get_actor_from_a_task_and_an_actor(ray):
    @ray.remote
    def use():
        return ray.get(ray.get_actor("from_afar").add.remote())

    @ray.remote
    class User:
        def use(self):
            return ray.get(ray.get_actor("from_afar").add.remote())

    counter = _counter(ray).options(name="from_afar").remote()
    return [ray.get(use.remote()), ray.get(User.remote().use.remote()), ray.get(counter.add.remote())]


def case_unknown_name(ray):
    return [
        raised(ray, lambda: ray.get_actor("nobody_here"), "nobody_here"),
        raised(ray, lambda: ray.get_actor("")),
    ]


def case_name_of_a_wrong_type(ray):
    Counter = _counter(ray)
    return [
        raised(ray, lambda: Counter.options(name=5).remote()),
        raised(ray, lambda: Counter.options(name="").remote(), "name"),
        raised(ray, lambda: ray.get_actor(None)),
    ]


def case_name_taken(ray):
    Counter = _counter(ray)
    first = Counter.options(name="taken").remote()
    again = raised(ray, lambda: Counter.options(name="taken").remote(), "taken")
    return [again, ray.get(first.add.remote())]


def case_get_if_exists(ray):
    Counter = _counter(ray).options(name="shared_one", get_if_exists=True)
    first, second = Counter.remote(), Counter.remote()
    return [first == second, ray.get([first.add.remote(), second.add.remote()])]


def case_get_if_exists_of_a_class_that_has_its_name(ray):
    @ray.remote(name="its_own", num_cpus=0)
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

    Shared = Counter.options(get_if_exists=True)
    first, second = Shared.remote(), Shared.remote()
    return [first == second, ray.get([first.add.remote(), second.add.remote()])]


def case_get_if_exists_needs_a_name(ray):
    return raised(ray, lambda: _counter(ray).options(get_if_exists=True).remote(), "get_if_exists", "name")


def case_name_is_free_after_kill(ray):
    Counter = _counter(ray)
    first = Counter.options(name="recycled").remote()
    pid = ray.get(first.pid.remote())
    ray.kill(first)
    gone = until(lambda: raised(ray, lambda: ray.get_actor("recycled")) != "returned")
    second = Counter.options(name="recycled").remote()
    return [gone, ray.get(second.add.remote()), ray.get(second.pid.remote()) != pid]


def case_name_is_free_after_the_last_handle(ray):
    first = _counter(ray).options(name="fleeting").remote()
    ray.get(first.add.remote())
    del first
    return until(lambda: raised(ray, lambda: ray.get_actor("fleeting"), "fleeting") != "returned")


def case_a_found_handle_is_weak(ray):
    first = _counter(ray).options(name="weak").remote()
    pid = ray.get(first.pid.remote())
    found = ray.get_actor("weak")
    del first
    gone = until(lambda: process_is_gone(pid))
    return [gone, raised(ray, lambda: ray.get(found.add.remote()))]


def case_namespaces(ray):
    Counter = _counter(ray)
    here = Counter.options(name="same").remote()
    there = Counter.options(name="same", namespace="elsewhere").remote()
    ray.get(here.add.remote())
    return [
        ray.get_actor("same") == here,
        ray.get_actor("same", namespace="elsewhere") == there,
        ray.get_actor("same", namespace="compat") == here,
        raised(ray, lambda: ray.get_actor("same", namespace="third"), "same"),
        ray.get(there.add.remote()),
    ]


def case_detached_outlives_its_handle(ray):
    counter = _counter(ray).options(name="detached_one", lifetime="detached").remote()
    pid = ray.get(counter.pid.remote())
    del counter
    found = ray.get_actor("detached_one")
    same = ray.get(found.pid.remote()) == pid
    ray.kill(found)
    return [same, until(lambda: process_is_gone(pid))]


def case_detached_outlives_its_creator(ray):
    Counter = _counter(ray)

    @ray.remote
    class Creator:
        def create(self):
            ray.get(Counter.options(name="orphan", lifetime="detached").remote().add.remote())

    creator = Creator.remote()
    ray.get(creator.create.remote())
    ray.kill(creator)
    orphan = ray.get_actor("orphan")
    n = ray.get(orphan.add.remote())
    ray.kill(orphan)
    return n


def case_actor_ends_with_its_creator(ray):
    Counter = _counter(ray)

    @ray.remote
    class Creator:
        def create(self):
            self.child = Counter.remote()
            return ray.get(self.child.pid.remote())

    creator = Creator.remote()
    pid = ray.get(creator.create.remote())
    ray.kill(creator)
    return until(lambda: process_is_gone(pid))


def case_methods_decorated_survive_get_actor(ray):
    @ray.remote
    class A:
        @ray.method(num_returns=2)
        def pair(self):
            return 1, 2

    a = A.options(name="decorated").remote()
    found = ray.get_actor("decorated")
    return [ray.get(found.pair.remote()), found == a]


@full
def case_list_named_actors(ray):
    counter = _counter(ray).options(name="listed").remote()
    ray.get(counter.add.remote())
    return "listed" in ray.util.list_named_actors()
