"""One connection of the path "gloo": a control socket, and a process group of two ranks that is this connection's own.

gloo's waits can be neither shortened nor called off, but a wait that runs out closes every pair of its group, and with
that all others that wait in it. So whoever has a deadline waits in gloo for no more than what is here already, or has a
thread of the link wait there; whoever ends the link waits there for a moment for what never comes. Bytes go through
staging memory: what arrives after the link has ended hurts nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import queue
import select
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from beeline.exceptions import PeerLostError
from beeline.transfer.gloo import messages

OWNER, READER = 0, 1
# How long one looks neither at what the other side does nor at the caller's deadline.
TICK_S = 0.005
# The longest that making a group takes, once the other side has said hello.
FORM_S = 20.0

_BYTES_TAG, _END_TAG = 1, 2
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL | select.POLLRDHUP
# A wait in gloo ends with its link.
_NO_END = timedelta(days=365)
# Who takes nothing for so long has to connect anew.
_LONGEST_SEND = timedelta(minutes=10)
# What was sent is in a socket's buffer of this host.
_ON_THE_WAY = timedelta(seconds=5)

Check = Callable[[], None]


class _Store(dist.Store):  # type: ignore[misc]
    """By what two ranks tell each other where they are: the control socket, so that nobody else is told."""

    def __init__(self, link: Link, check: Check) -> None:
        super().__init__()
        self._link, self._check = link, check
        self._values: dict[str, bytes] = {}

    def clone(self) -> _Store:
        return self

    def set(self, key: str, value: Any) -> None:
        stored = value.encode() if isinstance(value, str) else bytes(value)
        self._values[key] = stored
        self._link.send(messages.encode_stored(key, stored), self._check)

    def get(self, key: str) -> bytes:
        while key not in self._values:
            other, value = messages.decode_stored(self._link.receive(self._check))
            self._values[other] = value
        return self._values[key]

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        for key in keys:
            self.get(key)


class _Job:
    """What the link's thread is to do."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.done = threading.Event()
        self.error: BaseException | None = None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


