"""How long a fetch by a tensor transport may take, and the errors when that was too little."""

from __future__ import annotations

import os
from typing import NamedTuple

from beeline import _core
from beeline.exceptions import BeelineError, GetTimeoutError, ObjectFetchTimedOutError

VARIABLE = "RAY_rdt_fetch_fail_timeout_milliseconds"
DEFAULT_MS = 60_000


class FetchTime(NamedTuple):
    """Seconds, and whether the `timeout` of a `get` says so, or the variable."""

    seconds: float
    is_callers: bool

    def error(self, why: object) -> BeelineError:
        """GetTimeoutError where the caller's time has run out, otherwise ObjectFetchTimedOutError."""
        if self.is_callers:
            return GetTimeoutError(f"get timed out while it fetched a value: {why}")
        return ObjectFetchTimedOutError(
            f"A value was not fetched within {self.seconds:g} s: {why}. {VARIABLE} in the environment of the session "
            "gives it more time."
        )


def left() -> FetchTime:
    """Of the fetch that this thread is to do now."""
    limit_s = _limit_s()
    left_s = _core.seconds_left_to_load()
    return FetchTime(limit_s, False) if left_s is None or left_s > limit_s else FetchTime(left_s, True)


def _limit_s() -> float:
    text = os.environ.get(VARIABLE, "")
    try:
        milliseconds = float(text or DEFAULT_MS)
    except ValueError:
        raise ValueError(f"{VARIABLE} is a number of milliseconds, not {text!r}.") from None
    return max(0.0, milliseconds / 1000)
