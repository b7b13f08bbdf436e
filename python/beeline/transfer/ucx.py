"""Where UCX is, when it was installed as a Python package."""

from __future__ import annotations

import importlib.util
import os


def library() -> str:
    """The path of libucp in the package `libucx` (of the wheel `libucx-cu12`); empty where there is none.

    The package is not imported. What the environment's `BEELINE_UCX_LIBRARY` names comes first, wherever this is used.
    """
    spec = importlib.util.find_spec("libucx")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for name in ("libucp.so.0", "libucp.so"):
            path = os.path.join(folder, "lib", name)
            if os.path.isfile(path):
                return path
    return ""
