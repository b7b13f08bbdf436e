"""The reader's side of the path "gloo": connections, and cutting transfers into chunks."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from beeline.exceptions import (
    DirectTransportError,
    PeerLostError,
    StaleReferenceError,
    TransportUnavailableError,
)
from beeline.transfer.gloo import messages
from beeline.transfer.gloo.link import READER, TICK_S, Link
from beeline.transfer.gloo.memory import rows
from beeline.transfer.gloo.messages import CHUNK_BYTES, MAX_PIECES, Code, Malformed, Piece, Request
from beeline.transfer.gloo.owner import user_at
from beeline.transfer.transport import Operation, Run, Wait

# Pieces in the owner's memory, and what they are here: views of their rows.
Chunk = list[tuple[Piece, Any]]


def chunks(runs: Sequence[Run]) -> Iterator[Chunk]:
    """The runs, cut so that each chunk fits a request and the staging memory."""
    chunk: Chunk = []
    room = CHUNK_BYTES
    for run in runs:
        local = rows(run.view(), 0, run.length, run.count, run.local_stride)
        row, column = 0, 0
        while row < run.count:
            if room == 0 or len(chunk) == MAX_PIECES:
                yield chunk
                chunk, room = [], CHUNK_BYTES
            whole = room // run.length if column == 0 else 0
            if whole > 0:
                count, length = min(run.count - row, whole), run.length
            else:  # a part of one row
                count, length = 1, min(run.length - column, room)
            piece = Piece(run.key, run.offset + row * run.stride + column, length, count, run.stride)
            chunk.append((piece, local[row : row + count, column : column + length]))
            room -= piece.nbytes
            column += length
            if column == run.length:
                row, column = row + count, 0
    if chunk:
        yield chunk


class Connection:
    """One owner. A transfer that fails costs the link; the next one makes another. Thread-safe: one moves at a time."""

    def __init__(self, device: Any, peer_name: str, contact: bytes, threads: Any) -> None:
        self._device = device
        self._peer_name = peer_name
        self._threads = threads  # a set, for those of links: whoever ends the engine waits for them
        self._lock = threading.Lock()
        self._link: Link | None = None  # needs the lock, but to be ended
        self._abandoned: list[socket.socket] = []  # needs the lock
        try:
            self._secret, self._name = messages.decode_contact(contact)
        except Malformed as error:
            raise TransportUnavailableError(f"{peer_name}: {error}") from None

    def open(self, wait: Wait) -> None:
        """Makes the link where there is none. Raises PeerLostError, TransportUnavailableError, and as `wait.check`."""
        if self._link is not None:
            return
        link = Link(self._reach(wait), READER, self._peer_name)
        self._threads.add(link.thread)
        try:
            link.send(messages.encode_hello(self._secret), wait.check)
            code, text = messages.decode_reply(link.receive(wait.check))
            if code != Code.OK:
                raise TransportUnavailableError(f"{self._peer_name} refuses: {text.decode(errors='replace')}")
            link.form(self._device, self._secret, text, wait.check, wait.left_s())
        except BaseException:
            link.close()
            raise
        self._link = link

    def _reach(self, wait: Wait) -> socket.socket:
        """A socket at whose other end the owner's listener is, or another one of this user."""
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            control.settimeout(TICK_S)
            while not self._connects(control):
                wait.check()
                time.sleep(TICK_S)
            if user_at(control) != os.geteuid():
                raise TransportUnavailableError(f"who listens in the place of {self._peer_name} is another user")
        except BaseException:
            control.close()
            raise
        return control

    def _connects(self, control: socket.socket) -> bool:
        """False where as many as the listener holds wait to be let in."""
        try:
            control.connect(self._name)
        except BlockingIOError:
            return False
        except OSError as error:
            raise TransportUnavailableError(
                f"{self._peer_name} has no listener here ({error}): it has ended, or is in another network namespace"
            ) from None
        return True

    def transfer(self, operation: Operation, runs: Sequence[Run], wait: Wait) -> None:
        """Raises StaleReferenceError, PeerLostError, DirectTransportError, and as `wait.check`."""
        with self._alone(wait):
            try:
                self.open(wait)
                for chunk in chunks(runs):
                    wait.check()
                    self._move(operation, chunk, wait)
            except StaleReferenceError:
                raise  # the link is in order
            except Malformed as error:
                self._give_up_link(operation)
                raise PeerLostError(f"{self._peer_name} said what makes no sense: {error}") from None
            except BaseException:
                self._give_up_link(operation)
                raise

    def quiet(self, wait: Wait) -> None:
        """Until the owner has done, or dropped, what writes asked it for that have failed. Raises as `wait.check`."""
        with self._alone(wait):
            while self._abandoned:
                wait.check()
                with contextlib.suppress(TimeoutError, ConnectionError):
                    if not self._abandoned[-1].recv(messages.MAX_MESSAGE):
                        self._abandoned.pop().close()

    def close(self) -> None:
        """Ends the link; its thread ends soon. Nothing is waited for."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        while self._abandoned:
            self._abandoned.pop().close()

    def _give_up_link(self, operation: Operation) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        if operation == "write":
            self._abandoned.append(link.abandon())
        else:
            link.close()

    def end(self) -> None:
        """By any thread: whoever moves by it is told."""
        link = self._link
        if link is not None:
            link.end()

    def close_in_child(self) -> None:
        """After fork(): the owner sees the end though the child lives."""
        if self._link is not None:
            self._link.close_in_child()
        for control in self._abandoned:
            control.close()

    @contextlib.contextmanager
    def _alone(self, wait: Wait) -> Iterator[None]:
        while not self._lock.acquire(timeout=TICK_S):
            wait.check()
        try:
            yield
        finally:
            self._lock.release()

    def _move(self, operation: Operation, chunk: Chunk, wait: Wait) -> None:
        link = self._link
        assert link is not None
        staging, at = link.staging.numpy(), 0
        request = Request(operation, [piece for piece, _ in chunk])
        asked = messages.encode_request(operation, request.pieces)
        if operation == "write":
            for piece, local in chunk:
                staging[at : at + piece.nbytes].reshape(local.shape)[:] = local
                at += piece.nbytes
            link.send(asked, wait.check)
            self._hear(link, wait)
            link.send_bytes(request.nbytes, wait.check)
            self._hear(link, wait)
            return
        take = link.expect_bytes(request.nbytes)
        link.send(asked, wait.check)
        code, _ = messages.decode_reply(link.receive(wait.check))
        take()
        self._expect_ok(code)
        for piece, local in chunk:
            local[:] = staging[at : at + piece.nbytes].reshape(local.shape)
            at += piece.nbytes

    def _hear(self, link: Link, wait: Wait) -> None:
        self._expect_ok(messages.decode_reply(link.receive(wait.check))[0])

    def _expect_ok(self, code: Code) -> None:
        if code == Code.STALE:
            raise StaleReferenceError(f"{self._peer_name}: {code.text}")
        if code != Code.OK:
            raise DirectTransportError(f"{self._peer_name} refuses: {code.text}")
