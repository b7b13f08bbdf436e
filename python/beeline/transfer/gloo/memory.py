"""Bytes of rows at equal distances, into staging memory and out of it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from beeline.exceptions import StaleReferenceError
from beeline.transfer.gloo.messages import Piece


def rows(memory: memoryview, offset: int, length: int, count: int, stride: int) -> Any:
    """A view, which numpy checks against the memory's end."""
    return np.ndarray((count, length), np.uint8, memory, offset, (stride if count > 1 else 0, 1))


class Exposure:
    """Memory of this process that peers reach by a key, until it is withdrawn. Thread-safe."""

    def __init__(self, memory: memoryview, writable: bool) -> None:
        self.writable = writable
        self.nbytes = memory.nbytes
        self._lock = threading.Lock()
        self._memory: memoryview | None = memory  # needs the lock

    def holds(self, piece: Piece) -> bool:
        """Whether every byte of the piece lies in it."""
        return piece.offset + piece.reach <= self.nbytes

    def read(self, piece: Piece, into: Any) -> None:
        """Fills an array of as many bytes. Raises StaleReferenceError where it was withdrawn."""
        with self._lock:
            into.reshape(piece.rows, piece.length)[:] = self._rows(piece)

    def write(self, piece: Piece, source: Any) -> None:
        """Likewise, out of the array."""
        with self._lock:
            self._rows(piece)[:] = source.reshape(piece.rows, piece.length)

    def withdraw(self) -> None:
        """Nobody touches the memory any more once this returns."""
        with self._lock:
            self._memory = None

    def _rows(self, piece: Piece) -> Any:
        if self._memory is None:
            raise StaleReferenceError("the memory is not exposed any more")
        return rows(self._memory, piece.offset, piece.length, piece.rows, piece.stride)
