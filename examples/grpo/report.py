"""What a run of `examples/grpo.py` shows and leaves behind: live progress, figures as JSON, a picture, a comparison."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from grpo.traffic import read_by_path, sent_by_path

PHASES = {
    "generate": "Generator: answer questions",
    "learn": "Learner: forward, backward, optimizer",
    "guard": "Learner: wait for readers of the weights",
    "update": "Generator: copy weights into the policy",
    "overhead": "the rest of the step: calls, transfers, waits",
}
REFRESH_S = 0.25


class Report:
    """Collects each step's figures and shows them while the run goes on. One thread; a context manager.

    On a terminal the display is live; elsewhere it is a plain line at every look at the held-out set.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._created = self._started = self._last = time.perf_counter()
        self._startup_s = 0.0
        self._steps: list[dict] = []
        self._accuracy: list[tuple[int, float]] = []
        self._generator_version = 0
        self._moved_before: dict[str, dict] = {}
        self._moved: dict[str, dict] = {}
        self._live = None
        self._drawn = 0.0

    def __enter__(self):
        if sys.stdout.isatty() and not self._args.quiet:
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exc) -> None:
        if self._live:
            if self._steps:
                self._live.update(self._table(), refresh=True)
            self._live.stop()

    def start(self, moved: dict[str, dict] | None = None) -> None:
        """Everything is set up; the first step begins now. `moved`: what each actor has moved, if that is counted."""
        self._moved_before = self._moved = moved or {}
        self._started = self._last = time.perf_counter()
        self._startup_s = self._started - self._created

    def add(self, learned: dict, updated: dict, accuracy: float | None = None, moved: dict | None = None) -> None:
        """Take the figures of one finished step, in order: `Learner.step`'s and `Generator.update_weights`'.

        `accuracy` and `moved` (as for `start`) at looks at the held-out set.
        """
        now = time.perf_counter()
        ms = {**dict.fromkeys(PHASES, 0.0), **learned["ms"], **updated["ms"]}
        step_ms = (now - self._last) * 1e3
        self._last = now
        ms["overhead"] = step_ms - self._computation_ms(**ms)
        self._generator_version = updated["version"]
        self._steps.append({**learned, "ms": ms, "step_ms": step_ms})
        self._moved = moved or self._moved
        if accuracy is not None:
            self._accuracy.append((len(self._steps), accuracy))
        if self._live and now - self._drawn > REFRESH_S:
            self._drawn = now
            self._live.update(self._table(), refresh=True)
        elif not self._live and not self._args.quiet and accuracy is not None:
            print(
                f"step {len(self._steps):4d}/{self._args.steps}  reward {self._steps[-1]['reward']:.3f}  "
                f"held-out accuracy {accuracy:.1%}  version {self._generator_version}  lag {learned['lag']:.1f}  "
                f"{self._median('step_ms'):.1f} ms/step",
                flush=True,
            )

    def result(self) -> dict:
        """Every figure of the run, ready for JSON."""
        steps, args = self._steps, self._args
        keep = ["input", "engine", "plain", "transport", "direct", "sync", "guard", "device", "seed", "width"]
        keep += ["batch", "group", "replay", "lr", "threads"]
        step_ms = [step["step_ms"] for step in steps]
        return {
            **{name: getattr(args, name) for name in keep},
            "steps": len(steps),
            "parameters": steps[-1]["weight_bytes"] // 4,
            "heldout_accuracy": self._accuracy[-1][1],
            "accuracy": self._accuracy,
            "reward": [step["reward"] for step in steps],
            "loss": [step["loss"] for step in steps],
            "step_ms": step_ms,
            "step_ms_median": statistics.median(step_ms),
            "phase_ms": {phase: statistics.median(step["ms"][phase] for step in steps) for phase in PHASES},
            "phase_ms_per_step": {phase: [step["ms"][phase] for step in steps] for phase in PHASES},
            "bytes_measured": bool(self._moved_before),
            "bytes_by_path": self._bytes_by_path(),
            "bytes_read_by_path": read_by_path(self._moved_before, self._moved) if self._moved_before else {},
            "versions": {"learner": steps[-1]["version"], "generator": self._generator_version},
            "lag": {"mean": statistics.fmean(step["lag"] for step in steps), "max": max(s["lag"] for s in steps)},
            "startup_s": self._startup_s,
            "wall_s": self._last - self._started,
        }

    def _computation_ms(self, learn: float, generate: float, update: float, **_: float) -> float:
        """What a step would take if calls and transfers took no time."""
        if self._args.plain:
            return learn + generate + update
        if self._args.sync == "blocking":  # the two work side by side, then the weights arrive
            return max(learn, generate) + update
        return max(learn, generate + update)  # the Learner goes on while the weights arrive

    def _median(self, name: str) -> float:
        return statistics.median(step[name] for step in self._steps[-50:])

    def _bytes_by_path(self) -> dict[str, dict[str, int]]:
        """Bytes that went from actor to actor until the last look: {what: {path: bytes}}.

        On Beeline as counted, by the paths that were taken. On Ray, which counts none, those of the tensors.
        """
        if self._args.plain:
            return {"weights": {}, "rollouts": {}}
        if self._moved_before:
            return sent_by_path(self._moved_before, self._moved)
        asked = {
            "weights": self._args.transport,
            "rollouts": self._args.transport if self._args.direct == "all" else "object_store",
        }
        size = {"weights": "weight_bytes", "rollouts": "rollout_bytes"}
        return {
            what: {f"{path} (as asked for; computed)": sum(step[size[what]] for step in self._steps)}
            for what, path in asked.items()
        }

    def _table(self):
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        args, last = self._args, self._steps[-1]
        table = Table(title=f"GRPO · {args.input} · {_run_name(vars(args))}", show_header=False, min_width=60)
        table.add_column(style="bold")
        table.add_column()
        table.add_row(f"step {len(self._steps)}/{args.steps}", ProgressBar(args.steps, len(self._steps), width=40))
        recent = statistics.fmean(step["reward"] for step in self._steps[-10:])
        table.add_row("reward", f"{recent:.3f} (mean of ten steps)")
        table.add_row("held-out accuracy", f"{self._accuracy[-1][1]:.1%}" if self._accuracy else "not yet measured")
        table.add_row("weights", f"version {self._generator_version} in the Generator, batch {last['lag']:.1f} behind")
        table.add_row("ms per step", f"{self._median('step_ms'):.2f}")
        for phase, meaning in PHASES.items():
            median = statistics.median(step["ms"][phase] for step in self._steps[-50:])
            table.add_row(f"  {phase}", f"{median:.2f}  {meaning}")
        for what, paths in self._bytes_by_path().items():
            for path, count in paths.items():
                table.add_row(f"{what}, bytes", f"{_size(count)} by {path}")
        return table


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _run_name(run: dict) -> str:
    return "one plain process" if run["plain"] else f"{run['engine']}, {run['transport']}"


