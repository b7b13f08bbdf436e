"""The paths that the conformance suite runs on, and what may go wrong on them without a difference to who uses them."""

import pytest

from beeline import _core
from beeline.transfer import Fault, nixl, ucx

# Every path that agents have here. "hixl" is the worked plug-in, over the emulator of its engine.
PATHS = ["shm", "cma", "ucx", "nixl", "object_store", "tcp", "hixl", "gloo"]
WRITING = ["cma", "ucx", "nixl", "object_store", "tcp", "hixl", "gloo"]
# Paths for memory of devices alone: test_cuda_ipc.py, test_nccl.py.
OF_DEVICES = ["cuda_ipc", "nccl"]
# Paths that need the owner's process to run.
SERVED = ["object_store", "tcp", "hixl", "gloo"]
# Paths to agents that share no memory, or are elsewhere.
BEYOND = ["tcp", "hixl"]

# Paths of engines, and of Python: requests that are cut small take long there.
SLOW = ["ucx", "nixl", "hixl", "gloo"]

# Those of them that this machine cannot take, and why: their tests are skipped.
_has_ucx, _ucx = _core.describe_ucx(ucx.library())
MISSING = {} if _has_ucx else {"ucx": _ucx}
MISSING |= {} if nixl.library() else {"nixl": "the NIXL package is not installed"}


def on_push(*pushed: str, of=PATHS):
    """Values of a test's parameter: the paths, all but the `pushed` ones for `./dev test --full`."""
    return [pytest.param(path, marks=[pytest.mark.full] * (path not in pushed)) for path in of]


HARMLESS = {
    "well": [],
    "delayed": [Fault("delay", delay_s=0.001, after_bytes=1, times=0)],
    "reordered": [Fault("reorder", after_bytes=1, times=0)],
}
# For tests of the fixture `agent`: a reader for whom all goes well, and such for whom that goes wrong.
UNDER_FAULTS = pytest.mark.parametrize(
    "agent",
    [pytest.param(name, marks=[pytest.mark.full] if name == "delayed" else []) for name in HARMLESS],
    indirect=True,
)
# What a path may do wrong without a word, but for checksums.
LIES = ["truncate", "drop", "corrupt"]
