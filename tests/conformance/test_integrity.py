"""A reader gets one state of the owner's tensors, whole, or an error."""

import json
import signal
import time

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, Fault, TensorRefs
from tests.conformance.conftest import TOKEN
from tests.conformance.paths import BEYOND, PATHS, WRITING

COUNT = 3 << 18


@pytest.mark.parametrize("path", PATHS)
def test_a_read_during_a_write_is_torn(owner, agent, path):
    refs = owner.register(f"[torch.zeros({COUNT})]")
    batch = agent.prepare(refs, [torch.zeros(COUNT)], path=path)
    batch.run()
    owner.run("kept['writing'] = agent.writing(kept['refs']); kept['writing'].__enter__()")
    for read in (lambda: agent.fetch(refs, path=path), batch.run):
        with pytest.raises(exceptions.TornReadError, match="wrote"):
            read()
    owner.run("kept['tensors'][0].fill_(1); kept['writing'].__exit__(None, None, None)")
    assert bool((agent.fetch(refs, path=path)[0] == 1).all())
    batch.run()


ENDED_IN_A_CHILD = """
import os
writing = agent.writing(kept['refs'])
writing.__enter__()
child = os.fork()
if child == 0:
    writing.__exit__(None, None, None)
    os._exit(0)
answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


@pytest.mark.parametrize("preload", [True, False])
def test_a_child_of_fork_does_not_end_what_its_parent_writes(start_owner, agent, preload):
    owner = start_owner(preload=preload)
    refs = owner.register("[torch.ones(1 << 20)]")
    assert owner.run(ENDED_IN_A_CHILD) == 0
    with pytest.raises(exceptions.TornReadError):
        agent.fetch(refs)
    owner.run("writing.__exit__(None, None, None)")
    assert bool((agent.fetch(refs)[0] == 1).all())


@pytest.mark.parametrize(("path", "shared"), [*((path, True) for path in PATHS), *((path, False) for path in BEYOND)])
def test_readers_beside_a_busy_writer_see_one_state(start_owner, folder, path, shared):
    owner = start_owner(share_memory=shared)
    refs = owner.register(f"[torch.zeros({COUNT})]")
    owner.run(
        """
import threading
kept['stop'] = threading.Event()

def write():
    value = 0
    while not kept['stop'].is_set():
        value += 1
        with agent.writing(kept['refs']):
            kept['tensors'][0].fill_(value)
        kept['stop'].wait(0.003)

