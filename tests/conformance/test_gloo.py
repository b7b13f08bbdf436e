"""The path "gloo": who is let in, what is refused before memory is touched, what deaths cost, what is left behind."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from beeline import exceptions
from beeline.transfer import Agent
from beeline.transfer.gloo import GlooTransport, messages
from beeline.transfer.gloo.engine import Engine
from beeline.transfer.gloo.link import READER, Link
from beeline.transfer.gloo.memory import Exposure
from tests.conformance.conftest import TOKEN

SIZE = 1 << 20


class Bound:
    """As the wait of a call, for who uses an engine without an agent."""

    def __init__(self, timeout_s=20.0):
        self.until = time.monotonic() + timeout_s

    def left_s(self):
        return self.until - time.monotonic()

    def check(self):
        if self.left_s() <= 0:
            raise exceptions.TransferTimeoutError("over")


@pytest.fixture
def engine():
    own = Engine()
    yield own
    own.close()


@pytest.fixture
def exposed(engine):
    """(memory, its key); others may read it."""
    memory = bytearray(range(256)) * 16
    _, key = engine.owner().expose(memoryview(memory), False)
    return memory, key


@pytest.fixture
def link(engine):
    """A reader that says what it likes."""
    connection = engine.connection("owner", engine.owner().contact)
    connection.open(Bound())
    yield connection._link
    connection.close()


def ask_to_read(link, *pieces):
    """(code, what came)."""
    asked = request(*pieces)
    nbytes = messages.decode_request(asked).nbytes
    take = link.expect_bytes(nbytes)
    link.send(asked, Bound().check)
    code, _ = messages.decode_reply(link.receive(Bound().check))
    take()
    return code, bytes(link.staging[:nbytes].numpy())


def ask_to_write(link, *pieces):
    link.send(request(*pieces, operation="write"), Bound().check)
    return messages.decode_reply(link.receive(Bound().check))[0]


def request(*pieces, operation="read"):
    return messages.encode_request(operation, [messages.Piece(*piece) for piece in pieces])


def test_what_is_in_order_is_answered(exposed, link):
    memory, key = exposed
    expected = b"".join(memory[3 + 100 * i : 5 + 100 * i] for i in range(5)) + memory[:4]
    assert ask_to_read(link, (key, 3, 2, 5, 100), (key, 0, 4, 1, 0)) == (messages.Code.OK, expected)


@pytest.mark.parametrize(
    "piece",
    [
        (4096, 1, 1, 0),
        (4095, 2, 1, 0),
        (0, 4097, 1, 0),
        (0, 1, 2, 4096),
        (2**64 - 1, 1, 1, 0),
        (2**64 - 1, 2, 1, 2**64 - 1),
        (1, 1, 2, 2**64 - 1),
    ],
)
def test_what_is_not_within_the_memory_is_refused(exposed, link, piece):
    _, key = exposed
    code, came = ask_to_read(link, (key, *piece))
    assert code == messages.Code.REFUSED and not any(came)
    with pytest.raises(exceptions.PeerLostError):
        link.receive(Bound().check)


def test_bytes_that_are_said_to_be_sent_and_do_not_come_end_the_connection(engine, link, monkeypatch):
    monkeypatch.setattr("beeline.transfer.gloo.link._ON_THE_WAY", timedelta(milliseconds=50))
    take = link.expect_bytes(8)
    with pytest.raises(exceptions.PeerLostError, match="by gloo has ended"):
        take()
    with pytest.raises(exceptions.PeerLostError):
        link.expect_bytes(8)
    expect_service(engine)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0",
        struct.pack("<BI", 0, 0),
        struct.pack("<BI", 2, 1) + bytes(48),
        struct.pack("<BI", 0, 2**32 - 1) + bytes(48),
        struct.pack("<BI", 0, 2) + bytes(48),
        struct.pack("<BI", 0, 1) + bytes(47),
        struct.pack("<BI", 0, 1) + bytes(48),  # no bytes
        request((bytes(16), 0, messages.CHUNK_BYTES, 2, 0)),
        request((bytes(16), 0, 2**63, 2**63, 0)),
        bytes([messages.STORE]) + bytes(2),
    ],
)
def test_what_is_no_request_ends_the_connection(exposed, link, message):
    link.send(message, Bound().check) if message else link._control.shutdown(socket.SHUT_WR)
    with pytest.raises(exceptions.PeerLostError):
        link.receive(Bound().check)


NUMBERS = st.one_of(st.integers(0, 5000), st.integers(0, 2**64 - 1))
PIECES = st.builds(messages.Piece, st.just(bytes(16)), NUMBERS, NUMBERS, NUMBERS, NUMBERS)


@given(PIECES)
@example(messages.Piece(bytes(16), 0, 1, 2, 2**64 - 1))
def test_what_is_held_to_be_within_memory_is(piece):
    exposure = Exposure(memoryview(bytearray(4096)), False)
    try:
        decoded = messages.decode_request(messages.encode_request("read", [piece]))
    except messages.Malformed:
        return
    assert decoded.pieces == [piece] and 0 < decoded.nbytes <= messages.CHUNK_BYTES
    if exposure.holds(piece):
        assert max(piece.offset, piece.offset + (piece.rows - 1) * piece.stride) + piece.length <= 4096
        exposure.read(piece, np.empty(piece.nbytes, np.uint8))


@given(st.binary(max_size=300))
def test_bytes_that_mean_nothing_are_malformed_and_no_more(message):
    for prefix in (b"", struct.pack("<BI", 0, 1), b"BLG2", bytes([messages.STORE, 3, 0]), b"\1"):
        for decode in (
            messages.decode_request,
            messages.decode_hello,
            messages.decode_reply,
            messages.decode_stored,
            messages.decode_contact,
        ):
            try:
                decode(prefix + message)
            except messages.Malformed:
                pass


def test_keys_are_needed_and_say_what_may_be_done(engine, exposed, link):
    memory, key = exposed
    assert ask_to_read(link, (bytes(16), 0, 1, 1, 0)) == (messages.Code.STALE, b"\0")
    assert ask_to_write(link, (key, 0, 1, 1, 0)) == messages.Code.REFUSED
    assert memory[0] == 0


def test_memory_that_was_withdrawn_is_stale(engine, exposed, link):
    _, key = exposed
    assert ask_to_read(link, (key, 0, 2, 1, 0))[0] == messages.Code.OK
    engine.owner().withdraw(key)
    assert ask_to_read(link, (key, 0, 2, 1, 0)) == (messages.Code.STALE, bytes(2))


def test_a_write_that_meets_a_withdrawal_touches_nothing(engine, link):
    memory = bytearray(64)
    _, key = engine.owner().expose(memoryview(memory), True)
    assert ask_to_write(link, (key, 0, 64, 1, 0)) == messages.Code.OK
    engine.owner().withdraw(key)
    link.staging[:64] = 7
    link.send_bytes(64, Bound().check)
    assert messages.decode_reply(link.receive(Bound().check))[0] == messages.Code.STALE
    assert memory == bytes(64)


@pytest.mark.parametrize("secret", [bytes(32), b"", bytes(31), bytes(33), bytes(1 << 16)])
def test_who_has_not_the_secret_is_not_let_in(engine, secret):
    _, name = messages.decode_contact(engine.owner().contact)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.settimeout(20)
        control.connect(name)
        control.send(messages.encode_hello(secret))
        heard = control.recv(1 << 10)
        assert heard == b"" or messages.decode_reply(heard)[0] == messages.Code.REFUSED
        assert not heard or control.recv(1) == b""
    assert not any(isinstance(each, Link) for each in engine.owner()._readers.values())


def test_a_contact_with_another_secret(engine):
    contact = bytearray(engine.owner().contact)
    contact[5] ^= 1
    with pytest.raises(exceptions.TransportUnavailableError, match="secret"):
        engine.connection("owner", bytes(contact)).open(Bound())
    for contact in (b"", b"\2", b"\1" + bytes(60), b"\2" + bytes(500)):
        with pytest.raises(exceptions.TransportUnavailableError, match="version"):
            engine.connection("owner", contact)


def test_who_says_nothing_is_waited_for_no_longer_than_hello(engine, monkeypatch):
    monkeypatch.setattr("beeline.transfer.gloo.owner.HELLO_S", 0.05)
    _, name = messages.decode_contact(engine.owner().contact)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.settimeout(20)
        control.connect(name)
        assert control.recv(1) == b""


def test_a_reader_that_leaves_while_the_group_is_made(engine):
    secret, name = messages.decode_contact(engine.owner().contact)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect(name)
    link = Link(control, READER, "owner")
    link.send(messages.encode_hello(secret), Bound().check)
    assert messages.decode_reply(link.receive(Bound().check))[0] == messages.Code.OK
    link.close()
    deadline = time.monotonic() + 20
    while engine.owner()._readers:
        assert time.monotonic() < deadline
        time.sleep(0.001)


# ----- threads that cannot start


@pytest.fixture
def threads(monkeypatch):
    """Names of threads that cannot start, as where the process may have no more, and how many may before."""
    begin, none = threading.Thread.start, {}

    def start(thread):
        if thread.name in none:
            if none[thread.name] == 0:
                raise RuntimeError("can't start new thread")
            none[thread.name] -= 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    return none


def expect_nobody(owner, held=None):
    # The owner may let in who has gone already, for a moment.
    deadline = time.monotonic() + 20
    while owner._readers or (held is not None and set(descriptors()) - set(held)):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert owner._strangers == 0


def expect_service(engine):
    connection = engine.connection("owner", engine.owner().contact)
    connection.open(Bound())
    connection.close()
    expect_nobody(engine.owner())


def test_an_owner_that_has_no_thread_to_listen_tries_again_when_it_is_asked_again(engine, threads):
    threads["bee-gloo-accept"] = 0
    before = descriptors()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="new thread"):
            engine.owner()
    assert set(descriptors()) <= set(before)
    threads.clear()
    expect_service(engine)


def test_a_reader_for_whom_there_is_no_thread_is_turned_away_with_a_word(engine, threads, caplog):
    contact = engine.owner().contact
    threads["bee-gloo-serve"] = 0
    with pytest.raises(exceptions.PeerLostError, match="by gloo has ended"):
        engine.connection("owner", contact).open(Bound())
    assert "a reader by gloo was turned away: can't start new thread" in caplog.text
    expect_nobody(engine.owner())
    threads.clear()
    expect_service(engine)


@pytest.mark.parametrize(
    ("before", "error"), [(0, RuntimeError), (1, exceptions.PeerLostError)], ids=["reader", "owner"]
)
def test_a_side_that_has_no_thread_to_move_by_ends_the_connection_alone(engine, threads, before, error):
    contact = engine.owner().contact
    held = descriptors()
    threads["bee-gloo-move"] = before
    with pytest.raises(error):
        engine.connection("owner", contact).open(Bound())
    expect_nobody(engine.owner(), held)
    threads.clear()
    expect_service(engine)


# ----- agents


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


def descriptors():
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


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
