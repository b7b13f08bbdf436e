"""The transfer engine's paths as tensor transports, and what the engine counts of every transfer in a session."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import beeline as ray
from beeline import exceptions
from beeline.experimental import set_target_for_ref, wait_tensor_freed
from beeline.transfer import counters
from tests.conformance.paths import MISSING, SERVED
from tests.python.direct_transport.nodes import bits_of, call, ones, tensors_of_every_kind, total

PATHS = [
    pytest.param(path, marks=pytest.mark.skipif(path in MISSING, reason=MISSING.get(path, "")))
    for path in ("cma", "tcp", "ucx", "nixl", "gloo")
]
N = 1 << 18

pytestmark = pytest.mark.timeout(120)


def rows_of(pid, path):
    """What the process has counted of one path."""
    return [row for agent in counters.live() if agent.pid == pid for row in agent.rows if row.path == path]


def until(condition, within_s=30):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("path", PATHS)
def test_tensors_of_every_kind_in_one_value(a, b, path):
    tensors = tensors_of_every_kind()
    ref = call(a, lambda node: tensors_of_every_kind() | {"text": "x", "array": np.arange(5)}, transport=path)
    for value in (ray.get(ref), ray.get(call(b, lambda node, value: value, ref))):
        assert value["text"] == "x" and value["array"].sum() == 10
        for name, tensor in tensors.items():
            assert value[name].dtype == tensor.dtype and value[name].shape == tensor.shape, name
            if name != "channels last":  # random
                assert bits_of(value[name]) == bits_of(tensor), name


@pytest.mark.parametrize("path", PATHS)
def test_bytes_move_by_the_path_that_was_named(a, b, path):
    ref = call(a, ones, N, transport=path.upper())
    assert ray.get(call(b, total, ref)) == N
    pid = ray.get(call(b, lambda node: os.getpid()))
    assert sum(row.nbytes for row in rows_of(pid, path)) == 4 * N
    assert not rows_of(pid, "shm")


@pytest.mark.parametrize("path", PATHS)
def test_a_parameter_travels_as_a_tensor(a, path):
    ref = call(a, lambda node: torch.nn.Linear(8, 8).weight, transport=path)
    assert ray.get(ref).shape == (8, 8)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_ready_is_brought_whoever_waits_for_it(a, b, path):
    async def gather(refs):
        return [float(value.sum()) for value in await asyncio.gather(*refs)]

    def refs():
        made = [call(a, ones, N, transport=path) for _ in range(2)]
        assert len(ray.wait(made, num_returns=2)[0]) == 2
        return made

    assert asyncio.run(gather(refs())) == [N, N]
    assert [float(ref.future().result(timeout=30).sum()) for ref in refs()] == [N, N]
    assert [float(ray.get(ref, timeout=0).sum()) for ref in refs()] == [N, N]


@pytest.mark.parametrize("path", PATHS)
def test_an_actor_that_waits_for_its_tensor_writes_after_a_reader_that_is_late(a, b, path, tmp_path):
    def is_freed(node, timeout):
        try:
            wait_tensor_freed(node.kept, timeout=timeout)
        except exceptions.GetTimeoutError:
            return False
        node.kept.zero_()
        return True

    gate = tmp_path / "gate"
    call(b, lambda node: until(gate.exists))
    read = call(b, total, call(a, ones, N, transport=path))
    assert ray.get(call(a, is_freed, 0.1)) is False
    written = call(a, is_freed, 60)
    gate.touch()
    assert ray.get([read, written]) == [N, True]


@pytest.mark.parametrize("path", PATHS)
def test_put_targets_and_the_same_object_at_home(a, path):
    own = torch.arange(float(N))
    ref = ray.put({"x": own}, _tensor_transport=path)
    assert ray.get(ref)["x"] is own
    target = torch.zeros(N)
    set_target_for_ref(given := call(a, ones, N, transport=path), [target])
    assert ray.get(given) is target and target.sum() == N
    with pytest.raises(exceptions.GetTimeoutError):
        wait_tensor_freed(own, timeout=0.1)
    del ref
    wait_tensor_freed(own, timeout=30)


@pytest.mark.parametrize("path", ["cuda_ipc", "nccl"])
def test_paths_of_gpus_refuse_memory_of_the_host(a, path):
    ref = call(a, lambda node: ["no tensor", 1], transport=path)
    assert ray.get(ref) == ["no tensor", 1]
    with pytest.raises(exceptions.TransportUnavailableError, match=rf"'{path}' serves tensors on cuda; .* is on cpu"):
        ray.get(call(a, ones, N, transport=path))
    with pytest.raises(exceptions.TransportUnavailableError, match="is on cpu"):
        ray.put(torch.ones(3), _tensor_transport=path)


def test_a_fetch_sees_what_was_written_meanwhile(a, b):
    # isolation="live": nothing is copied at publication.
    ref = call(a, ones, N, transport="cma")
    assert ray.get(call(b, total, ref)) == N
    ray.get(call(a, lambda node: node.kept.fill_(2.0)[:1]))
    assert ray.get(call(b, total, ref)) == 2 * N


@pytest.mark.parametrize("path", PATHS)
def test_death_of_the_producer(make_actor, b, path):
    producer = make_actor()
    ref = call(producer, ones, N, transport=path)
    assert ray.get(call(b, total, ref)) == N
    pid = ray.get(call(producer, lambda node: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    with pytest.raises(exceptions.BeelineError):
        ray.get(call(b, total, ref), timeout=30)
    assert ray.get(call(b, lambda node: 1)) == 1


def fork_and_write(node):
    """A child of fork() changes its own copy and ends as children of multiprocessing do; the status it ended with."""
    child = multiprocessing.get_context("fork").Process(target=node.kept.fill_, args=[5.0])
    child.start()
    child.join(30)
    return child.exitcode


@pytest.mark.parametrize("path", PATHS)
def test_a_fork_of_either_side(a, b, path):
    refs = [call(node, ones, N, transport=path) for node in (a, b)]
    for _ in range(2):
        assert ray.get([call(b, total, refs[0]), call(a, total, refs[1])]) == [N, N]
        assert ray.get([call(node, fork_and_write) for node in (a, b)]) == [0, 0]
    assert ray.get([call(b, total, refs[0]), call(a, total, refs[1])]) == [N, N]


def stopped(actor):
    """The actor's process, which does nothing more until it is continued."""
    pid = ray.get(call(actor, lambda node: os.getpid()))
    os.kill(pid, signal.SIGSTOP)
    while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.001)
    return pid


