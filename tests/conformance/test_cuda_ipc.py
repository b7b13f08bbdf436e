"""Tensors on GPUs, between processes, by cuda_ipc: over AN EMULATOR of NVIDIA's driver. Real ones: test_gpu.py."""

import gc
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, TensorRefs, devices
from tests.conformance import emulated_gpu
from tests.conformance.conftest import TOKEN
from tests.conformance.emulated_gpu import DeviceTensor, content, driver, on_gpu, poisoned
from tests.conformance.paths import UNDER_FAULTS
from tests.conformance.test_fetch import DTYPES, LAYOUTS, same
from tests.conformance.test_fetch import poisoned as host_poisoned

pytestmark = pytest.mark.usefixtures("emulated_gpus")

# Where a reader wants them: in the host's memory, on the owner's GPU, on another one.
TARGETS = pytest.mark.parametrize("target", ["cpu", 0, 1])


def target_for(like, target):
    return host_poisoned(like) if target == "cpu" else poisoned(like, target)


def arrived(target):
    return target if isinstance(target, torch.Tensor) else target.cpu()


@TARGETS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_arrives(gpu_owner, agent, layout, target):
    refs = gpu_owner.register(on_gpu(f"[{LAYOUTS[layout]}]"))
    expected = eval(LAYOUTS[layout], {"torch": torch})
    assert refs[0].device == "cuda:0" and refs[0].shape == tuple(expected.shape)
    out = [target_for(expected, target)]
    assert agent.fetch(refs, out, path="cuda_ipc") is out
    assert same(arrived(out[0]), expected)


@UNDER_FAULTS
@TARGETS
def test_every_dtype_arrives(gpu_owner, agent, target):
    names = [f"torch.{name}" for name in DTYPES]
    expression = f"{{str(d): torch.arange(1 << 16).remainder(2).to(d) for d in [{', '.join(names)}]}}"
    refs = gpu_owner.register(on_gpu(expression))
    expected = eval(expression, {"torch": torch})
    out = {name: target_for(tensor, target) for name, tensor in expected.items()}
    agent.fetch(refs, out)
    for name in expected:
        assert same(arrived(out[name]), expected[name]), name


@UNDER_FAULTS
@TARGETS
def test_parts_arrive_and_nothing_else_is_touched(gpu_owner, agent, target):
    refs = gpu_owner.register(on_gpu("[torch.arange(1 << 18, dtype=torch.int32).reshape(64, 64, 64)]"))
    whole = torch.arange(1 << 18, dtype=torch.int32).reshape(64, 64, 64)
    for index in [(3,), (slice(2, 5),), (slice(None), 7), (slice(None, None, 9), slice(3, 60, 7), -1), (-1, -1, -1)]:
        expected = whole[index]
        field = torch.full((*expected.shape, 3), -7, dtype=torch.int32)
        if target != "cpu":
            field = DeviceTensor(field, target)
        agent.fetch(refs[0][index], field[..., 1])
        got = arrived(field)
        assert torch.equal(got[..., 1], expected), index
        assert bool((got[..., 0] == -7).all()) and bool((got[..., 2] == -7).all())


@UNDER_FAULTS
@TARGETS
def test_push_fills_what_was_granted(gpu_owner, agent, target):
    refs = gpu_owner.register(on_gpu("[torch.zeros(1 << 18), torch.zeros(64, 64).t()]"))
    sources = [torch.arange(1 << 18).float(), torch.arange(4096).float().reshape(64, 64)]
    given = sources if target == "cpu" else [DeviceTensor(source, target) for source in sources]
    with pytest.raises(ValueError, match="granted"):
        agent.push(refs, given)
    gpu_owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    agent.push(refs, given)
    weighted = "float((tensor.double() * torch.arange(tensor.shape[-1])).sum())"
    sums = gpu_owner.run(f"answer = [{weighted} for tensor in (t.cpu() for t in kept['tensors'])]")
    assert sums == [eval(weighted, {"torch": torch, "tensor": source}) for source in sources]


