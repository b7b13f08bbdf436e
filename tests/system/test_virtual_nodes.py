"""Programs over several nodes, all of them in one daemon."""

import os
import signal
import time

import pytest

ray = pytest.importorskip("beeline")
from beeline.testing import VirtualCluster  # noqa: E402
from beeline.testing.virtual_cluster import VIRTUAL_LABEL  # noqa: E402
from beeline.util.placement_group import placement_group, placement_group_table, remove_placement_group  # noqa: E402
from beeline.util.scheduling_strategies import (  # noqa: E402
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)


@pytest.fixture
def cluster():
    """Three nodes of two CPUs; the second and third have a GPU, and labels."""
    with VirtualCluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 2}) as cluster:
        for zone in ("a", "b"):
            cluster.add_node(num_cpus=2, num_gpus=1, resources={f"only_{zone}": 1}, labels={"zone": zone})
        yield cluster


def where(**options):
    """The ids of the node and of the GPUs of one task."""

    @ray.remote
    def here():
        return ray.get_runtime_context().get_node_id(), [str(gpu) for gpu in ray.get_gpu_ids()]

    return here.options(**options).remote()


def actor(**options):
    @ray.remote
    class A:
        def node(self):
            return ray.get_runtime_context().get_node_id()

        def labels(self):
            return ray.get_runtime_context().get_node_labels()

        def pid(self):
            return os.getpid()

        def gpus(self):
            return os.environ.get("CUDA_VISIBLE_DEVICES")

    return A.options(**options).remote()


def until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.01)


def nodes_of(group):
    return list(placement_group_table(group)["bundles_to_node_id"].values())


def ids(cluster):
    return [node.node_id for node in cluster.list_all_nodes()]


def test_nodes_are_told_and_are_labelled_virtual(cluster):
    rows = ray.nodes()
    assert [row["NodeID"] for row in rows] == ids(cluster)
    assert [row["Resources"]["CPU"] for row in rows] == [2, 2, 2]
    assert [row["Labels"].get(VIRTUAL_LABEL) for row in rows] == [None, "true", "true"]
    assert [row["Labels"].get("zone") for row in rows] == [None, "a", "b"]
    assert [node.is_virtual for node in cluster.list_all_nodes()] == [False, True, True]
    assert ray.cluster_resources()["CPU"] == 6
    assert ray.available_resources()["GPU"] == 2
    per_node = ray.util.available_resources_per_node()
    assert [per_node[node]["CPU"] for node in ids(cluster)] == [2, 2, 2]
    assert [per_node[node].get("only_b") for node in ids(cluster)] == [None, None, 1]


def test_halves_of_gpus_fill_the_first_node_first(cluster):
    actors = [actor(num_cpus=0, num_gpus=0.5) for _ in range(5)]
    refs = [a.node.remote() for a in actors]
    first, second = ids(cluster)[1:]
    ready, waiting = ray.wait(refs, num_returns=4, timeout=30)
    assert sorted(ray.get(ready)) == sorted([first, first, second, second])
    assert len(waiting) == 1
    assert ray.wait(waiting, timeout=0.2)[0] == []
    assert [ray.get(a.gpus.remote()) for a, ref in zip(actors, refs, strict=True) if ref in ready] == ["0"] * 4
    for a, ref in zip(actors, refs, strict=True):
        if ref in ready:
            ray.kill(a)
            break
    assert ray.get(waiting[0], timeout=30) in (first, second)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("PACK", [0, 0, 1]),
        ("SPREAD", [0, 1, 2]),
        ("STRICT_SPREAD", [0, 1, 2]),
        ("STRICT_PACK", None),
    ],
)
def test_strategies_place_bundles(cluster, strategy, expected):
    group = placement_group([{"CPU": 1}] * 3, strategy=strategy)
    if expected is None:
        assert not group.wait(0.2)
        cluster.add_node(num_cpus=3)
        expected = [3, 3, 3]
    assert group.wait(30)
    assert nodes_of(group) == [ids(cluster)[node] for node in expected]
    tasks = [
        where(scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle)) for bundle in range(len(expected))
    ]
    assert [node for node, _ in ray.get(tasks)] == nodes_of(group)


