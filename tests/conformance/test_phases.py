"""Either side killed or stopped in every phase of a transfer, on every path: whole or a typed error in time."""

import pathlib
import signal
import time

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, Fault
from tests.conformance.conftest import TOKEN
from tests.conformance.paths import SERVED, WRITING, on_push

COUNT = 3 << 18  # of float32: 3 MiB
HALF = COUNT * 2  # bytes
EXPECTED = torch.arange(COUNT, dtype=torch.float32)
SOURCE = f"[torch.arange({COUNT}, dtype=torch.float32)]"

# Where the transfer is when the signal comes: a pause is made there.
PAUSE_S = 1.0
PHASES = {
    "connecting": {"at": "connect"},
    "connected": {"at": "read"},
    "under way": {"at": "read", "after_bytes": HALF},
}
# The same of a transfer that writes.
WRITTEN = {phase: {**place, "at": "connect" if phase == "connecting" else "write"} for phase, place in PHASES.items()}
# Owners and readers are killed while a transfer is under way; the rest is for `./dev test --full`.
IN_PHASES = [pytest.param(phase, marks=[pytest.mark.full] * (phase != "under way"), id=phase) for phase in PHASES]
ENDS = [
    pytest.param(signal.SIGKILL, id="killed"),
    pytest.param(signal.SIGSTOP, id="stopped", marks=pytest.mark.full),
]
# Of who reads or writes: one that is stopped before anything of its transfer is under way holds nothing.
IN_PHASES_OF_CALLERS = [
    pytest.param(phase, end, marks=[pytest.mark.full] * ((phase, end) != ("under way", signal.SIGKILL)))
    for phase in PHASES
    for end in (signal.SIGKILL, signal.SIGSTOP)
    if end == signal.SIGKILL or phase == "under way"
]
TIMEOUT_S = 3.0


def until_paused(agent):
    deadline = time.monotonic() + 20
    while agent.stats()["faults"] == 0:
        assert time.monotonic() < deadline, "the transfer did not come to its pause"
    time.sleep(PAUSE_S / 4)  # it is counted before what comes before the pause has moved


def outcome(transfer):
    """Its error; None where it went well."""
    try:
        transfer.result(TIMEOUT_S * 2)
    except exceptions.BeelineError as error:
        return error
    return None


@pytest.fixture
def paused(folder):
    """A reader whose first transfer by a path pauses in a phase."""
    agents = []

    def make(path, **place):
        fault = Fault("delay", path, delay_s=PAUSE_S, **place)
        agents.append(Agent("reader", folder=folder, token=TOKEN, faults=[fault]))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("phase", IN_PHASES)
@pytest.mark.parametrize("path", on_push("cma", "ucx", "tcp", "gloo"))
def test_an_owner_that_is_read(start_owner, paused, path, phase, end):
    owner = start_owner()
    refs = owner.register(SOURCE)
    agent = paused(path, **PHASES[phase])
    out = torch.full((COUNT,), -1.0)
    begin = time.monotonic()
    transfer = agent.fetch_async(refs, [out], path=path, timeout_s=TIMEOUT_S)
    until_paused(agent)
    owner.signal(end)
    error = outcome(transfer)
    took = time.monotonic() - begin
    assert took < TIMEOUT_S * 1.1 + 0.5
    if end == signal.SIGSTOP and path not in SERVED and phase == "under way":
        assert error is None, "nobody there is asked"
    if path in SERVED or (end == signal.SIGKILL and path == "cma"):
        assert error is not None
    if error is None:
        assert torch.equal(out, EXPECTED)
    elif end == signal.SIGKILL:
        assert isinstance(error, exceptions.PeerLostError) and "owner" in str(error), repr(error)
    else:
        assert isinstance(error, exceptions.TransferTimeoutError) and took > TIMEOUT_S * 0.9, repr(error)
    out.fill_(7)
    if end == signal.SIGSTOP:
        owner.signal(signal.SIGCONT)
        owner.run("answer = 1")
        assert torch.equal(agent.fetch(refs, path=path)[0], EXPECTED)
    assert bool((out == 7).all())


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("phase", IN_PHASES)
@pytest.mark.parametrize("path", on_push("cma", "tcp", of=WRITING))
def test_an_owner_that_is_written_to(start_owner, paused, path, phase, end):
    owner = start_owner()
    refs = owner.register(f"[torch.zeros({COUNT})]")
    agent = paused(path, **WRITTEN[phase])
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    begin = time.monotonic()
    transfer = agent.push_async(refs, [EXPECTED], path=path, timeout_s=TIMEOUT_S)
    until_paused(agent)
    owner.signal(end)
    error = outcome(transfer)
    assert time.monotonic() - begin < TIMEOUT_S * 1.1 + 0.5
    if end == signal.SIGKILL:
        assert isinstance(error, exceptions.PeerLostError), repr(error)
        return
    if path in SERVED:
        assert isinstance(error, exceptions.TransferTimeoutError), repr(error)
    elif phase == "under way":
        assert error is None, "nobody there is asked"
    else:
        assert error is None or isinstance(error, exceptions.TransferTimeoutError), repr(error)
    owner.signal(signal.SIGCONT)
    agent.push(refs, [EXPECTED * 2], path=path)
    assert owner.run(f"answer = torch.equal(kept['tensors'][0], torch.arange({COUNT}) * 2.0)")


def holdings(process):
    """Threads and descriptors of a process."""
    folder = pathlib.Path(f"/proc/{process.pid}")
    return len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))


