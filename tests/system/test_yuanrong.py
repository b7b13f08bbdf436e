"""`examples/plugins/yuanrong`: ray-ascend's YRTensorTransport moves tensors through the store of openYuanrong."""

import importlib.util
import os
import pathlib
import re
import sys

import processes
import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples/plugins/yuanrong"
ENVIRONMENT = {
    "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",  # ray-ascend starts the store by dscli
    "YUANRONG_EXAMPLE": str(EXAMPLE),
    "PYTHONWARNINGS": "ignore",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
PATIENCE_S = 200.0
SUM = 6.0 * 2 * 8 * 1024 * 64

pytestmark = pytest.mark.timeout(300)
INSTALLED = bool(importlib.util.find_spec("ray_ascend") and importlib.util.find_spec("yr"))
needs_the_store = pytest.mark.skipif(
    not INSTALLED, reason="not run: requirements/full.txt is not installed, or has no wheels for this Python"
)


def run_example(start_driver, *arguments):
    """What it has printed; nothing is left of it, and of the store, when it has ended."""
    script = f"""
        import runpy
        sys.path.insert(0, os.environ["YUANRONG_EXAMPLE"])
        sys.argv = {["two_actors.py", *arguments]}
        runpy.run_path(os.path.join(sys.path[0], "two_actors.py"), run_name="__main__")
    """
    driver = start_driver(script, imports=False, environment=ENVIRONMENT)
    assert driver.wait(PATIENCE_S) == 0, driver.output()
    assert processes.still_alive(driver.servants(), processes.PATIENCE_S) == []
    assert f"the driver has {[[2, 8, 1024, 64]] * 4}" in driver.output()
    return driver.output()


def summed_up(output):
    return [float(text) for text in re.findall(r"decode has summed up (\S+) of", output)]


@needs_the_store
@pytest.mark.full
@pytest.mark.parametrize("engine", ["beeline", "ray"])
def test_an_actor_hands_its_cache_to_another_one(start_driver, engine):
    assert summed_up(run_example(start_driver, "--engine", engine)) == [SUM]


@needs_the_store
@pytest.mark.full
@pytest.mark.parametrize("engine", ["beeline", "ray"])
def test_of_the_class_as_it_is_nothing_arrives_on_cpus(start_driver, engine):
    """Where this fails, the release that requirements/full.txt names has mended it: the example needs no class then."""
    [total] = summed_up(run_example(start_driver, "--engine", engine, "--as-it-is"))
    assert total != SUM


PROGRAM = """
    import pickle
    sys.path.insert(0, os.environ["YUANRONG_EXAMPLE"])
    import ray_is_beeline
    ray_is_beeline.install()
    import ray as what_ray_ascend_imports
    assert what_ray_ascend_imports is ray
    import tempfile
    import torch
    from ray.experimental import register_tensor_transport, set_target_for_ref
    from ray.experimental.rdt.util import get_tensor_transport_manager
    from ray_ascend import register_yr_tensor_transport
    from ray_ascend.direct_transport.yr_tensor_transport_util import CPUClientAdapter
    from ray_ascend.utils.yr_utils import cleanup_yr_resources, get_yr_backend_info
    from two_actors import free_port
    from yr_transport import ArrivingYRTensorTransport

    os.chdir(os.environ["BEELINE_TMPDIR"])  # the store's files
    os.environ |= {"YR_DS_WORKER_PORT": free_port(), "YR_DS_METASTORE_PORT": free_port()}
    os.environ["YR_DS_WORKER_ARGS"] = "--shared_memory_size_mb 64"
    ray.init(num_cpus=2, runtime_env={"worker_process_setup_hook": ray_is_beeline.install})
    register_yr_tensor_transport(["cpu"])
    [address] = get_yr_backend_info()["node_worker_addresses"].values()
    host, _, port = address.partition(":")
    store = CPUClientAdapter(host, int(port))
    store.init()

    # The class as it is, call by call.
    manager = get_tensor_transport_manager("YR")
    kinds = torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64
    tensors = [torch.arange(24).reshape(2, 3, 4).to(kind) for kind in kinds]
    tensors += [torch.tensor(2.5), torch.arange(12.0).reshape(3, 4).t()]
    metadata = manager.extract_tensor_transport_metadata("an object", tensors)
    keys = pickle.loads(metadata.ds_serialized_keys)
    stored = [None] * len(keys)
    store._get_batch(keys, stored)
    say("stored", [torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in zip(tensors, stored)])
    communicator = manager.get_communicator_metadata(None, None, "YR")
    received = manager.recv_multiple_tensors("an object", metadata, communicator)
    say("received", [[each.shape, each.dtype] == [t.shape, t.dtype] for each, t in zip(received, tensors)])

    # The class names this group of concurrency, which actors of Ray have.
    @ray.remote(num_cpus=0, concurrency_groups={"_ray_system": 1})
    class Node:
        def total(self, tensors):
            return [float(tensor.sum()) for tensor in tensors]

    node = Node.remote()
    say("healthy", manager.actor_has_tensor_transport(node))
    manager.garbage_collect("an object", metadata, tensors)
    say("kept", store._client.exist(keys))

    # By Beeline: what is put is kept as it was, arrives, fills targets, and goes with the last reference.
    class Noting(ArrivingYRTensorTransport):
        keys = []

        def extract_tensor_transport_metadata(self, obj_id, tensors):
            metadata = super().extract_tensor_transport_metadata(obj_id, tensors)
            self.keys.extend(pickle.loads(metadata.ds_serialized_keys))
            return metadata

    register_tensor_transport("noting", ["cpu"], Noting, torch.Tensor)
    tensors = [torch.ones(1000), torch.full((5,), 7.0)]
    ref = ray.put(tensors, _tensor_transport="noting")
    for tensor in tensors:
        tensor.zero_()
    say("arrived", ray.get(node.total.remote(ref)))
    targets = [torch.zeros(1000), torch.zeros(5)]
    other = ray.put([torch.ones(1000), torch.full((5,), 7.0)], _tensor_transport="noting")
    forwarded = ray.get(ray.remote(lambda refs: refs).remote([other]))[0]
    set_target_for_ref(forwarded, targets)
    value = ray.get(forwarded)
    say("targets", [float(target.sum()) for target in targets] + [value[0] is targets[0]])
    keys = get_tensor_transport_manager("noting").keys
    say("held", store._client.exist(keys))
    del ref, other, forwarded
    while any(store._client.exist(keys)):
        time.sleep(0.01)
    say("gone")
    cleanup_yr_resources()
    ray.shutdown()
"""


@needs_the_store
@pytest.mark.full
def test_what_the_store_has_is_what_the_producer_has(start_driver):
    driver = start_driver(PROGRAM, environment=ENVIRONMENT)
    assert driver.expect("stored", PATIENCE_S) == [True] * 9
    assert driver.expect("received") == [True] * 9
    assert driver.expect("healthy") is True
    assert driver.expect("kept") == [False] * 9
    assert driver.expect("arrived") == [1000.0, 35.0]
    assert driver.expect("targets") == [1000.0, 35.0, True]
    assert driver.expect("held") == [True] * 4
    driver.expect("gone")
    assert driver.wait() == 0, driver.output()
    assert processes.still_alive(driver.servants(), processes.PATIENCE_S) == []


LIBRARY = """
    sys.path.insert(0, os.environ["YUANRONG_EXAMPLE"])
    import importlib.util
    import beeline.util.queue
    import ray_is_beeline
    ray_is_beeline.install()
    ray_is_beeline.install()
    import ray.util.queue
    from ray.experimental.rdt.tensor_transport_manager import TensorTransportManager

    say("same", [ray is beeline, ray.util.queue is beeline.util.queue, "site-packages/ray/" in str(sys.modules)])
    say("specs", [ray.__spec__.name, ray.util.queue.__spec__.name, ray.experimental.rdt.__spec__.name])
    try:
        import ray.data
    except ModuleNotFoundError as error:
        say("lacks", error.name)
    say("seen", [importlib.util.find_spec(name) is not None for name in ("ray.data", "ray.util", "rays")])

    def of_a_worker():
        import ray.util.queue
        return ray.util.queue.__name__

    ray.init(num_cpus=1, runtime_env={"worker_process_setup_hook": ray_is_beeline.install})
    say("worker", ray.get(ray.remote(of_a_worker).remote()))
    ray.shutdown()
"""
TOO_LATE = """
    sys.path.insert(0, os.environ["YUANRONG_EXAMPLE"])
    import ray
    import ray_is_beeline
    try:
        ray_is_beeline.install()
    except RuntimeError as error:
        say("refused", str(error))
"""


def test_import_ray_is_beeline(start_driver):
    driver = start_driver(LIBRARY, imports=False, environment=ENVIRONMENT)
    assert driver.expect("same") == [True, True, False]
    assert driver.expect("specs") == ["beeline", "beeline.util.queue", "beeline.experimental.rdt"]
    assert driver.expect("lacks") == "ray.data"
    assert driver.expect("seen") == [False, True, False]
    assert driver.expect("worker") == "beeline.util.queue"
    assert driver.wait() == 0, driver.output()


def test_import_ray_is_beeline_no_more_where_it_is_ray(start_driver):
    driver = start_driver(TOO_LATE, imports=False, environment=ENVIRONMENT)
    assert "Ray is imported already, from " in driver.expect("refused")
    assert driver.wait() == 0, driver.output()