def test_a_strict_spread_that_lacks_a_node_waits_for_it(cluster):
    group = placement_group([{"CPU": 1}] * 4, strategy="STRICT_SPREAD")
    assert not group.wait(0.2)
    assert placement_group_table(group)["stats"]["scheduling_state"] == "INFEASIBLE"
    cluster.add_node(num_cpus=1)
    assert group.wait(30)
    assert sorted(nodes_of(group)) == sorted(ids(cluster))


def test_bundles_select_labels(cluster):
    group = placement_group([{"CPU": 1}, {"CPU": 1}], bundle_label_selector=[{"zone": "b"}, {"zone": "!b"}])
    assert group.wait(30)
    assert nodes_of(group) == [ids(cluster)[2], ids(cluster)[0]]
    preferred = placement_group([{"CPU": 1}], strategy="STRICT_PACK", _soft_target_node_id=ids(cluster)[1])
    assert preferred.wait(30)
    assert nodes_of(preferred) == [ids(cluster)[1]]


def test_tasks_spread(cluster):
    nodes = [node for node, _ in ray.get([where(scheduling_strategy="SPREAD") for _ in range(6)])]
    assert {nodes.count(node) for node in ids(cluster)} == {2}


def test_gpus_of_bundles_are_told(cluster):
    cluster.add_node(num_cpus=1, num_gpus=4)
    group = placement_group([{"GPU": 2}, {"GPU": 0.5}, {"CPU": 1}], strategy="STRICT_PACK")
    assert group.wait(30)
    told = placement_group_table(group)["bundles_to_accelerators"]
    assert told == {0: {"GPU": [0, 1]}, 1: {"GPU": [2]}, 2: {}}
    inside = [PlacementGroupSchedulingStrategy(group, bundle) for bundle in (0, 1)]
    tasks = [where(num_cpus=0, num_gpus=n, scheduling_strategy=s) for n, s in zip((2, 0.5), inside, strict=True)]
    assert [gpus for _, gpus in ray.get(tasks)] == [["0", "1"], ["2"]]


def test_affinity_and_labels(cluster):
    first, second, third = ids(cluster)
    assert ray.get(where(scheduling_strategy=NodeAffinitySchedulingStrategy(second, soft=False)))[0] == second
    assert ray.get(where(num_cpus=2, resources={"only_b": 1}))[0] == third
    assert ray.get(where(label_selector={"zone": "in(a, b)"}))[0] == second
    assert ray.get(where(label_selector={VIRTUAL_LABEL: "!true"}))[0] == first
    assert ray.get(where(scheduling_strategy=NodeLabelSchedulingStrategy({"zone": In("b")})))[0] == third
    assert ray.get(where(scheduling_strategy=NodeLabelSchedulingStrategy({}, soft={"zone": Exists()})))[0] == second
    a = actor(scheduling_strategy=NodeAffinitySchedulingStrategy(third, soft=False))
    assert ray.get(a.node.remote()) == third
    assert ray.get(a.labels.remote())["zone"] == "b"
    assert cluster.labels_of(cluster.list_all_nodes()[1])["zone"] == "a"


def test_affinity_waits_spills_or_fails(cluster):
    second = ids(cluster)[1]
    holder = actor(num_cpus=2, scheduling_strategy=NodeAffinitySchedulingStrategy(second, soft=False))
    ray.get(holder.node.remote())
    waiting = where(scheduling_strategy=NodeAffinitySchedulingStrategy(second, soft=True))
    assert ray.wait([waiting], timeout=0.2)[0] == []
    spilled = where(scheduling_strategy=NodeAffinitySchedulingStrategy(second, True, _spill_on_unavailable=True))
    assert ray.get(spilled)[0] != second
    failed = where(scheduling_strategy=NodeAffinitySchedulingStrategy(second, False, _fail_on_unavailable=True))
    with pytest.raises(ray.exceptions.TaskUnschedulableError):
        ray.get(failed)
    ray.kill(holder)
    assert ray.get(waiting)[0] == second


def test_what_no_node_has_waits_for_a_node(cluster):
    task = where(resources={"rare": 1})
    a = actor(resources={"rare": 1})
    refs = [task, a.node.remote()]
    assert ray.wait(refs, timeout=0.2)[0] == []
    node = cluster.add_node(num_cpus=2, resources={"rare": 2})
    assert [ray.get(refs[0])[0], ray.get(refs[1])] == [node.node_id] * 2


