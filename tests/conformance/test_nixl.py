"""The path "nixl", over the installed package: what is usable and why not, who can reach what, and what deaths cost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, nixl
from tests.conformance.conftest import TOKEN

needs_nixl = pytest.mark.skipif(not nixl.library(), reason="NIXL is not installed")


def reason(agent, ref):
    (own,) = [candidate for candidate in agent.explain(ref)["candidates"] if candidate["path"] == "nixl"]
    return own["usable"], own["reason"]


def test_a_reach_that_is_none(folder):
    with pytest.raises(ValueError, match="host, rdma, any"):
        Agent("reader", folder=folder, nixl="everywhere")


def test_where_there_is_none_the_reason_says_what_to_install(owner, folder, monkeypatch):
    refs = owner.register("[torch.ones(5)]")
    monkeypatch.setenv("BEELINE_NIXL_LIBRARY", "/nowhere/libnixl_capi.so")
    with Agent("reader", folder=folder, token=TOKEN) as agent:
        usable, why = reason(agent, refs[0])
        assert not usable and "/nowhere/libnixl_capi.so" in why and "pip install" in why
        with pytest.raises(exceptions.TransportUnavailableError, match="pip install"):
            agent.fetch(refs, path="nixl")


@needs_nixl
def test_an_environment_that_would_widen_its_reach_is_refused(owner, folder, monkeypatch):
    refs = owner.register("[torch.ones(5)]")
    monkeypatch.setenv("UCX_TLS", "tcp")
    with Agent("reader", folder=folder, token=TOKEN) as agent:
        usable, why = reason(agent, refs[0])
        assert not usable and "UCX_TLS=tcp" in why
    with Agent("reader", folder=folder, token=TOKEN, nixl="any") as agent:
        assert reason(agent, refs[0])[0]


@needs_nixl
def test_nothing_of_it_is_loaded_until_it_is_used(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 16) for _ in range(100)]")
    agent.fetch(refs)
    agent.explain(refs[0])
    loaded = "answer = 'libnixl' in open('/proc/self/maps').read()"
    assert not owner.run(loaded)
    agent.fetch(refs, path="nixl")
    assert owner.run(loaded)


def listening(pid):
    """Inodes of the TCP sockets that a process listens on."""
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except FileNotFoundError:
            continue
        own |= {found[1]} if found else set()
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").open()]
    return {row[9] for row in rows if row[3] == "0A" and row[9] in own}


@needs_nixl
def test_nobody_can_connect_to_its_engines_by_tcp(start_owner):
    owner, reader = start_owner(), start_owner(tcp=None)
    before = listening(owner.process.pid)
    assert len(before) == 1  # the agent's own
    refs = owner.register("[torch.ones(1 << 20)]")
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r})")
    assert reader.run("answer = float(agent.fetch(kept['refs'], path='nixl')[0].sum())") == 1 << 20
    assert listening(owner.process.pid) == before
    assert not listening(reader.process.pid)


@needs_nixl
def test_readers_that_share_no_memory_are_not_of_this_host(owner, folder):
    refs = owner.register("[torch.ones(5)]")
    with Agent("reader", folder=folder, token=TOKEN, share_memory=False, tcp=None) as agent:
        assert agent.fetch(refs, path="tcp")[0].sum() == 5
    with (
        Agent("alone", folder=folder, token=TOKEN, share_memory=False, tcp="127.0.0.1:0") as alone,
        Agent("reader", folder=folder, token=TOKEN) as agent,
    ):
        kept = alone.register([torch.ones(5)])
        usable, why = reason(agent, kept[0])
        assert not usable and "shares no memory" in why


@needs_nixl
def test_overlapping_and_renewed_registrations(start_owner, agent):
    owner = start_owner()
    owner.run("kept['whole'] = torch.arange(1 << 20, dtype=torch.float32)")
    expected = torch.arange(1 << 20, dtype=torch.float32)
    whole = owner.register("[kept['whole']]")
    for start, end in ((5, 1 << 19), (100, 200), (7, 1 << 18), (1, 3), (0, 9)):
        part = owner.register(f"[kept['whole'][{start}:{end}]]")
        assert torch.equal(agent.fetch(part, path="nixl")[0], expected[start:end])
        with pytest.raises(exceptions.StaleReferenceError):
            agent.fetch(whole, path="nixl")
        whole = owner.register("[kept['whole']]")
        assert torch.equal(agent.fetch(whole, path="nixl")[0], expected)


@needs_nixl
def test_an_owner_that_is_started_again_is_another_one(start_owner, agent):
    first = start_owner()
    old = first.register("[torch.ones(1 << 18)]")
    agent.fetch(old, path="nixl")
    first.signal(signal.SIGKILL)
    first.process.wait()
    second = start_owner()
    new = second.register("[torch.full((1 << 18,), 2.0)]")
    assert float(agent.fetch(new, path="nixl")[0].sum()) == 2 << 18
    with pytest.raises(exceptions.PeerLostError):
        agent.fetch(old, path="nixl", timeout_s=20)


FETCH_FOR_EVER = """
import threading

