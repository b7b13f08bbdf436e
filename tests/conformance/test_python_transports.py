"""Transports that are written in Python: how they are called, and what they raise."""

import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, TensorRefs, Transport
from tests.conformance.conftest import TOKEN


class Shelf(Transport):
    """Agents of one process hand each other views of their memory."""

    name = "shelf"
    same_host_only = True
    can_write = True
    expected_gbps = 2.0

    def __init__(self, shelf, **raises):
        self.shelf = shelf
        self.raises = raises  # by method: types
        self.calls = []
        self.numbers = itertools.count()

    def called(self, method):
        self.calls.append(method)
        if method in self.raises:
            raise self.raises[method]("words")

    def open(self, agent_name):
        self.called("open")
        return agent_name

    def close(self, engine):
        self.called("close")

    def contact(self, engine):
        self.called("contact")
        return engine.encode()

    def expose(self, engine, memory, writable):
        self.called("expose")
        key = f"{engine} {next(self.numbers)}".encode()
        self.shelf[key] = memory.view()
        assert memory.view().readonly != writable
        assert memory.address > 0 and memory.device_type == 1 and memory.length == memory.view().nbytes
        return key, key

    def withdraw(self, engine, exposure):
        self.called("withdraw")
        del self.shelf[exposure]

    def connect(self, engine, peer_name, contact, wait):
        self.called("connect")
        assert contact.decode() == peer_name and wait.left_s() > 0
        self.wait = wait
        return peer_name

    def disconnect(self, engine, connection):
        self.called("disconnect")

    def transfer(self, engine, connection, operation, runs, wait):
        self.called("transfer")
        for run in runs:
            theirs, own = self.shelf[run.key], run.view()
            assert own.readonly == (operation == "write") and run.local > 0
            for i in range(run.count):
                at, here = run.offset + i * run.stride, i * run.local_stride
                if operation == "read":
                    own[here : here + run.length] = theirs[at : at + run.length]
                else:
                    theirs[at : at + run.length] = own[here : here + run.length]
            wait.check()


@pytest.fixture
def pair(place):
    """Opens an owner, and a reader whose transport raises what the test says."""
    opened = []

    def open_them(**raises):
        shelf = {}
        transports = [Shelf(shelf), Shelf(shelf, **raises)]
        for name, transport in zip(("owner", "reader"), transports, strict=True):
            opened.append(Agent(name, folder=place, token=TOKEN, plugins=[transport]))
        return [*opened, *transports]

    yield open_them
    for agent in opened:
        agent.close()


def test_references_carry_the_keys_of_the_path_that_they_were_registered_for(pair):
    owner, reader, owners, readers = pair()
    tensors = [torch.arange(1000), torch.ones(3)]
    kept = owner.register(tensors, path="shelf")
    exposed = owners.calls.count("expose")
    assert exposed == len(owners.calls) - 1 and owners.calls[0] == "open"
    refs = TensorRefs.from_bytes(kept.to_bytes())
    for _ in range(2):
        assert all(map(torch.equal, reader.fetch(refs, path="shelf"), tensors))
    assert torch.equal(reader.fetch(refs[1], path="shelf"), tensors[1])
    assert torch.equal(reader.fetch(kept, path="cma")[0], tensors[0])  # by others as well
    assert owners.calls.count("expose") == exposed
    del kept
    gc.collect()
    assert owners.calls.count("withdraw") == exposed
    with pytest.raises(exceptions.StaleReferenceError):
        reader.fetch(refs, path="shelf")


def test_a_path_that_there_is_not_cannot_be_registered_for(pair):
    owner, *_ = pair()
    with pytest.raises(exceptions.TransportUnavailableError, match='no path "shelves"'):
        owner.register([torch.ones(3)], path="shelves")
    owner.register([torch.ones(3)], path="shm")  # which needs no keys


