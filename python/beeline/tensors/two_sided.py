"""Two-sided tensor transports: the producer's process sends while a reader's receives.

The reader asks. A process that has produced such a value listens on a unix socket, and runs what it is asked for beside
the actor's call. Of one transport a process does one send or receive at a time, on a thread kept for that, as Ray does;
a transfer begins when both processes are free for it. They are taken in the order of their keys, whichever of them
reads: so no two transfers ever wait for each other. Messages:

    secret (32 bytes), then the pickled Request     reader
    READY: the producer is free                     producer
    GO: the reader is, too; both begin              reader
    SENT                                            producer
    RECEIVED: what is still to be sent is dropped   reader; without it, the end of the connection says it gave up
    FAILED, and why: in place of READY or SENT      producer
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import math
import os
import pickle
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

import cloudpickle

from beeline.exceptions import DirectTransportError, PeerLostError, TransportUnavailableError
from beeline.tensors import fetch_time
from beeline.tensors.lanes import ABORTED_S, LEFT_ALONE_S, Busy, Lane, Late, Operation

READY, GO, SENT, RECEIVED, FAILED = b"R", b"G", b"S", b"D", b"F"
SECRET_BYTES = 32
HELLO_S = 5.0  # that who connects has to say who it is
LATER_S = 5.0  # that a producer's time is over after the reader's, who says so: the end of the connection tells it
MAX_REQUEST = 64 << 20

_log = logging.getLogger("beeline")


class Contact(NamedTuple):
    """Where a producer is asked."""

    key: str  # of its process
    pid: int
    address: bytes
    secret: bytes


class Offer(Protocol):
    """What can be sent."""

    manager: Any
    tensors: list[Any]
    metadata: Any


class Request(NamedTuple):
    """What a reader asks for."""

    name: str
    obj_id: str
    key: str  # of the reader's process
    communicator: Any
    seconds: float


class _Process:
    """What this process has for two-sided transports; a child of fork() begins anew."""

    def __init__(self) -> None:
        self.key = secrets.token_hex(16)
        self.lock = threading.Lock()
        self.lanes: dict[str, Lane] = {}  # by transport; needs the lock
        self.producer: _Producer | None = None  # needs the lock
        self.connections: set[Connection] = set()  # on either side

    def lane(self, name: str) -> Lane:
        with self.lock:
            return self.lanes.setdefault(name, Lane(name))


_process = _Process()


def _begin_anew() -> None:
    """After fork(): the peers of its parent see the end of their connections though the child lives."""
    global _process
    if _process.producer is not None:
        _process.producer.close()
    for connection in _process.connections:
        connection.close()
    _process = _Process()


os.register_at_fork(after_in_child=_begin_anew)


def contact(find: Callable[[str], Offer | None]) -> Contact:
    """Of this process as a producer; begins to listen. `find` gives what it offers, by object."""
    with _process.lock:
        if _process.producer is None:
            _process.producer = _Producer(find)
        return _process.producer.contact


class _Producer:
    """The listener, and a thread for each reader that is connected."""

    def __init__(self, find: Callable[[str], Offer | None]) -> None:
        self.find = find
        name = b"\0beeline-two-sided-" + secrets.token_hex(16).encode()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(name)
        self._listener.listen(4096)  # who connects to a full one waits
        self.contact = Contact(_process.key, os.getpid(), name, secrets.token_bytes(SECRET_BYTES))
        threading.Thread(target=self._accept, name="beeline-two-sided", daemon=True).start()

    def close(self) -> None:
        """Lets nobody in any more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
                uid = _user_at(accepted)
                connection: Connection = Connection(accepted.detach())
                if uid != os.geteuid():
                    connection.close()
                    continue
                threading.Thread(target=self._serve, args=(connection,), name="beeline-sends", daemon=True).start()
            except (OSError, RuntimeError) as error:  # no descriptor or no thread is left
                _log.warning("No reader of a two-sided transport can be let in for now: %s", error)
                time.sleep(0.1)

    def _serve(self, connection: Connection) -> None:
        with _closing(connection):
            try:
                if not connection.poll(HELLO_S) or not hmac.compare_digest(
                    connection.recv_bytes(SECRET_BYTES), self.contact.secret
                ):
                    return
                self._answer(connection, pickle.loads(connection.recv_bytes(MAX_REQUEST)))
            except (EOFError, OSError):
                pass  # the reader has left
            except Exception as error:
                with contextlib.suppress(OSError):
                    connection.send_bytes(FAILED + _text(error).encode())

    def _answer(self, connection: Connection, request: Request) -> None:
        until = time.monotonic() + request.seconds + LATER_S
        offer = self.find(request.obj_id)
        if offer is None:
            connection.send_bytes(FAILED + b"the object is not there any more")
            return
        lane = _process.lane(request.name)
        try:
            with lane.turn(request.key, until):
                connection.send_bytes(READY)
                if not connection.poll(max(0.0, until - time.monotonic())) or connection.recv_bytes(1) != GO:
                    return
                failure = _send(lane, offer, request, connection, until)
        except (Busy, Late, OSError) as error:  # OSError: no descriptors are left, or the reader has left
            connection.send_bytes(FAILED + str(error).encode())
            return
        connection.send_bytes(SENT if failure is None else FAILED + failure.encode())


