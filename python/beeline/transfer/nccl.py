"""Where NCCL is, when it was installed as a Python package."""

from __future__ import annotations

import importlib.util
import os


def library() -> str:
    """The path of libnccl in NVIDIA's wheel `nvidia-nccl-cu12` or `-cu13`; empty where there is none.

    The package is not imported. What the environment's `BEELINE_NCCL_LIBRARY` names, and a library that the process has
    loaded already (torch's), come first, wherever this is used.
    """
    # A package of namespaces, of which other wheels have parts: the folders of all of them.
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = os.path.join(folder, "nccl", "lib", "libnccl.so.2")
        if os.path.isfile(path):
            return path
    return ""