def test_every_method_is_called_in_its_time(pair):
    owner, reader, owners, readers = pair()
    tensors = [torch.arange(1000), torch.arange(64 * 64).reshape(64, 64).t()[::2]]
    kept = owner.register(tensors)
    refs = TensorRefs.from_json(kept.to_json())
    assert (owners.calls, readers.calls) == ([], [])
    assert "shelf" in [each["path"] for each in reader.explain(refs[0])["candidates"]]
    fetched = reader.fetch(refs, path="shelf")
    assert all(torch.equal(one, other) for one, other in zip(fetched, tensors, strict=True))
    owner.grant(kept, reader.address)
    reader.push(refs, [torch.ones(1000, dtype=torch.int64), torch.zeros(32, 64, dtype=torch.int64)], path="shelf")
    assert bool((tensors[0] == 1).all()) and not tensors[1].any()
    with pytest.raises(ValueError, match="ended"):
        readers.wait.check()
    assert owners.calls[:2] == ["open", "contact"] and set(owners.calls[2:]) == {"expose"}
    del kept
    with pytest.raises(exceptions.StaleReferenceError):
        reader.fetch(refs, path="shelf")
    assert not owners.shelf
    reader.close()
    owner.close()
    assert readers.calls[-2:] == ["disconnect", "close"] and owners.calls[-2:] == ["withdraw", "close"]


@pytest.mark.parametrize(
    ("raised", "expected", "text"),
    [
        (RuntimeError, exceptions.DirectTransportError, "RuntimeError: words"),
        (ValueError, exceptions.DirectTransportError, "ValueError: words"),
        (exceptions.PeerLostError, exceptions.PeerLostError, "words"),
        (exceptions.StaleReferenceError, exceptions.StaleReferenceError, "words"),
        (exceptions.TransferTimeoutError, exceptions.TransferTimeoutError, "words"),
        (exceptions.TransferCancelledError, exceptions.TransferCancelledError, "words"),
        (exceptions.TornReadError, exceptions.TornReadError, "words"),
        (exceptions.ObjectStoreFullError, exceptions.ObjectStoreFullError, "words"),
        (exceptions.TransportUnavailableError, exceptions.TransportUnavailableError, "words"),
        (KeyboardInterrupt, KeyboardInterrupt, "words"),
    ],
)
@pytest.mark.parametrize("method", ["open", "connect", "transfer"])
def test_what_it_raises_reaches_the_caller(pair, method, raised, expected, text):
    owner, reader, _, _ = pair(**{method: raised})
    tensor = torch.arange(100)
    kept = owner.register([tensor])
    refs = TensorRefs.from_json(kept.to_json())
    with pytest.raises(expected, match=text):
        reader.fetch(refs, path="shelf", timeout_s=20)
    assert torch.equal(reader.fetch(refs)[0], tensor)  # by another path


@pytest.mark.parametrize("method", ["contact", "expose"])
def test_what_the_owners_side_raises_reaches_the_reader(pair, method):
    owner, reader, owners, _ = pair()
    owners.raises = {method: RuntimeError}
    kept = owner.register([torch.arange(100)])
    refs = TensorRefs.from_json(kept.to_json())
    with pytest.raises(exceptions.DirectTransportError, match="RuntimeError: words"):
        reader.fetch(refs, path="shelf")


@pytest.mark.parametrize(
    ("method", "given", "text"),
    [
        ("contact", 5, "no bytes"),
        ("contact", bytes(2 << 20), "more than 1048576"),
        ("expose", b"key", "may not"),
        ("expose", (1, 2), "no bytes"),
        ("expose", (1, b"", 2), "exposure, key"),
    ],
)
def test_what_it_gives_is_looked_at(pair, method, given, text):
    owner, reader, owners, _ = pair()
    setattr(owners, method, lambda *_: given)
    owners.withdraw = lambda *_: None
    kept = owner.register([torch.arange(100)])
    with pytest.raises(exceptions.BeelineError, match=text):
        reader.fetch(TensorRefs.from_json(kept.to_json()), path="shelf")


