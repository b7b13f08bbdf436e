"""The owner's side of the path "gloo": what is exposed, and the threads that answer readers."""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

from beeline.exceptions import PeerLostError, StaleReferenceError
from beeline.transfer.gloo import messages
from beeline.transfer.gloo.link import FORM_S, OWNER, Link
from beeline.transfer.gloo.memory import Exposure
from beeline.transfer.gloo.messages import Code, Malformed, Request

log = logging.getLogger(__name__)

# Connections at once, and of those such as have not shown the secret yet.
MAX_READERS = 256
MAX_STRANGERS = 16
# What a stranger has to say hello.
HELLO_S = 5.0


def user_at(connection: socket.socket) -> int:
    """Of the process at the other end of a unix socket: the one that connected, or that listens."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    return struct.unpack("iII", credentials)[1]


class Owner:
    """Exposures of an engine, and its listener. Thread-safe."""

    def __init__(self, device: Any, count_refusal: Callable[[], None]) -> None:
        self._device = device
        self._count_refusal = count_refusal
        self._secret = secrets.token_bytes(messages.SECRET_BYTES)
        self._lock = threading.Lock()
        self._exposures: dict[bytes, Exposure] = {}  # needs the lock
        self._readers: dict[threading.Thread, Link | socket.socket] = {}  # needs the lock
        self._strangers = 0  # needs the lock
        self._closed = False
        name = b"\0beeline-gloo-" + secrets.token_hex(16).encode()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(name)
        self._listener.listen(64)
        self.contact = messages.encode_contact(self._secret, name)
        self._accepting = threading.Thread(target=self._accept, name="bee-gloo-accept", daemon=True)
        try:
            self._accepting.start()
        except RuntimeError:  # the process may have no more threads
            self._listener.close()
            raise

    def expose(self, memory: memoryview, writable: bool) -> tuple[bytes, bytes]:
        """(key, key): who has it reads the memory, and writes to it if it is writable, until it is withdrawn."""
        key = secrets.token_bytes(messages.KEY_BYTES)
        with self._lock:
            self._exposures[key] = Exposure(memory, writable)
        return key, key

    def withdraw(self, key: bytes) -> None:
        """No peer reaches the memory any more once this returns."""
        with self._lock:
            exposure = self._exposures.pop(key, None)
        if exposure is not None:
            exposure.withdraw()

    def close(self) -> None:
        """Ends all connections, and their threads."""
        with self._lock:
            self._closed = True
            readers = dict(self._readers)
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in readers.values():
            if isinstance(connection, Link):
                connection.end()
            else:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *readers):
            thread.join(2 * HELLO_S)
        self._listener.close()

    def close_in_child(self) -> None:
        """After fork(): readers see their connections' end though the child lives."""
        self._listener.close()
        for connection in self._readers.values():
            connection.close_in_child() if isinstance(connection, Link) else connection.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                control, _ = self._listener.accept()
            except OSError as error:
                if self._closed:
                    return
                log.warning("no reader can be let in by gloo for now: %s", error)  # no descriptor is left
                time.sleep(0.1)
                continue
            thread = threading.Thread(target=self._serve, args=(control,), name="bee-gloo-serve", daemon=True)
            with self._lock:
                is_let_in = not self._closed and len(self._readers) < MAX_READERS and self._strangers < MAX_STRANGERS
                if is_let_in:
                    self._readers[thread] = control
                    self._strangers += 1
            if is_let_in:
                self._begin(thread, control)
            else:
                self._turn_away(control, f"{len(self._readers)} connections, {self._strangers} of them new")

    def _begin(self, thread: threading.Thread, control: socket.socket) -> None:
        try:
            thread.start()
        except RuntimeError as error:  # the process may have no more threads
            with self._lock:
                del self._readers[thread]
                self._strangers -= 1
            self._turn_away(control, str(error))

    def _turn_away(self, control: socket.socket, why: str) -> None:
        log.warning("a reader by gloo was turned away: %s", why)
        self._count_refusal()
        control.close()

    def _serve(self, control: socket.socket) -> None:
        link = None
        try:
            link = self._welcome(control)
            while link is not None:
                self._answer(link, messages.decode_request(link.receive(self._check)))
        except Malformed as error:
            log.warning("a reader by gloo was disconnected: %s", error)
        except PeerLostError:
            pass  # it has left
        except Exception:
            log.exception("a reader by gloo was disconnected")
        finally:
            if link is not None:
                link.close()
                link.thread.join()
            control.close()
            with self._lock:
                self._readers.pop(threading.current_thread(), None)

    def _welcome(self, control: socket.socket) -> Link | None:
        """The link to whoever connected, if it shows the secret."""
        try:
            control.settimeout(HELLO_S)
            if user_at(control) != os.geteuid():
                self._count_refusal()
                return None
            secret = messages.decode_hello(control.recv(messages.MAX_MESSAGE))
            if not hmac.compare_digest(secret, self._secret):
                self._count_refusal()
                control.send(messages.encode_reply(Code.REFUSED, b"the secret is another one"))
                return None
        except OSError:
            return None
        except Malformed:
            self._count_refusal()
            raise
        finally:
            with self._lock:
                self._strangers -= 1
        nonce = secrets.token_bytes(messages.SECRET_BYTES)
        link = Link(control, OWNER, "a reader")
        try:
            with self._lock:
                self._readers[threading.current_thread()] = link
            until = time.monotonic() + FORM_S

            def check() -> None:
                self._check()
                if time.monotonic() > until:
                    raise PeerLostError("a reader made no group in time")

            link.send(messages.encode_reply(Code.OK, nonce), check)
            link.form(self._device, self._secret, nonce, check, FORM_S)
        except BaseException:
            link.close()
            raise
        return link

    def _check(self) -> None:
        if self._closed:
            raise PeerLostError("the owner was closed")

    def _answer(self, link: Link, request: Request) -> None:
        """Moves what the request asks for. Raises Malformed where it asks for what it may not."""
        exposures, code = self._find(request)
        if request.operation == "read":
            if code == Code.OK:
                code = _move(request, exposures, link.staging.numpy())
            if code != Code.OK:
                link.staging[: request.nbytes] = 0  # nobody is shown what lay there
            link.send_bytes_here(request.nbytes)
        elif code == Code.OK:
            link.send(messages.encode_reply(code), self._check)
            link.receive_bytes(request.nbytes, self._check)
            code = _move(request, exposures, link.staging.numpy())
        link.send(messages.encode_reply(code), self._check)
        if code == Code.REFUSED:
            raise Malformed(f"a {request.operation} of what is not within what was exposed: {request.pieces}")

    def _find(self, request: Request) -> tuple[list[Exposure], Code]:
        """What the pieces are parts of, where all of them may be asked for."""
        exposures = []
        for piece in request.pieces:
            with self._lock:
                exposure = self._exposures.get(piece.key)
            if exposure is None:
                return [], Code.STALE
            if not exposure.holds(piece) or (request.operation == "write" and not exposure.writable):
                return [], Code.REFUSED
            exposures.append(exposure)
        return exposures, Code.OK


def _move(request: Request, exposures: list[Exposure], staging: Any) -> Code:
    """Between the staging memory and what is exposed."""
    at = 0
    for exposure, piece in zip(exposures, request.pieces, strict=True):
        part = staging[at : at + piece.nbytes]
        at += piece.nbytes
        try:
            exposure.write(piece, part) if request.operation == "write" else exposure.read(piece, part)
        except StaleReferenceError:
            return Code.STALE
    return Code.OK
