"""The paths that the conformance suite runs on, and what may go wrong on them without a difference to who uses them."""

from beeline.transfer import Fault

# Every path that this machine has. "hixl" is the worked plug-in, over the emulator of its engine.
PATHS = ["shm", "cma", "object_store", "tcp", "hixl"]
WRITING = ["cma", "object_store", "tcp", "hixl"]
# Paths that need the owner's process to run.
SERVED = ["object_store", "tcp", "hixl"]
# Paths to agents that share no memory, or are elsewhere.
BEYOND = ["tcp", "hixl"]

HARMLESS = {
    "well": [],
    "delayed": [Fault("delay", delay_s=0.001, after_bytes=1, times=0)],
    "reordered": [Fault("reorder", after_bytes=1, times=0)],
}
