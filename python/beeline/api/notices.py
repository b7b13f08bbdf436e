"""What a program asks for that has no effect here and changes no result: said once per process and counted, never
passed over in silence.
"""

from __future__ import annotations

import logging

_log = logging.getLogger("beeline")

# How often each was asked for in this process, by name.
counts: dict[str, int] = {}


def without_effect(name: str, reason: str) -> None:
    """Counts that `name` was asked for; warns the first time, with the reason and what to do instead."""
    counts[name] = counts.get(name, 0) + 1
    if counts[name] == 1:
        _log.warning("%s has no effect: %s", name, reason)
