"""The paths that the conformance suite runs on, and what may go wrong on them without a difference to who uses them."""

from beeline.transfer import Fault

# Every path that this machine has. "hixl" is the worked plug-in, over the emulator of its engine.
PATHS = ["shm", "cma", "tcp", "hixl"]
WRITING = ["cma", "tcp", "hixl"]
# Paths for memory of devices alone: test_cuda_ipc.py.
OF_DEVICES = ["cuda_ipc"]
# Paths that need the owner's process to run.
SERVED = ["tcp", "hixl"]

HARMLESS = {
    "well": [],
    "delayed": [Fault("delay", delay_s=0.001, after_bytes=1, times=0)],
    "reordered": [Fault("reorder", after_bytes=1, times=0)],
}