def test_deadlines_and_cancellations_end_its_waits(pair):
    owner, reader, _, readers = pair()
    begun = threading.Event()

    def wait_for_ever(engine, connection, operation, runs, wait):
        begun.set()
        while True:
            wait.check()

    readers.transfer = wait_for_ever
    kept = owner.register([torch.arange(100)])
    refs = TensorRefs.from_json(kept.to_json())
    with pytest.raises(exceptions.TransferTimeoutError):
        reader.fetch(refs, path="shelf", timeout_s=0.05)
    begun.clear()
    transfer = reader.fetch_async(refs, path="shelf")
    begun.wait(20)
    transfer.cancel()
    with pytest.raises(exceptions.TransferCancelledError):
        transfer.result()


def test_what_is_no_transport_is_refused(place):
    class Half:
        name = "half"

        def open(self, agent_name): ...

    for wrong, text in ((Half(), "lacks methods close"), (5, "path of a library")):
        with pytest.raises((TypeError, exceptions.BeelineError), match=text):
            Agent("a", folder=place, plugins=[wrong])
    with pytest.raises(ValueError, match="already"):
        Agent("a", folder=place, plugins=[Shelf({}), Shelf({})])
    far = Shelf({})
    far.device_types = (1, 200)
    with pytest.raises(ValueError, match="200"):
        Agent("a", folder=place, plugins=[far])


def test_a_transport_goes_with_its_agent(pair, place):
    transport = Shelf({})
    known = weakref.ref(transport)
    with Agent("a", folder=place, plugins=[transport]):
        pass
    del transport
    gc.collect()
    assert known() is None


def test_a_connection_ends_while_others_use_the_agent(start_owner, place):
    """The other agent closes: what its end calls may take the GIL, and call the agent."""
    ends, asked = threading.Event(), []

    class Slow(Shelf):
        def disconnect(self, engine, connection):
            ends.set()
            time.sleep(0.5)
            asked.append(reader.stats())

    shelf = {}
    mapped_owner = start_owner(folder=place)
    refs = mapped_owner.register("[agent.empty((1 << 20,), 'float32').fill_(1.0)]")
    with Agent("reader", folder=place, token=TOKEN, plugins=[Slow(shelf)]) as reader:
        owner = Agent("owner", folder=place, plugins=[Shelf(shelf)])
        kept = owner.register([torch.ones(1000)])
        assert reader.fetch(TensorRefs.from_json(kept.to_json()), path="shelf")[0].sum() == 1000
        mapped = reader.map(refs)
        del kept
        owner.close()
        assert ends.wait(20)
        del mapped  # asks for cleaning, under the agent's lock
        deadline = time.monotonic() + 20
        while not asked:
            assert time.monotonic() < deadline
        assert reader.fetch(refs)[0].sum() == 1 << 20


# In a process of its own: how it ends is what is looked at.
ENDING = """
import sys, threading, time
import torch
from beeline.transfer import Agent, TensorRefs
from tests.conformance.test_python_transports import Shelf

folder = sys.argv[1]
shelf = {}
owner = Agent("owner", folder=folder, plugins=[Shelf(shelf)])
reader = Agent("reader", folder=folder, plugins=[Shelf(shelf)])
kept = owner.register([torch.ones(1000)])
refs = TensorRefs.from_json(kept.to_json())
print(float(reader.fetch(refs, path="shelf")[0].sum()))

def fetch():
    while True:
        reader.fetch(refs, path="shelf")

for _ in range(3):
    threading.Thread(target=fetch, daemon=True).start()
time.sleep(0.05)
"""


def test_a_program_that_ends_under_it(place):
    done = subprocess.run([sys.executable, "-c", ENDING, place], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "1000.0"), done.stderr
    assert "terminate" not in done.stderr
