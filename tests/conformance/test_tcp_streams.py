"""Streams of the path "tcp" whose connections break on the way: a forwarder between the agents cuts them."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from beeline.transfer import TensorRefs, counters

COUNT = 8 << 20  # of float32: 32 MiB
# How an opening begins: eight bytes, and what the connection is for.
STREAM = 2
AFTER = 3 << 20


class Forwarder:
    """Forwards connections to a port, and cuts streams after AFTER bytes one way, one for each entry of `cuts`."""

    def __init__(self, port):
        self.port = port
        self.cuts = []
        self.streams = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.own_port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._forward, args=[self._listener.accept()[0]], daemon=True).start()

    def _forward(self, caller):
        with caller, socket.create_connection(("127.0.0.1", self.port)) as listener:
            first = b""
            while len(first) < 12:
                first += caller.recv(12 - len(first))
            is_stream = struct.unpack("<I", first[8:])[0] == STREAM
            self.streams += is_stream
            listener.sendall(first)
            back = threading.Thread(target=self._pump, args=[caller, listener, is_stream], daemon=True)
            back.start()
            self._pump(listener, caller, is_stream)
            back.join()

    def _pump(self, source, target, may_cut):
        moved = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                target.sendall(piece)
                moved += len(piece)
                if may_cut and moved > AFTER and self.cuts:
                    self.cuts.pop()
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def forwarder(owner):
    made = Forwarder(int(owner.address.rpartition(":")[2].partition("&")[0]))
    yield made
    made.close()


@pytest.fixture
def refs(owner, forwarder):
    """References to the owner's tensor, by way of the forwarder."""
    given = owner.register(f"[torch.arange({COUNT}, dtype=torch.float32)]")
    return TensorRefs.from_json(given.to_json().replace(f":{forwarder.port}", f":{forwarder.own_port}"))


@pytest.fixture
def reader(start_owner):
    """A reader that meets the owner by the forwarder alone."""
    return start_owner(tcp=None, share_memory=False)


FETCH = f"""
kept['out'] = torch.full(({COUNT},), -1.0)
agent.fetch(kept['refs'], [kept['out']], path='tcp', timeout_s=20)
answer = torch.equal(kept['out'], torch.arange({COUNT}, dtype=torch.float32))
"""


def give(reader, refs):
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs.to_json()!r})")


def test_a_large_transfer_goes_over_several_streams(reader, refs, forwarder):
    give(reader, refs)
    assert reader.run(FETCH)
    assert forwarder.streams == 2


@pytest.mark.parametrize("cuts", [1, 3])
def test_a_transfer_whose_streams_break_is_taken_up_again(reader, refs, forwarder, cuts):
    give(reader, refs)
    forwarder.cuts = [True] * cuts
    assert reader.run(FETCH)
    assert not forwarder.cuts and forwarder.streams == 2 + cuts
    rows = [row for row in counters.read(reader.run("answer = agent.counters_path")).rows if row.path == "tcp"]
    assert [(row.transfers, row.nbytes, row.failures) for row in rows] == [(1, 4 * COUNT, 0)]


@pytest.mark.full
def test_a_transfer_whose_streams_break_ever_again_fails_in_time(reader, refs, forwarder):
    give(reader, refs)
    forwarder.cuts = [True] * 100
    begin = time.monotonic()
    reader.tell(FETCH)
    assert "PeerLostError" in reader._hear()["error"]
    assert time.monotonic() - begin < 10
    reader.run("kept['failed'] = kept['out'].fill_(7)")
    forwarder.cuts = []
    heard = {}
    while heard != {"answer": True}:  # the path is left alone for a while
        assert time.monotonic() - begin < 30
        reader.tell(FETCH)
        heard = reader._hear()
    assert reader.run("answer = bool((kept['failed'] == 7).all())")


def test_a_push_whose_streams_break_is_taken_up_again(owner, reader, refs, forwarder):
    give(reader, refs)
    owner.run(f"agent.grant(kept['refs'], {reader.address!r})")
    forwarder.cuts = [True]
    reader.run(f"agent.push(kept['refs'], [torch.full(({COUNT},), 2.0)], path='tcp', timeout_s=20)")
    assert owner.run("answer = bool((kept['tensors'][0] == 2).all())")