@TARGETS
def test_a_batch_sees_what_kernels_of_its_owner_have_written(gpu_owner, agent, target):
    refs = gpu_owner.register(on_gpu("[torch.zeros(1 << 16, dtype=torch.uint8)]"))
    out = target_for(torch.zeros(1 << 16, dtype=torch.uint8), target)
    batch = agent.prepare(refs, [out])
    for value in range(1, 4):
        gpu_owner.run(f"kept['tensors'][0].fill({value}, run_us=50_000)")  # which returns at once
        batch.run()
        assert bool((arrived(out) == value).all())
    gpu_owner.run("kept.clear()")
    with pytest.raises(exceptions.StaleReferenceError):
        batch.run()


def test_new_tensors_are_made_where_their_owner_has_them_or_where_they_are_wanted(gpu_owner, agent, arrays):
    expression = "torch.arange(5000).reshape(50, 100).t()"
    expected = eval(expression, {"torch": torch})
    gpu_owner.run(f"kept['mixed'] = [DeviceTensor({expression}, 1), {expression}]")
    refs = TensorRefs.from_json(
        gpu_owner.run("kept['r'] = agent.register(kept['mixed']); answer = kept['r'].to_json()")
    )
    assert [ref.device for ref in refs] == ["cuda:1", "cpu"]
    there, here = agent.fetch(refs)
    assert arrays == ["cuda:1"] and there.device == 1
    assert same(there.cpu(), expected) and same(here, expected)
    arrays.clear()
    assert same(agent.fetch(refs[0], device="cpu"), expected) and arrays == []
    assert same(agent.fetch(refs[0], device="cuda:0").cpu(), expected) and arrays == ["cuda:0"]
    assert same(agent.fetch_async(refs[0], device=torch.device("cuda", 1)).result(20).cpu(), expected)
    with pytest.raises(ValueError, match="out= has some"):
        agent.fetch(refs[0], torch.zeros(100, 50), device="cpu")
    with pytest.raises(ValueError, match="device= is"):
        agent.fetch(refs[0], device="npu:0")


def test_the_owners_arena_goes_straight_into_memory_of_a_gpu(gpu_owner, agent, arrays):
    expected = torch.arange(64_000).reshape(64, 1000).t()
    text = gpu_owner.run(
        "kept['a'] = agent.empty((64, 1000), 'int64').copy_(torch.arange(64_000).reshape(64, 1000));"
        "kept['r'] = agent.register([kept['a'].t(), torch.ones(7)]); answer = kept['r'].to_json()"
    )
    refs = TensorRefs.from_json(text)
    assert agent.explain(refs[0])["chosen"] == "shm"
    out = poisoned(expected, 1)
    agent.fetch(refs[0], out)
    assert same(out.cpu(), expected)
    assert same(agent.fetch(refs[0], device="cuda:0").cpu(), expected) and arrays == ["cuda:0"]
    with pytest.raises(exceptions.TransportUnavailableError, match="cuda_ipc: .*arena"):
        agent.fetch(refs[1], device="cuda:0")


def test_a_torch_without_cuda_is_told_what_to_do(gpu_owner, agent):
    if torch.cuda.is_available():
        pytest.skip("this torch has CUDA, and would ask a GPU that is not there")
    refs = gpu_owner.register(on_gpu("[torch.ones(5)]"))
    with pytest.raises(exceptions.TransportUnavailableError, match='device="cpu"'):
        agent.fetch(refs)


