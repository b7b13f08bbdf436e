"""For messages that are to be logged once per process; as Ray's `ray.util.debug`."""

from __future__ import annotations

import time

# Seconds after the last first call from which on, with periodic logging, calls count as first ones again.
PERIOD_S = 60.0


class _Logged:
    """What was logged in this process."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.is_disabled = False
        self.is_periodic = False
        self.last = 0.0


_logged = _Logged()


def log_once(key: str) -> bool:
    """Whether this is the first call with that key in this process: `if log_once("slow path"): log.warning(...)`."""
    if _logged.is_disabled:
        return False
    now = time.monotonic()
    if _logged.is_periodic and now - _logged.last > PERIOD_S:
        _logged.keys.clear()
    if key in _logged.keys:
        return False
    _logged.keys.add(key)
    _logged.last = now
    return True


def disable_log_once_globally() -> None:
    """From now on log_once() gives False in this process."""
    _logged.is_disabled = True


def enable_periodic_logging() -> None:
    """From now on every key counts as new again after a minute without a new one."""
    _logged.is_periodic = True


def reset_log_once(key: str | None = None) -> None:
    """The next call with `key` (None: with any) is a first one again."""
    if key is None:
        _logged.keys.clear()
    else:
        _logged.keys.discard(key)
