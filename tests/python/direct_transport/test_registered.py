"""Tensor transports of the program's own, by Ray's interface."""

import os
import subprocess
import sys
import threading
import time
from multiprocessing import shared_memory

import numpy as np
import pytest
import torch

import beeline as ray
from beeline import exceptions
from beeline.experimental import (
    CommunicatorMetadata,
    FetchRequest,
    TensorTransportManager,
    TensorTransportMetadata,
    register_tensor_transport,
    set_target_for_ref,
)
from beeline.experimental.rdt.util import create_empty_tensors_from_metadata, get_tensor_transport_manager
from beeline.tensors import registered as registered_transports
from tests.python.direct_transport.nodes import call


class FileMetadata(TensorTransportMetadata):
    """Where the tensors lie."""


class FileTransport(TensorTransportManager):
    """Moves tensors through POSIX shared memory: slow, simple, and one-sided."""

    def __init__(self):
        self.segments = {}
        self.collected = []

    def tensor_transport_backend(self):
        return "FILES"

    @staticmethod
    def is_one_sided():
        return True

    @staticmethod
    def can_abort_transport():
        return False

    def actor_has_tensor_transport(self, actor):
        return True

    def extract_tensor_transport_metadata(self, obj_id, rdt_object):
        metadata = FileMetadata([(t.shape, t.dtype) for t in rdt_object], "cpu")
        metadata.names = []
        for tensor in rdt_object:
            segment = shared_memory.SharedMemory(create=True, size=max(1, tensor.nbytes))
            np.ndarray(tensor.shape, tensor.numpy().dtype, segment.buf)[...] = tensor.numpy()
            self.segments.setdefault(obj_id, []).append(segment)
            metadata.names.append(segment.name)
        return metadata

    def get_communicator_metadata(self, src_actor, dst_actor, backend=None):
        return CommunicatorMetadata()

    def recv_multiple_tensors(self, obj_id, tensor_transport_metadata, communicator_metadata, target_buffers=None):
        received = []
        for index, ((shape, dtype), name) in enumerate(
            zip(tensor_transport_metadata.tensor_meta, tensor_transport_metadata.names, strict=True)
        ):
            tensor = target_buffers[index] if target_buffers else torch.empty(shape, dtype=dtype)
            segment = shared_memory.SharedMemory(name)
            tensor.numpy()[...] = np.ndarray(tuple(shape), tensor.numpy().dtype, segment.buf)
            segment.close()
            received.append(tensor)
        return received

    def send_multiple_tensors(self, tensors, tensor_transport_metadata, communicator_metadata):
        raise NotImplementedError

    def garbage_collect(self, obj_id, tensor_transport_meta, tensors):
        for segment in self.segments.pop(obj_id):
            segment.close()
            segment.unlink()

    def abort_transport(self, obj_id, communicator_metadata):
        raise NotImplementedError


@pytest.fixture(scope="module", autouse=True)
def registered():
    register_tensor_transport("files", ["cpu"], FileTransport, torch.Tensor)


@pytest.fixture
def pair(registered, make_actor):
    return make_actor(), make_actor()


def segments():
    return sorted(name for name in os.listdir("/dev/shm") if name.startswith("psm_"))


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


def make(node, n):
    shared = torch.arange(float(n))
    node.kept = {"a": shared, "again": [shared], "b": torch.full((n,), 2), "text": "x", "array": np.arange(n)}
    return node.kept


def look(node, value):
    same = value["a"] is value["again"][0]
    return [
        float(value["a"].sum()),
        int(value["b"].sum()),
        value["text"],
        int(value["array"].sum()),
        same,
        value is node.kept,
    ]


@pytest.mark.parametrize("n", [10, 1 << 18])
def test_from_actor_to_actor_to_driver_and_back(pair, n):
    a, b = pair
    before = segments()
    ref = call(a, make, n, transport="files")
    total = n * (n - 1) // 2
    assert ray.get(call(b, look, ref)) == [total, 2 * n, "x", total, True, False]
    assert ray.get(call(a, look, ref)) == [total, 2 * n, "x", total, True, True]  # the same object
    assert len(segments()) == len(before) + 2
    value = ray.get(ref)
    assert torch.equal(value["a"], torch.arange(float(n)))
    del ref
    until(lambda: segments() == before)
    assert torch.equal(value["a"], torch.arange(float(n)))


def test_put_by_the_driver(pair):
    a, _ = pair
    before = segments()
    ref = ray.put([torch.ones(5), torch.zeros(0)], _tensor_transport="FILES")
    assert ray.get(call(a, lambda node, value: [float(value[0].sum()), value[1].numel()], ref)) == [5.0, 0]
    del ref
    until(lambda: segments() == before)


def test_a_value_without_tensors_is_one_like_any_other(pair):
    a, b = pair
    ref = call(a, lambda node: {"n": 1, "array": np.ones(1 << 18)}, transport="files")
    assert ray.get(call(b, lambda node, value: float(value["array"].sum()), ref)) == 1 << 18


