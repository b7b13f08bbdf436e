"""The preload library, which puts large allocations of a process into arenas. Needs nothing of the core."""

from __future__ import annotations

import os
from pathlib import Path

LIBRARY = Path(__file__).resolve().parent.parent / "lib" / "libbeeline_preload.so"


def environment() -> dict[str, str]:
    """Variables for a process that is to have it; empty with BEELINE_PRELOAD=0, or where it was not built."""
    if os.environ.get("BEELINE_PRELOAD") == "0" or not LIBRARY.exists():
        return {}
    library = str(LIBRARY)
    others = [path for path in os.environ.get("LD_PRELOAD", "").split(":") if path and path != library]
    return {"LD_PRELOAD": ":".join([library, *others])}
