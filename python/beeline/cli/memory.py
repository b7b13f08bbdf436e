"""`beeline memory` and `beeline transfers`: where a session's objects lie, and who keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from beeline.cli import sessions
from beeline.cli.agents import size_text, time_text
from beeline.cli.sessions import session_option, timeout_option

_GROUPS = ("holder", "owner", "call-site", "none")
_SORTS = ("size", "references", "readers")
_NOWHERE = "messages (no process's arena)"


@click.command(short_help="Show a session's objects: how large, where, held by whom.")
@click.option(
    "--group-by",
    default="holder",
    show_default=True,
    type=click.Choice(_GROUPS),
    help="holder: the process in whose memory the bytes lie; owner: the one that made the reference.",
)
@click.option("--sort-by", default="size", show_default=True, type=click.Choice(_SORTS), help="The largest first.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Objects at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@session_option
@timeout_option
def memory(group_by: str, sort_by: str, limit: int, as_json: bool, session: str | None, timeout: float) -> None:
    """Show the objects of a running session, and what keeps them.

    \b
    size        of the value; "-" until it is there
    transport   message: it lies with its owner, and was copied into messages; object_store: a copy in the holder's
                arena; direct: the producer's own tensors, in its arena
    references  how many there are, of all processes
    why         LOCAL_REFERENCE: a variable, or another process's; USED_BY_PENDING_TASK; CAPTURED_IN_OBJECT: within
                another value; ACTOR_HANDLE
    processes   that hold references, by pid
    readers     processes that have its bytes mapped now
    task, call site   what has made it; where: with RAY_record_ref_creation_sites=1 in the program's environment

    An object goes when no process refers to it. How much of its arena each process uses: `beeline status`.
    """  # noqa: D301 - \b is a character that click reads
    from beeline import _core
    from beeline.util.state import rows
    from beeline.util.state.snapshot import Snapshot

    with sessions.errors_for_people():
        snapshot = Snapshot(session, _core.PART_OBJECTS, timeout)
    every = _merged(rows.objects(snapshot))
    key = {"size": "size_bytes", "references": "references", "readers": "readers"}[sort_by]
    every.sort(key=lambda row: (-row[key], row["object_id"]))
    totals = {
        "objects": len(every),
        "bytes": sum(max(row["size_bytes"], 0) for row in every),
        "direct_objects": sum(row["transport"] == "direct" for row in every),
        "direct_bytes": sum(row["size_bytes"] for row in every if row["transport"] == "direct"),
    }
    note = snapshot.missing("objects")
    if as_json:
        sessions.echo_data("json", {"objects": every[:limit], "totals": totals, "incomplete": note})
        return
    names = {row["pid"]: row["what"] for row in snapshot.members()}
    _show_memory(every, limit, group_by, names)
    click.echo(
        f"{totals['objects']} objects, {size_text(totals['bytes'])}; of them direct: {totals['direct_objects']}, "
        f"{size_text(totals['direct_bytes'])}"
    )
    if len(every) > limit:
        click.echo(f"{len(every) - limit} more are not shown: --limit.", err=True)
    if note:
        click.echo(f"The answer is incomplete: {note}.", err=True)


def _merged(objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each object, of what all processes say of it."""
    found: dict[str, dict[str, Any]] = {}
    for each in objects:
        row = found.setdefault(
            each["object_id"],
            {
                "object_id": each["object_id"],
                "size_bytes": -1,
                "transport": None,
                "holder_pid": None,
                "owner_pid": each["owner_pid"],
                "references": 0,
                "why": [],
                "processes": [],
                "readers": 0,
                "leases": 0,
                "task": "",
                "call_site": "",
                "error": None,
            },
        )
        row["references"] += each["num_holds"]
        row["processes"].append(each["pid"])
        if each["reference_type"] not in row["why"]:
            row["why"].append(each["reference_type"])
        row["task"] = row["task"] or each["task_name"]
        if each["call_site"] != "disabled":
            row["call_site"] = row["call_site"] or each["call_site"]
        if each["object_size"] >= 0 and (row["size_bytes"] < 0 or each["pid"] == each["owner_pid"]):
            row.update(
                size_bytes=each["object_size"],
                transport=each["transport"],
                holder_pid=each["holder_pid"],
                readers=each["num_readers"],
                leases=each["num_leases"],
                error=each["error_type"],
            )
    return list(found.values())