def test_targets_are_filled(pair):
    a, _ = pair
    ref = call(a, lambda node: [torch.full((5,), 3.0), torch.full((6,), 4.0)], transport="files")
    targets = [torch.zeros(5), torch.zeros(6)]
    set_target_for_ref(ref, targets)
    value = ray.get(ref)
    assert value[0] is targets[0] and value[1] is targets[1]
    assert [float(target.sum()) for target in targets] == [15.0, 24.0]
    for wrong in ([torch.zeros(5)], [torch.zeros(5), torch.zeros(7)], [torch.zeros(5), torch.zeros(6).double()]):
        ref = call(a, lambda node: [torch.full((5,), 3.0), torch.full((6,), 4.0)], transport="files")
        set_target_for_ref(ref, wrong)
        with pytest.raises(exceptions.TargetMismatchError):
            ray.get(ref)
        assert not any(target.any() for target in wrong)


class ReplacingTransport(FileTransport):
    """Puts tensors of its own into the list of targets."""

    def recv_multiple_tensors(self, obj_id, tensor_transport_metadata, communicator_metadata, target_buffers=None):
        received = super().recv_multiple_tensors(obj_id, tensor_transport_metadata, communicator_metadata)
        if target_buffers is None:
            return received
        target_buffers[:] = received
        return target_buffers


def test_targets_are_filled_from_what_has_taken_their_place(make_actor):
    register_tensor_transport("replacing", ["cpu"], ReplacingTransport, torch.Tensor)
    ref = call(make_actor(), lambda node: [torch.full((5,), 3.0), torch.full((6,), 4.0)], transport="replacing")
    targets = [torch.zeros(5), torch.zeros(6)]
    set_target_for_ref(ref, targets)
    value = ray.get(ref)
    assert value[0] is targets[0] and value[1] is targets[1]
    assert [float(target.sum()) for target in targets] == [15.0, 24.0]


def test_managers_by_the_paths_of_rays_modules(pair):
    for name in ("files", "FILES"):
        assert get_tensor_transport_manager(name) is registered_transports.manager("files")
    assert get_tensor_transport_manager("TCP").tensor_transport_backend().lower() == "tcp"
    with pytest.raises(ValueError, match="protocol: pigeons"):
        get_tensor_transport_manager("pigeons")
    assert (
        ray.get(call(pair[0], lambda node: get_tensor_transport_manager("files").tensor_transport_backend())) == "FILES"
    )


def test_tensors_for_what_metadata_describe():
    metadata = TensorTransportMetadata([((2, 3), torch.bfloat16), (torch.Size([0]), torch.int64)], "cpu")
    made = create_empty_tensors_from_metadata(metadata)
    assert [(list(each.shape), each.dtype, each.device.type) for each in made] == [
        ([2, 3], torch.bfloat16, "cpu"),
        ([0], torch.int64, "cpu"),
    ]
    assert [each.device.type for each in create_empty_tensors_from_metadata(metadata, "meta")] == ["meta", "meta"]


def test_what_the_transport_raises_reaches_the_receiver(pair):
    a, b = pair
    ref = call(a, make, 10, transport="files")
    ray.wait([ref])
    for name in segments():
        os.unlink(f"/dev/shm/{name}")
    with pytest.raises(exceptions.DirectTransportError, match="files.*FileNotFoundError"):
        ray.get(ref)
    with pytest.raises(exceptions.TaskError):
        ray.get(call(b, look, ref))
    assert ray.get(call(b, lambda node: 1)) == 1


def test_what_cannot_be_is_refused(pair):
    a, _ = pair
    with pytest.raises(ValueError, match="already registered"):
        register_tensor_transport("FILES", ["cpu"], FileTransport, torch.Tensor)
    with pytest.raises(ValueError, match="already registered"):
        register_tensor_transport("shm", ["cpu"], FileTransport, torch.Tensor)
    with pytest.raises(ValueError, match="subclass of TensorTransportManager"):
        register_tensor_transport("other", ["cpu"], int, torch.Tensor)
    with pytest.raises(exceptions.TransportUnavailableError, match="meta"):
        ray.put(torch.ones(5, device="meta"), _tensor_transport="files")
    with pytest.raises(ValueError, match="snapshot"):
        ray.put(torch.ones(5), _tensor_transport="files", isolation="snapshot")
    with pytest.raises(exceptions.TransportUnavailableError, match="registered by the program"):
        ray.put(torch.ones(5), _tensor_transport="pigeons")

    @ray.remote
    def task():
        return torch.ones(5)

    with pytest.raises(exceptions.TransportUnavailableError, match="no tasks"):
        task.options(tensor_transport="files").remote()

    @ray.remote
    def putting():
        return ray.put(torch.ones(5), _tensor_transport="files")

    with pytest.raises(exceptions.TaskError):
        ray.get(putting.remote())


