"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from beeline.cli.doctor import Check

_ACTOR_STATES = ("pending", "starting", "alive", "restarting", "dead")
_SIGNS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]", "absent": "no"}


def amount(name: str, value: float) -> str:
    """An amount of a resource; memory in GiB."""
    return f"{value / 2**30:.1f} GiB" if "memory" in name else f"{value:g}"


def show_session(console: Console, state: dict[str, Any]) -> None:
    """Prints what `_core.session_state` gave."""
    console.print(f"[bold]{state['session_dir']}[/]")
    if "error" in state:
        console.print(f"  {state['error']}")
        return
    resources = Table("resource", "available", "total")
    for name, total in sorted(state["total"].items()):
        resources.add_row(name, amount(name, state["available"].get(name, 0.0)), amount(name, total))
    console.print(resources)
    if state["actors"]:
        actors = Table("actor", "name", "state", "pid", "restarts", "resources")
        for row in state["actors"]:
            kind = row["state"]
            held = ", ".join(f"{name} {amount(name, value)}" for name, value in row["resources"].items())
            actors.add_row(
                row["class_name"],
                row["name"],
                _ACTOR_STATES[kind] if isinstance(kind, int) else str(kind),
                str(row["pid"]),
                str(row["incarnation"]),
                held,
            )
        console.print(actors)
    processes = Table("process", "pid", "memory (PSS)")
    for row in state["processes"]:
        processes.add_row(row["what"], str(row["pid"]), f"{row['pss_bytes'] / 2**20:.1f} MiB")
    console.print(processes)
    if state["counters"]:
        counters = Table("counter", "value")
        for name, value in sorted(state["counters"].items()):
            counters.add_row(name, str(value))
        console.print(counters)
    console.print(f"waiting: {state['pending_actors']} actors, {state['pending_leases']} tasks' leases")


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Prints what `doctor` found."""
    table = Table("check", "", "found", "what to do")
    for check in checks:
        table.add_row(check.name, _SIGNS[check.level], check.found, check.advice)
    console.print(table)