def _send(lane: Lane, offer: Offer, request: Request, connection: Connection, until: float) -> str | None:
    """Why it failed, None if it did not. Raises EOFError where the reader has left."""
    manager = offer.manager
    sending = lane.begin(
        "send_multiple_tensors",
        lambda: manager.send_multiple_tensors(offer.tensors, offer.metadata, request.communicator),
    )
    is_wanted = True
    try:
        while not sending.is_over:
            ready = wait([sending.over, *([connection] if is_wanted else [])], max(0.0, until - time.monotonic()))
            if connection in ready:
                is_wanted = connection.recv_bytes(1) != RECEIVED
            elif not ready:
                return "send_multiple_tensors did not end in time"
        return None if sending.error is None else f"send_multiple_tensors raised {_text(sending.error)}"
    finally:
        _settle(lane, request.key, sending, manager if is_wanted else None, request.obj_id, request.communicator)


def _settle(lane: Lane, peer: str, operation: Operation, manager: Any, obj_id: str, communicator: Any) -> None:
    """Of an operation whose other side has failed: aborts it where `manager` can. One that hangs holds up no others."""
    if operation.is_over:
        operation.close()
        return
    can_abort = manager is not None and manager.can_abort_transport()
    if can_abort:

        def abort() -> None:
            try:
                manager.abort_transport(obj_id, communicator)
            except Exception:
                _log.exception("abort_transport of the tensor transport %s failed for object %s", lane.name, obj_id)

        threading.Thread(target=abort, name="beeline-aborts", daemon=True).start()
    wait([operation.over], ABORTED_S if can_abort else LEFT_ALONE_S)
    lane.leave(peer, operation)