kept['thread'] = threading.Thread(target=write)
kept['thread'].start()
"""
    )
    out = torch.zeros(COUNT)
    seen, torn = set(), 0
    with Agent("reader", folder=folder, token=TOKEN, share_memory=shared) as agent:
        while len(seen) < 20 or torn < 1:
            try:
                agent.fetch(refs, [out], path=path)
            except exceptions.TornReadError:
                torn += 1
                continue
            low, high = float(out.min()), float(out.max())
            assert low == high
            seen.add(low)
    owner.run("kept['stop'].set(); kept['thread'].join()")


def test_only_who_was_granted_them_says_that_it_writes(owner, agent):
    refs = owner.register(f"[torch.zeros({COUNT})]")
    with pytest.raises(ValueError, match="not granted"), agent.writing(refs):
        pass
    owner.run(f"agent.grant(kept['refs'], to={agent.address!r}); kept['refs'] = None")
    with pytest.raises(exceptions.StaleReferenceError), agent.writing(refs):
        pass


@pytest.mark.parametrize(("path", "shared"), [*((path, True) for path in WRITING), *((path, False) for path in BEYOND)])
def test_readers_see_one_state_beside_who_pushes(start_owner, folder, path, shared):
    owner = start_owner(share_memory=shared)
    refs = owner.register(f"[torch.zeros({COUNT}), torch.zeros(7)]")  # in the arena, and outside it
    with (
        Agent("writer", folder=folder, token=TOKEN, share_memory=shared) as writer,
        Agent("reader", folder=folder, token=TOKEN, share_memory=shared) as reader,
    ):
        owner.run(f"agent.grant(kept['refs'], to={writer.address!r})")
        with writer.writing(refs), writer.writing(refs[0]):
            writer.push(refs[0], torch.ones(COUNT), path=path)
            with pytest.raises(exceptions.TornReadError, match="wrote"):
                reader.fetch(refs)
            with pytest.raises(exceptions.TornReadError, match="wrote"):
                reader.fetch(refs, path=path)
            writer.push(refs[1], torch.ones(7), path=path)
        # Who takes the notification finds that it has ended.
        owner.run("kept['filled'] = agent.notifications('filled')")
        writer.notify(owner.address, "filled")
        owner.run("kept['filled'].wait(timeout_s=20)")
        assert [float(tensor.min()) for tensor in reader.fetch(refs, path=path)] == [1.0, 1.0]


@pytest.mark.parametrize("shared", [True, False])
def test_what_a_writer_began_ends_with_it(start_owner, folder, shared):
    owner, writer = start_owner(share_memory=shared), start_owner(share_memory=shared)
    refs = owner.register(f"[torch.zeros({COUNT})]")
    owner.run(f"agent.grant(kept['refs'], to={writer.address!r})")
    begin = f"kept['w'] = agent.writing(TensorRefs.from_json({refs.to_json()!r})); kept['w'].__enter__()"
    writer.run(begin)
    with Agent("reader", folder=folder, token=TOKEN, share_memory=shared) as reader:
        with pytest.raises(exceptions.TornReadError):
            reader.fetch(refs)
        writer.signal(signal.SIGSTOP)  # it may go on at any time
        with pytest.raises(exceptions.TornReadError):
            reader.fetch(refs)
        writer.signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while True:  # until the owner has seen that it is gone
            try:
                assert float(reader.fetch(refs)[0].max()) == 0
                break
            except exceptions.TornReadError:
                assert time.monotonic() < deadline


@pytest.mark.parametrize("shared", [True, False])
def test_a_stopped_owner_does_not_hold_up_who_wants_to_write(start_owner, folder, shared):
    owner = start_owner(share_memory=shared)
    refs = owner.register(f"[torch.zeros({COUNT})]")
    with Agent("writer", folder=folder, token=TOKEN, share_memory=shared) as writer:
        owner.run(f"agent.grant(kept['refs'], to={writer.address!r})")
        with writer.writing(refs):
            pass
        owner.signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(exceptions.TransferTimeoutError), writer.writing(refs, timeout_s=0.5):
            pass
        assert time.monotonic() - begun < 20
        owner.signal(signal.SIGCONT)
        # What was given up does not go on there.
        deadline = time.monotonic() + 20
        while True:
            try:
                writer.fetch(refs)
                break
            except exceptions.TornReadError:
                assert time.monotonic() < deadline


def test_checksums_travel_with_references(owner, agent):
    refs = owner.register(f"{{'a': torch.ones({COUNT}), 'b': torch.tensor(3)}}", checksum=True)
    for travelled in (TensorRefs.from_json(refs.to_json()), TensorRefs.from_bytes(refs.to_bytes())):
        assert bool((agent.fetch(travelled, verify=True)["a"] == 1).all())
        assert int(agent.fetch(travelled["b"], verify=True)) == 3
    value = json.loads(refs.to_json())
    value["tensors"][0]["xxh3"] = "0" * 16
    with pytest.raises(exceptions.TornReadError, match="checksum"):
        agent.fetch(TensorRefs.from_json(json.dumps(value)), verify=True)
    del value["tensors"][0]["xxh3"]
    with pytest.raises(ValueError, match="checksums"):
        TensorRefs.from_json(json.dumps(value))


def test_what_has_no_checksum_is_not_verified(owner, agent):
    refs = owner.register(f"[torch.ones({COUNT})]")
    out = torch.full((COUNT,), -1.0)
    with pytest.raises(ValueError, match="without a checksum"):
        agent.fetch(refs, [out], verify=True)
    refs = owner.register(f"[torch.ones({COUNT})]", checksum=True)
    with pytest.raises(ValueError, match="without a checksum"):
        agent.fetch(refs[0][:5], verify=True)
    assert bool((out == -1).all())


@pytest.mark.parametrize("verify", [True, False])
def test_versions_beside_a_busy_publisher_are_whole(start_owner, agent, verify):
    owner = start_owner()
    owner.run(
        f"""
import threading
kept['stop'] = threading.Event()

def write():
    value = 0
    while not kept['stop'].is_set():
        value += 1
        agent.publish('w', [torch.full(({COUNT},), float(value))], checksum=True)

kept['thread'] = threading.Thread(target=write)
kept['thread'].start()
"""
    )
    updates = agent.subscribe(owner.address, "w")
    number = 0
    for _ in range(50):
        number, (tensor,) = updates.fetch(newer_than=number, verify=verify)
        assert float(tensor.min()) == float(tensor.max()) == number
    owner.run("kept['stop'].set(); kept['thread'].join()")


@pytest.mark.parametrize("shared", [True, False])
def test_a_fetch_over_several_regions_shows_one_state(start_owner, folder, shared):
    owner = start_owner(share_memory=shared)
    refs = owner.register("[torch.zeros(1 << 19), torch.zeros(7)]")  # in the arena, and outside it
    # Between the two reads.
    slow = Fault("delay", delay_s=0.5, at="read", times=1)
    with Agent("reader", folder=folder, token=TOKEN, share_memory=shared, faults=[slow]) as agent:
        transfer = agent.fetch_async(refs)
        while agent.stats()["faults"] == 0:
            assert not transfer.done()
        owner.run("with agent.writing(kept['refs']): [tensor.fill_(1) for tensor in kept['tensors']]")
        with pytest.raises(exceptions.TornReadError):
            transfer.result(20)
        assert [float(tensor.min()) for tensor in agent.fetch(refs)] == [1.0, 1.0]
