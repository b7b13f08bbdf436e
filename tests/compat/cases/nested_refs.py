"""References inside values: not resolved, kept alive, usable by whoever receives them."""

import gc
import time

import numpy as np
from outcome import raised, raised_at_last


def case_a_ref_in_a_container_is_not_resolved(ray):
    @ray.remote
    def look(plain, boxed, mapping, *, key, boxed_key):
        kinds = [type(x).__name__ for x in (plain, boxed[0], mapping["r"], key, boxed_key[0])]
        return [kinds, ray.get([boxed[0], mapping["r"], boxed_key[0]])]

    ref = ray.put(7)
    return ray.get(look.remote(ref, [ref], {"r": ref}, key=ref, boxed_key=(ref,)))


def case_refs_in_objects_and_closures(ray):
    class Box:
        def __init__(self, ref):
            self.ref = ref

    ref = ray.put("content")

    @ray.remote
    def open_box(box):
        return [ray.get(box.ref), ray.get(ref)]

    return ray.get(open_box.remote(Box(ref)))


def case_task_returns_a_ref(ray):
    @ray.remote
    def inner():
        return "deep"

    @ray.remote
    def outer():
        return inner.remote()

    ref = ray.get(outer.remote())
    return [type(ref).__name__, ray.get(ref)]


def case_task_returns_refs_of_put(ray):
    @ray.remote
    def make():
        return [ray.put(i) for i in range(3)]

    return ray.get(ray.get(make.remote()))


def case_a_ref_to_a_ref_resolves_one_level(ray):
    @ray.remote
    def inner():
        return 1

    @ray.remote
    def outer():
        return inner.remote()

    @ray.remote
    def kind(x):
        return type(x).__name__

    return ray.get(kind.remote(outer.remote()))


def case_refs_through_put(ray):
    inner = [ray.put(i) for i in range(3)]
    outer = ray.put({"inner": inner})
    return ray.get(ray.get(outer)["inner"])


def case_deep_nesting(ray):
    ref = ray.put("bottom")
    for _ in range(5):
        ref = ray.put([ref])
    for _ in range(5):
        (ref,) = ray.get(ref)
    return ray.get(ref)


def case_inner_object_lives_as_long_as_the_outer(ray):
    outer = ray.put([ray.put(np.full(200000, 3))])
    gc.collect()
    return int(ray.get(ray.get(outer)[0]).sum())


def case_borrower_keeps_the_object(ray):
    @ray.remote
    class Keeper:
        def keep(self, box):
            self.ref = box[0]

        def read(self):
            return float(ray.get(self.ref).sum())

    keeper = Keeper.remote()
    ref = ray.put(np.ones(300000))
    ray.get(keeper.keep.remote([ref]))
    del ref
    gc.collect()
    return ray.get(keeper.read.remote())


def case_borrower_gives_the_ref_on(ray):
    @ray.remote
    class Keeper:
        def keep(self, box):
            self.box = box

        def give(self):
            return self.box

    @ray.remote
    def read(box):
        return ray.get(box[0])

    a, b = Keeper.remote(), Keeper.remote()
    ray.get(a.keep.remote([ray.put("travelled")]))
    ray.get(b.keep.remote(ray.get(a.give.remote())))
    del a
    return ray.get(read.remote(ray.get(b.give.remote())))


def case_ref_of_an_unfinished_task(ray):
    @ray.remote
    def slow():
        time.sleep(0.4)
        return "ready"

    @ray.remote
    def read(box):
        return ray.get(box[0])

    return ray.get(read.remote([slow.remote()]))


def case_ref_of_a_failing_task(ray):
    @ray.remote
    def fail():
        raise ValueError("inner failed")

    @ray.remote
    def read(box):
        try:
            ray.get(box[0])
        except ValueError as error:
            return "inner failed" in str(error)

    return ray.get(read.remote([fail.remote()]))


def case_actor_made_object_through_the_driver(ray):
    @ray.remote
    class Maker:
        def make(self):
            self.ref = ray.put(np.arange(200000))
            return [self.ref]

    @ray.remote
    class Reader:
        def read(self, box):
            return int(ray.get(box[0])[-1])

    maker, reader = Maker.remote(), Reader.remote()
    return ray.get(reader.read.remote(ray.get(maker.make.remote())))


def case_owner_dies(ray):
    @ray.remote
    class Owner:
        def make(self):
            return [ray.put(np.ones(1 << 20))]

    owner = Owner.remote()
    (ref,) = ray.get(owner.make.remote())
    ray.kill(owner)
    raised_at_last(ray, lambda: ray.get(owner.make.remote()))
    time.sleep(1)
    return raised(ray, lambda: ray.get(ref, timeout=20))


def case_wait_in_a_task(ray):
    @ray.remote
    def one():
        return 1

    @ray.remote
    def look(refs):
        ready, rest = ray.wait(refs, num_returns=2, timeout=20)
        return [len(ready), len(rest), ray.get(ready)]

    return ray.get(look.remote([one.remote(), one.remote()]))


def case_nested_actor_results(ray):
    @ray.remote
    class A:
        def start(self, other):
            return other.work.remote()

        def work(self):
            return "worked"

    a, b = A.remote(), A.remote()
    return ray.get(ray.get(a.start.remote(b)))
