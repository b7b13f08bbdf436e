"""Tensors on GPUs, between processes, by nccl: over AN EMULATOR of NCCL, itself over one of NVIDIA's driver
(tests/emulators). Real ones: test_gpu_nccl.py."""

import ctypes
import json
import os
import re
import signal
import subprocess
import time

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, TensorRefs
from tests.conformance.conftest import TOKEN, beeline
from tests.conformance.emulated_gpu import DeviceTensor, driver, on_gpu, poisoned
from tests.conformance.paths import UNDER_FAULTS
from tests.conformance.small_disk import fill, mounted
from tests.conformance.test_fetch import DTYPES, LAYOUTS, same

pytestmark = pytest.mark.usefixtures("emulated_nccl")

# How many communicators the owner's process has.
COMMS = "answer = ctypes.CDLL(os.environ['BEELINE_NCCL_LIBRARY']).ncclEmulatorComms()"
BYTES = "[torch.zeros(4096, dtype=torch.uint8)]"


@pytest.fixture(scope="module")
def emulation(emulated_nccl):
    return emulated_nccl


@pytest.fixture
def fresh(folder):
    """A reader that has met nobody, for a path that fails is left alone for a while."""
    with Agent("reader", folder=folder, token=TOKEN) as own:
        yield own


def stall(owner, where):
    owner.run(f"os.environ['NCCL_EMULATOR_STALL'] = {where!r}; answer = 1")


def aborts(library):
    return ctypes.CDLL(library).ncclEmulatorAborts()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_arrives(gpu_owner, agent, layout):
    refs = gpu_owner.register(on_gpu(f"[{LAYOUTS[layout]}]"))
    expected = eval(LAYOUTS[layout], {"torch": torch})
    out = [poisoned(expected, 1)]
    assert agent.fetch(refs, out, path="nccl") is out
    assert same(out[0].cpu(), expected)


@UNDER_FAULTS
def test_every_dtype_arrives(gpu_owner, agent):
    names = [f"torch.{name}" for name in DTYPES]
    expression = f"{{str(d): torch.arange(1 << 16).remainder(2).to(d) for d in [{', '.join(names)}]}}"
    refs = gpu_owner.register(on_gpu(expression))
    expected = eval(expression, {"torch": torch})
    out = {name: poisoned(tensor, 1) for name, tensor in expected.items()}
    agent.fetch(refs, out, path="nccl")
    for name in expected:
        assert same(out[name].cpu(), expected[name]), name


@UNDER_FAULTS
def test_parts_arrive_and_nothing_else_is_touched(gpu_owner, agent):
    refs = gpu_owner.register(on_gpu("[torch.arange(1 << 18, dtype=torch.int32).reshape(64, 64, 64)]", device=1))
    whole = torch.arange(1 << 18, dtype=torch.int32).reshape(64, 64, 64)
    for index in [(3,), (slice(2, 5),), (slice(None), 7), (slice(None, None, 9), slice(3, 60, 7), -1), (-1, -1, -1)]:
        expected = whole[index]
        field = DeviceTensor(torch.full((*expected.shape, 3), -7, dtype=torch.int32), 0)
        agent.fetch(refs[0][index], field[..., 1], path="nccl")
        got = field.cpu()
        assert torch.equal(got[..., 1], expected), index
        assert bool((got[..., 0] == -7).all()) and bool((got[..., 2] == -7).all())


@UNDER_FAULTS
def test_push_fills_what_was_granted(gpu_owner, agent):
    refs = gpu_owner.register(on_gpu("[torch.zeros(1 << 18), torch.zeros(64, 64).t()]"))
    sources = [torch.arange(1 << 18).float(), torch.arange(4096).float().reshape(64, 64)]
    given = [DeviceTensor(source, 1) for source in sources]
    with pytest.raises(ValueError, match="granted"):
        agent.push(refs, given, path="nccl")
    gpu_owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    agent.push(refs, given, path="nccl")
    weighted = "float((tensor.double() * torch.arange(tensor.shape[-1])).sum())"
    sums = gpu_owner.run(f"answer = [{weighted} for tensor in (t.cpu() for t in kept['tensors'])]")
    assert sums == [eval(weighted, {"torch": torch, "tensor": source}) for source in sources]


def test_a_batch_sees_what_kernels_of_its_owner_have_written(gpu_owner, agent):
    refs = gpu_owner.register(on_gpu("[torch.zeros(1 << 16, dtype=torch.uint8)]"))
    out = poisoned(torch.zeros(1 << 16, dtype=torch.uint8), 1)
    batch = agent.prepare(refs, [out], path="nccl")
    for value in range(1, 4):
        gpu_owner.run(f"kept['tensors'][0].fill({value}, run_us=50_000)")  # which returns at once
        batch.run()
        assert bool((out.cpu() == value).all())
    gpu_owner.run("kept.clear()")
    with pytest.raises(exceptions.StaleReferenceError):
        batch.run()