def fetch():
    while True:
        agent.fetch(kept['refs'], kept['out'], path='nixl')

kept['out'] = [torch.zeros(1 << 22)]
agent.fetch(kept['refs'], kept['out'], path='nixl')
threading.Thread(target=fetch, daemon=True).start()
"""


@needs_nixl
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_reader_that_dies_or_stops_costs_the_source_nothing(start_owner, agent, number):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 22)]")
    for _ in range(3):
        reader = start_owner(tcp=None)
        reader.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r})")
        reader.run(FETCH_FOR_EVER)
        time.sleep(0.05)
        reader.signal(number)
        assert float(agent.fetch(refs, path="nixl")[0].sum()) == 1 << 22
        reader.end()
    owner.run("kept.clear()")
    deadline = time.monotonic() + 20
    while owner.run("answer = agent.stats()['registrations_waiting']"):
        owner.run("agent.publish('sweep', [torch.ones(1)])")
        assert time.monotonic() < deadline
    again = owner.register("[torch.full((1 << 22,), 2.0)]")
    assert float(agent.fetch(again, path="nixl")[0].sum()) == 2 << 22


@needs_nixl
def test_a_stopped_owner_that_was_never_asked_is_an_error_in_time(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    agent.connect(owner.address)
    out = [torch.full((1 << 20,), 7.0)]
    owner.signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, out, path="nixl", timeout_s=0.5)
    assert 0.45 < time.monotonic() - begin < 0.5 * 1.1 + 0.5
    owner.signal(signal.SIGCONT)
    assert float(agent.fetch(refs, path="nixl")[0].sum()) == 1 << 20
    assert bool((out[0] == 7).all())


# In processes of their own: how one ends is what is looked at.
PROGRAM = """
import os, sys
import torch
from beeline.transfer import Agent, TensorRefs

folder, how = sys.argv[1:]
owner, reader = Agent("owner", folder=folder), Agent("reader", folder=folder)
kept = owner.register([torch.full((1 << 20,), 3.0)])
refs = TensorRefs.from_json(kept.to_json())
fetched = reader.fetch(refs, path="nixl")
assert float(fetched[0].sum()) == 3 << 20
if how == "forks":
    child = os.fork()
    if child == 0:
        try:
            reader.fetch(refs, path="nixl")
        except Exception as error:
            print(type(error).__name__, flush=True)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert float(reader.fetch(refs, path="nixl")[0].sum()) == 3 << 20
if how == "closes":
    reader.close()
    owner.close()
print("well")
if how == "leaks":
    leaked = [owner]
    leaked.append(leaked)
    owner.cycle = leaked
    sys.leaked = leaked
"""


@pytest.mark.full
@needs_nixl
@pytest.mark.parametrize("preloaded", [False, True])
@pytest.mark.parametrize("how", ["closes", "leaves", "leaks", "forks"])
def test_programs_end_well(folder, how, preloaded):
    run = [sys.executable, *(["-m", "beeline.cli", "run"] if preloaded else [])]
    program = Path(folder) / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run([*run, str(program), folder, how], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, (done.stdout, done.stderr)
    said = done.stdout.split()
    assert said == (["TransportUnavailableError", "well"] if how == "forks" else ["well"]), done.stderr
