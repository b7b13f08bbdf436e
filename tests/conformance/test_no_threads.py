"""Processes that may have no more threads: what runs goes on, the rest is an error that says why, and nothing is left.

Agents run in processes of a user whose threads the kernel counts (RLIMIT_NPROC).
"""

import os
import time

import pytest

from beeline.transfer import TensorRefs
from tests.conformance.conftest import NOBODY, TOKEN

pytestmark = pytest.mark.full

SMALL = 1 << 18  # of float32: one request of every path
LARGE = 1 << 23  # several requests of tcp, by as many streams

NO_THREADS = """
import resource, threading
kept['limit'] = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NPROC, (0, kept['limit'][1]))
try:
    threading.Thread(target=int).start()
    answer = 'a thread has started'
except RuntimeError:
    answer = 'none'
"""
THREADS = "resource.setrlimit(resource.RLIMIT_NPROC, kept['limit'])"
# Descriptors by their names, and how many threads: one that has just begun has no name of its own yet.
HELD = """
import os, pathlib
places = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]
links = sorted(os.readlink(place).partition(':')[0] for place in places if os.path.lexists(place))
answer = [links, len(list(pathlib.Path('/proc/self/task').iterdir()))]
"""


@pytest.fixture
def start(start_owner, place):
    if os.geteuid() == 0:
        os.chown(place, NOBODY, NOBODY)
    return lambda **options: start_owner(folder=place, is_limited=True, **options)


def add_agent(reader, name, place, owner):
    """One more in the reader's process, which has met the owner: a path that fails is left alone for a while."""
    reader.run(
        f"from beeline.transfer import Agent; kept[{name!r}] = Agent({name!r}, folder={place!r}, token={TOKEN!r}); "
        f"kept[{name!r}].connect({owner.address!r})"
    )


def fetch(reader, refs, path, agent="agent"):
    """{"answer": the sum}, or {"error": why not}; within its time."""
    reader.tell(
        f"fetched = {agent}.fetch(TensorRefs.from_json({refs.to_json()!r}), path={path!r}, timeout_s=20)\n"
        "answer = float(fetched[0].double().sum())"
    )
    begin = time.monotonic()
    heard = reader._hear()
    assert time.monotonic() - begin < 15, heard
    return heard


def expect_held(process, before):
    deadline = time.monotonic() + 20
    while process.run(HELD) != before:
        assert time.monotonic() < deadline, (process.run(HELD), before)
        time.sleep(0.01)


# What a reader is told by whom the owner has no thread for.
SAID = {"object_store": "start a thread", "tcp": "while opening a stream to owner", "gloo": "by gloo has ended"}


@pytest.mark.parametrize("path", SAID)
def test_an_owner_without_threads_turns_away_who_is_new_and_serves_the_others(start, place, path):
    owner, reader = start(), start(tcp=None)
    refs = owner.register(f"[torch.ones({SMALL})]")
    assert fetch(reader, refs, path) == {"answer": SMALL}
    before = owner.run(HELD)
    for name in ("late", "later"):
        add_agent(reader, name, place, owner)
    assert owner.run(NO_THREADS) == "none"
    refused = owner.run("answer = agent.stats()['refused']")
    assert SAID[path] in fetch(reader, refs, path, "kept['late']")["error"]
    assert owner.run("answer = agent.stats()['refused']") > refused
    assert fetch(reader, refs, path) == {"answer": SMALL}
    assert fetch(reader, refs, "cma", "kept['late']") == {"answer": SMALL}
    owner.run(THREADS)
    assert fetch(reader, refs, path, "kept['later']") == {"answer": SMALL}
    reader.run("kept.pop('late').close(); kept.pop('later').close()")
    expect_held(owner, before)


@pytest.mark.parametrize("path", ["object_store", "gloo"])
def test_an_owner_without_threads_answers_the_first_question_of_a_path(start, place, path):
    owner, reader = start(), start(tcp=None)
    refs = owner.register(f"[torch.ones({SMALL})]")
    add_agent(reader, "later", place, owner)
    assert owner.run(NO_THREADS) == "none"
    assert "error" in fetch(reader, refs, path)
    assert fetch(reader, refs, "cma") == {"answer": SMALL}
    owner.run(THREADS)
    assert fetch(reader, refs, path, "kept['later']") == {"answer": SMALL}


def test_an_owner_without_threads_that_is_asked_for_gloo_says_so(start, place):
    owner, reader = start(), start(tcp=None)
    refs = owner.register(f"[torch.ones({SMALL})]")
    assert fetch(reader, refs, "object_store") == {"answer": SMALL}
    add_agent(reader, "later", place, owner)
    assert owner.run(NO_THREADS) == "none"
    assert "DirectTransportError" in fetch(reader, refs, "gloo")["error"]
    assert fetch(reader, refs, "object_store") == {"answer": SMALL}
    owner.run(THREADS)
    assert fetch(reader, refs, "gloo", "kept['later']") == {"answer": SMALL}


def test_a_reader_without_threads_fetches_by_tcp_what_needs_one_stream_alone(start, place):
    owner, reader = start(), start(tcp=None)
    small = owner.register(f"[torch.ones({SMALL})]")
    kept = owner.run(f"kept['large'] = agent.register([torch.ones({LARGE})]); answer = kept['large'].to_json()")
    large = TensorRefs.from_json(kept)
    add_agent(reader, "later", place, owner)
    assert fetch(reader, small, "tcp") == {"answer": SMALL}
    before = reader.run(HELD)
    assert reader.run(NO_THREADS) == "none"
    assert fetch(reader, small, "tcp") == {"answer": SMALL}
    error = fetch(reader, large, "tcp")["error"]
    assert "DirectTransportError" in error and "for a stream to owner: start a thread" in error
    assert fetch(reader, large, "") == {"answer": LARGE}  # by another path
    reader.run(THREADS)
    assert fetch(reader, large, "tcp", "kept['later']") == {"answer": LARGE}
    reader.run("kept.pop('later').close()")
    assert reader.run(HELD)[1] <= before[1]


def test_a_reader_without_threads_meets_nobody_new_by_gloo(start, place):
    known, new, reader = start(), start(), start(tcp=None)
    refs = [each.register(f"[torch.ones({SMALL})]") for each in (known, new)]
    assert fetch(reader, refs[0], "gloo") == {"answer": SMALL}
    add_agent(reader, "later", place, new)
    assert reader.run(NO_THREADS) == "none"
    error = fetch(reader, refs[1], "gloo")["error"]
    assert "DirectTransportError" in error and "can't start new thread" in error
    assert fetch(reader, refs[0], "gloo") == {"answer": SMALL}
    assert fetch(reader, refs[1], "cma") == {"answer": SMALL}
    reader.run(THREADS)
    assert fetch(reader, refs[1], "gloo", "kept['later']") == {"answer": SMALL}


def test_an_agent_without_a_thread_does_not_open_and_leaves_nothing(start, place):
    owner = start()
    files, held = sorted(os.listdir(place)), owner.run(HELD)
    assert owner.run(NO_THREADS) == "none"
    options = f"folder={place!r}, tcp='127.0.0.1:0', token={TOKEN!r}"
    owner.tell(f"from beeline.transfer import Agent; Agent('late', {options})")
    error = owner._hear()["error"]
    assert "DirectTransportError" in error and "start a thread" in error
    assert sorted(os.listdir(place)) == files
    expect_held(owner, held)
