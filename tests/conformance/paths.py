"""The paths that the conformance suite runs on, and what may go wrong on them without a difference to who uses them."""

from beeline.transfer import Fault, nixl

# What agents of these tests know. "hixl" is the worked plug-in, over the emulator of its engine.
KNOWN = ["shm", "cma", "nixl", "tcp", "hixl"]
# Every path that this machine has.
PATHS = [path for path in KNOWN if path != "nixl" or nixl.library()]
WRITING = [path for path in PATHS if path != "shm"]
# Paths that need the owner's process to run.
SERVED = ["tcp", "hixl"]

HARMLESS = {
    "well": [],
    "delayed": [Fault("delay", delay_s=0.001, after_bytes=1, times=0)],
    "reordered": [Fault("reorder", after_bytes=1, times=0)],
}
