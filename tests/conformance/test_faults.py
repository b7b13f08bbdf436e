"""Owners that end, stall or undo: a typed error in time, and nothing is written afterwards."""

import asyncio
import json
import os
import pathlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, TensorRefs
from tests.conformance.conftest import TOKEN
from tests.conformance.paths import PATHS, SERVED


@pytest.mark.parametrize("path", PATHS)
def test_an_undone_registration_is_stale(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    agent.fetch(refs, path=path)
    owner.run("kept.clear()")
    out = [torch.full((1 << 20,), 7.0)]
    with pytest.raises(exceptions.StaleReferenceError):
        agent.fetch(refs, out, path=path)
    assert bool((out[0] == 7).all())


@pytest.mark.parametrize("path", PATHS)
def test_a_killed_owner(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    agent.fetch(refs, path=path)
    mapped = agent.map(refs[0])
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    deadline = time.monotonic() + 20
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        while time.monotonic() < deadline:
            agent.fetch(refs, path=path)
    assert bool((mapped == 1).all())  # the lease keeps the memory
    with pytest.raises(exceptions.PeerLostError):
        agent.fetch(refs)


AGAIN = """
import time

def again(count, value, address):
    deadline = time.monotonic() + 10
    while True:
        tensor = agent.empty((count,), 'float32').fill_(value)
        if tensor.data_ptr() == address or time.monotonic() > deadline:
            return tensor
        del tensor
        agent.register(torch.zeros(1))  # which looks for memory that nobody reads any more
"""


@pytest.mark.parametrize("path", PATHS)
def test_memory_that_is_given_out_anew_is_not_what_it_was(start_owner, agent, path):
    owner = start_owner()
    owner.run(AGAIN)
    before = owner.register("[agent.empty((1 << 18,), 'float32').fill_(1.0)]")
    assert bool((agent.fetch(before, path=path)[0] == 1).all())
    address = owner.run("answer = kept['tensors'][0].data_ptr()")
    for value, count in ((2.0, 1 << 18), (3.0, 1 << 17)):  # as long, and shorter
        owner.run("kept.clear()")
        now = owner.register(f"[again({count}, {value}, {address})]")
        assert owner.run("answer = kept['tensors'][0].data_ptr()") == address
        with pytest.raises(exceptions.StaleReferenceError):
            agent.fetch(before, path=path)
        (fetched,) = agent.fetch(now, path=path)
        assert fetched.numel() == count and bool((fetched == value).all())
        before = now


@pytest.mark.parametrize("path", PATHS)
def test_a_stopped_owner(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 22)]")
    agent.fetch(refs, path=path)
    owner.signal(signal.SIGSTOP)
    if path not in SERVED:
        assert bool((agent.fetch(refs, path=path)[0] == 1).all())  # nobody there is asked
        return
    out = [torch.full((1 << 22,), 7.0)]
    begin = time.monotonic()
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, out, path=path, timeout_s=1.0)
    assert 0.9 < time.monotonic() - begin < 1.1 + 0.5
    owner.signal(signal.SIGCONT)
    out[0].fill_(7)
    owner.run("answer = 1")
    assert bool((out[0] == 7).all())
    assert bool((agent.fetch(refs, path=path)[0] == 1).all())


@pytest.mark.parametrize("path", PATHS)
async def test_transfers_that_are_awaited(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register("[torch.full((1 << 20,), 3.0)]")
    transfers = [agent.fetch_async(refs, path=path) for _ in range(10)]
    for transfer in transfers:
        assert bool(((await transfer)[0] == 3).all())
        assert transfer.done()
    assert agent.fetch_async(refs, path=path).result(20)[0].numel() == 1 << 20
    owner.run("kept.clear()")
    with pytest.raises(exceptions.StaleReferenceError):
        await agent.fetch_async(refs, path=path)


def test_transfers_with_one_agent_hold_up_none_with_another_one_and_end_in_time(start_owner, agent):
    stopped, well = start_owner(), start_owner()
    theirs, refs = (each.register("[torch.full((1 << 20,), 3.0)]") for each in (stopped, well))
    agent.fetch(theirs, path="tcp")
    stopped.signal(signal.SIGSTOP)
    begin = time.monotonic()
    long = [agent.fetch_async(theirs, path="tcp", timeout_s=20) for _ in range(4)]
    short = [agent.fetch_async(theirs, path="tcp", timeout_s=timeout_s) for timeout_s in (1, 0.5)]
    for_ever = agent.fetch_async(theirs, path="tcp", timeout_s=None)
    assert bool((agent.fetch_async(refs, path="tcp", timeout_s=10).result(10)[0] == 3).all())
    for transfer in short:
        with pytest.raises(exceptions.TransferTimeoutError, match="started earlier"):
            transfer.result(20)
    assert 0.9 < time.monotonic() - begin < 1.1 + 0.5
    for transfer in (for_ever, *long):
        assert not transfer.done()
        transfer.cancel()
        with pytest.raises(exceptions.TransferCancelledError):
            transfer.result(20)
    stopped.signal(signal.SIGCONT)
    again = [agent.fetch_async(theirs, path="tcp") for _ in range(20)]
    assert [float(transfer.result(60)[0][0]) for transfer in again] == [3.0] * 20
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("path", SERVED)
async def test_a_cancelled_transfer_writes_nothing_later(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 22)]")
    agent.fetch(refs, path=path)
    owner.signal(signal.SIGSTOP)
    out = [torch.full((1 << 22,), 7.0)]
    transfer = agent.fetch_async(refs, out, path=path)
    with pytest.raises(TimeoutError):
        transfer.result(0.2)
    transfer.cancel()
    with pytest.raises(exceptions.TransferCancelledError):
        transfer.result(20)
    out[0].fill_(7)
    owner.signal(signal.SIGCONT)
    owner.run("answer = 1")
    assert bool((out[0] == 7).all())
    waiting = asyncio.ensure_future(asyncio.wait_for(_awaited(agent.fetch_async(refs, path=path)), 20))
    assert bool(((await waiting)[0] == 1).all())


