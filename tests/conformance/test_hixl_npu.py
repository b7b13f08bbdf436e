"""Memory of NPUs by the plug-in for HiXL, over THE EMULATOR of that engine: nothing here ran on an NPU.

A plug-in moves memory; notifications of Beeline's travel over the agents' own connection, whatever moved the memory.
"""

import signal

import pytest
import torch

from beeline import exceptions
from tests.conformance.conftest import ROOT
from tests.conformance.emulated_npu import NpuTensor, on_npu, poisoned
from tests.conformance.paths import PATHS, UNDER_FAULTS
from tests.conformance.test_fetch import DTYPES, LAYOUTS, same

COUNT = 1 << 18
IMPORT_NPU = (
    f"import sys; sys.path.append({str(ROOT)!r}); from tests.conformance.emulated_npu import NpuTensor; answer = 1"
)


@pytest.fixture
def start_npu_owner(start_owner):
    def start(**options):
        owner = start_owner(**options)
        owner.run(IMPORT_NPU)
        return owner

    return start


@pytest.fixture
def npu_owner(owner):
    owner.run(IMPORT_NPU)
    return owner


@pytest.mark.parametrize(
    "layout", [pytest.param(each, marks=pytest.mark.full) if each == "transposed" else each for each in LAYOUTS]
)
def test_every_layout_arrives_from_an_npu_and_on_one(npu_owner, agent, layout):
    expected = eval(LAYOUTS[layout], {"torch": torch})
    refs = npu_owner.register(on_npu(f"[{LAYOUTS[layout]}]"))
    out = [poisoned(expected)]
    assert agent.fetch(refs, out) is out  # no other path reaches it
    assert same(out[0].cpu(), expected)
    assert same(agent.fetch(refs)[0], expected)  # in the host's memory
    refs = npu_owner.register(f"[{LAYOUTS[layout]}]")
    out = [poisoned(expected)]
    agent.fetch(refs, out, path="hixl")
    assert same(out[0].cpu(), expected)


def test_every_dtype_arrives(npu_owner, agent):
    tensors = [f"torch.arange(1 << 16).remainder(2).to(torch.{name})" for name in DTYPES]
    refs = npu_owner.register(on_npu(f"[{', '.join(tensors)}]"))
    expected = [eval(tensor, {"torch": torch}) for tensor in tensors]
    out = [poisoned(tensor) for tensor in expected]
    agent.fetch(refs, out)
    for got, tensor in zip(out, expected, strict=True):
        assert same(got.cpu(), tensor), tensor.dtype


@UNDER_FAULTS
def test_parts_arrive_and_nothing_else_is_touched(npu_owner, agent):
    refs = npu_owner.register(on_npu("[torch.arange(1 << 15, dtype=torch.int32).reshape(32, 32, 32)]"))
    whole = torch.arange(1 << 15, dtype=torch.int32).reshape(32, 32, 32)
    for index in [(3,), (slice(2, 5),), (slice(None), 7), (slice(None, None, 9), slice(3, 30, 7), -1)]:
        field = torch.full((*whole[index].shape, 3), -7, dtype=torch.int32)
        out = NpuTensor(field[..., 1])
        agent.fetch(refs[0][index], out)
        got = torch.as_strided(out.cpu(), field.shape, field.stride(), 0)
        assert torch.equal(got[..., 1], whole[index]), index
        assert bool((got[..., 0] == -7).all()) and bool((got[..., 2] == -7).all())


def test_elements_are_converted_in_the_hosts_memory(npu_owner, agent):
    refs = npu_owner.register(on_npu("[torch.linspace(-4, 4, 1 << 20)]"))
    (fetched,) = agent.fetch(refs, dtype=torch.bfloat16)
    assert same(fetched, torch.linspace(-4, 4, 1 << 20).to(torch.bfloat16))


def test_what_was_pushed_into_an_npu_is_there_when_the_notification_is(start_npu_owner, agent):
    owner = start_npu_owner()
    refs = owner.register(on_npu(f"[torch.zeros({COUNT})]"))
    owner.run("kept['filled'] = agent.notifications('filled')")
    with pytest.raises(ValueError, match="granted"):
        agent.push(refs, [NpuTensor(torch.ones(COUNT))], notify=("filled", b"0"))
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    for number in range(1, 6):
        owner.tell(
            "note = kept['filled'].wait(timeout_s=20)\n"
            "answer = [note.payload.decode(), kept['tensors'][0].cpu().unique().tolist()]"
        )
        agent.push(refs, [NpuTensor(torch.full((COUNT,), float(number)))], notify=("filled", b"%d" % number))
        assert owner._hear() == {"answer": [str(number), [float(number)]]}


def test_no_other_path_reaches_it(npu_owner, agent):
    refs = npu_owner.register(on_npu("[torch.ones(1000)]"))
    explained = agent.explain(refs[0])
    assert explained["chosen"] == "hixl"
    for path in PATHS:
        if path != "hixl":
            with pytest.raises(exceptions.TransportUnavailableError, match=path):
                agent.fetch(refs, path=path)
    with pytest.raises(exceptions.BeelineError):
        agent.map(refs[0])


def test_without_the_plug_in_it_is_not_registered(start_npu_owner):
    owner = start_npu_owner(environ={"BEELINE_TRANSPORT_PLUGINS": ""})
    owner.tell(f"agent.register({on_npu('[torch.ones(5)]')})")
    assert "TransportUnavailableError" in owner._hear()["error"]


def test_an_undone_registration_is_stale_and_its_memory_can_go(start_npu_owner, agent):
    owner = start_npu_owner()
    refs = owner.register(on_npu(f"[torch.ones({COUNT})]"))
    out = [poisoned(torch.ones(COUNT))]
    agent.fetch(refs, out)
    owner.run("kept.clear()")
    with pytest.raises(exceptions.StaleReferenceError):
        agent.fetch(refs, out)
    again = owner.register(on_npu(f"[torch.full(({COUNT},), 2.0)]"))
    agent.fetch(again, out)
    assert bool((out[0].cpu() == 2).all())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_owner_that_dies_or_stops(start_npu_owner, agent, number):
    owner = start_npu_owner()
    refs = owner.register(on_npu(f"[torch.ones({COUNT})]"))
    out = [poisoned(torch.ones(COUNT))]
    agent.fetch(refs, out)
    owner.signal(number)
    if number == signal.SIGKILL:
        owner.process.wait()
        with pytest.raises(exceptions.PeerLostError, match="owner"):
            agent.fetch(refs, out, timeout_s=20)
        return
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, out, timeout_s=0.5)
    owner.signal(signal.SIGCONT)
    agent.fetch(refs, out)
    assert bool((out[0].cpu() == 1).all())