def test_work_of_other_streams_comes_first_where_its_owner_says_so(gpu_owner, agent):
    out = poisoned(torch.zeros(4096, dtype=torch.uint8), 1)
    gpu_owner.run(
        "kept['stream'] = driver().stream(); kept['t'] = DeviceTensor(torch.zeros(4096, dtype=torch.uint8));"
        "kept['t'].fill(1, run_us=150_000, stream=kept['stream'])"
    )
    text = gpu_owner.run("kept['r'] = agent.register(kept['t'], stream=kept['stream']); answer = kept['r'].to_json()")
    (ref,) = TensorRefs.from_json(text)
    agent.fetch(ref, out, path="nccl")
    assert bool((out.cpu() == 1).all())


def test_a_readers_own_kernels_are_done_with_the_target_first(gpu_owner, agent):
    refs = gpu_owner.register(on_gpu("[torch.full((4096,), 5, dtype=torch.uint8)]"))
    out = poisoned(torch.zeros(4096, dtype=torch.uint8), 1)
    out.fill(9, run_us=100_000)
    agent.fetch(refs, [out], path="nccl")
    driver().finish(1)
    assert bool((out.cpu() == 5).all())


def test_a_read_during_a_write_is_torn(gpu_owner, agent):
    refs = gpu_owner.register(on_gpu("[torch.zeros(100)]"))
    out = [poisoned(torch.zeros(100), 1)]
    gpu_owner.run("kept['w'] = agent.writing(kept['refs']); kept['w'].__enter__()")
    with pytest.raises(exceptions.TornReadError):
        agent.fetch(refs, out, path="nccl")
    gpu_owner.run("kept['w'].__exit__(None, None, None)")
    agent.fetch(refs, out, path="nccl")


def test_one_gpu_is_no_pair(gpu_owner, fresh):
    refs = gpu_owner.register(on_gpu(BYTES))
    out = poisoned(torch.zeros(4096, dtype=torch.uint8), 0)
    with pytest.raises(exceptions.TransportUnavailableError, match="one GPU.*use cuda_ipc"):
        fresh.fetch(refs, [out], path="nccl")
    fresh.fetch(refs, [out])
    assert not out.cpu().any()


def test_gpus_are_told_apart_by_what_they_are_not_by_their_numbers(start_gpu_owner, fresh):
    owner = start_gpu_owner(environ={"CUDA_VISIBLE_DEVICES": "1"})
    refs = owner.register(on_gpu("[torch.arange(100)]"))
    out = poisoned(torch.arange(100), 0)
    fresh.fetch(refs, [out], path="nccl")  # both are their process's first, and two
    assert torch.equal(out.cpu(), torch.arange(100))
    with pytest.raises(exceptions.TransportUnavailableError, match="one GPU"):
        fresh.fetch(refs, [poisoned(torch.arange(100), 1)], path="nccl")


def test_memory_of_the_host_is_not_moved(gpu_owner, agent):
    refs = gpu_owner.register(on_gpu("[torch.zeros(100)]"))
    with pytest.raises(exceptions.TransportUnavailableError, match="nccl: it does not serve local memory"):
        agent.fetch(refs, [torch.zeros(100)], path="nccl")
    refs = gpu_owner.register("[torch.zeros(100)]")
    with pytest.raises(exceptions.TransportUnavailableError, match="nccl: the memory is the host's"):
        agent.fetch(refs, [poisoned(torch.zeros(100), 1)], path="nccl")


def test_cuda_ipc_is_preferred_and_what_it_cannot_hand_over_goes_by_nccl(gpu_owner, fresh):
    refs = gpu_owner.register(on_gpu("[torch.arange(50)]"))
    explained = fresh.explain(refs[0])
    assert explained["chosen"] == "cuda_ipc"
    paths = [candidate["path"] for candidate in explained["candidates"]]
    assert paths.index("nccl") == paths.index("cuda_ipc") + 1 == paths.index("ucx") - 1
    pooled = gpu_owner.register("[DeviceTensor(torch.arange(50), pooled=True)]")
    out = poisoned(torch.arange(50), 1)
    fresh.fetch(pooled, [out])
    assert torch.equal(out.cpu(), torch.arange(50))
    with pytest.raises(exceptions.TransportUnavailableError, match="cuda_ipc: left alone .*expandable_segments"):
        fresh.fetch(pooled, [out], path="cuda_ipc")