class LocalTransport(FileTransport):
    """Its metadata are of a class that nobody can import."""

    def extract_tensor_transport_metadata(self, obj_id, rdt_object):
        class Metadata(TensorTransportMetadata):
            pass

        metadata = Metadata([(t.shape, t.dtype) for t in rdt_object], "cpu")
        metadata.names = super().extract_tensor_transport_metadata(obj_id, rdt_object).names
        return metadata


def test_metadata_of_a_class_of_the_programs_own(make_actor):
    register_tensor_transport("local", ["cpu"], LocalTransport, torch.Tensor)
    assert ray.get(call(make_actor(), look, call(make_actor(), make, 10, transport="local")))[0] == 45


def test_an_actor_that_is_older_than_its_transport(make_actor):
    older = make_actor()
    ray.get(call(older, lambda node: 1))
    register_tensor_transport("later", ["cpu"], FileTransport, torch.Tensor)
    assert ray.get(call(make_actor(), look, call(older, make, 10, transport="later")))[0] == 45


def test_an_actor_that_is_restarted_still_has_it(make_actor):
    older = make_actor(max_restarts=1, max_task_retries=-1)
    pid = ray.get(call(older, lambda node: os.getpid()))
    register_tensor_transport("restarted", ["cpu"], FileTransport, torch.Tensor)
    ray.kill(older, no_restart=False)
    until(lambda: ray.get(call(older, lambda node: os.getpid())) != pid)
    assert ray.get(call(make_actor(), look, call(older, make, 10, transport="restarted")))[0] == 45


def test_one_that_an_actor_has_registered_is_everybodys(make_actor):
    a, b = make_actor(), make_actor()

    def register(node):
        register_tensor_transport("an_actors", ["cpu"], FileTransport, torch.Tensor)

    ray.get(call(a, register))
    assert ray.get(call(make_actor(), look, call(b, make, 10, transport="an_actors")))[0] == 45


def test_two_that_were_registered_otherwise_under_one_name(make_actor, caplog):
    a = make_actor()

    def register(node):
        register_tensor_transport("disputed", ["cpu"], FileTransport, torch.Tensor)

    ray.get(call(a, register))
    with caplog.at_level("WARNING", logger="beeline"):
        register_tensor_transport("disputed", ["cpu", "npu"], FileTransport, torch.Tensor)
    assert "announced to this session before" in caplog.text


def test_a_transport_that_was_registered_before_the_session():
    code = """
import torch, beeline as ray
from beeline.experimental import register_tensor_transport
from tests.python.direct_transport.test_registered import FileTransport

class Maker:
    def make(self):
        return torch.ones(3)

@ray.remote
def make_it():
    # Its maker knows of no transport.
    return ray.remote(num_cpus=0)(Maker).options(name="maker", lifetime="detached").remote()

register_tensor_transport("early", ["cpu"], FileTransport, torch.Tensor)
ray.init(num_cpus=1, namespace="early")
maker = ray.get(make_it.remote())
assert ray.get(maker.make.options(tensor_transport="early").remote()).sum() == 3
ray.kill(maker)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


class SlowTransport(FileTransport):
    """A fetch of it never ends by itself."""

    aborted = 0

    @staticmethod
    def can_abort_transport():
        return True

    def fetch_multiple_tensors(self, obj_id, tensor_transport_metadata, communicator_metadata, target_buffers=None):
        return FetchRequest(obj_id, [])

    def wait_fetch_complete(self, fetch_request, timeout=-1):
        raise TimeoutError(f"nothing came in {timeout:.1f} s")

    def abort_transport(self, obj_id, communicator_metadata):
        SlowTransport.aborted += 1


def test_a_fetch_that_runs_out_of_time_is_aborted(make_actor, monkeypatch):
    register_tensor_transport("slow", ["cpu"], SlowTransport, torch.Tensor)
    ref = call(make_actor(), lambda node: torch.ones(3), transport="slow")
    ray.wait([ref])
    manager = registered_transports.manager("slow")
    with pytest.raises(exceptions.GetTimeoutError, match="1 tensors by the tensor transport 'slow'"):
        ray.get(ref, timeout=30)
    monkeypatch.setenv("RAY_rdt_fetch_fail_timeout_milliseconds", "5000")
    with pytest.raises(exceptions.ObjectFetchTimedOutError, match="within 5 s.*nothing came in 5.0 s"):
        ray.get(ref)
    assert type(manager).aborted == 2


def test_a_value_that_cannot_be_pickled_leaves_nothing(pair):
    before = segments()
    with pytest.raises(TypeError):
        ray.put([torch.ones(5), threading.Lock()], _tensor_transport="files")
    until(lambda: segments() == before)


def test_a_transport_of_other_devices_refuses_memory_of_the_host(make_actor):
    register_tensor_transport("hixl", ["npu"], FileTransport, torch.Tensor)
    producer = make_actor()
    with pytest.raises(exceptions.TransportUnavailableError, match=r"'hixl' serves tensors on npu; .* is on cpu"):
        ray.get(call(producer, lambda node: torch.ones(3), transport="hixl"))
    assert ray.get(call(producer, lambda node: [1, "no tensor"], transport="hixl")) == [1, "no tensor"]
