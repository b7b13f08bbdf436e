"""`beeline timeline`: the last transfers, or the last tasks of a session, one by one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beeline.cli import sessions
from beeline.cli.agents import Duration, folder_option, printable, size_text, speed_text, time_text

if TYPE_CHECKING:
    from beeline.transfer.timeline import Span, Timeline

_SHOWN = 50


@click.command(short_help="Show your agents' last transfers, or a session's last tasks, one by one.")
@click.option("--tasks", "of_tasks", is_flag=True, help="Show the tasks of a session instead of transfers.")
@click.option("--json", "target", metavar="FILE", help="Write all of them in Chrome's trace format; - is the output.")
@click.option("--last", type=Duration(), help="Only what ended in the last 500ms, 10s or 2m.  [default: all there is]")
@folder_option
@sessions.session_option
@sessions.timeout_option
def timeline(
    of_tasks: bool, target: str | None, last: float | None, folder: str, session: str | None, timeout: float
) -> None:
    """Show the last transfers of the agents of this user on this host, one by one; with --tasks, or --session, the last
    tasks of a session (`ray timeline`).

    Each agent keeps its last 2048 transfers of 10 us and more, and as many shorter ones, in a file, which is read: the
    agents themselves are not asked, and need not be well. Those of killed agents are shown until the next one opens.
    Without --json the newest 50 are printed.

    \b
    ago       before now that it began
    agent     whose transfer it was
    op        the operation: fetch, push, map (which moves no byte) or publish
    peer      whose memory it was; the name of what was published
    path      by which the bytes went; "none": what failed without one
    took      until the bytes were there, or it had failed
    outcome   "ok", or what it failed by

    Tasks are those attempts that have ended, as far as they are kept (`beeline list tasks`); the session is asked for
    them while it runs.

    What --json writes opens in https://ui.perfetto.dev and chrome://tracing: a row for each thread of each process; of
    tasks, a row for each process.

    \b
      beeline timeline --last 10s
      beeline timeline --last 10s --json out.json
      beeline timeline --tasks --json out.json
    """  # noqa: D301 - \b is a character that click reads
    if of_tasks or session is not None:
        if folder:
            raise click.UsageError("--folder is of transfers: a session's tasks are asked of its processes.")
        _tasks(target, last, session, timeout)
        return
    from beeline.transfer import timeline as kept

    found = kept.read(folder, last_s=last)
    if target is None:
        _show(Console(), found)
        return
    _write(target, found.to_chrome())
    for line in _summary(found):
        click.echo(line, err=True)


def _write(target: str, trace: Any) -> None:
    try:
        with click.open_file(target, "w") as file:
            json.dump(trace, file)
    except OSError as error:
        raise click.ClickException(f"cannot write {target}: {error.strerror or error}") from error


def _tasks(target: str | None, last: float | None, session: str | None, timeout: float) -> None:
    from beeline import _core
    from beeline.util.state.snapshot import Snapshot
    from beeline.util.state.timeline import events_of

    with sessions.errors_for_people():
        snapshot = Snapshot(session, _core.PART_TASKS, timeout)
        events = events_of(snapshot)
    now_us = time.time() * 1e6
    runs = [event for event in events if event["ph"] == "X"]
    if last is not None:
        runs = [event for event in runs if event["ts"] + event["dur"] >= now_us - last * 1e6]
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    runs.sort(key=lambda event: event["ts"])
    if target is not None:
        _write(target, [*(event for event in events if event["ph"] == "M"), *runs])
    else:
        if runs:
            sessions.console().print(_table_of_tasks(runs[-_SHOWN:], names, now_us))
        if len(runs) > _SHOWN:
            click.echo(f"The newest {_SHOWN}; --json FILE writes all of them.")
    processes = {event["pid"] for event in runs}
    total = f"{_count(len(runs), 'task')} of {len(processes)} {'process' if len(processes) == 1 else 'processes'}."
    click.echo(total, err=target is not None)
    if why := snapshot.missing("tasks"):
        sessions.echo_notes([f"The answer is incomplete: {why}."])


def _table_of_tasks(runs: list[dict[str, Any]], names: dict[int, str], now_us: float) -> Table:
    rows = [
        {
            "ago": time_text((now_us - event["ts"]) / 1e6, 3),
            "task": event["name"],
            "process": names.get(event["pid"], f"pid {event['pid']}"),
            "took": time_text(event["dur"] / 1e6),
            "outcome": event["args"]["error_type"] or event["args"]["state"],
        }
        for event in runs
    ]
    return sessions.table_of(list(rows[0]), rows, right=("ago", "took"))


def _summary(found: Timeline) -> list[str]:
    agents = {span.agent_id for span in found.spans}
    lines = [f"{_count(len(found.spans), 'transfer')} of {_count(len(agents), 'agent')}."]
    if total := sum(found.overwritten.values()):
        lines.append(f"{_count(total, 'older one')} overwritten by those that came later.")
    if total := sum(found.lost.values()):
        lines.append(f"{_count(total, 'more')} could not be recorded, or not be read, for want of time.")
    lines += [f"{printable(path)}: {printable(why)}" for path, why in found.unreadable.items()]
    return lines


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 or what == 'more' else 's'}"


def _show(console: Console, found: Timeline) -> None:
    if found.spans:
        now = time.monotonic_ns()
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("ago", no_wrap=True, justify="right")
        for name in ("agent", "op", "peer", "path"):
            table.add_column(name, overflow="fold")
        for name in ("bytes", "took", "GB/s"):
            table.add_column(name, no_wrap=True, justify="right")
        table.add_column("outcome", overflow="fold")
        for span in found.spans[-_SHOWN:]:
            table.add_row(*_cells(span, now))
        console.print(table)
        if len(found.spans) > _SHOWN:
            console.print(Text(f"The newest {_SHOWN}; --json FILE writes all of them."))
    for line in _summary(found):
        console.print(Text(line))


def _cells(span: Span, now: int) -> tuple[Text | str, ...]:
    return (
        time_text((now - span.begin_ns) / 1e9, 3),
        Text(printable(span.agent)),
        span.operation,
        Text(printable(span.peer or span.name)),
        Text(printable(span.path)),
        size_text(span.nbytes),
        time_text(span.seconds),
        speed_text(span.gbps),
        Text(span.outcome, style="" if span.outcome == "ok" else "red"),
    )
