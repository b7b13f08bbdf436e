"""The path "gloo" as one agent has opened it: both sides, over one device of gloo's on the loopback interface."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable

import torch.distributed as dist

from beeline.exceptions import TransportUnavailableError
from beeline.transfer.gloo.link import FORM_S
from beeline.transfer.gloo.owner import Owner
from beeline.transfer.gloo.reader import Connection

LOOPBACK = "127.0.0.1"


class Engine:
    """Thread-safe."""

    def __init__(self) -> None:
        if not dist.is_available() or not dist.is_gloo_available():
            raise TransportUnavailableError("torch has no gloo here: torch.distributed.is_gloo_available() is False")
        self._lock = threading.Lock()
        self._device = dist.ProcessGroupGloo.create_device(hostname=LOOPBACK)
        self._owner: Owner | None = None  # needs the lock
        self.count_refusal: Callable[[], None] = lambda: None
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        _engines.add(self)

    def owner(self) -> Owner:
        """Its listener begins with the first call."""
        with self._lock:
            if self._device is None:
                raise TransportUnavailableError("the agent was closed")
            if self._owner is None:
                self._owner = Owner(self._device, self.count_refusal)
            return self._owner

    def withdraw(self, exposure: bytes) -> None:
        """Of an engine that was closed nothing is exposed any more."""
        with self._lock:
            owner = self._owner
        if owner is not None:
            owner.withdraw(exposure)

    def connection(self, peer_name: str, contact: bytes) -> Connection:
        with self._lock:
            if self._device is None:
                raise TransportUnavailableError("the agent was closed")
            made = Connection(self._device, peer_name, contact, self._threads)
            self._connections.add(made)
            return made

    def close(self) -> None:
        """Ends every thread and closes every socket of its own. Repeatable."""
        for connection in list(self._connections):
            connection.end()
        with self._lock:
            owner, self._owner = self._owner, None
            self._device = None
        if owner is not None:
            owner.close()
        for thread in list(self._threads):
            thread.join(FORM_S)
        _engines.discard(self)

    def close_in_child(self) -> None:
        for connection in list(self._connections):
            connection.close_in_child()
        if self._owner is not None:
            self._owner.close_in_child()


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _close_all() -> None:
    for engine in list(_engines):
        engine.close()


def _close_all_in_child() -> None:
    for engine in list(_engines):
        engine.close_in_child()
    _engines.clear()


# Threads that wait in gloo must not come back to an interpreter that has ended.
atexit.register(_close_all)
os.register_at_fork(after_in_child=_close_all_in_child)