@dataclass
class Fetch:
    """A reader's side of one transfer."""

    name: str
    manager: Any
    obj_id: str
    metadata: Any
    source: Any  # the producer's handle
    own: Any  # the reader's
    contact: Contact

    def run(self, time_left: fetch_time.FetchTime) -> list[Any]:
        """The tensors. Raises what says what failed at which side, PeerLostError where the producer has ended."""
        if self.own is None:
            raise TransportUnavailableError(
                f"get is not allowed on objects of the two-sided tensor transport '{self.name}' in a driver or a task: "
                "actors receive by it. Pass _use_object_store=True to get, or use a one-sided transport."
            )
        if self.contact.key == _process.key:
            return self._from_here()
        until = time.monotonic() + time_left.seconds
        try:
            tensors = self._run(until)
            if len(tensors) != len(self.metadata.tensor_meta):
                raise _Failed(f"recv_multiple_tensors gave {len(tensors)} tensors")
        except Late as error:
            raise time_left.error(f"{self._what} ({error})") from error
        except (EOFError, ConnectionError) as error:
            raise PeerLostError(f"{self._what} did not come: the producer's process has ended") from error
        except (Busy, _Failed) as error:
            raise DirectTransportError(f"{self._what} could not be received: {error}") from error.__cause__
        except OSError as error:  # the process may have no more descriptors
            raise DirectTransportError(f"{self._what} could not be received: {error}") from error
        return tensors

    def _from_here(self) -> list[Any]:
        producer = _process.producer
        offer = None if producer is None else producer.find(self.obj_id)
        if offer is None:
            raise DirectTransportError(f"{self._what} are not there any more")
        return list(offer.tensors)

    @property
    def _what(self) -> str:
        meta = self.metadata.tensor_meta
        nbytes = sum(math.prod(shape) * getattr(dtype, "itemsize", 0) for shape, dtype in meta)
        return (
            f"{len(meta)} tensors ({nbytes} bytes) by the tensor transport '{self.name}' from {self.source} in process "
            f"{self.contact.pid}"
        )

    def _run(self, until: float) -> list[Any]:
        lane = _process.lane(self.name)
        communicator = self._communicator()
        lane.wait_for_left(self.contact.key, min(until, time.monotonic() + ABORTED_S))
        with contextlib.ExitStack() as stack:
            is_first = _process.key < self.contact.key
            if is_first:
                stack.enter_context(lane.turn(self.contact.key, until))
            connection = stack.enter_context(_connected(self.contact))
            connection.send_bytes(self.contact.secret)
            connection.send_bytes(self._request(communicator, until))
            if not connection.poll(max(0.0, until - time.monotonic())):
                raise Late("the producer's other transfers by it have taken all the time")
            _expect(connection.recv_bytes(), READY)
            if not is_first:
                stack.enter_context(lane.turn(self.contact.key, until))
            connection.send_bytes(GO)
            tensors = self._receive(lane, connection, communicator, until)
            with contextlib.suppress(OSError):
                connection.send_bytes(RECEIVED)
        return tensors

    def _communicator(self) -> Any:
        from beeline.experimental.collective import collective

        try:
            with collective.seen_by_members():
                return self.manager.get_communicator_metadata(self.source, self.own, self.name.upper())
        except Exception as error:
            raise _Failed(f"get_communicator_metadata raised {_text(error)}") from error

    def _request(self, communicator: Any, until: float) -> bytes:
        request = Request(self.name, self.obj_id, _process.key, communicator, max(0.0, until - time.monotonic()))
        try:
            return cloudpickle.dumps(request)
        except Exception as error:
            raise _Failed(f"what get_communicator_metadata gave cannot be pickled: {_text(error)}") from error

    def _receive(self, lane: Lane, connection: Connection, communicator: Any, until: float) -> list[Any]:
        try:
            receiving = lane.begin(
                "recv_multiple_tensors",
                lambda: list(self.manager.recv_multiple_tensors(self.obj_id, self.metadata, communicator)),
            )
        except RuntimeError as error:  # the process may have no more threads
            raise _Failed(str(error)) from error
        try:
            self._watch(receiving, connection, until)
        except EOFError:
            wait([receiving.over], LEFT_ALONE_S)  # it may have sent everything
            if not receiving.is_over or receiving.error is not None:
                raise
        finally:
            _settle(lane, self.contact.key, receiving, self.manager, self.obj_id, communicator)
        if receiving.error is not None:
            why = f"recv_multiple_tensors raised {_text(receiving.error)}"
            raise _Failed(why + _word_of_producer(connection, until)) from receiving.error
        result: list[Any] = receiving.result
        return result

    def _watch(self, receiving: Operation, connection: Connection, until: float) -> None:
        """Until it is over. Raises what ends it before: _Failed, EOFError, Late."""
        is_sent = False
        while not receiving.is_over:
            left_s = max(0.0, until - time.monotonic())
            ready = wait([receiving.over, *([] if is_sent else [connection])], left_s)
            if not ready:
                raise Late("recv_multiple_tensors did not end in time")
            if receiving.over not in ready:
                _expect(connection.recv_bytes(), SENT)
                is_sent = True


class _Failed(Exception):  # noqa: N818 - a side of the transfer
    """Why."""


def _expect(message: bytes, expected: bytes) -> None:
    if message != expected:
        raise _Failed(f"at the producer {message[1:].decode(errors='replace')}")


def _word_of_producer(connection: Connection, until: float) -> str:
    """What it has to say to a receive that failed: often it is why."""
    try:
        if connection.poll(max(0.0, min(ABORTED_S, until - time.monotonic()))):
            message = connection.recv_bytes()
            return f"; at the producer {message[1:].decode(errors='replace')}" if message[:1] == FAILED else ""
    except (EOFError, OSError):
        return "; the producer's process has ended"
    return ""


@contextlib.contextmanager
def _connected(producer: Contact) -> Iterator[Connection]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as own:
        own.connect(producer.address)
        if _user_at(own) != os.geteuid():
            raise _Failed(f"who listens at the producer's address is user {_user_at(own)}")
        connection: Connection = Connection(own.detach())
    with _closing(connection):
        yield connection


@contextlib.contextmanager
def _closing(connection: Connection) -> Iterator[None]:
    _process.connections.add(connection)
    try:
        yield
    finally:
        _process.connections.discard(connection)
        connection.close()


def _user_at(connection: socket.socket) -> int:
    from beeline.transfer.gloo.owner import user_at

    return user_at(connection)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
