"""The engine of the path "gloo" by itself: who is let in, what is refused before memory is touched, missing threads."""

import socket
import struct
import threading
import time
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beeline import exceptions
from beeline.transfer.gloo import messages
from beeline.transfer.gloo.engine import Engine
from beeline.transfer.gloo.link import READER, Link
from beeline.transfer.gloo.memory import Exposure
from tests.conformance.conftest import descriptors

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