class Link:
    """One thread at a time moves bytes by it; any may end it."""

    def __init__(self, control: socket.socket, rank: int, peer_name: str) -> None:
        control.settimeout(TICK_S)
        self._control = control
        self._rank = rank
        self._peer_name = peer_name
        self._group: Any = None
        self._store: _Store | None = None  # as long as the group: gloo calls it
        self._lock = threading.Lock()
        self._ended = False  # needs the lock to be set
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.staging = torch.empty(messages.CHUNK_BYTES, dtype=torch.uint8)
        self.thread = threading.Thread(target=self._run, name="bee-gloo-move", daemon=True)
        try:
            self.thread.start()
        except RuntimeError:  # the process may have no more threads
            control.close()
            raise

    # ----- the control socket

    def send(self, message: bytes, check: Check) -> None:
        """One message. Raises PeerLostError when the other side is gone."""
        while True:
            try:
                self._control.send(message)
                return
            except TimeoutError:
                check()
            except OSError as error:
                raise self._lost(error) from None

    def receive(self, check: Check) -> bytes:
        """The next message; raises as `send`."""
        while True:
            try:
                message, _, flags, _ = self._control.recvmsg(messages.MAX_MESSAGE)
            except TimeoutError:
                check()
                continue
            except OSError as error:
                raise self._lost(error) from None
            if not message:
                raise self._lost("it has ended the connection")
            if flags & socket.MSG_TRUNC:
                raise messages.Malformed("a message that is too long")
            return message

    def _lost(self, why: object) -> PeerLostError:
        return PeerLostError(f"the way to {self._peer_name} by gloo has ended: {why}")

    def _check_peer(self) -> None:
        poll = select.poll()
        try:
            poll.register(self._control, select.POLLRDHUP)
            gone = any(events & _GONE for _, events in poll.poll(0))
        except (OSError, ValueError):  # closed here meanwhile
            gone = True
        if gone:
            raise self._lost("its end of the control socket was closed")

    # ----- gloo

    def form(self, device: Any, secret: bytes, nonce: bytes, check: Check, left_s: float) -> None:
        """Makes the group, and has each side prove there that it is the one at the other end of the control socket.

        Raises PeerLostError where that does not come about.
        """
        timeout = timedelta(seconds=max(0.001, min(left_s, FORM_S)))

        def make() -> None:
            options = dist.ProcessGroupGloo._Options()
            options._devices, options._threads, options._timeout = [device], 1, timeout
            self._store = _Store(self, lambda: None)  # a link that ends has its socket shut down
            group = dist.ProcessGroupGloo(self._store, self._rank, 2, options)
            proofs = [self._proof(secret, nonce, rank) for rank in (OWNER, READER)]
            own = torch.frombuffer(bytearray(proofs[self._rank]), dtype=torch.uint8)
            other = torch.zeros_like(own)
            told = group.send([own], 1 - self._rank, _BYTES_TAG)
            group.recv([other], 1 - self._rank, _BYTES_TAG).wait(timeout)
            told.wait(timeout)
            if not hmac.compare_digest(other.numpy().tobytes(), proofs[1 - self._rank]):
                raise ConnectionError("somebody else took its place")
            with self._lock:
                if self._ended:
                    raise ConnectionError("the connection was ended")
                self._group = group

        self._do(make, check)

    @staticmethod
    def _proof(secret: bytes, nonce: bytes, rank: int) -> bytes:
        return hmac.digest(secret, bytes([rank]) + nonce, hashlib.sha256)

    def send_bytes(self, nbytes: int, check: Check) -> None:
        """The first bytes of the staging memory, to the other side. Raises PeerLostError, and what `check` raises."""
        chunk = self.staging[:nbytes]
        self._do(lambda: self._group.send([chunk], 1 - self._rank, _BYTES_TAG).wait(_NO_END), check)

    def send_bytes_here(self, nbytes: int) -> None:
        """The same by the calling thread, for minutes if need be. Raises PeerLostError."""
        with self._alive():
            self._group.send([self.staging[:nbytes]], 1 - self._rank, _BYTES_TAG).wait(_LONGEST_SEND)

    def receive_bytes(self, nbytes: int, check: Check) -> None:
        """As send_bytes(), from there."""
        chunk = self.staging[:nbytes]
        self._do(lambda: self._group.recv([chunk], 1 - self._rank, _BYTES_TAG).wait(_NO_END), check)

    def expect_bytes(self, nbytes: int) -> Callable[[], None]:
        """Begins to receive them. What it returns takes them, once the other side has said that it has sent them.

        Both raise PeerLostError.
        """
        with self._alive():
            work = self._group.recv([self.staging[:nbytes]], 1 - self._rank, _BYTES_TAG)

        def take() -> None:
            with self._alive():
                work.wait(_ON_THE_WAY)

        return take

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """gloo's errors are the link's end."""
        try:
            yield
        except Exception as error:
            why = "it was ended" if self._ended else _first_line(error)
            self._end(socket.SHUT_WR)
            raise self._lost(why) from None

    def _do(self, work: Callable[[], None], check: Check) -> None:
        """Has the link's thread do it; the link is of no use any more where it fails."""
        job = _Job(work)
        self._jobs.put(job)
        try:
            while not job.done.wait(TICK_S):
                check()
                self._check_peer()
        except BaseException:
            self._end(socket.SHUT_WR)
            raise
        if job.error is not None:
            self._end(socket.SHUT_WR)
            raise self._lost(_first_line(job.error)) from None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.work()
            except BaseException as error:
                job.error = error.with_traceback(None)  # which would hold what gloo has made
            job.done.set()
            del job
        self._group = self._store = None  # joins gloo's thread

    def end(self) -> None:
        """Nothing is moved by it from here on, and whoever waits in it is told. Repeatable."""
        self._end(socket.SHUT_RDWR)

    def abandon(self) -> socket.socket:
        """Ends it, by who moves bytes by it; at what is left the other side's end can be heard."""
        self._end(socket.SHUT_WR)
        return self._control

    def _end(self, how: int) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
            group = self._group
        try:
            with contextlib.suppress(OSError):
                self._control.shutdown(how)
            if group is not None:
                never = torch.empty(1, dtype=torch.uint8)
                # The wait that runs out, or a pair that is closed.
                with contextlib.suppress(Exception):
                    group.recv([never], 1 - self._rank, _END_TAG).wait(timedelta(milliseconds=1))
        finally:
            self._jobs.put(None)

    def close(self) -> None:
        """Ends it and closes its socket; by who moves bytes by it. `thread` ends soon."""
        self.end()
        self._control.close()

    def close_in_child(self) -> None:
        """After fork(): the other side sees its end though the child lives."""
        self._control.close()
