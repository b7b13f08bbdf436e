"""GRPO training: `examples/grpo.py`, the very same file, on each engine and as one plain process; its own figures."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.engines import Context
from benchmarks.registry import RAY_TRANSPORTS, Bound, Contender, Row, Samples, probe

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "grpo.py"
WIDTH_100M = 97_000
BLOCKS = 10


def train(ctx: Context, steps: int, *options: str) -> Samples:
    """Seconds per step, a median per block of steps: the whole, and what is beyond computation.

    Beyond computation are calls, transfers and waits: the step less the longer of generating and learning, which run
    side by side, and less the copy into the policy.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        how = ["--plain"] if ctx.variant == "plain" else ["--engine", ctx.engine, "--transport", ctx.variant]
        command = [sys.executable, str(EXAMPLE), "--input", "digits", "--steps", str(steps), "--quiet", *how, *options]
        run = subprocess.run([*command, "--json", out.name], capture_output=True, text=True)
        if run.returncode:
            last = (run.stderr.strip() or run.stdout.strip() or "no output").splitlines()[-1]
            raise RuntimeError(f"examples/grpo.py ended with {run.returncode}: {last}")
        figures = json.loads(Path(out.name).read_text())
    warm = max(2, steps // 10)
    return {
        "step": _blocks(figures["step_ms"][warm:]),
        "beyond": _blocks(figures["phase_ms_per_step"]["overhead"][warm:]),
    }


def _blocks(step_ms: list[float]) -> list[float]:
    length = max(1, -(-len(step_ms) // BLOCKS))
    return [statistics.median(step_ms[i : i + length]) / 1e3 for i in range(0, len(step_ms), length)]


@probe
def grpo_digits(ctx: Context) -> Samples:
    return train(ctx, ctx.reps(300, 100))


@probe
def grpo_100m(ctx: Context) -> Samples:
    return train(ctx, ctx.reps(20, 8), "--width", str(WIDTH_100M), "--eval-every", "1000")


PLAIN = Contender("one plain process", "none", "plain")


def _row(key: str, measure: str, probe_name: str, pick: str, bound: Bound, peers: tuple[Contender, ...]) -> Row:
    return Row(key, measure, "ms", "grpo", probe_name, pick, bound, peers=peers, timeout_s=600)


BEYOND = "GRPO digits step beyond computation"

ROWS = [
    _row(
        "grpo_beyond_store",
        f"{BEYOND}, against Ray's object store",
        "grpo_digits",
        "beyond",
        Bound("<=", 1 / 15, "peer ray object_store"),
        RAY_TRANSPORTS[:1],
    ),
    _row(
        "grpo_beyond_best",
        f"{BEYOND}, against Ray's best",
        "grpo_digits",
        "beyond",
        Bound("<=", 1 / 10),
        RAY_TRANSPORTS,
    ),
    _row(
        "grpo_plain",
        "GRPO digits step, against one plain process",
        "grpo_digits",
        "step",
        Bound("<=", 1.1, "peer one plain process"),
        (PLAIN, *RAY_TRANSPORTS),
    ),
    _row("grpo_100m", "GRPO step, 100 million parameters", "grpo_100m", "step", Bound("<=", 1 / 2), RAY_TRANSPORTS),
]
