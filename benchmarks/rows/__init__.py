"""The measures, one file per subject. Importing this fills the registry of probes, and imports no engine or torch."""

from benchmarks.rows import (
    calls,
    grpo,
    handoff,
    limits,
    many,
    memory,
    objects,
    preload,
    spilling,
    startup,
    sweep,
    transfer,
    weights,
)

CORE = [
    *calls.ROWS,
    *startup.ROWS,
    *handoff.ROWS,
    *weights.ROWS,
    *objects.ROWS,
    *spilling.ROWS,
    *preload.ROWS,
    *memory.ROWS,
    *many.ROWS,
    *grpo.ROWS,
]

SUITES = {"core": CORE, "handoff": sweep.ROWS, "transfer": transfer.ROWS}

__all__ = ["CORE", "SUITES", "limits"]