def test_elements_change_on_their_way_into_the_hosts_memory(gpu_owner, agent, arrays):
    refs = gpu_owner.register(on_gpu("[torch.linspace(-3, 3, 1 << 16).reshape(256, 256).t()]"))
    expected = torch.linspace(-3, 3, 1 << 16).reshape(256, 256).t()
    converted = agent.fetch(refs[0], device="cpu", dtype=torch.bfloat16)
    assert torch.equal(converted, expected.to(torch.bfloat16))
    values, scales = agent.fetch(refs[0], device="cpu", dtype=torch.float8_e4m3fn, block=(128, 128))
    assert values.dtype == torch.float8_e4m3fn and scales.shape == (2, 2)
    with pytest.raises(exceptions.TransportUnavailableError, match="into the host's memory only"):
        agent.fetch(refs[0], dtype=torch.bfloat16)
    with pytest.raises(ValueError, match='device="cpu"'):
        agent.fetch(refs[0], dtype=torch.float8_e4m3fn, block=(128, 128))


def test_arrays_of_other_libraries_show_themselves_by_dlpack(gpu_owner, agent):
    refs = gpu_owner.register("[DeviceTensor(torch.arange(100), versioned=False)]")
    out = poisoned(torch.zeros(100, dtype=torch.int64))
    agent.fetch(refs, [out])
    assert torch.equal(out.cpu(), torch.arange(100))
    out.readonly = True
    with pytest.raises(ValueError, match="read-only"):
        agent.fetch(refs, [out])


def test_work_of_other_streams_comes_first_where_its_owner_says_so(gpu_owner, agent):
    out = torch.zeros(4096, dtype=torch.uint8)
    gpu_owner.run(
        "kept['stream'] = driver().stream(); kept['t'] = DeviceTensor(torch.zeros(4096, dtype=torch.uint8));"
        "kept['t'].fill(1, run_us=150_000, stream=kept['stream'])"
    )
    text = gpu_owner.run("kept['r'] = agent.register(kept['t'], stream=kept['stream']); answer = kept['r'].to_json()")
    (ref,) = TensorRefs.from_json(text)
    agent.fetch(ref, out)
    assert bool((out == 1).all())
    gpu_owner.run(
        """
with agent.writing(kept['r'], stream=kept['stream']):
    kept['t'].fill(2, run_us=150_000, stream=kept['stream'])
"""
    )
    agent.fetch(ref, out)
    assert bool((out == 2).all())
    with pytest.raises(TypeError, match="stream="):
        agent.register(torch.zeros(3), stream="main")


def test_a_read_during_a_write_is_torn(gpu_owner, agent):
    refs = gpu_owner.register(on_gpu("[torch.zeros(100)]"))
    out = [torch.zeros(100)]
    gpu_owner.run("kept['w'] = agent.writing(kept['refs']); kept['w'].__enter__()")
    with pytest.raises(exceptions.TornReadError):
        agent.fetch(refs, out)
    gpu_owner.run("kept['w'].__exit__(None, None, None)")
    agent.fetch(refs, out)


@TARGETS
def test_a_readers_own_kernels_are_done_with_the_target_first(gpu_owner, agent, target):
    if target == "cpu":
        pytest.skip("no kernel writes there")
    refs = gpu_owner.register(on_gpu("[torch.full((4096,), 5, dtype=torch.uint8)]"))
    out = poisoned(torch.zeros(4096, dtype=torch.uint8), target)
    out.fill(9, run_us=100_000)
    agent.fetch(refs, [out])
    driver().finish(target)
    assert bool((out.cpu() == 5).all())


@pytest.mark.full
@TARGETS
def test_a_time_out_writes_nothing_later(start_gpu_owner, agent, target):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.zeros(4096, dtype=torch.uint8)]"))
    out = target_for(torch.zeros(4096, dtype=torch.uint8), target)
    before = arrived(out).clone()
    owner.run("kept['tensors'][0].fill(7, run_us=4_000_000)")
    begin = time.monotonic()
    with pytest.raises(exceptions.TransferTimeoutError, match="GPU"):
        agent.fetch(refs, [out], timeout_s=0.3)
    assert 0.25 < time.monotonic() - begin < 3  # the kernel still runs
    owner.run("driver().finish()")
    assert torch.equal(arrived(out), before)
    agent.fetch(refs, [out])
    assert bool((arrived(out) == 7).all())