def test_new_tensors_are_made_on_another_gpu_where_cuda_ipc_is_not_there(start_gpu_owner, fresh, arrays):
    owner = start_gpu_owner(share_memory=False)
    refs = owner.register(on_gpu("[torch.arange(50)]"))
    fetched = fresh.fetch(refs[0])
    assert arrays == ["cuda:1"] and torch.equal(fetched.cpu(), torch.arange(50))


def test_agents_that_share_no_memory_meet_by_tcp(start_gpu_owner, fresh):
    owner = start_gpu_owner(share_memory=False)
    refs = owner.register(on_gpu("[torch.arange(6000).reshape(60, 100).t()]"))
    expected = torch.arange(6000).reshape(60, 100).t()
    out = poisoned(expected, 1)
    fresh.fetch(refs, [out])
    assert same(out.cpu(), expected)
    owner.run(f"agent.grant(kept['refs'], {fresh.address!r})")
    fresh.push(refs, [DeviceTensor(torch.full((100, 60), 7), 1)], path="nccl")
    assert owner.run("answer = int(kept['tensors'][0].cpu().sum())") == 7 * 6000


def test_agents_that_speak_tls_do_not_speak_nccl(start_gpu_owner, fresh):
    owner = start_gpu_owner(share_memory=False, tls=True)
    refs = owner.register(on_gpu("[torch.zeros(10)]"))
    with pytest.raises(exceptions.TransportUnavailableError, match="nccl: NCCL's bytes travel in clear"):
        fresh.fetch(refs, [poisoned(torch.zeros(10), 1)])


@pytest.mark.full
def test_a_time_out_writes_nothing_later(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu(BYTES))
    out = poisoned(torch.zeros(4096, dtype=torch.uint8), 1)
    before = out.cpu()
    owner.run("kept['tensors'][0].fill(7, run_us=4_000_000)")
    begin = time.monotonic()
    with pytest.raises(exceptions.TransferTimeoutError, match="GPU"):
        agent.fetch(refs, [out], timeout_s=0.5, path="nccl")
    assert 0.4 < time.monotonic() - begin < 3.5  # the kernel still runs
    owner.run("driver().finish()")
    assert torch.equal(out.cpu(), before)
    agent.fetch(refs, [out], path="nccl")
    assert bool((out.cpu() == 7).all())


@pytest.mark.parametrize("where", ["init", "launch", "move"])
def test_a_stall_ends_at_the_deadline_and_leaves_the_target_alone(start_gpu_owner, agent, emulated_nccl, where):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.arange(1 << 18)]"))
    out = poisoned(torch.arange(1 << 18), 1)
    before = out.cpu()
    if where != "init":
        agent.fetch(refs, [poisoned(torch.arange(1 << 18), 1)], path="nccl")
    stall(owner, where)
    aborted = aborts(emulated_nccl["BEELINE_NCCL_LIBRARY"])
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, [out], timeout_s=0.5, path="nccl")
    if where != "init":  # there, the reader's own side has met nobody yet, or everybody
        assert aborts(emulated_nccl["BEELINE_NCCL_LIBRARY"]) == aborted + 1
    stall(owner, "")
    assert torch.equal(out.cpu(), before)
    agent.fetch(refs, [out], path="nccl")  # by another communicator
    assert torch.equal(out.cpu(), torch.arange(1 << 18))
    driver().finish(1)


def test_what_was_cut_off_half_way_is_fetched_whole_afterwards(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.arange(1 << 18)]"))
    out = poisoned(torch.arange(1 << 18), 1)
    stall(owner, "half")
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, [out], timeout_s=1, path="nccl")
    after = out.cpu()
    stall(owner, "")
    time.sleep(0.1)
    assert torch.equal(out.cpu(), after)  # nothing comes later
    agent.fetch(refs, [out], path="nccl")
    assert torch.equal(out.cpu(), torch.arange(1 << 18))


def test_a_cancelled_fetch_ends_soon(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu(BYTES))
    out = poisoned(torch.zeros(4096, dtype=torch.uint8), 1)
    stall(owner, "move")
    transfer = agent.fetch_async(refs, [out], path="nccl")
    time.sleep(0.3)
    transfer.cancel()
    with pytest.raises(exceptions.TransferCancelledError):
        transfer.result(20)
    assert bool((out.cpu() == 0xEE).all())


