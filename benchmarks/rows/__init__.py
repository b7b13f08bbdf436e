"""The measures, one file per subject. Importing this fills the registry of probes, and imports no engine or torch."""

from benchmarks.rows import (
    calls,
    gpu,
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

SUITES = {"core": CORE, "handoff": sweep.ROWS, "transfer": transfer.ROWS, "gpu": gpu.ROWS}
# Suites that not every machine can run: each of these says why it cannot be done here, or None.
WHY_NOT = {"gpu": gpu.why_not}

__all__ = ["CORE", "SUITES", "WHY_NOT", "limits"]