def test_a_cancelled_fetch_ends_soon(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.zeros(4096, dtype=torch.uint8)]"))
    out = torch.full((4096,), 3, dtype=torch.uint8)
    owner.run("kept['tensors'][0].fill(7, run_us=30_000_000)")
    transfer = agent.fetch_async(refs, [out])
    time.sleep(0.1)
    transfer.cancel()
    with pytest.raises(exceptions.TransferCancelledError):
        transfer.result(20)
    assert bool((out == 3).all())


def test_a_stopped_owner(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.ones(1000)]"))
    out = [torch.zeros(1000)]
    agent.fetch(refs, out)
    owner.signal(signal.SIGSTOP)
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, out, timeout_s=0.5)
    owner.signal(signal.SIGCONT)
    agent.fetch(refs, out)


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_owner(start_gpu_owner, agent, busy):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.ones(1000)]"))
    out = [torch.zeros(1000)]
    agent.fetch(refs, out)
    transfer = None
    if busy:  # while the reader waits for its kernel
        owner.run("kept['tensors'][0].fill(7, run_us=60_000_000)")
        transfer = agent.fetch_async(refs, out)
        time.sleep(0.2)
    begin = time.monotonic()
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        while transfer is None and time.monotonic() - begin < 20:
            agent.fetch(refs, out)
        transfer.result(20)
    assert time.monotonic() - begin < 20
    with pytest.raises(exceptions.PeerLostError):
        agent.fetch(refs, out)


def test_a_reader_that_dies_leaves_the_source_usable(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.arange(1000)]"))
    reader = start_gpu_owner()
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r}); agent.connect(kept['refs'].owner)")
    owner.run("kept['tensors'][0].fill(0, run_us=500_000)")
    reader.tell("agent.fetch(kept['refs'], [torch.zeros(1000, dtype=torch.int64)])")
    time.sleep(0.2)
    reader.signal(signal.SIGKILL)
    reader.process.wait()
    out = [torch.ones(1000, dtype=torch.int64)]
    agent.fetch(refs, out)
    assert not out[0].any()
    owner.run("kept.pop('refs'); kept.pop('tensors')")
    deadline = time.monotonic() + 20
    while owner.run("agent.register(torch.zeros(1)); answer = agent.stats()['registrations_waiting']"):
        assert time.monotonic() < deadline


def test_handles_are_opened_once_and_closed(start_gpu_owner, folder):
    owner = start_gpu_owner()
    text = owner.run(
        "kept['whole'] = DeviceTensor(torch.arange(1 << 16));"
        "kept['parts'] = [kept['whole'][at : at + 100] for at in range(0, 60_000, 1000)];"
        "kept['refs'] = [agent.register(part) for part in kept['parts']];"
        "answer = [refs.to_json() for refs in kept['refs']]"
    )
    out = torch.zeros(100, dtype=torch.int64)
    with Agent("reader", folder=folder, token=TOKEN) as agent:
        before = driver().calls("cuIpcOpenMemHandle_v2")
        opened = driver().opened()
        for at, each in enumerate(text):
            for _ in range(2):
                agent.fetch(next(iter(TensorRefs.from_json(each))), out)
                assert torch.equal(out, torch.arange(at * 1000, at * 1000 + 100))
        assert driver().calls("cuIpcOpenMemHandle_v2") == before + 1
        assert driver().opened() == opened + 1
        assert owner.run("answer = driver().calls('cuIpcGetMemHandle')") == 1
        # Undone: closed once something else is opened.
        other = owner.run(
            "kept['refs'].clear(); kept['parts'].clear(); kept['other'] = DeviceTensor(torch.ones(100).long());"
            "kept['r'] = agent.register(kept['other']); answer = kept['r'].to_json()"
        )
        agent.fetch(next(iter(TensorRefs.from_json(other))), out)
        assert bool((out == 1).all())
        assert driver().opened() == opened + 1
    assert driver().opened() == opened