def save_json(result: dict, path: str) -> None:
    Path(path).write_text(json.dumps(result, indent=1))


def save_png(result: dict, path: str) -> None:
    """Reward and held-out accuracy over the steps; the median time of each phase beside the whole step's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (curve, bars) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    figure.suptitle(f"GRPO, {result['input']}, {result['parameters']:,} parameters: {_run_name(result)}")
    curve.plot(range(1, result["steps"] + 1), result["reward"], lw=0.8, label="mean reward")
    curve.plot(*zip(*result["accuracy"], strict=True), "o-", label="held-out accuracy")
    curve.set(xlabel="step", ylim=(min(0, *result["reward"]), 1.02))
    curve.legend(loc="lower right")
    curve.grid(alpha=0.3)
    times = {"whole step": result["step_ms_median"], **result["phase_ms"]}
    shown = bars.barh(list(times), list(times.values()), color=["C7"] + ["C0"] * len(PHASES))
    bars.bar_label(shown, fmt="%.2f", padding=3)
    bars.invert_yaxis()
    bars.set(xlabel="milliseconds, median (Learner and Generator work side by side)")
    bars.margins(x=0.15)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def compare(args: argparse.Namespace, argv: list[str]) -> None:
    """Run `argv` by its transport, by the object store and plain, each in a fresh process; print them side by side.

    --json then holds the first run's figures, and those of all three under "runs". Exits with the status of a run
    that failed.
    """
    own = [word for word in argv[1:] if word != "--compare"]  # later flags win, so a child's own go last
    variants = {
        args.transport: [],
        "object_store": ["--transport", "object_store", "--guard", "auto"],
        "plain": ["--plain"],
    }
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, flags in variants.items():
            file = Path(folder, f"{name}.json")
            print(f"\n--- {name}", flush=True)
            command = [sys.executable, argv[0], *own, *flags, "--json", str(file)]
            if args.png and flags:
                command += ["--png", str(Path(folder, "unused.png"))]
            status = subprocess.run(command).returncode
            if status:
                raise SystemExit(status)
            runs[name] = json.loads(file.read_text())
    _print_comparison(runs)
    if args.json:
        save_json({**runs[args.transport], "runs": runs}, args.json)


def _print_comparison(runs: dict[str, dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = next(iter(runs.values()))
    title = f"{first['input']}, {first['parameters']:,} parameters, {first['steps']} steps; ms per step are medians"
    table = Table(title=title)
    table.add_column("")
    for run in runs.values():
        table.add_column(_run_name(run), justify="right")
    table.add_row("held-out accuracy", *(f"{run['heldout_accuracy']:.1%}" for run in runs.values()))
    table.add_row("wall, s", *(f"{run['wall_s']:.2f}" for run in runs.values()))
    table.add_row("set-up, s", *(f"{run['startup_s']:.2f}" for run in runs.values()))
    table.add_row("whole step, ms", *(f"{run['step_ms_median']:.2f}" for run in runs.values()))
    for phase in PHASES:
        table.add_row(f"  {phase}, ms", *(f"{run['phase_ms'][phase]:.2f}" for run in runs.values()))
    for what in first["bytes_by_path"]:
        paths = dict.fromkeys(path for run in runs.values() for path in run["bytes_by_path"][what])
        for path in paths:
            counts = (run["bytes_by_path"][what].get(path, 0) for run in runs.values())
            table.add_row(f"{what} by {path}", *(_size(count) if count else "-" for count in counts))
    Console().print(table)