def test_a_stopped_owner(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.ones(1000)]"))
    out = [poisoned(torch.zeros(1000), 1)]
    agent.fetch(refs, out, path="nccl")
    owner.signal(signal.SIGSTOP)
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, out, timeout_s=0.5, path="nccl")
    owner.signal(signal.SIGCONT)
    agent.fetch(refs, out, path="nccl")


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_owner(start_gpu_owner, agent, busy):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.ones(1000)]"))
    out = [poisoned(torch.zeros(1000), 1)]
    agent.fetch(refs, out, path="nccl")
    transfer = None
    if busy:  # while the reader's stream waits for its bytes
        stall(owner, "move")
        transfer = agent.fetch_async(refs, out, path="nccl")
        time.sleep(0.3)
    begin = time.monotonic()
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        while transfer is None and time.monotonic() - begin < 20:
            agent.fetch(refs, out, path="nccl")
        transfer.result(20)
    assert time.monotonic() - begin < 20


def test_a_reader_that_dies_leaves_the_owner_usable(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu("[torch.arange(1000)]"))
    stall(owner, "move")
    reader = start_gpu_owner()
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r}); agent.connect(kept['refs'].owner)")
    reader.tell("agent.fetch(kept['refs'], [poisoned(torch.zeros(1000, dtype=torch.int64), 1)], path='nccl')")
    deadline = time.monotonic() + 20
    while owner.run(COMMS) != 1:
        assert time.monotonic() < deadline
    time.sleep(0.2)
    reader.signal(signal.SIGKILL)
    reader.process.wait()
    while owner.run(COMMS) != 0:  # given up, though its stream waits for a peer that never comes
        assert time.monotonic() < deadline
    stall(owner, "")
    out = [poisoned(torch.arange(1000), 1)]
    agent.fetch(refs, out, path="nccl")
    assert torch.equal(out[0].cpu(), torch.arange(1000))
    owner.run("kept.pop('refs'); kept.pop('tensors')")
    while owner.run("agent.register(torch.zeros(1)); answer = agent.stats()['registrations_waiting']"):
        assert time.monotonic() < deadline


def test_a_registration_that_is_undone_does_not_wait_for_a_reader_that_stalls(start_gpu_owner, agent):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu(BYTES))
    stall(owner, "move")
    transfer = agent.fetch_async(refs, [poisoned(torch.zeros(4096, dtype=torch.uint8), 1)], path="nccl")
    time.sleep(0.3)
    begin = time.monotonic()
    owner.run("kept.pop('refs')")
    assert time.monotonic() - begin < 20
    with pytest.raises(exceptions.StaleReferenceError):
        transfer.result(20)


def test_two_agents_that_fetch_from_each_other_at_once(start_gpu_owner):
    one, other = start_gpu_owner(), start_gpu_owner()
    for own, device, value in ((one, 0, 1), (other, 1, 2)):
        own.register(on_gpu(f"[torch.full((1 << 20,), {value}, dtype=torch.uint8)]", device))
    texts = [own.run("answer = kept['refs'].to_json()") for own in (one, other)]
    code = """
import threading
theirs = TensorRefs.from_json({text!r})
outs = [poisoned(torch.zeros(1 << 20, dtype=torch.uint8), {device}) for _ in range(2)]
failures = []
def fetch(out):
    try:
        for _ in range(5):
            agent.fetch(theirs, [out], path='nccl', timeout_s=60)
    except Exception as error:
        failures.append(repr(error))
threads = [threading.Thread(target=fetch, args=[out]) for out in outs]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
answer = failures or [int(out.cpu().min()) for out in outs]
"""
    one.tell(code.format(text=texts[1], device=0))
    other.tell(code.format(text=texts[0], device=1))
    assert one._hear() == {"answer": [2, 2]}
    assert other._hear() == {"answer": [1, 1]}


@pytest.mark.parametrize("side", ["owner", "reader"])
@pytest.mark.parametrize("where", ["init", "launch", "move"])
def test_an_error_of_nccls_is_told_with_its_words(start_gpu_owner, fresh, monkeypatch, side, where):
    owner = start_gpu_owner()
    refs = owner.register(on_gpu(BYTES))
    out = poisoned(torch.zeros(4096, dtype=torch.uint8), 1)
    if side == "owner":
        owner.run(f"os.environ['NCCL_EMULATOR_ERROR'] = {where!r}; answer = 1")
    else:
        monkeypatch.setenv("NCCL_EMULATOR_ERROR", where)
    with pytest.raises(exceptions.PeerLostError, match="remote process exited"):
        fresh.fetch(refs, [out], path="nccl", timeout_s=60)
    assert bool((out.cpu() == 0xEE).all())