def test_an_address_that_is_given_out_anew_is_another_allocation(start_gpu_owner, agent):
    owner = start_gpu_owner()
    out = torch.zeros(1000, dtype=torch.int64)
    addresses = []
    deadline = time.monotonic() + 60
    while len(set(addresses)) == len(addresses):  # until one is given out again
        assert time.monotonic() < deadline
        value = len(addresses)
        text, address = owner.run(
            f"kept.clear(); kept['t'] = DeviceTensor(torch.full((1000,), {value}));"
            "kept['r'] = agent.register(kept['t']); answer = [kept['r'].to_json(), kept['t'].address]"
        )
        addresses.append(address)
        agent.fetch(next(iter(TensorRefs.from_json(text))), out)
        assert bool((out == value).all())


def test_memory_without_a_handle_is_refused_at_registration(gpu_owner):
    code = "agent.register([DeviceTensor(torch.ones(5), pooled=True)])"
    gpu_owner.tell(code)
    assert "TransportUnavailableError" in (said := gpu_owner._hear()["error"]) and "expandable_segments" in said


def test_gpus_are_told_apart_by_what_they_are_not_by_their_numbers(start_gpu_owner, agent, arrays):
    owner = start_gpu_owner(environ={"CUDA_VISIBLE_DEVICES": "1"})
    refs = owner.register(on_gpu("[torch.arange(100)]"))
    assert refs[0].device == "cuda:0"
    fetched = agent.fetch(refs[0])
    assert fetched.device == 1 and torch.equal(fetched.cpu(), torch.arange(100))


def reader_says(start_owner, refs, code, **environ):
    """What a reader in a process of its own answers, or the error that it got."""
    reader = start_owner(preload=False, environ=environ)
    reader.run("from emulated_gpu import DeviceTensor, driver, poisoned; answer = 1")
    reader.tell(f"refs = TensorRefs.from_json({refs.to_json()!r}); {code}")
    said = reader._hear()
    return said.get("error", said.get("answer"))


def test_a_gpu_that_the_reader_does_not_see(start_owner, gpu_owner):
    refs = gpu_owner.register(on_gpu("[torch.ones(10)]"))
    said = reader_says(start_owner, refs, "agent.fetch(refs, [torch.zeros(10)])", CUDA_VISIBLE_DEVICES="1")
    assert "TransportUnavailableError" in said and "CUDA_VISIBLE_DEVICES" in said


@pytest.mark.parametrize("peer_access", ["0", "1"])
def test_copies_by_way_of_the_host_are_counted(start_owner, gpu_owner, peer_access):
    refs = gpu_owner.register(on_gpu("[torch.arange(1000).reshape(10, 100).t()]"))
    code = (
        "out = poisoned(torch.zeros(100, 10, dtype=torch.int64), 1); agent.fetch(refs, [out]);"
        "answer = [out.cpu().t().reshape(-1).tolist(), agent.stats()['copies_through_host']]"
    )
    values, through_host = reader_says(start_owner, refs, code, CUDA_EMULATOR_PEER=peer_access)
    assert values == list(range(1000))
    assert (through_host > 0) == (peer_access == "0")


def test_a_reader_without_a_driver(start_owner, gpu_owner):
    refs = gpu_owner.register(on_gpu("[torch.ones(10)]"))
    reader = start_owner(preload=False, environ={"BEELINE_CUDA_LIBRARY": "/nowhere/libcuda.so"})
    reader.tell(f"agent.fetch(TensorRefs.from_json({refs.to_json()!r}), [torch.zeros(10)])")
    said = reader._hear()["error"]
    assert "TransportUnavailableError" in said and "/nowhere/libcuda.so" in said


def test_agents_that_share_no_memory_are_told_why(start_gpu_owner, folder):
    owner = start_gpu_owner(share_memory=False)
    refs = owner.register(on_gpu("[torch.ones(10)]"))
    with Agent("reader", folder=folder, token=TOKEN) as agent:
        with pytest.raises(exceptions.TransportUnavailableError, match="cuda_ipc: "):
            agent.fetch(refs, [torch.zeros(10)])


