"""The command: `python -m benchmarks core|handoff|transfer|gpu [--json FILE] [--only ROW] [--quick] …`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import report, runner
from benchmarks.engines import ENGINES
from benchmarks.registry import Row, select
from benchmarks.rows import SUITES, WHY_NOT
from benchmarks.rows.sweep import draw

ROUNDS, ROUNDS_QUICK = 3, 1
UNAVAILABLE = 3  # exit status of a suite that this machine cannot run; 1 is a bound that does not hold, 2 is misuse


def _engines(text: str) -> tuple[str, ...]:
    chosen = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in chosen if name not in ENGINES]
    if unknown or not chosen:
        raise click.UsageError(f"unknown engine {', '.join(unknown) or '(none)'}; known: {', '.join(ENGINES)}")
    return chosen


def _selected(name: str, only: tuple[str, ...], quick: bool) -> list[Row]:
    try:
        chosen = select(SUITES[name], only)
    except KeyError as error:
        raise click.UsageError(f"no row of {name} matches {error.args[0]!r}; --list shows them") from None
    if quick and not (chosen := [row for row in chosen if row.with_quick]):
        raise click.UsageError(f"--quick leaves out {', '.join(only)}")
    return chosen


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", type=click.Choice(sorted(SUITES)))
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here.")
@click.option(
    "--only", multiple=True, metavar="ROW", help="Rows whose key, group or measure contains this; repeatable."
)
@click.option("--quick", is_flag=True, help="One round, fewer repetitions and sizes.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help=f"Rounds of fresh processes (default {ROUNDS}; {ROUNDS_QUICK} with --quick).",
)
@click.option("--engines", default=",".join(ENGINES), show_default=True, help="Which engines run, comma-separated.")
@click.option("--list", "list_rows", is_flag=True, help="Show the rows and their bounds, measure nothing.")
@click.option("--check", is_flag=True, help="Exit with 1 where a bound does not hold.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="handoff: where the picture goes (default: beside the JSON, else build/handoff.png).",
)
@click.option(
    "--from", "finished", type=click.Path(path_type=Path, exists=True), help="Show this JSON, measure nothing."
)
@click.option("--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Write the table for a document.")
def main(name, json_path, only, quick, rounds, engines, list_rows, check, plot, finished, markdown) -> None:
    """Measures Beeline beside its peers, on this machine, in one run."""
    rows = _selected(name, only, quick)
    chosen = _engines(engines)
    if list_rows:
        for row in rows:
            bound = row.bound.text(row.unit) if row.bound else "reported"
            click.echo(f"{row.key:20} {row.unit:4} {bound:34} {row.measured_as(quick)}")
        return
    if finished:
        content = json.loads(finished.read_text())
        return show(name, content["machine"], content["commit"], content["rows"], markdown, check)
    if why := WHY_NOT.get(name, lambda: None)():
        click.echo(f"Error: {why}", err=True)
        sys.exit(UNAVAILABLE)
    rounds = rounds or (ROUNDS_QUICK if quick else ROUNDS)
    console = Console(stderr=not sys.stdout.isatty())
    machine, commit = runner.describe_machine(), runner.commit()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        total = runner.children(rows, chosen, rounds)
        task = progress.add_task("starting", total=total)
        started = []

        def step(job: runner.Job) -> None:
            what = f"{job.probe} on {job.contender.name}"
            progress.update(task, description=what, completed=len(started))
            started.append(job)
            if not console.is_terminal:
                console.print(f"{len(started)}/{total} {what}")

        def save(results: list[dict]) -> None:
            """Also what an interrupted run has measured is kept."""
            if json_path:
                report.write(json_path, report.document(machine, commit, results))

        results = runner.run(rows, chosen, rounds, quick, step, save)
        progress.update(task, description="done", completed=len(started))
    save(results)
    if name == "handoff":
        picture = plot or (json_path.with_suffix(".png") if json_path else Path("build/handoff.png"))
        draw(results, str(picture), f"{machine['cpu']}, {machine['cores']} cores")
        console.print(f"picture: {picture}")
    show(name, machine, commit, results, markdown, check)


def show(name: str, machine: dict, commit: str, rows: list[dict], markdown: Path | None, check: bool) -> None:
    """Prints what was measured; exits with 1 where a bound does not hold and `check` asks for it."""
    title = f"{name} on {machine['cpu']}, {machine['cores']} cores, commit {commit}"
    wide = Console() if sys.stdout.isatty() else Console(width=180)
    wide.print(report.table(title, rows))
    if markdown:
        markdown.write_text(report.markdown(rows))
    if (missed := report.missed(rows)) and check:
        wide.print(f"bounds that do not hold: {', '.join(missed)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