UNTIL_PAUSED = """
while agent.stats()['faults'] == 0:
    pass
"""


@pytest.mark.parametrize(("phase", "end"), IN_PHASES_OF_CALLERS)
@pytest.mark.parametrize("path", on_push("cma", "tcp", "gloo"))
def test_a_reader(start_owner, agent, path, phase, end):
    owner = start_owner()
    refs = owner.register(SOURCE)
    assert torch.equal(agent.fetch(refs, path=path)[0], EXPECTED)  # what the owner opens for this path is open
    before = holdings(owner.process)
    reader = start_owner(faults=[{"kind": "delay", "path": path, "delay_s": PAUSE_S, **PHASES[phase]}])
    fetch = f"transfer = agent.fetch_async(TensorRefs.from_json({refs.to_json()!r}), path={path!r})"
    reader.run(fetch + UNTIL_PAUSED)
    reader.signal(end)
    assert torch.equal(agent.fetch(refs, path=path, timeout_s=TIMEOUT_S)[0], EXPECTED)
    if end == signal.SIGSTOP:
        reader.signal(signal.SIGCONT)
        assert reader.run("answer = transfer.result(20)[0].sum().item()") == EXPECTED.sum().item()
        reader.run("agent.close()")
    reader.end()
    expect_nothing_held(owner, before)


@pytest.mark.parametrize(("phase", "end"), IN_PHASES_OF_CALLERS)
@pytest.mark.parametrize("path", on_push("cma", "tcp", of=WRITING))
def test_a_writer(start_owner, agent, path, phase, end):
    owner = start_owner()
    refs = owner.register(f"[torch.zeros({COUNT})]")
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    agent.push(refs, [EXPECTED], path=path)
    before = holdings(owner.process)
    writer = start_owner(faults=[{"kind": "delay", "path": path, "delay_s": PAUSE_S, **WRITTEN[phase]}])
    owner.run(f"agent.grant(kept['refs'], {writer.address!r})")
    push = f"[torch.full(({COUNT},), 5.0)], path={path!r})"
    writer.run(f"transfer = agent.push_async(TensorRefs.from_json({refs.to_json()!r}), {push}" + UNTIL_PAUSED)
    writer.signal(end)
    if end == signal.SIGKILL:
        writer.process.wait()
    agent.push(refs, [EXPECTED * 2], path=path, timeout_s=TIMEOUT_S)
    if end == signal.SIGKILL:
        assert owner.run(f"answer = torch.equal(kept['tensors'][0], torch.arange({COUNT}) * 2.0)")
    else:
        writer.signal(signal.SIGCONT)
        writer.run("transfer.result(20); agent.close()")
        assert owner.run("answer = bool((kept['tensors'][0][-10:] == 5).all())")  # what came last
    writer.end()
    expect_nothing_held(owner, before)


def expect_nothing_held(owner, before):
    """The owner's registration ends, and what its process holds besides comes down to what it was before."""
    owner.run("kept.clear(); agent.empty((1,), 'float32')")
    deadline = time.monotonic() + 20
    while owner.run("answer = agent.stats()['registrations_waiting']") or holdings(owner.process) > before:
        assert time.monotonic() < deadline, f"{before} threads and descriptors before, {holdings(owner.process)} now"
        time.sleep(0.01)


@pytest.mark.parametrize("path", on_push("cma", "tcp", "gloo", of=WRITING))
def test_a_registration_that_is_undone_while_a_peer_writes(start_owner, paused, path):
    owner = start_owner()
    refs = owner.register(f"[torch.zeros({COUNT})]")
    agent = paused(path, **WRITTEN["under way"])
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    transfer = agent.push_async(refs, [EXPECTED], path=path, timeout_s=20)
    until_paused(agent)
    owner.run("kept.clear()")
    # What takes the memory's place is not written to, neither while the transfer goes on nor afterwards.
    owner.run(f"kept['new'] = [agent.empty(({COUNT},), 'float32').fill_(7) for _ in range(4)]")
    error = outcome(transfer)
    assert error is None or isinstance(error, exceptions.StaleReferenceError), repr(error)
    assert owner.run("answer = all(bool((tensor == 7).all()) for tensor in kept['new'])")
    with pytest.raises(exceptions.StaleReferenceError):
        agent.push(refs, [EXPECTED], path=path)


@pytest.mark.full
@pytest.mark.parametrize("path", ["object_store", "tcp", "gloo"])
def test_a_push_comes_after_one_that_was_given_up(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register(f"[torch.zeros({COUNT})]")
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    agent.push(refs, [torch.zeros(COUNT)], path=path)
    for value in range(1, 6):
        owner.signal(signal.SIGSTOP)
        with pytest.raises(exceptions.TransferTimeoutError):
            agent.push(refs, [torch.full((COUNT,), -float(value))], path=path, timeout_s=0.2)
        begin = time.monotonic()
        with pytest.raises(exceptions.TransferTimeoutError, match="earlier push"):
            agent.push(refs, [torch.full((COUNT,), -float(value))], path=path, timeout_s=0.2)
        assert time.monotonic() - begin < 0.2 * 1.1 + 0.5
        owner.signal(signal.SIGCONT)
        agent.push(refs, [torch.full((COUNT,), float(value))], path=path)
        for _ in range(2):
            assert owner.run(f"answer = bool((kept['tensors'][0] == {value}).all())")
            time.sleep(0.05)