def test_a_driver_that_fails_is_named(start_gpu_owner, folder):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.ones(10)]"))
    out = [torch.zeros(10)]
    with Agent("reader", folder=folder, token=TOKEN) as agent:
        driver().fail("cuIpcOpenMemHandle_v2", 201)
        with pytest.raises(exceptions.DirectTransportError, match="CUDA_ERROR_INVALID_CONTEXT"):
            agent.fetch(refs, out, path="cuda_ipc")
    with Agent("reader", folder=folder, token=TOKEN) as agent:
        agent.fetch(refs, out, path="cuda_ipc")
        assert bool((out[0] == 1).all())


def test_a_mapped_tensor_is_the_owners_memory(start_gpu_owner, agent, monkeypatch):
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)  # which fails in a torch without CUDA
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.arange(6000).reshape(60, 100).t()]", device=1))
    try:
        mapped = agent.map(refs[0])
    except (AssertionError, RuntimeError) as error:
        pytest.skip(f"this torch takes no CUDA tensors: {error}")
    assert mapped.device == torch.device("cuda", 1)
    assert torch.equal(content(mapped), torch.arange(6000).reshape(60, 100).t())
    owner.run("kept['tensors'][0].fill(1)")
    owner.run("driver().finish(1)")
    assert bool((content(mapped) == 0x0101010101010101).all())
    # It may be registered and handed on in turn, and keeps the owner's memory.
    owner.run("kept.clear()")
    assert owner.run("answer = agent.stats()['registrations_waiting']") == 1
    assert bool((content(mapped) == 0x0101010101010101).all())
    with pytest.raises(exceptions.StaleReferenceError):
        agent.map(refs[0])
    del mapped
    gc.collect()
    deadline = time.monotonic() + 20
    while owner.run("agent.register(torch.zeros(1)); answer = agent.stats()['registrations_waiting']"):
        assert time.monotonic() < deadline


def test_explain_names_cuda_ipc_first(gpu_owner, agent):
    refs = gpu_owner.register(on_gpu("[torch.ones(10)]"))
    explained = agent.explain(refs[0])
    assert explained["chosen"] == "cuda_ipc"
    reasons = {candidate["path"]: candidate["reason"] for candidate in explained["candidates"]}
    assert reasons["shm"] == reasons["cma"] == "the memory is not the host's"


def test_what_names_a_device_and_a_stream():
    assert devices.parse("cpu") == (devices.HOST, 0)
    assert devices.parse(torch.device("cuda")) == (devices.CUDA, None)
    assert devices.parse(3) == (devices.CUDA, 3)

    class Stream:
        cuda_stream = 77

    assert devices.stream_handle(Stream()) == 77
    assert devices.stream_handle(0) == 0 and devices.stream_handle(None) is None


@pytest.mark.full
def test_doctor_sees_the_driver(emulated_gpus):
    command = [sys.executable, "-m", "beeline.cli", "doctor", "--json"]
    for environment, level, found in [
        (emulated_gpus, "ok", "CUDA 12.4: emulated GPU 0, emulated GPU 1"),
        ({"BEELINE_CUDA_LIBRARY": "/nowhere/libcuda.so"}, "absent", "/nowhere/libcuda.so"),
    ]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)
        checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
        assert checks["path cuda_ipc"]["level"] == level
        assert found in checks["path cuda_ipc"]["found"]


def test_an_emulated_gpu_is_no_memory_of_the_processors(emulated_gpus):
    code = (
        "import ctypes, sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch; from emulated_gpu import DeviceTensor\n"
        "ctypes.string_at(DeviceTensor(torch.ones(5)).address, 4)"
    )
    folder = os.path.dirname(emulated_gpu.__file__)
    done = subprocess.run([sys.executable, "-c", code, folder], timeout=60, env=os.environ | emulated_gpus)
    assert done.returncode == -signal.SIGSEGV
