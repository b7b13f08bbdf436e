"""The preload library, which puts large allocations of a process into arenas. Needs nothing of the core."""

from __future__ import annotations

import os

LIBRARY = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib", "libbeeline_preload.so")


def environment() -> dict[str, str]:
    """Variables for a process that is to have it; empty with BEELINE_PRELOAD=0, or where it was not built."""
    if os.environ.get("BEELINE_PRELOAD") == "0" or not os.path.exists(LIBRARY):
        return {}
    others = [path for path in os.environ.get("LD_PRELOAD", "").split(":") if path and path != LIBRARY]
    return {"LD_PRELOAD": ":".join([LIBRARY, *others])}
