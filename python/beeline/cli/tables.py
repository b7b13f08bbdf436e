"""Tables for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from beeline.cli.agents import printable, size_text, speed_text, time_text
from beeline.cli.doctor import Check

if TYPE_CHECKING:
    from beeline.transfer.counters import Row
    from beeline.util.session_metrics import Store

_TOOL = 2  # control::ProcessKind
_DIGITS = 1  # of percentiles, which are right within a factor of two
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
    console.print(
        f"waiting: {state['pending_actors']} actors, {state['pending_leases']} tasks' leases, "
        f"{state['pending_groups']} placement groups"
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


def _moved(usage: dict[str, int], path: str) -> str:
    objects = usage[f"{path}_objects"]
    return f"{objects}: {_mib(usage[f'{path}_bytes'])}" if objects else "-"


def _show_processes(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    processes = Table("process", "pid", "memory (PSS)", "objects owned", "borrowed", "arena used", "kept warm")
    transfers = Table("transfers by", "pid", "published in place", "copied", "in messages", "fetched")
    disk = Table("values on disk, of", "pid", "moved out", "read there", "waited for the disk")
    for row in rows:
        usage = row["usage"]
        own = [row["what"], str(row["pid"])]
        if usage:
            held = [str(usage["objects_owned"]), str(usage["objects_borrowed"])]
            held += [_mib(usage["arena_used_bytes"]), _mib(usage["arena_warm_bytes"])]
            transfers.add_row(*own, *(_moved(usage, path) for path in ("mapped", "copied", "inline", "fetched")))
            if usage["spilled_objects"] or usage["restored_objects"]:
                waited = f"{usage['spill_stalled_us'] / 1e6:.1f} s"
                disk.add_row(*own, _moved(usage, "spilled"), _moved(usage, "restored"), waited)
        else:
            # The daemon and the zygotes hold no objects; whoever else says nothing is stopped, or starved.
            held = ["no answer" if row["index"] and row["kind"] != _TOOL else ""]
        processes.add_row(*own, _mib(row["pss_bytes"]), *held)
    console.print(processes)
    for table in (transfers, disk):
        if table.row_count:
            console.print(table)


def on_disk(stores: Iterable[Store]) -> Table:
    """What processes of sessions have moved to disk, and read there."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("values on disk, of", overflow="fold")
    for name in ("pid", "moved out", "bytes", "read there", "bytes", "waited"):
        table.add_column(name, no_wrap=True, justify="right")
    for store in stores:
        moved = [str(store.spilled_objects), size_text(store.spilled_bytes)]
        read = [str(store.restored_objects), size_text(store.restored_bytes)]
        table.add_row(
            Text(printable(store.what)), str(store.pid), *moved, *read, time_text(store.spill_stalled_s, _DIGITS)
        )
    return table


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """Prints what `doctor` found."""
    table = Table("check", "", "found", "what to do")
    for check in checks:
        table.add_row(check.name, _SIGNS[check.level], check.found, check.advice)
    console.print(table)


def transfers(rows: Iterable[Row], gbps_now: Callable[[Row], float | None] | None = None) -> Table:
    """Counters of transfers, 80 columns wide; what a row shares with the one above it is not said again.

    Args:
        rows: Of one agent.
        gbps_now: What a row moves now, in 10^9 bytes per second; without it there is no such column.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("peer", overflow="fold", min_width=6)
    for name in ("path", "op", "size"):
        table.add_column(name, no_wrap=True)
    now = ["GB/s\nnow"] if gbps_now else []
    for name in (*now, "GB/s", "count", "bytes", "p50", "p99", "failed", "switched"):
        table.add_column(name, no_wrap=True, justify="right")
    above: tuple[str, ...] = ()
    for row in sorted(rows, key=_in_order):
        group = (row.peer_id, row.path, row.operation)
        names = (row.peer, row.path, row.operation)
        said = [group[: at + 1] == above[: at + 1] for at in range(len(group))]
        table.add_row(
            *(Text("" if is_said else printable(name)) for is_said, name in zip(said, names, strict=True)),
            row.size,
            *([speed_text(gbps_now(row))] if gbps_now else []),
            speed_text(mean_gbps(row)),
            str(row.transfers),
            size_text(row.nbytes),
            time_text(row.latency.quantile(0.5), _DIGITS),
            time_text(row.latency.quantile(0.99), _DIGITS),
            Text(str(row.failures), style="red" if row.failures else ""),
            Text(str(row.failovers), style="red" if row.failovers else ""),
        )
        above = group
    return table


def show_measured(console: Console, source: str, target: str, rows: Sequence[Row]) -> None:
    """Prints what `agents.measured_by` gave."""
    if not rows:
        console.print(Text(f"{printable(source)} has transferred nothing to or from {printable(target)} yet."))
        return
    console.print(Text(f"What {printable(source)} has measured with {printable(target)}:"))
    console.print(transfers(rows))


def mean_gbps(row: Row) -> float | None:
    """Of all its transfers, by the time that they took; None where no byte moved."""
    return row.nbytes / row.seconds / 1e9 if row.seconds and row.operation != "map" else None


def _in_order(row: Row) -> tuple[str, str, str, str, int]:
    from beeline.transfer import counters

    return row.peer, row.peer_id, row.path, row.operation, counters.SIZES.index(row.size)
