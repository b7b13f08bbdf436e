"""Time-outs of calls that take several steps."""

from __future__ import annotations

import time


def ends_at(timeout_s: float | None) -> float | None:
    """When a call that begins now has to end, by time.monotonic(); None: never."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def left_s(until: float | None) -> float | None:
    """What is left until then, for the next step."""
    return None if until is None else max(0.0, until - time.monotonic())
