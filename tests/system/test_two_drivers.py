"""Two drivers at once on one machine do not disturb each other."""

import processes
import pytest

from tests.conformance.conftest import CUDA_SOURCES, NCCL_SOURCES, ROOT, build_emulator

SCRIPT = """
    import numpy as np

    ray.init(num_cpus=2, namespace="shared_name")

    @ray.remote
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self, array):
            self.n += 1
            return self.n + float(array[0])

    counter = Counter.options(name="counter").remote()
    say("ready", ray.cluster_resources()["CPU"])
    while (order := hear()) != "end":
        n = int(order)
        say("counted", [ray.get(counter.add.remote(np.zeros(1 << 18))) for _ in range(n)][-1])
        say("found", ray.get(ray.get_actor("counter").add.remote(np.zeros(1))))
    ray.shutdown()
    say("down")
    hear()
"""


def _count(driver, n, expected):
    driver.tell(str(n))
    assert driver.expect("counted") == expected
    assert driver.expect("found") == expected + 1


def test_side_by_side(start_driver):
    first, second = start_driver(SCRIPT), start_driver(SCRIPT)
    for driver in (first, second):
        assert driver.expect("ready") == 2  # the other's resources are not mixed in
    _count(first, 50, 50)
    _count(second, 7, 7)
    _count(first, 10, 61)
    _count(second, 1, 9)
    assert not {p.pid for p in first.processes()} & {p.pid for p in second.processes()}


def test_shutdown_of_one(start_driver):
    first, second = start_driver(SCRIPT), start_driver(SCRIPT)
    first.expect("ready")
    second.expect("ready")
    ended = first.servants()
    first.tell("end")
    first.expect("down")
    assert processes.still_alive(ended) == []
    _count(second, 20, 20)


def test_kill_of_one(start_driver):
    first, second = start_driver(SCRIPT), start_driver(SCRIPT)
    first.expect("ready")
    second.expect("ready")
    everyone, files = first.servants(), processes.files_of(first.processes())
    for process in everyone:
        process.kill()
    first.kill()
    assert processes.still_alive(everyone) == []
    _count(second, 20, 20)
    third = start_driver(SCRIPT)
    third.expect("ready")
    assert processes.still_there(files) == []
    _count(third, 3, 3)
    _count(second, 1, 22)


def test_kill_of_one_daemon(start_driver):
    first, second = start_driver(SCRIPT, environment={"BEELINE_DAEMON_WAIT_S": "0"}), start_driver(SCRIPT)
    first.expect("ready")
    second.expect("ready")
    first.daemon().kill()
    assert processes.still_alive(first.servants()) == []
    _count(second, 20, 20)


def test_driver_inside_a_driver(start_driver):
    driver = start_driver(
        """
    import subprocess

    ray.init(num_cpus=2)

    @ray.remote
    def run(source):
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
        return [done.returncode, done.stdout.strip(), done.stderr[-500:]]

    source = f"import {ENGINE} as ray; ray.init(num_cpus=1); print(ray.get(ray.remote(lambda: 5).remote()))"
    say("inner", ray.get(run.remote(source)))
    say("outer", ray.get(ray.remote(lambda: 6).remote()))
    """
    )
    status, printed, errors = driver.expect("inner")
    assert (status, printed.splitlines()[-1:]) == (0, ["5"]), errors
    assert driver.expect("outer") == 6


# Actors that hand each other arrays on (emulated) GPUs by nccl, in the agents of their session. torch's CPU build has
# no tensors there: a transport of the program's own stands for the path's.
NCCL_SCRIPT = """
    import torch
    from beeline.experimental import register_tensor_transport
    from beeline.tensors import engine_paths
    from beeline.transfer import TensorRefs, counters
    from emulated_gpu import DeviceTensor, poisoned

    N = 1 << 16

    class EmulatedNccl(engine_paths.Nccl):
        def extract_tensor_transport_metadata(self, obj_id, arrays):
            metadata = engine_paths.EngineMetadata([(array.like.shape, array.like.dtype) for array in arrays], "cuda")
            refs = self._registered[obj_id] = engine_paths._agents.get(listening=False).register(arrays)
            metadata.refs = refs.to_bytes()
            return metadata

        def recv_multiple_tensors(self, obj_id, metadata, communicator, target_buffers=None):
            out = [poisoned(torch.empty(shape, dtype=dtype), 1) for shape, dtype in metadata.tensor_meta]
            refs = TensorRefs.from_bytes(metadata.refs)
            return engine_paths._agents.get(listening=False).fetch(refs, out, path=self.path, timeout_s=60)

    register_tensor_transport("emulated_nccl", ["cuda"], EmulatedNccl, DeviceTensor)
    ray.init(num_cpus=2)

    @ray.remote(num_cpus=0)
    class Node:
        def make(self, value):
            return [DeviceTensor(torch.full((N,), value))]

        def look(self, arrays):
            return arrays[0].cpu().unique().tolist()

        def moved(self):
            agents = [agent for agent in counters.live() if agent.pid == os.getpid()]
            return sum(row.nbytes for agent in agents for row in agent.rows if row.path == "nccl")

    producer, consumer = Node.remote(), Node.remote()
    make = producer.make.options(tensor_transport="emulated_nccl")
    say("ready", ray.get(consumer.look.remote(make.remote(0.0))))
    total = 1
    while (order := hear()) != "end":
        first, last = map(int, order.split())
        refs = [make.remote(float(value)) for value in range(first, last)]
        total += len(refs)
        say("looked", ray.get([consumer.look.remote(ref) for ref in refs]))
    say("moved", ray.get(consumer.moved.remote()) == total * N * 4)
    ray.shutdown()
    say("down")
    hear()
"""


@pytest.fixture(scope="module")
def emulators(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpus")
    return {
        "BEELINE_CUDA_LIBRARY": str(build_emulator(folder / "libcuda_emulator.so", CUDA_SOURCES)),
        "BEELINE_NCCL_LIBRARY": str(build_emulator(folder / "libnccl_emulator.so", NCCL_SOURCES)),
        "CUDA_EMULATOR_FOLDER": str(folder),
        "PYTHONPATH": str(ROOT / "tests/conformance"),
    }


def _begin(driver, first, last):
    driver.tell(f"{first} {last}")
    return [[float(value)] for value in range(first, last)]


def _end(driver):
    driver.tell("end")
    assert driver.expect("moved") is True
    driver.expect("down")


@pytest.mark.full
def test_nccl_side_by_side(start_driver, emulators):
    drivers = [start_driver(NCCL_SCRIPT, environment=emulators) for _ in range(2)]
    for driver in drivers:
        assert driver.expect("ready") == [0.0]
    for first in (0, 20):  # both at once
        expected = [_begin(driver, first + 100 * k, first + 100 * k + 20) for k, driver in enumerate(drivers)]
        assert [driver.expect("looked") for driver in drivers] == expected
    for driver in drivers:
        _end(driver)


@pytest.mark.full
def test_nccl_of_one_goes_on_when_the_other_is_killed(start_driver, emulators):
    first, second = (start_driver(NCCL_SCRIPT, environment=emulators) for _ in range(2))
    for driver in (first, second):
        assert driver.expect("ready") == [0.0]
    everyone = first.servants()
    _begin(first, 1, 200)
    expected = _begin(second, 200, 260)
    first.kill()
    assert second.expect("looked") == expected
    assert processes.still_alive(everyone) == []
    expected = _begin(second, 300, 310)
    assert second.expect("looked") == expected
    third = start_driver(NCCL_SCRIPT, environment=emulators)
    assert third.expect("ready") == [0.0]
    for driver in (second, third):
        _end(driver)
