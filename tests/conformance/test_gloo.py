"""The path "gloo" between agents: whose group it leaves alone, what deaths cost, what is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent
from beeline.transfer.gloo import GlooTransport
from tests.conformance.conftest import TOKEN, descriptors


def test_it_is_taken_only_by_who_names_it(owner, agent):
    refs = owner.register("[torch.ones(5)]")
    (own,) = [each for each in agent.explain(refs[0])["candidates"] if each["path"] == "gloo"]
    assert not own["usable"] and "names it" in own["reason"]
    explained = agent.explain(refs[0], path="gloo")
    assert explained["chosen"] == "gloo"


def test_nothing_of_it_is_imported_until_it_is_used(start_owner, folder):
    program = """
import sys
import numpy as np
from beeline.transfer import Agent, TensorRefs
with Agent("reader", folder=sys.argv[1], token="conformance") as agent:
    refs = TensorRefs.from_json(sys.argv[2])
    out = [np.zeros(5, np.float32)]
    agent.fetch(refs, out)
    agent.explain(refs[0])
    assert out[0].sum() == 5 and "torch.distributed.distributed_c10d" not in sys.modules
    assert "beeline.transfer.gloo.engine" not in sys.modules
    agent.fetch(refs, out, path="gloo")
    assert "torch.distributed.distributed_c10d" in sys.modules
"""
    refs = start_owner().register("[torch.ones(5)]")
    command = [sys.executable, "-c", program, folder, refs.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


OWN_GROUP = """
import torch.distributed as dist
dist.init_process_group("gloo", init_method="file://" + {file!r}, rank={rank}, world_size=2)
"""
ADD_UP = "t = torch.ones(1000); dist.all_reduce(t); answer = float(t.sum())"


def test_a_group_of_the_programs_own_is_not_touched(start_owner, tmp_path):
    one, other = (start_owner() for _ in range(2))
    for rank, each in enumerate((one, other)):
        each.tell(OWN_GROUP.format(file=str(tmp_path / "store"), rank=rank))
    assert [each._hear()["answer"] for each in (one, other)] == [None, None]
    refs = one.register("[torch.arange(1 << 20)]")
    other.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r})")
    fetch = "answer = bool((agent.fetch(kept['refs'], path='gloo')[0] == torch.arange(1 << 20)).all())"
    for _ in range(3):
        assert other.run(fetch)
        for each in (one, other):
            each.tell(ADD_UP)
        assert [each._hear()["answer"] for each in (one, other)] == [2000.0, 2000.0]
    other.run("agent.close()")
    for each in (one, other):
        each.tell(ADD_UP)
    assert [each._hear()["answer"] for each in (one, other)] == [2000.0, 2000.0]
    for each in (one, other):
        each.tell("dist.destroy_process_group()")
    assert [each._hear()["answer"] for each in (one, other)] == [None, None]


CROSS = """
import threading

def fetch(value):
    for _ in range(20):
        out = agent.fetch(kept['theirs'], path='gloo')[0]
        assert bool((out == value).all())

def all_at_once(value):
    failures = []
    def run():
        try:
            fetch(value)
        except Exception as error:
            failures.append(repr(error))
    threads = [threading.Thread(target=run) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return failures
"""


def test_two_agents_fetch_from_each_other_at_once_by_many_threads(start_owner):
    pair = [start_owner() for _ in range(2)]
    refs = [each.register(f"[torch.full((1 << 18,), {i})]") for i, each in enumerate(pair)]
    for i, each in enumerate(pair):
        each.run(f"kept['theirs'] = TensorRefs.from_json({refs[1 - i].to_json()!r})" + CROSS)
    for i, each in enumerate(pair):
        each.tell(f"answer = all_at_once({1 - i})")
    assert [each._hear()["answer"] for each in pair] == [[], []]


BIG = "[torch.ones(1 << 26)]"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_an_owner_that_dies_or_stops_in_the_midst(start_owner, place, number):
    owner = start_owner(folder=place)
    refs = owner.register(BIG)
    with Agent("reader", folder=place, token=TOKEN) as agent:
        out = [torch.full((1 << 26,), 7.0)]
        agent.fetch(refs, out, path="gloo")
        out[0].fill_(7.0)
        failed = []

        def fetch():
            try:
                agent.fetch(refs, out, path="gloo", timeout_s=2)
            except exceptions.DirectTransportError as error:
                failed.append(error)

        begin = time.monotonic()
        thread = threading.Thread(target=fetch)
        thread.start()
        while float(out[0][0]) == 7.0:  # the first chunk is here
            time.sleep(0.0005)
        owner.signal(number)
        thread.join()
        took = time.monotonic() - begin
        expected = exceptions.PeerLostError if number == signal.SIGKILL else exceptions.TransferTimeoutError
        assert [type(error) for error in failed] == [expected], failed
        if number == signal.SIGKILL:
            return
        assert took < 2 * 1.1 + 0.5
        state = out[0].clone()
        owner.signal(signal.SIGCONT)
        out[0].fill_(5.0)
        assert float(agent.fetch(refs, path="gloo", timeout_s=60)[0].sum()) == 1 << 26
        assert bool((out[0] == 5.0).all()) and not bool((state == 1).all())


def test_a_transfer_that_is_cancelled_costs_its_link_alone(start_owner, place):
    owner = start_owner(folder=place)
    refs = owner.register(BIG)
    with Agent("reader", folder=place, token=TOKEN) as agent:
        out = [torch.full((1 << 26,), 7.0)]
        agent.fetch(refs, out, path="gloo")
        out[0].fill_(7.0)
        transfer = agent.fetch_async(refs, out, path="gloo")
        while float(out[0][0]) == 7.0:
            time.sleep(0.0005)
        owner.signal(signal.SIGSTOP)
        transfer.cancel()
        with pytest.raises(exceptions.TransferCancelledError):
            transfer.result()
        owner.signal(signal.SIGCONT)
        out[0].fill_(5.0)
        assert float(agent.fetch(refs, path="gloo")[0].sum()) == 1 << 26
        assert bool((out[0] == 5.0).all())


FETCH_FOR_EVER = """
import threading

def fetch():
    while True:
        agent.fetch(kept['refs'], kept['out'], path='gloo')

kept['out'] = [torch.zeros(1 << 22)]
agent.fetch(kept['refs'], kept['out'], path='gloo')
threading.Thread(target=fetch, daemon=True).start()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_reader_that_dies_or_stops_holds_up_nobody(start_owner, agent, number):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 22)]")
    reader = start_owner(tcp=None)
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r})")
    reader.run(FETCH_FOR_EVER)
    time.sleep(0.05)
    reader.signal(number)
    assert float(agent.fetch(refs, path="gloo")[0].sum()) == 1 << 22
    begin = time.monotonic()
    owner.run("kept.clear()")  # withdraws, whatever the other reader does
    again = owner.register("[torch.full((1 << 22,), 2.0)]")
    assert float(agent.fetch(again, path="gloo")[0].sum()) == 2 << 22
    assert time.monotonic() - begin < 20
    owner.run("agent.close()")


