"""What becomes of a placement group that is removed, and of what ran in it."""

import contextlib
import importlib
import os
import tempfile
import time

from outcome import raised, raised_at_last, until


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


def _sleep(ray):
    @ray.remote
    def sleep(path=None):
        if path:
            open(path, "w").close()
        time.sleep(100)

    return sleep


def _settles_at(ray, name, amount):
    return until(lambda: ray.available_resources().get(name, 0) == amount)


def case_removed_twice(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        pass
    return [ray.util.remove_placement_group(group), raised(ray, lambda: ray.util.remove_placement_group(None))]


def case_ready_of_a_removed_one(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        pass
    return raised(ray, lambda: ray.get(group.ready(), timeout=30), "removed")


def case_ready_of_one_that_is_removed_while_it_waits(ray):
    with _group(ray, [{"CPU": 99}], ready=False) as group:
        ref = group.ready()
        early, _ = ray.wait([ref], timeout=0.2)
    return [len(early), raised(ray, lambda: ray.get(ref, timeout=30), "removed")]


def case_wait_for_a_removed_one(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        pass
    return raised(ray, lambda: group.wait(5), "does not exist")


def case_actor_of_a_removed_group(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        a = _actor(ray).options(num_cpus=1, scheduling_strategy=_inside(ray, group)).remote()
        ray.get(a.pid.remote(), timeout=30)
        running = a.sleep.remote()
        time.sleep(0.2)
    return [
        raised(ray, lambda: ray.get(running, timeout=30), "placement group was removed"),
        raised_at_last(ray, lambda: ray.get(a.pid.remote(), timeout=30), "placement group was removed"),
    ]


def case_task_of_a_removed_group(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        inside = _inside(ray, group)
        with tempfile.TemporaryDirectory() as folder:
            began = os.path.join(folder, "began")
            ref = _sleep(ray).options(max_retries=0, scheduling_strategy=inside).remote(began)
            until(lambda: os.path.exists(began))
            ray.util.remove_placement_group(group)
            return raised(ray, lambda: ray.get(ref, timeout=30))


def case_tasks_that_wait_in_a_removed_group(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        inside = _inside(ray, group)
        first = _sleep(ray).options(max_retries=0, scheduling_strategy=inside).remote()
        second = _sleep(ray).options(max_retries=0, scheduling_strategy=inside).remote()
        ray.wait([first, second], timeout=1)
    return [
        raised(ray, lambda: ray.get(first, timeout=30)),
        raised(ray, lambda: ray.get(second, timeout=30), "removed"),
    ]


def case_what_a_removed_group_held_is_free(ray):
    with _group(ray, [{"CPU": 2, "GPU": 1}]) as group:
        a = _actor(ray).options(num_cpus=1, num_gpus=1, scheduling_strategy=_inside(ray, group)).remote()
        ray.get(a.pid.remote(), timeout=30)
    return [_settles_at(ray, "CPU", 4), _settles_at(ray, "GPU", 2)]


def case_name_of_a_removed_one(ray):
    with _group(ray, [{"CPU": 1}], name="again") as group:
        pass
    gone = raised_at_last(ray, lambda: ray.util.get_placement_group("again"), "again")
    with _group(ray, [{"CPU": 1}], name="again") as second:
        return [gone, ray.util.get_placement_group("again") == second, second == group]


def case_table_of_a_removed_one(ray):
    with _group(ray, [{"CPU": 1}], name="gone") as group:
        pass
    table = ray.util.placement_group_table(group)
    return [table["state"], table["name"], table["stats"]["scheduling_state"]]
