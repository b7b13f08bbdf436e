"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from beeline.cli.doctor import Check

_TOOL = 2  # control::ProcessKind
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
    _show_processes(console, state["processes"])
    if state["counters"]:
        counters = Table("counter", "value")
        for name, value in sorted(state["counters"].items()):
            counters.add_row(name, str(value))
        console.print(counters)
    console.print(f"waiting: {state['pending_actors']} actors, {state['pending_leases']} tasks' leases")


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _moved(usage: dict[str, int], path: str) -> str:
    objects = usage[f"{path}_objects"]
    return f"{objects}: {_mib(usage[f'{path}_bytes'])}" if objects else "-"


def _show_processes(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    processes = Table("process", "pid", "memory (PSS)", "objects owned", "borrowed", "arena used", "kept warm")
    transfers = Table("transfers by", "pid", "published in place", "copied", "in messages", "fetched")
    for row in rows:
        usage = row["usage"]
        own = [row["what"], str(row["pid"])]
        if usage:
            held = [str(usage["objects_owned"]), str(usage["objects_borrowed"])]
            held += [_mib(usage["arena_used_bytes"]), _mib(usage["arena_warm_bytes"])]
            transfers.add_row(*own, *(_moved(usage, path) for path in ("mapped", "copied", "inline", "fetched")))
        else:
            # The daemon and the zygotes hold no objects; whoever else says nothing is stopped, or starved.
            held = ["no answer" if row["index"] and row["kind"] != _TOOL else ""]
        processes.add_row(*own, _mib(row["pss_bytes"]), *held)
    console.print(processes)
    if transfers.row_count:
        console.print(transfers)


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Prints what `doctor` found."""
    table = Table("check", "", "found", "what to do")
    for check in checks:
        table.add_row(check.name, _SIGNS[check.level], check.found, check.advice)
    console.print(table)