def _show_memory(every: list[dict[str, Any]], limit: int, group_by: str, names: dict[int, str]) -> None:
    console = sessions.console()
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in every:
        groups.setdefault(_group_of(row, group_by, names), []).append(row)
    left = limit
    for name, group in sorted(groups.items(), key=lambda each: -sum(max(row["size_bytes"], 0) for row in each[1])):
        if left <= 0:
            return
        if name:
            size = size_text(sum(max(row["size_bytes"], 0) for row in group))
            console.print(sessions.cell(f"{name}: {len(group)} objects, {size}"), style="bold")
        columns = ("object_id", "size", "transport", "references", "why", "processes", "readers", "task, call site")
        shown = [
            {
                **row,
                "size": size_text(row["size_bytes"]) if row["size_bytes"] >= 0 else None,
                "why": ", ".join(row["why"]),
                "processes": ", ".join(map(str, row["processes"])),
                "task, call site": " ".join(filter(None, (row["task"], row["call_site"], row["error"]))),
            }
            for row in group[:left]
        ]
        left -= len(shown)
        console.print(sessions.table_of(columns, shown, right=("size", "references", "readers")))
        console.print()


def _group_of(row: dict[str, Any], group_by: str, names: dict[int, str]) -> str:
    if group_by == "none":
        return ""
    if group_by == "call-site":
        return row["call_site"] or row["task"] or "put"
    pid = row[f"{group_by}_pid"]
    return _NOWHERE if pid is None else f"{names.get(pid, 'process that has ended')} (pid {pid})"


@click.command(short_help="Show what processes of a session have published for others.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Publications at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@session_option
@timeout_option
def transfers(limit: int, as_json: bool, session: str | None, timeout: float) -> None:
    """Show the memory that processes of a running session have published: for whom, how long, and who reads it.

    \b
    holder    the process in whose arena it lies
    kind      direct: tensors in place, or a snapshot; gloo, nixl and the like: tensors in place that the transport
              of that name fetches; store: a stored copy; disk: moved there; retired: its object is gone, and it
              goes when the last lease is back
    age       since it was published
    owner     the process to whose object it belongs
    readers   pids of processes that may read it now
    leases    pids of those whose pages are not given back yet, readers included

    The largest come first. A producer must not write to direct tensors as long as there are readers, unless they were
    published with isolation="snapshot". What has been moved so far, and how fast: `beeline top`, `beeline timeline`.
    """  # noqa: D301 - \b is a character that click reads
    from beeline import _core
    from beeline.util.state import rows
    from beeline.util.state.snapshot import Snapshot

    with sessions.errors_for_people():
        snapshot = Snapshot(session, _core.PART_OBJECTS, timeout)
    objects = {
        (row["holder"], row["slot"], row["generation"]): row["object_id"]
        for process in snapshot.members()
        for row in process["objects"]
        if row["holder"]
    }
    every = [
        {
            "holder_pid": row["pid"],
            "object_id": objects.get(key),
            "kind": _kind_of(row),
            "nbytes": row["nbytes"],
            "buffers": row["buffers"],
            "age_s": row["age_s"],
            "owner_pid": snapshot.pid_of(row["owner"]),
            "readers": row["readers"],
            "leases": row["leases"],
        }
        for key, row in rows.publications(snapshot).items()
        if row["nbytes"]  # what travels in messages is no transfer
    ]
    every.sort(key=lambda row: -row["nbytes"])
    note = snapshot.missing("objects")
    if as_json:
        total = sum(row["nbytes"] for row in every)
        sessions.echo_data("json", {"publications": every[:limit], "total_bytes": total, "incomplete": note})
        return
    if every:
        _show_transfers(every[:limit], {row["pid"]: row["what"] for row in snapshot.members()})
    read = sum(bool(row["readers"]) for row in every)
    click.echo(f"{len(every)} publications, {size_text(sum(row['nbytes'] for row in every))}; {read} are being read")
    if note:
        click.echo(f"The answer is incomplete: {note}.", err=True)


def _kind_of(row: dict[str, Any]) -> str:
    if row["is_retired"]:
        return "retired"
    if row["is_moved_out"]:
        return "disk"
    return row["transport"] or ("direct" if row["is_direct"] else "store")


def _show_transfers(every: list[dict[str, Any]], names: dict[int, str]) -> None:
    columns = ("holder", "object_id", "kind", "size", "buffers", "age", "owner", "readers", "leases")
    shown = [
        {
            **row,
            "holder": f"{names[row['holder_pid']]} (pid {row['holder_pid']})",
            "size": size_text(row["nbytes"]),
            "age": time_text(row["age_s"]),
            "owner": row["owner_pid"],
            "readers": ", ".join(map(str, row["readers"])) or None,
            "leases": ", ".join(map(str, row["leases"])) or None,
        }
        for row in every
    ]
    sessions.console().print(sessions.table_of(columns, shown, right=("size", "buffers", "age", "owner")))