@pytest.mark.parametrize("path", SERVED)
def test_a_transfer_that_is_cancelled_in_its_midst_writes_nothing_later(start_owner, agent, path):
    count = 32 << 20  # of float32: long enough to be met under way
    owner = start_owner()
    refs = owner.register(f"[agent.empty(({count},), 'float32').fill_(1.0)]")
    out = torch.full((count,), 7.0)
    for _ in range(20):
        out.fill_(7)
        transfer = agent.fetch_async(refs[0], out, path=path)
        while out[0] == 7:
            assert not transfer.done() or out[0] != 7
        owner.signal(signal.SIGSTOP)
        transfer.cancel()
        try:
            transfer.result(20)
        except exceptions.TransferCancelledError:
            break
        owner.signal(signal.SIGCONT)  # it was through already
    else:
        pytest.fail("no transfer was met under way")
    out.fill_(7)
    owner.signal(signal.SIGCONT)
    owner.run("answer = 1")
    assert bool((agent.fetch(refs[0][:1000], path=path) == 1).all())
    assert bool((out == 7).all())


@pytest.mark.full
@pytest.mark.parametrize("path", SERVED)
def test_a_deadline_is_kept_within_a_tenth(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 22)]")
    agent.fetch(refs, path=path)
    owner.signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, path=path, timeout_s=10)
    assert 10 <= time.monotonic() - begin < 11


async def _awaited(transfer):
    return await transfer


def test_nobody_at_the_address(start_owner, agent):
    owner = start_owner()
    address = owner.address
    owner.end()
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        agent.connect(address, timeout_s=5)


def test_a_killed_agents_socket_is_removed_by_the_next(start_owner, folder):
    owner = start_owner()
    sockets = set(pathlib.Path(folder).glob("*.agent"))
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    assert set(pathlib.Path(folder).glob("*.agent")) == sockets
    with Agent("next", folder=folder) as agent:
        left = set(pathlib.Path(folder).glob("*.agent"))
        assert len(left & sockets) == len(sockets) - 1
        assert len(left) == len(sockets)
    assert len(set(pathlib.Path(folder).glob("*.agent"))) == len(sockets) - 1
    assert agent.close() is None  # repeatable


def test_a_mapping_outlives_its_agent(start_owner, folder):
    owner = start_owner()
    owner.run("agent.publish('w', [torch.full((1 << 20,), 1.0)], keep=1)")
    with Agent("reader", folder=folder) as agent:
        _, (mapped,) = agent.subscribe(owner.address, "w").map()
    for value in range(2, 6):
        owner.run(f"agent.publish('w', [torch.full((1 << 20,), {value}.0)], keep=1)")
    assert bool((mapped == 1).all())
    assert owner.run("answer = agent.stats()['registrations_waiting']") == 1
    del mapped
    deadline = time.monotonic() + 20
    while owner.run("agent.publish('w', [torch.ones(1)]); answer = agent.stats()['registrations_waiting']"):
        assert time.monotonic() < deadline


