"""What the `beeline` command does. The core is imported by the commands that talk to a session, not by `run`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from importlib import metadata
from typing import Any

import click
from rich.console import Console

from beeline.cli import bench, config, listings, logs, memory, metrics, paths, tables, timeline, top
from beeline.cli import doctor as checks

STOP_TIMEOUT_S = 5.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(metadata.version("beeline"), prog_name="beeline")
def main() -> None:
    """Direct tensor transport between processes, and the actors on both ends."""


for command in (
    listings.list_,
    listings.get,
    listings.summary,
    memory.memory,
    memory.transfers,
    logs.logs,
    top.top,
    paths.paths,
    timeline.timeline,
    bench.bench,
    metrics.metrics,
    config.config,
):
    main.add_command(command)


@main.command(short_help="Show your running sessions.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, an object per session.")
def status(as_json: bool) -> None:
    """Show what your running sessions hold: resources, actors, objects, transfers, memory, counters."""
    from beeline import _core

    states: list[dict[str, Any]] = []
    for session_dir in _core.live_sessions():
        try:
            states.append({"session_dir": session_dir, **_core.session_state(session_dir)})
        except Exception as error:  # it may have ended meanwhile; the others are still shown
            states.append({"session_dir": session_dir, "error": str(error)})
    if as_json:
        click.echo(json.dumps(states, indent=2, default=str))
        return
    if not states:
        click.echo("No session is running.")
    console = Console()
    for state in states:
        tables.show_session(console, state)


@main.command(short_help="Start a session that programs join.")
@click.option("--num-cpus", type=float, help="CPUs that tasks and actors may hold.  [default: those of the machine]")
@click.option("--num-gpus", type=float, help="GPUs likewise.  [default: those of the machine]")
@click.option("--resources", default="{}", help="Amounts of custom resources: a JSON object.")
@click.option("--labels", default="{}", help="Labels of the node: a JSON object of strings.")
@click.option("--object-store-memory", type=int, help="Bytes that published objects of one process may take.")
@click.option("--object-spilling-directory", default="", help="A folder on the disk for stored values beyond that.")
def start(
    num_cpus: float | None,
    num_gpus: float | None,
    resources: str,
    labels: str,
    object_store_memory: int | None,
    object_spilling_directory: str,
) -> None:
    """Start a session without a program of its own. It lives until `beeline stop`.

    Programs join it by init(), init(address="auto"), or the printed address.
    """
    from beeline.api import lasting

    try:
        session_dir = lasting.start(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=_json_object("--resources", resources),
            labels=_json_object("--labels", labels),
            object_store_memory=object_store_memory,
            object_spilling_directory=object_spilling_directory,
        )
    except (ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Started the session in {session_dir}")
    click.echo(f'Programs join it by init(address="{session_dir}"); `beeline stop` ends it.')


def _json_object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.ClickException(f"{option}: not JSON ({error}): {text}") from error
    if not isinstance(value, dict):
        raise click.ClickException(f'{option} must be a JSON object, such as {{"name": 1}}; got {text}')
    return value


@main.command(short_help="End all your sessions.")
def stop() -> None:
    """End all your sessions, detached actors included, and remove what dead ones have left."""
    from beeline import _core

    stuck = []
    sessions = _core.live_sessions()
    for session_dir in sessions:
        if not _core.stop_session(session_dir, STOP_TIMEOUT_S):
            stuck.append(session_dir)
    stale = _core.remove_stale_sessions()
    click.echo(
        f"Stopped {len(sessions) - len(stuck)} session(s); removed {stale['directories']} stale folder(s) and "
        f"{stale['processes']} process(es)."
    )
    if stuck:
        raise click.ClickException(f"Still running after {STOP_TIMEOUT_S:g} s: {', '.join(stuck)}")


@main.command(short_help="Check whether this machine suits Beeline.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Check the machine: kernel, memory, limits, and which transports can be used. Exits with 1 on errors."""
    found = checks.run_all()
    failed = [check for check in found if check.level == "error"]
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [check._asdict() for check in found]}, indent=2))
    else:
        tables.show_checks(Console(), found)
    sys.exit(1 if failed else 0)


@main.command(
    short_help="Run a program whose tensors need no copy.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("program")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(program: str, args: tuple[str, ...]) -> None:
    """Run PROGRAM with its large allocations in arenas, so that what it publishes needs no copy.

    A Python file runs under this interpreter; anything else is looked up in PATH.
    """
    from beeline.engines import preload

    environment = {**os.environ, **preload.environment()}
    if program.endswith(".py"):
        command = [sys.executable, program, *args]
    else:
        path = shutil.which(program)
        if path is None:
            raise click.ClickException(f"{program}: no such program")
        command = [path, *args]
    sys.stdout.flush()
    os.execve(command[0], command, environment)