@pytest.mark.parametrize("path", PATHS)
def test_a_producer_that_is_stopped(make_actor, b, path):
    producer = make_actor()
    ref = call(producer, ones, N, transport=path)
    assert ray.get(call(b, total, ref)) == ray.get(ref).sum() == N
    pid = stopped(producer)
    try:
        if path in SERVED:
            begun = time.monotonic()
            with pytest.raises(exceptions.GetTimeoutError) as raised:
                ray.get(ref, timeout=1)
            assert time.monotonic() - begun < 1.1 + 0.5
            assert f"by {path}" in str(raised.value)
            # Who tries again means the same target.
            target = torch.zeros(N)
            set_target_for_ref(ref, [target])
            with pytest.raises(exceptions.GetTimeoutError):
                ray.get(ref, timeout=0.2)
            waiting = call(b, total, ref)
            with pytest.raises(exceptions.GetTimeoutError):
                ray.get(waiting, timeout=1)
        else:
            waiting = call(b, total, ref)
            assert ray.get(ref, timeout=10).sum() == ray.get(waiting, timeout=10) == N, "nobody there is asked"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ray.get(waiting, timeout=30) == ray.get(ref, timeout=30).sum() == N
    assert path not in SERVED or target.sum() == N


def test_what_is_mapped_is_counted_where_top_finds_it(a, b):
    ref = call(a, ones, N, transport="auto")
    assert ray.get(call(b, total, ref)) == N
    pid = ray.get(call(b, lambda node: os.getpid()))
    (row,) = rows_of(pid, "shm")
    assert row.operation == "map" and row.nbytes == 4 * N and row.transfers == 1
    names = [agent.name for agent in counters.live() if agent.pid == pid]
    assert len(names) == 1 and names[0].startswith("actor ")


def test_a_killed_process_leaves_no_file(make_actor, b):
    killed = make_actor()
    ref = call(b, ones, N, transport="auto")
    copied = call(b, ones, N, transport="cma")
    assert ray.get([call(killed, total, ref), call(killed, total, copied)]) == [N, N]
    pid = ray.get(call(killed, lambda node: os.getpid()))
    files = {agent.path for agent in counters.live() if agent.pid == pid}
    assert len(files) == 2  # its own, and its agent's
    os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(os.path.exists, files)), within_s=2)


def test_the_session_leaves_nothing():
    code = """
import os, torch, beeline as ray
ray.init(num_cpus=1)
refs = [ray.put(torch.ones(1 << 18), _tensor_transport=path) for path in ("cma", "tcp")]

@ray.remote
def look(*tensors):
    return [float(t.sum()) for t in tensors]

assert ray.get(look.remote(*refs)) == [float(1 << 18)] * 2
ray.shutdown()
"""
    before = set(Path(counters.folder()).parent.iterdir())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert set(Path(counters.folder()).parent.iterdir()) <= before
