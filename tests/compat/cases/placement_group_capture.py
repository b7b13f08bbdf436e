"""What is called from a task or actor in a placement group: captured by it, or not."""

import contextlib
import importlib
import os
import time

from outcome import raised


def _module(ray, name):
    return importlib.import_module(f"{ray.__name__}.util.{name}")


@contextlib.contextmanager
def _group(ray, bundles, ready=True, **options):
    group = ray.util.placement_group(bundles, **options)
    try:
        if ready:
            assert group.wait(30)
        yield group
    finally:
        ray.util.remove_placement_group(group)


def _inside(ray, group, *arguments, **options):
    return _module(ray, "scheduling_strategies").PlacementGroupSchedulingStrategy(group, *arguments, **options)


def _here(ray):
    """What a task says of where it is."""

    @ray.remote
    def here():
        current = ray.util.get_current_placement_group()
        return [
            ray.get_runtime_context().get_placement_group_id(),
            current.id.hex() if current else None,
        ]

    return here


def _actor(ray):
    @ray.remote
    class A:
        def pid(self):
            return os.getpid()

        def group(self):
            return ray.get_runtime_context().get_placement_group_id()

        def sleep(self):
            time.sleep(100)

    return A


def case_children_are_not_captured_by_default(ray):
    here = _here(ray)

    @ray.remote(num_cpus=0)
    def parent():
        return ray.get(here.options(num_cpus=0).remote())

    with _group(ray, [{"CPU": 1}]) as group:
        return ray.get(parent.options(scheduling_strategy=_inside(ray, group)).remote(), timeout=30)


def case_children_are_captured(ray):
    here, actor = _here(ray), _actor(ray)

    @ray.remote
    def parent():
        child = actor.options(num_cpus=1).remote()
        return [ray.get(here.remote())[0], ray.get(child.group.remote())]

    with _group(ray, [{"CPU": 3}]) as group:
        inside = _inside(ray, group, placement_group_capture_child_tasks=True)
        captured = ray.get(parent.options(scheduling_strategy=inside).remote(), timeout=30)
        return [name == group.id.hex() for name in captured]


def case_grandchildren_are_captured(ray):
    here = _here(ray)

    @ray.remote(num_cpus=0)
    def child():
        return ray.get(here.options(num_cpus=0).remote())

    @ray.remote(num_cpus=0)
    def parent():
        return ray.get(child.remote())

    with _group(ray, [{"CPU": 1}]) as group:
        inside = _inside(ray, group, placement_group_capture_child_tasks=True)
        return ray.get(parent.options(scheduling_strategy=inside).remote(), timeout=30)[0] == group.id.hex()


def case_capture_by_an_actor(ray):
    here = _here(ray)

    @ray.remote(num_cpus=0)
    class Parent:
        def captured(self):
            return ray.get(here.options(num_cpus=0).remote())[0]

    with _group(ray, [{"CPU": 1}]) as group:
        inside = _inside(ray, group, placement_group_capture_child_tasks=True)
        parent = Parent.options(scheduling_strategy=inside).remote()
        return [ray.get(parent.captured.remote(), timeout=30) == group.id.hex() for _ in range(2)]


def case_who_says_otherwise_is_not_captured(ray):
    here = _here(ray)
    strategies = _module(ray, "scheduling_strategies")

    @ray.remote(num_cpus=0)
    def parent():
        outside = strategies.PlacementGroupSchedulingStrategy(None)
        return [
            ray.get(here.options(num_cpus=0, scheduling_strategy=strategy).remote())[0]
            for strategy in ("DEFAULT", "SPREAD", outside)
        ]

    with _group(ray, [{"CPU": 1}]) as group:
        inside = _inside(ray, group, placement_group_capture_child_tasks=True)
        return ray.get(parent.options(scheduling_strategy=inside).remote(), timeout=30)


def case_a_worker_forgets_what_captured_it(ray):
    here = _here(ray)

    @ray.remote(num_cpus=0)
    def parent():
        return ray.get(here.options(num_cpus=0).remote())[0]

    seen = []
    with _group(ray, [{"CPU": 1}]) as group:
        for capture in (True, False, True):
            inside = _inside(ray, group, placement_group_capture_child_tasks=capture)
            captured = ray.get(parent.options(scheduling_strategy=inside).remote(), timeout=30)
            seen.append(captured == group.id.hex())
    return [*seen, ray.get(parent.remote(), timeout=30)]


def case_a_captured_child_that_does_not_fit(ray):
    here = _here(ray)

    @ray.remote
    def parent():
        return ray.get(here.options(num_cpus=2).remote())

    with _group(ray, [{"CPU": 1}]) as group:
        inside = _inside(ray, group, placement_group_capture_child_tasks=True)
        ref = parent.options(scheduling_strategy=inside).remote()
        return raised(ray, lambda: ray.get(ref, timeout=30), "cannot fit into any bundles")
