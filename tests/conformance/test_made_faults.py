"""Paths that do wrong on purpose: errors in time, another path where there is one, and lies are found out."""

import logging
import time

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, Fault
from tests.conformance.conftest import TOKEN
from tests.conformance.paths import LIES, PATHS, WRITING

COUNT = 3 << 18  # of float32: 3 MiB, in the owner's arena
HALF = COUNT * 2  # bytes


@pytest.fixture
def reader(folder):
    agents = []

    def make(*faults):
        agents.append(Agent("reader", folder=folder, token=TOKEN, faults=faults))
        return agents[-1]

    yield make
    for agent in agents:
        agent.close()


@pytest.fixture
def refs(owner):
    return owner.register(f"[torch.arange({COUNT}, dtype=torch.float32)]")


EXPECTED = torch.arange(COUNT, dtype=torch.float32)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("after_bytes", [0, HALF])
def test_a_stall_ends_with_the_deadline_and_nothing_is_written_later(reader, refs, path, after_bytes):
    agent = reader(Fault("stall", path, after_bytes=after_bytes))
    out = torch.full((COUNT,), -1.0)
    for _ in range(20):
        begin = time.monotonic()
        with pytest.raises(exceptions.TransferTimeoutError):
            agent.fetch(refs, [out], path=path, timeout_s=0.5)
        assert 0.45 < time.monotonic() - begin < 0.5 * 1.1 + 0.5
        if agent.stats()["faults"]:
            break  # else it was connecting all the time: NIXL takes a second to begin on a busy machine
    assert torch.equal(out[: after_bytes // 4], EXPECTED[: after_bytes // 4])
    out.fill_(7)
    assert torch.equal(agent.fetch(refs, path=path)[0], EXPECTED)
    assert bool((out == 7).all())
    assert agent.stats()["faults"] == 1


@pytest.mark.parametrize("path", PATHS)
def test_a_stalled_transfer_can_be_cancelled(reader, refs, path):
    agent = reader(Fault("stall", path, after_bytes=HALF))
    out = torch.full((COUNT,), -1.0)
    transfer = agent.fetch_async(refs, [out], path=path)
    while agent.stats()["faults"] == 0:
        assert not transfer.done()
    transfer.cancel()
    with pytest.raises(exceptions.TransferCancelledError):
        transfer.result(20)


@pytest.mark.parametrize("at", ["connect", "read"])
@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_fails_is_left_for_another_one(reader, refs, path, at):
    others = [Fault("fail", other, at="connect", times=0) for other in PATHS if other not in (path, "tcp", "cma")]
    agent = reader(Fault("fail", path, at=at, after_bytes=0 if at == "connect" else HALF), *others)
    # So that the path is what would be taken.
    with pytest.raises(exceptions.DirectTransportError, match="on purpose"):
        agent.fetch(refs, path=path)
    out = torch.full((COUNT,), -1.0)
    agent.fetch(refs, [out])
    assert torch.equal(out, EXPECTED)
    explanation = agent.explain(refs[0], path=path)
    (own,) = [candidate for candidate in explanation["candidates"] if candidate["path"] == path]
    assert not own["usable"] and "on purpose" in own["reason"]


def test_one_call_goes_on_by_another_path_and_says_so(reader, refs, caplog):
    agent = reader(Fault("fail", "shm", after_bytes=HALF))
    out = torch.full((COUNT,), -1.0)
    with caplog.at_level(logging.WARNING, "beeline.transfer"):
        agent.fetch(refs, [out])
    assert torch.equal(out, EXPECTED)
    assert agent.explain(refs[0])["failovers"] == 1
    (warning,) = [record.message for record in caplog.records if record.name == "beeline.transfer"]
    for said in (f"fetch of {4 * COUNT} bytes", '"owner"', "by shm", "on purpose", "was taken instead"):
        assert said in warning, warning


def test_every_path_fails_and_each_is_tried_once(reader, refs, caplog):
    agent = reader(Fault("fail", times=0))
    with pytest.raises(exceptions.DirectTransportError, match="on purpose"):
        agent.fetch(refs)
    assert 1 < agent.stats()["faults"] <= len(PATHS)
    assert len(caplog.records) == agent.explain(refs[0])["failovers"] > 0


def test_a_path_that_is_slower_than_the_next_one_is_left_for_it_where_it_is(owner, reader):
    refs = owner.register(f"[torch.arange({COUNT}, dtype=torch.float32), torch.ones(64)]")
    agent = reader(Fault("delay", "shm", delay_s=0.05, times=0))
    assert agent.explain(refs[0])["chosen"] == "shm"
    for path in ("shm", "cma"):
        for _ in range(4):
            agent.fetch(refs[0], path=path)
    explanation = agent.explain(refs[0])
    assert explanation["chosen"] == "cma"
    measured = {candidate["path"] for candidate in explanation["candidates"] if candidate["measured"]}
    assert measured == {"shm", "cma"}
    # Sizes and directions are apart.
    assert agent.explain(refs[0][:64])["chosen"] == "shm"
    assert not any(candidate["measured"] for candidate in agent.explain(refs[0], operation="push")["candidates"])
    out = torch.full((COUNT,), -1.0)
    with pytest.raises(exceptions.TransportUnavailableError, match=r"too slow: .* GB/s measured"):
        agent.fetch(refs[0], out, path="shm", min_gbps=1)
    assert bool((out == -1).all())


@pytest.mark.parametrize("kind", LIES)
@pytest.mark.parametrize("path", PATHS)
def test_a_lie_is_found_out_by_checksums(owner, reader, path, kind):
    expression = f"torch.arange({COUNT}, dtype=torch.float32)"
    refs = owner.register(f"[{expression}, {expression}.reshape(512, -1).t()]", checksum=True)
    agent = reader(Fault(kind, path, after_bytes=HALF))
    poison = torch.full((COUNT * 4,), 0xEE, dtype=torch.uint8).view(torch.float32)
    with pytest.raises(exceptions.TornReadError, match="checksum"):
        agent.fetch(refs, [poison.clone(), poison.clone().reshape(-1, 512)], path=path, verify=True)
    plain, turned = agent.fetch(refs, path=path, verify=True)
    assert torch.equal(plain, EXPECTED)
    assert torch.equal(turned, EXPECTED.reshape(512, -1).t())


@pytest.mark.parametrize("path", WRITING)
def test_pushes_that_fail_leave_the_rest_alone(owner, reader, path):
    refs = owner.register(f"[torch.zeros({COUNT})]")
    agent = reader(Fault("stall", path, at="write", after_bytes=HALF), Fault("corrupt", path, at="write"))
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.push(refs, [torch.ones(COUNT)], path=path, timeout_s=0.5)
    written = torch.tensor(owner.run("answer = kept['tensors'][0].nonzero().numel()"))
    assert written == HALF // 4
    agent.push(refs, [torch.ones(COUNT)], path=path)  # with a wrong first byte
    assert owner.run("answer = int((kept['tensors'][0] == 1).sum())") == COUNT - 1
    agent.push(refs, [torch.ones(COUNT)], path=path)
    assert owner.run("answer = int((kept['tensors'][0] == 1).sum())") == COUNT


def test_faults_that_are_none(folder):
    with pytest.raises(ValueError, match="kind"):
        Fault("explode")
    with pytest.raises(ValueError, match="carrier pigeon"):
        Agent("reader", folder=folder, faults=[Fault("fail", "carrier pigeon")])
