"""Placement groups on one node: made, used, looked up, waited for, refused."""

import contextlib
import importlib
import os
import time

from outcome import full, raised, until


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


def _settles_at(ray, name, amount):
    return until(lambda: ray.available_resources().get(name, 0) == amount)


def _use_group(ray):
    here, module = _here(ray), ray.__name__

    @ray.remote(num_cpus=0)
    def use(group):
        strategies = importlib.import_module(f"{module}.util.scheduling_strategies")
        inside = strategies.PlacementGroupSchedulingStrategy(group)
        name = ray.get(here.options(scheduling_strategy=inside).remote())[0]
        return [group.bundle_specs, group.wait(10), ray.get(group.ready()) == group, name == group.id.hex()]

    return use


def case_ready_gives_the_group(ray):
    with _group(ray, [{"CPU": 1}], ready=False) as group:
        return ray.get(group.ready(), timeout=30) == group


def case_wait_says_whether(ray):
    with _group(ray, [{"CPU": 1}], ready=False) as group, _group(ray, [{"CPU": 50}], ready=False) as big:
        return [group.wait(30), group.wait(timeout_seconds=30), big.wait(0.2)]


def case_each_strategy(ray):
    outcomes = {}
    for strategy in ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"):
        with _group(ray, [{"CPU": 1}], strategy=strategy) as group:
            table = ray.util.placement_group_table(group)
            outcomes[strategy] = [table["strategy"], table["state"]]
    return outcomes


def case_strict_spread_needs_nodes(ray):
    with _group(ray, [{"CPU": 1}, {"CPU": 1}], ready=False, strategy="STRICT_SPREAD") as group:
        waits = not group.wait(0.5)
        return [waits, ray.util.placement_group_table(group)["state"]]


def case_strict_pack_needs_one_node(ray):
    with _group(ray, [{"CPU": 2}, {"CPU": 2}], strategy="STRICT_PACK") as group:
        return len(set(ray.util.placement_group_table(group)["bundles_to_node_id"].values()))


def case_table_of_one(ray):
    with _group(ray, [{"CPU": 1}, {"CPU": 1, "GPU": 1}], name="table_of_one") as group:
        table = ray.util.placement_group_table(group)
        node = ray.get_runtime_context().get_node_id()
        return [
            table["placement_group_id"] == group.id.hex(),
            table["name"],
            sorted((index, sorted(bundle.items())) for index, bundle in table["bundles"].items()),
            [table["bundles_to_node_id"][index] == node for index in (0, 1)],
            table["strategy"],
            table["state"],
            table["stats"]["scheduling_state"],
        ]


def case_table_of_all(ray):
    with _group(ray, [{"CPU": 1}]) as a, _group(ray, [{"CPU": 99}], ready=False) as b:
        table = ray.util.placement_group_table()
        return [table[a.id.hex()]["state"], table[b.id.hex()]["state"], table[b.id.hex()]["bundles_to_node_id"]]


def case_table_of_a_pending_one(ray):
    with _group(ray, [{"CPU": 99}], ready=False) as group:
        group.wait(0.2)
        return until(lambda: ray.util.placement_group_table(group)["stats"]["scheduling_state"] == "INFEASIBLE")


def case_table_of_an_unknown_one(ray):
    return ray.util.placement_group_table(_module(ray, "placement_group").PlacementGroup.empty())


def case_bundle_specs(ray):
    with _group(ray, [{"CPU": 1}, {"CPU": 0.5, "slot": 1}]) as group:
        return [group.bundle_specs, group.bundle_count, group.is_empty, len(group.id.hex()), len(group.id.binary())]


def case_empty(ray):
    empty = _module(ray, "placement_group").PlacementGroup.empty()
    return [empty.is_empty, empty.id.hex(), empty.id.is_nil(), ray.get(empty.ready()) == empty]


def case_equality(ray):
    with _group(ray, [{"CPU": 1}], name="equal") as a, _group(ray, [{"CPU": 1}]) as b:
        again = ray.util.get_placement_group("equal")
        return [a == again, a == b, a != again, a == 1, len({a, again, b})]


def case_driver_is_in_none(ray):
    return [ray.util.get_current_placement_group(), ray.get_runtime_context().get_placement_group_id()]