def test_a_forged_reference_is_refused_before_memory_is_touched(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    value = json.loads(refs.to_json())
    for place in (1 << 45, (1 << 62) - 4096):
        value["regions"][0][4] = place
        forged = TensorRefs.from_json(json.dumps(value))
        with pytest.raises(ValueError):
            agent.fetch(forged, path="shm")
        with pytest.raises(ValueError):
            agent.map(forged)
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    value = json.loads(refs.to_json())
    value["regions"][0][3] += 4096
    with pytest.raises(ValueError, match="lies elsewhere"):
        agent.push(TensorRefs.from_json(json.dumps(value)), [torch.zeros(1 << 20)], path="cma")
    assert bool((agent.fetch(refs)[0] == 1).all())


def test_closing_ends_those_who_wait(start_owner, folder):
    owner = start_owner()
    agent = Agent("reader", folder=folder)
    subscription = agent.subscribe(owner.address, "nothing")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(subscription.wait, timeout_s=None)
        time.sleep(0.1)
        agent.close()
        with pytest.raises(exceptions.PeerLostError, match="closed"):
            waiting.result(20)


def test_garbage_is_refused(agent):
    for text in ("", "http://x", "beeline://x?id=1"):
        with pytest.raises(ValueError):
            agent.connect(text)
    for data in (b"", b"\x00" * 100, b"\x97\x01"):
        with pytest.raises(ValueError):
            TensorRefs.from_bytes(data)
    for text in ("{}", "[]", '{"owner": 1, "regions": [], "tensors": [{}]}'):
        with pytest.raises(ValueError):
            TensorRefs.from_json(text)


FORK = """
import os, time
child = os.fork()
if child == 0:
    time.sleep(100)
    os._exit(0)
"""


@pytest.mark.parametrize("path", SERVED)
def test_an_owner_whose_child_lives_on_ends_for_its_readers(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    updates = agent.subscribe(owner.address, "weights")
    agent.fetch(refs, path=path)
    owner.run(FORK)
    child = owner.run("answer = child")
    try:
        agent.fetch(refs, path=path)
        owner.signal(signal.SIGKILL)
        owner.process.wait()
        begin = time.monotonic()
        with pytest.raises(exceptions.PeerLostError):
            updates.wait(timeout_s=20)
        with pytest.raises(exceptions.PeerLostError):
            agent.fetch(refs, path=path, timeout_s=20)
        with pytest.raises(exceptions.PeerLostError):
            agent.connect(owner.address, timeout_s=20)
        assert time.monotonic() - begin < 5
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_port_is_free_again_though_a_child_lives_on(start_owner, folder):
    owner = start_owner()
    owner.run(FORK)
    port = owner.address.rpartition(":")[2].partition("&")[0]
    again = f"from beeline.transfer import Agent; agent.close(); agent = Agent('again', folder={folder!r}, "
    assert owner.run(f"{again} tcp='127.0.0.1:{port}', token={TOKEN!r}); answer = agent.address").endswith(f":{port}")
    owner.run("os.kill(child, 9)")


def test_a_child_has_no_connection_of_its_parents_and_closes_none(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 18)]")
    for path in ("object_store", "tcp"):
        agent.fetch(refs, path=path)
    sockets = owner.run(
        """
import os

def sockets():
    places = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum(os.readlink(place).startswith("socket:") for place in places if os.path.lexists(place))

own, child = sockets(), os.fork()
if child == 0:
    left = sockets()
    agent.close()
    os._exit(left)
answer = [own, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
"""
    )
    assert sockets[0] >= 4 and sockets[1] == 0
    for path in ("object_store", "tcp"):
        assert agent.fetch(refs, path=path)[0].sum() == 1 << 18


CONTACTS = {
    "connect": lambda agent, owner, refs: agent.connect(owner.address, timeout_s=1),
    "subscribe": lambda agent, owner, refs: agent.subscribe(owner.address, "weights", timeout_s=1),
    "map": lambda agent, owner, refs: agent.map(refs, timeout_s=1),
    "fetch": lambda agent, owner, refs: agent.fetch(refs, timeout_s=1),
    "prepare": lambda agent, owner, refs: agent.prepare(refs, [torch.zeros(1 << 18)], timeout_s=1),
}


@pytest.mark.parametrize("first", CONTACTS)
def test_the_first_contact_with_a_stopped_owner_ends_in_time(start_owner, agent, first):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 18)]")
    owner.signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(exceptions.TransferTimeoutError, match="owner"):
        CONTACTS[first](agent, owner, refs)
    assert 0.9 < time.monotonic() - begin < 1.1 + 0.5
    owner.signal(signal.SIGCONT)
    assert agent.fetch(refs)[0].sum() == 1 << 18


def test_what_a_forked_owner_writes_shows(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[tensor := agent.empty((1 << 20,), 'float32').fill_(1.0)]")
    out = [torch.zeros(1 << 20)]
    batch = agent.prepare(refs, out)
    batch.run()
    assert agent.explain(refs[0])["chosen"] == "shm" and bool((out[0] == 1).all())
    owner.run(FORK)
    try:
        owner.run("tensor.fill_(2.0)")
        batch.run()
        assert bool((out[0] == 2).all())
        assert bool((agent.fetch(refs)[0] == 2).all())
        explanation = agent.explain(refs[0])
        assert explanation["chosen"] == "cma"
        assert "forked" in explanation["candidates"][0]["reason"]
        for refused in (lambda: agent.fetch(refs, path="shm"), lambda: agent.map(refs[0])):
            with pytest.raises(exceptions.TransportUnavailableError, match="forked"):
                refused()
        # Anew, of the same memory: the same.
        again = owner.register("[tensor]")
        owner.run("tensor.fill_(3.0)")
        assert bool((agent.fetch(again)[0] == 3).all())
        # Memory of after the fork, and versions, are mapped.
        later = owner.register("[later := agent.empty((1 << 20,), 'float32').fill_(1.0)]")
        owner.run("later.fill_(4.0)")
        assert bool((agent.map(later[0]) == 4).all())
        updates = agent.subscribe(owner.address, "weights")
        owner.run("agent.publish('weights', {'w': tensor})")
        assert bool((updates.map()[1]["w"] == 3).all())
    finally:
        owner.run("os.kill(child, 9)")
