"""Where the installed NIXL package is, for the path "nixl". Imports neither it nor torch."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Literal, get_args

Reach = Literal["host", "rdma", "any"]

# Wheels of NIXL, each for one version of CUDA: the host's memory is the same to all of them.
_PACKAGES = ("nixl_cu12", "nixl_cu13")


@functools.cache
def library() -> str:
    """The folder of the library with NIXL's C interface; empty where no package has it."""
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        site = os.path.dirname(os.path.dirname(spec.origin))
        folder = os.path.join(site, f".{package}.mesonpy.libs")
        if os.path.isfile(os.path.join(folder, "libnixl_capi.so")):
            return folder
    return ""


def options(reach: Reach) -> tuple[str, int]:
    """What an agent is told of NIXL. Raises ValueError for a reach that is none."""
    reaches = get_args(Reach)
    if reach not in reaches:
        raise ValueError(f"nixl is one of {', '.join(reaches)}, not {reach!r}")
    return library(), reaches.index(reach)