FETCH = """
out = poisoned(torch.zeros(1 << 16, dtype=torch.int64), 1)
try:
    {agent}.fetch(kept['refs'], [out], path={path!r}, timeout_s=60)
    answer = bool((out.cpu() == torch.arange(1 << 16)).all())
except Exception as error:
    answer = [type(error).__name__, str(error), bool((out.cpu().view(torch.uint8) == 0xEE).all())]
"""


@pytest.mark.full
@pytest.mark.parametrize("size, is_filled", [("4k", False), ("1m", True)], ids=["too small", "full"])
def test_without_room_in_dev_shm_nccl_says_so_and_other_paths_go_on(start_gpu_owner, folder, tmp_path, size, is_filled):
    with mounted(tmp_path, size) as shm:
        if is_filled:
            fill(shm)
        there = sorted(os.listdir(shm))
        options = {"shm": shm, "environ": {"NCCL_EMULATOR_SHM": "/dev/shm"}}
        owner, reader = start_gpu_owner(**options), start_gpu_owner(**options)
        refs = owner.register(on_gpu("[torch.arange(1 << 16)]"))
        reader.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r}); answer = 1")
        kind, said, is_untouched = reader.run(FETCH.format(agent="agent", path="nccl"))
        assert kind == "DirectTransportError" and is_untouched, said
        assert re.search("NCCL says unhandled system error .*failed to extend /dev/shm/.*No space left on device", said)
        for path in ("cuda_ipc", ""):
            assert reader.run(FETCH.format(agent="agent", path=path)) is True
        made = "kept['h'] = [agent.empty((1 << 20,), 'float32').fill_(1.0)]; kept['hr'] = agent.register(kept['h'])"
        host = owner.run(f"{made}; answer = kept['hr'].to_json()")
        for path in ("shm", "cma", "object_store", "tcp"):
            fetched = f"agent.fetch(TensorRefs.from_json({host!r}), path={path!r})"
            assert reader.run(f"answer = float({fetched}[0].sum())") == 1 << 20, path
        assert [each.run(COMMS) for each in (owner, reader)] == [0, 0]
        assert sorted(os.listdir(shm)) == there
        subprocess.run(["mount", "-o", "remount,size=4m", str(shm)], check=True, timeout=60)
        # A path that failed is left alone for a while.
        new = f"kept['new'] = Agent('new', folder={folder!r}, token={TOKEN!r})"
        reader.run(f"from beeline.transfer import Agent; {new}")
        assert reader.run(FETCH.format(agent="kept['new']", path="nccl")) is True


@pytest.mark.full
@pytest.mark.parametrize(
    "environment, why",
    [
        ({"BEELINE_NCCL_LIBRARY": "/nowhere/libnccl.so"}, "/nowhere/libnccl.so"),
        ({"NCCL_EMULATOR_VERSION": "21703"}, "2.17.3 .* will not do: 2.18.0"),
        ({"NCCL_COMM_BLOCKING": "1"}, "NCCL_COMM_BLOCKING"),
    ],
)
def test_a_library_that_is_missing_or_will_not_do(start_gpu_owner, gpu_owner, emulated_nccl, environment, why):
    refs = gpu_owner.register(on_gpu("[torch.ones(10)]"))
    reader = start_gpu_owner(environ=environment)
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r})")
    reader.tell("agent.fetch(kept['refs'], [poisoned(torch.zeros(10), 1)], path='nccl')")
    failure = reader._hear()["error"]
    explained = reader.run("answer = agent.explain(kept['refs'][0])['candidates']")
    reason = next(each["reason"] for each in explained if each["path"] == "nccl")
    checks = json.loads(beeline("doctor", "--json", check=False, **environment).stdout)["checks"]
    check = next(each for each in checks if each["name"] == "path nccl")
    assert "TransportUnavailableError" in failure and check["level"] == "absent"
    for said in (failure, reason, check["found"]):
        assert re.search(why, said), said


def test_an_owner_without_nccl_says_so(start_gpu_owner, fresh):
    owner = start_gpu_owner(environ={"BEELINE_NCCL_LIBRARY": "/nowhere/libnccl.so"})
    refs = owner.register(on_gpu("[torch.ones(10)]"))
    with pytest.raises(exceptions.TransportUnavailableError, match="/nowhere/libnccl.so"):
        fresh.fetch(refs, [poisoned(torch.zeros(10), 1)], path="nccl")


def test_doctor_sees_the_library(emulated_nccl):
    checks = {each["name"]: each for each in json.loads(beeline("doctor", "--json", check=False).stdout)["checks"]}
    assert checks["path nccl"]["level"] == "ok"
    assert os.environ["BEELINE_NCCL_LIBRARY"] in checks["path nccl"]["found"]
