"""Owners that end, stall or undo: a typed error in time, and nothing is written afterwards."""

import asyncio
import json
import pathlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, TensorRefs
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
    assert 0.9 < time.monotonic() - begin < 5
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


async def test_a_cancelled_transfer_writes_nothing_later(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 22)]")
    agent.fetch(refs, path="tcp")
    owner.signal(signal.SIGSTOP)
    out = [torch.full((1 << 22,), 7.0)]
    transfer = agent.fetch_async(refs, out, path="tcp")
    with pytest.raises(TimeoutError):
        transfer.result(0.2)
    transfer.cancel()
    with pytest.raises(exceptions.TransferCancelledError):
        transfer.result(20)
    out[0].fill_(7)
    owner.signal(signal.SIGCONT)
    owner.run("answer = 1")
    assert bool((out[0] == 7).all())
    waiting = asyncio.ensure_future(asyncio.wait_for(_awaited(agent.fetch_async(refs, path="tcp")), 20))
    assert bool(((await waiting)[0] == 1).all())


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
