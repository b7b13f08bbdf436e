"""What reader and owner say to each other on the control socket of the path "gloo", and the contact of an owner.

Each message is one packet of a unix socket that keeps their borders, so that none arrives in part. Little-endian:

    contact   version u8 = 2, secret (32 bytes), name of the owner's socket
    hello     "BLG2", secret                                                          reader
    reply     code u8, text; of a hello that is taken, the text is a nonce (32 bytes)  owner
    store     0xFF, length of the key u16, key, value: what gloo tells the other side while the group is made
    request   operation u8 (0 read, 1 write), number of pieces u32, then each: key (16 bytes), offset u64, length u64,
              count u64, stride u64                                                   reader

To a request to read the owner sends the bytes of the pieces through gloo, one after the other, and then a reply: once
that is there, the bytes are at the reader's host. Where it is a refusal they are zeros: they come all the same, for the
reader has begun to receive them before it asks. A request to write is answered by a reply. If it is taken, and only
then, the bytes go through gloo; behind them comes one more reply: whether they are in the owner's memory.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from beeline.transfer.transport import Operation

SECRET_BYTES = 32
KEY_BYTES = 16
# What one request moves, and what each side has as staging memory for it.
CHUNK_BYTES = 4 << 20
MAX_PIECES = 1024
STORE = 0xFF

_HELLO = b"BLG2"
_CONTACT_VERSION = 2
_REQUEST = struct.Struct("<BI")
_PIECE = struct.Struct(f"<{KEY_BYTES}sQQQQ")
_STORED = struct.Struct("<BH")
_OPERATIONS: tuple[Operation, ...] = ("read", "write")
# Of one message; that of a request with all its pieces, and room for what gloo says.
MAX_MESSAGE = 64 << 10
assert _REQUEST.size + MAX_PIECES * _PIECE.size <= MAX_MESSAGE


class Code(enum.IntEnum):
    """Of a reply."""

    OK = 0
    REFUSED = 1  # not in order: the connection ends
    STALE = 2  # the memory is exposed no more

    @property
    def text(self) -> str:
        """Why the owner did not do it."""
        return _REASONS[self]


_REASONS = {
    Code.OK: "",
    Code.REFUSED: "it is not within what was exposed",
    Code.STALE: "the memory is not exposed any more",
}


class Malformed(Exception):  # noqa: N818 - what is wrong with a message
    """A message that is none."""


class Piece(NamedTuple):
    """So many rows of `length` bytes, `stride` apart, from `offset` on in the memory that has the key."""

    key: bytes
    offset: int
    length: int
    rows: int
    stride: int

    @property
    def nbytes(self) -> int:
        return self.length * self.rows

    @property
    def reach(self) -> int:
        """From the first byte to the last one."""
        return (self.rows - 1) * self.stride + self.length


class Request(NamedTuple):
    """What one chunk consists of."""

    operation: Operation
    pieces: Sequence[Piece]

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces)


def encode_contact(secret: bytes, name: bytes) -> bytes:
    return bytes([_CONTACT_VERSION]) + secret + name


def decode_contact(contact: bytes) -> tuple[bytes, bytes]:
    """(secret, name of the socket)."""
    name = contact[1 + SECRET_BYTES :]
    if contact[:1] != bytes([_CONTACT_VERSION]) or not 1 < len(name) <= 100:
        raise Malformed("the owner's contact is of another version")
    return contact[1 : 1 + SECRET_BYTES], name


def encode_hello(secret: bytes) -> bytes:
    return _HELLO + secret


def decode_hello(message: bytes) -> bytes:
    if len(message) != len(_HELLO) + SECRET_BYTES or not message.startswith(_HELLO):
        raise Malformed("no hello")
    return message[len(_HELLO) :]


def encode_reply(code: Code, text: bytes = b"") -> bytes:
    return bytes([code]) + text


def decode_reply(message: bytes) -> tuple[Code, bytes]:
    try:
        return Code(message[0]), message[1:]
    except (IndexError, ValueError):
        raise Malformed("no reply") from None


def encode_stored(key: str, value: bytes) -> bytes:
    name = key.encode()
    return _STORED.pack(STORE, len(name)) + name + value


def decode_stored(message: bytes) -> tuple[str, bytes]:
    try:
        _, length = _STORED.unpack_from(message)
        end = _STORED.size + length
        if end > len(message):
            raise Malformed("half a message of gloo's")
        return message[_STORED.size : end].decode(), message[end:]
    except (struct.error, UnicodeDecodeError):
        raise Malformed("no message of gloo's") from None


def encode_request(operation: Operation, pieces: Iterable[Piece]) -> bytes:
    packed = [_PIECE.pack(*piece) for piece in pieces]
    return _REQUEST.pack(_OPERATIONS.index(operation), len(packed)) + b"".join(packed)


def decode_request(message: bytes) -> Request:
    """Also looks at what needs no knowledge of the memory: sizes and numbers. Nothing overflows: they are Python's."""
    if len(message) < _REQUEST.size:
        raise Malformed("no request")
    operation, count = _REQUEST.unpack_from(message)
    if operation >= len(_OPERATIONS) or not 0 < count <= MAX_PIECES:
        raise Malformed(f"operation {operation} of {count} pieces")
    if len(message) != _REQUEST.size + count * _PIECE.size:
        raise Malformed(f"{len(message)} bytes as a request of {count} pieces")
    request = Request(_OPERATIONS[operation], [Piece(*each) for each in _PIECE.iter_unpack(message[_REQUEST.size :])])
    if not all(piece.length and piece.rows for piece in request.pieces) or request.nbytes > CHUNK_BYTES:
        raise Malformed(f"pieces without bytes, or more than {CHUNK_BYTES} bytes in all")
    return request
