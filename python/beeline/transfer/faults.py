"""Faults on purpose: what a path does wrong, so that a program's way of bearing it can be tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# In the order of transport::Fault in C++.
_KINDS = ("delay", "stall", "fail", "truncate", "drop", "corrupt", "reorder")
_PLACES = ("connect", "read", "write")


@dataclass(frozen=True)
class Fault:
    """One thing that a path of an agent does wrong.

    Args:
        kind: `delay` waits for `delay_s`, then goes on; `stall` never goes on; `fail` fails as a broken path does;
            `truncate` moves no more, `drop` leaves one byte out and `corrupt` changes one, and each says that all went
            well; `reorder` moves the last part first.
        path: Of which path, by name; by default of every one.
        at: Whether while it connects, while it reads (fetch), or while it writes (push).
        after_bytes: Of a transfer; a transfer that has no more bytes is spared.
        delay_s: Seconds, of `delay`.
        times: How often; 0: always.
    """

    kind: Literal["delay", "stall", "fail", "truncate", "drop", "corrupt", "reorder"]
    path: str = ""
    at: Literal["connect", "read", "write"] = "read"
    after_bytes: int = 0
    delay_s: float = 0.0
    times: int = 1

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}; got {self.kind!r}")
        if self.at not in _PLACES:
            raise ValueError(f"at must be one of {', '.join(_PLACES)}; got {self.at!r}")
        if self.after_bytes < 0 or self.times < 0 or self.delay_s < 0:
            raise ValueError("after_bytes, delay_s and times are not negative")

    def _row(self) -> tuple[str, int, int, int, float, int]:
        return self.path, _KINDS.index(self.kind), _PLACES.index(self.at), self.after_bytes, self.delay_s, self.times