def case_task_in_a_group(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        inside = ray.get(_here(ray).options(scheduling_strategy=_inside(ray, group)).remote(), timeout=30)
        outside = ray.get(_here(ray).remote(), timeout=30)
        return [[name == group.id.hex() for name in inside], outside]


def case_actor_in_a_group(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        a = _actor(ray).options(num_cpus=1, scheduling_strategy=_inside(ray, group)).remote()
        return ray.get(a.group.remote(), timeout=30) == group.id.hex()


def case_bundle_index(ray):
    with _group(ray, [{"GPU": 1}, {"GPU": 1}]) as group:

        @ray.remote(num_cpus=0, num_gpus=1)
        class A:
            def ids(self):
                return [str(i) for i in ray.get_gpu_ids()]

        actors = [A.options(scheduling_strategy=_inside(ray, group, index)).remote() for index in (1, 0)]
        ids = ray.get([a.ids.remote() for a in actors], timeout=30)
        third = A.options(scheduling_strategy=_inside(ray, group, 0)).remote()
        ready, _ = ray.wait([third.ids.remote()], timeout=0.3)
        return [sorted(sum(ids, [])), len(ready)]


def case_any_bundle(ray):
    with _group(ray, [{"CPU": 1}, {"CPU": 2}]) as group:

        @ray.remote(num_cpus=2)
        def two():
            return "two"

        return ray.get(two.options(scheduling_strategy=_inside(ray, group)).remote(), timeout=30)


def case_fractions_of_gpus_in_bundles(ray):
    with _group(ray, [{"GPU": 0.5}, {"GPU": 0.5}, {"GPU": 0.5}, {"GPU": 0.5}]) as group:

        @ray.remote(num_cpus=0, num_gpus=0.5)
        def ids():
            return [str(i) for i in ray.get_gpu_ids()]

        inside = [ids.options(scheduling_strategy=_inside(ray, group, i)).remote() for i in range(4)]
        return ray.get(inside, timeout=30)


def case_fractions_share_a_bundle(ray):
    with _group(ray, [{"GPU": 1}]) as group:

        @ray.remote(num_cpus=0, num_gpus=0.5)
        class A:
            def ids(self):
                return [str(i) for i in ray.get_gpu_ids()]

        actors = [A.options(scheduling_strategy=_inside(ray, group)).remote() for _ in range(2)]
        first, second = ray.get([a.ids.remote() for a in actors], timeout=30)
        return first == second


def case_assigned_resources(ray):
    @ray.remote(num_cpus=1)
    def assigned():
        return ray.get_runtime_context().get_assigned_resources()

    with _group(ray, [{"CPU": 2, "slot": 1}]) as group:
        inside = assigned.options(scheduling_strategy=_inside(ray, group), resources={"slot": 1})
        return ray.get(inside.remote(), timeout=30)


def case_a_group_holds_its_resources(ray):
    with _group(ray, [{"CPU": 1}, {"GPU": 1}]):
        held = [_settles_at(ray, "CPU", 3), _settles_at(ray, "GPU", 1)]
    return [held, _settles_at(ray, "CPU", 4), _settles_at(ray, "GPU", 2)]


def case_a_group_waits_for_resources(ray):
    with _group(ray, [{"CPU": 4}]) as first, _group(ray, [{"CPU": 4}], ready=False) as second:
        early = second.wait(0.3)
        ray.util.remove_placement_group(first)
        return [early, second.wait(30)]


def case_a_task_waits_for_its_group(ray):
    with _group(ray, [{"CPU": 4}]) as first, _group(ray, [{"CPU": 4}], ready=False) as second:
        ref = _here(ray).options(scheduling_strategy=_inside(ray, second)).remote()
        early, _ = ray.wait([ref], timeout=0.3)
        ray.util.remove_placement_group(first)
        return [len(early), ray.get(ref, timeout=30)[0] == second.id.hex()]


def case_tasks_outside_wait_beside_a_group(ray):
    with _group(ray, [{"CPU": 4}]):
        ref = ray.remote(lambda: 1).remote()
        early, _ = ray.wait([ref], timeout=0.3)
    return [len(early), ray.get(ref, timeout=30)]


def case_a_group_travels(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        return ray.get(_use_group(ray).remote(group), timeout=30)


def case_ready_travels(ray):
    @ray.remote(num_cpus=0)
    def ready(group):
        return group.bundle_count

    with _group(ray, [{"CPU": 1}], ready=False) as group:
        return ray.get(ready.remote(group.ready()), timeout=30)


def case_a_group_made_by_a_task(ray):
    @ray.remote(num_cpus=0)
    def make():
        group = ray.util.placement_group([{"CPU": 1}])
        ray.get(group.ready())
        return group

    group = ray.get(make.remote(), timeout=30)
    state = ray.util.placement_group_table(group)["state"]
    inside = ray.get(_here(ray).options(scheduling_strategy=_inside(ray, group)).remote(), timeout=30)
    ray.util.remove_placement_group(group)
    return [state, inside[0] == group.id.hex()]


def case_found_by_name(ray):
    with _group(ray, [{"CPU": 1}], name="found") as group:
        found = ray.util.get_placement_group("found")
        inside = ray.get(_here(ray).options(scheduling_strategy=_inside(ray, found)).remote(), timeout=30)
        return [found == group, found.bundle_specs, inside[0] == group.id.hex()]


def case_name_that_nobody_has(ray):
    return [
        raised(ray, lambda: ray.util.get_placement_group("nobody"), "nobody"),
        raised(ray, lambda: ray.util.get_placement_group("")),
    ]


def case_name_that_is_taken(ray):
    with _group(ray, [{"CPU": 1}], name="taken"):
        return raised(ray, lambda: ray.util.placement_group([{"CPU": 1}], name="taken"), "taken", "exists")


@full
def case_detached(ray):
    with _group(ray, [{"CPU": 1}], lifetime="detached", name="kept") as group:
        return [ray.util.get_placement_group("kept") == group, ray.util.placement_group_table(group)["state"]]


def case_bad_bundles(ray):
    bad = ([], {}, [{}], [{"CPU": 0}], [1], [{"CPU": "1"}], [{1: 1}], None)
    return [raised(ray, lambda bundles=bundles: ray.util.placement_group(bundles), "bundles") for bundles in bad]


def case_bad_arguments(ray):
    bundles = [{"CPU": 1}]
    return [
        raised(ray, lambda: ray.util.placement_group(bundles, strategy="TIGHT"), "TIGHT", "STRICT_PACK"),
        raised(ray, lambda: ray.util.placement_group(bundles, lifetime="long"), "lifetime", "long", "detached"),
        raised(ray, lambda: ray.util.placement_group(bundles, _soft_target_node_id="ab" * 28), "STRICT_PACK"),
        raised(
            ray,
            lambda: ray.util.placement_group(bundles, strategy="PACK", topology_strategy={"ray.io/node-id": "PACK"}),
            "topology_strategy",
        ),
    ]


def case_soft_target_and_topology(ray):
    node = ray.get_runtime_context().get_node_id()
    with (
        _group(ray, [{"CPU": 1}], strategy="STRICT_PACK", _soft_target_node_id=node) as first,
        _group(ray, [{"CPU": 1}], topology_strategy={"ray.io/node-id": "STRICT_PACK"}) as second,
    ):
        return [ray.util.placement_group_table(group)["strategy"] for group in (first, second)]


def case_bundles_that_select_labels(ray):
    node = ray.get_runtime_context().get_node_id()
    with (
        _group(ray, [{"CPU": 1}], bundle_label_selector=[{"ray.io/node-id": node}]),
        _group(ray, [{"CPU": 1}], ready=False, bundle_label_selector=[{"zone": "nowhere"}]) as waits,
    ):
        return waits.wait(0.3)


def case_bad_bundle_label_selectors(ray):
    def make(selector):
        return lambda: ray.util.placement_group([{"CPU": 1}], bundle_label_selector=selector)

    return [raised(ray, make(selector), "selector") for selector in ([{}, {}], ["a"], [{"zone": 1}], [{"zone": "in("}])]


def case_index_that_does_not_exist(ray):
    with _group(ray, [{"CPU": 1}]) as group:
        task, actor = _here(ray), _actor(ray)
        return [
            raised(ray, lambda: task.options(scheduling_strategy=_inside(ray, group, 1)).remote(), "index 1"),
            raised(ray, lambda: task.options(scheduling_strategy=_inside(ray, group, -2)).remote(), "index -2"),
            raised(ray, lambda: actor.options(scheduling_strategy=_inside(ray, group, 1)).remote(), "index 1"),
            raised(ray, lambda: task.options(scheduling_strategy=_inside(ray, None, 0)).remote(), "index"),
        ]


def case_what_fits_no_bundle(ray):
    with _group(ray, [{"GPU": 1}]) as group:
        inside = _inside(ray, group)
        return [
            raised(ray, lambda: _here(ray).options(scheduling_strategy=inside).remote(), "cannot fit into any bundles"),
            raised(ray, lambda: _actor(ray).options(scheduling_strategy=inside).remote(), "CPU", "for creation"),
            raised(ray, lambda: _actor(ray).options(num_gpus=2, scheduling_strategy=inside).remote(), "cannot fit"),
        ]


def case_in_no_group_on_purpose(ray):
    return ray.get(_here(ray).options(scheduling_strategy=_inside(ray, None)).remote(), timeout=30)


def case_the_older_options(ray):
    with _group(ray, [{"CPU": 1}, {"CPU": 1}]) as group:
        here = _here(ray)
        inside = ray.get(here.options(placement_group=group, placement_group_bundle_index=1).remote(), timeout=30)
        outside = ray.get(here.options(placement_group=None).remote(), timeout=30)
        both = raised(
            ray,
            lambda: here.options(placement_group=group, scheduling_strategy="SPREAD").remote(),
            "scheduling_strategy",
        )
        return [inside[0] == group.id.hex(), outside, both]


def case_many_groups(ray):
    groups = [ray.util.placement_group([{"slot": 0.01}, {"slot": 0.01}]) for _ in range(20)]
    ready = [group.wait(30) for group in groups]
    for group in groups:
        ray.util.remove_placement_group(group)
    table = ray.util.placement_group_table()
    return [
        all(ready),
        {table[group.id.hex()]["state"] for group in groups} == {"REMOVED"},
        _settles_at(ray, "slot", 2),
    ]


def case_actors_ordered_by_bundle(ray):
    with _group(ray, [{"CPU": 1}] * 3) as group:
        actors = [
            _actor(ray).options(num_cpus=1, scheduling_strategy=_inside(ray, group, index)).remote()
            for index in range(3)
        ]
        pids = ray.get([a.pid.remote() for a in actors], timeout=30)
        return len(set(pids))