def test_a_removed_node_ends_what_runs_there(cluster):
    node = cluster.list_all_nodes()[2]
    there = NodeAffinitySchedulingStrategy(node.node_id, soft=True)
    mortal, restarts = actor(scheduling_strategy=there), actor(max_restarts=1, scheduling_strategy=there)
    assert ray.get([mortal.node.remote(), restarts.node.remote()]) == [node.node_id] * 2
    pid = ray.get(restarts.pid.remote())
    for_it = actor(num_cpus=9, scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=True))
    cluster.remove_node(node)
    with pytest.raises(ray.exceptions.ActorDiedError, match="its node was removed"):
        ray.get(mortal.node.remote())
    until(lambda: _answer(restarts.pid.remote()) not in (None, pid))
    assert ray.get(restarts.node.remote()) in ids(cluster)
    assert [row["Alive"] for row in ray.nodes()] == [True, True, False]
    assert ray.cluster_resources()["CPU"] == 4
    only_there = where(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False))
    with pytest.raises(ray.exceptions.TaskUnschedulableError, match="soft=False"):
        ray.get(only_there)
    with pytest.raises(ValueError, match="cannot be removed"):
        cluster.remove_node(node)
    with pytest.raises(ValueError, match="cannot be removed"):
        cluster.remove_node(cluster.head_node)
    del for_it


def _answer(ref):
    try:
        return ray.get(ref)
    except ray.exceptions.ActorUnavailableError:
        return None


def test_a_task_on_a_removed_node_runs_again_elsewhere(cluster, tmp_path):
    node = cluster.list_all_nodes()[1]

    @ray.remote
    def slow():
        here = ray.get_runtime_context().get_node_id()
        (tmp_path / here).touch()
        if here == node.node_id:
            signal.pause()
        return here

    ref = slow.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=True)).remote()
    until((tmp_path / node.node_id).exists)
    cluster.remove_node(node)
    assert ray.get(ref, timeout=30) != node.node_id


def test_bundles_of_a_removed_node_are_placed_elsewhere(cluster):
    group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    assert group.wait(30)
    inside = PlacementGroupSchedulingStrategy(group, 1)
    a = actor(num_cpus=1, max_restarts=-1, max_task_retries=-1, scheduling_strategy=inside)
    assert ray.get(a.node.remote()) == ids(cluster)[1]
    cluster.remove_node(cluster.list_all_nodes()[1])
    assert group.wait(30)
    until(lambda: placement_group_table(group)["state"] == "CREATED")
    assert nodes_of(group) == ids(cluster)
    assert ray.get(a.node.remote()) == ids(cluster)[1]
    remove_placement_group(group)
    until(lambda: ray.available_resources()["CPU"] == 4)


def test_nothing_is_lost_when_groups_come_and_go(cluster):
    for _ in range(3):
        groups = [
            placement_group([{"CPU": 1, "GPU": 0.5}] * 2, strategy=strategy) for strategy in ("PACK", "SPREAD") * 2
        ]
        for group in groups:
            inside = PlacementGroupSchedulingStrategy(group)
            if group.wait(0.1):
                ray.get(where(num_gpus=0.5, scheduling_strategy=inside))
            remove_placement_group(group)
    until(lambda: ray.available_resources()["CPU"] == 6 and ray.available_resources()["GPU"] == 2)


def test_shape_of_the_cluster():
    with pytest.raises(RuntimeError, match="uninitialized"):
        VirtualCluster(connect=True)
    cluster = VirtualCluster()
    assert cluster.address is None
    with pytest.raises(RuntimeError, match="uninitialized"):
        cluster.connect()
    cluster.add_node(num_cpus=1, namespace="own")
    cluster.connect(namespace="own")
    with pytest.raises(ValueError, match="namespace"):
        cluster.connect(namespace="other")
    assert ray.init(address=cluster.address, ignore_reinit_error=True)["node_id"] == cluster.head_node.node_id
    with pytest.raises(ValueError, match="whole number"):
        cluster.add_node(num_gpus=0.5)
    with pytest.raises(ValueError, match="ray.io/"):
        cluster.add_node(labels={"ray.io/node-id": "x"})
    with pytest.raises(RuntimeError, match="twice"):
        VirtualCluster().add_node()
    cluster.shutdown()
    cluster.shutdown()
    assert not ray.is_initialized()
    cluster.add_node(num_cpus=1)
    assert ray.is_initialized()
    cluster.shutdown()