def left():
    """Threads of this process by name, and its descriptors."""
    tasks = Path("/proc/self/task")
    names = sorted((task / "comm").read_text().strip() for task in tasks.iterdir())
    return names, sorted(os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in descriptors())


# In a process of its own: what other tests have left is not its.
CLOSING = """
import os, sys, threading, time
import torch
from beeline.transfer import Agent, TensorRefs
from tests.conformance.test_gloo import left

folder = sys.argv[1]

def once():
    with Agent("owner", folder=folder) as owner, Agent("reader", folder=folder) as reader:
        kept = owner.register([torch.ones(1 << 20), torch.zeros(5)])
        refs = TensorRefs.from_json(kept.to_json())
        assert float(reader.fetch(refs, path="gloo")[0].sum()) == 1 << 20
        owner.grant(kept, reader.address)
        reader.push(refs, [torch.zeros(1 << 20), torch.ones(5)], path="gloo")
        assert float(owner.register(torch.ones(1)).nbytes) == 4

once()  # which imports, and starts what stays
before = left()
for _ in range(3):
    once()
deadline = time.monotonic() + 20
while left() != before:
    assert time.monotonic() < deadline, (before, left())
    time.sleep(0.01)
print("well")
"""


def test_an_agent_that_is_closed_leaves_no_thread_and_no_socket(place):
    done = subprocess.run([sys.executable, "-c", CLOSING, place], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "well", done.stderr


PROGRAM = """
import os, sys
import torch
from beeline.transfer import Agent, TensorRefs

folder, how = sys.argv[1:]
owner, reader = Agent("owner", folder=folder), Agent("reader", folder=folder)
kept = owner.register([torch.full((1 << 20,), 3.0)])
refs = TensorRefs.from_json(kept.to_json())
assert float(reader.fetch(refs, path="gloo")[0].sum()) == 3 << 20
if how == "forks":
    child = os.fork()
    if child == 0:
        try:
            reader.fetch(refs, path="gloo")
        except Exception as error:
            print(type(error).__name__, flush=True)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert float(reader.fetch(refs, path="gloo")[0].sum()) == 3 << 20
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
@pytest.mark.parametrize("how", ["closes", "leaves", "leaks", "forks"])
def test_programs_end_well(folder, how, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), folder, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, (done.stdout, done.stderr)
    said = done.stdout.split()
    assert said[-1:] == ["well"] and len(said) == (2 if how == "forks" else 1), (said, done.stderr)
    assert "Traceback" not in done.stderr and "terminate" not in done.stderr


def test_a_signal_ends_a_transfer(start_owner, folder):
    program = """
import os, signal, sys, threading, time
from beeline.transfer import Agent, TensorRefs
with Agent("reader", folder=sys.argv[1], token="conformance") as agent:
    refs = TensorRefs.from_json(sys.argv[2])
    agent.fetch(refs, path="gloo")
    os.kill(int(sys.argv[3]), signal.SIGSTOP)
    while "T (stopped)" not in open(f"/proc/{sys.argv[3]}/status").read():
        time.sleep(0.001)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        agent.fetch(refs, path="gloo", timeout_s=None)
    except KeyboardInterrupt:
        print("interrupted")
"""
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    command = [sys.executable, "-c", program, folder, refs.to_json(), str(owner.process.pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "interrupted" and done.returncode == 0, done.stderr


def test_the_transport_is_one_like_others(folder):
    with pytest.raises(ValueError, match='path "gloo" already'):
        Agent("a", folder=folder, plugins=[GlooTransport()])
