"""`beeline timeline`: the last transfers one by one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beeline.cli.agents import Duration, folder_option, printable, size_text, speed_text, time_text

if TYPE_CHECKING:
    from beeline.transfer.timeline import Span, Timeline

_SHOWN = 50


@click.command(short_help="Show your agents' last transfers one by one.")
@click.option("--json", "target", metavar="FILE", help="Write all of them in Chrome's trace format; - is the output.")
@click.option("--last", type=Duration(), help="Only what ended in the last 500ms, 10s or 2m.  [default: all there is]")
@folder_option
def timeline(target: str | None, last: float | None, folder: str) -> None:
    """Show the last transfers of the agents of this user on this host, one by one.

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

    What --json writes opens in https://ui.perfetto.dev and chrome://tracing: a row for each thread of each process.

    \b
      beeline timeline --last 10s
      beeline timeline --last 10s --json out.json
    """  # noqa: D301 - \b is a character that click reads
    from beeline.transfer import timeline as kept

    found = kept.read(folder, last_s=last)
    if target is None:
        _show(Console(), found)
        return
    try:
        with click.open_file(target, "w") as file:
            json.dump(found.to_chrome(), file)
    except OSError as error:
        raise click.ClickException(f"cannot write {target}: {error.strerror or error}") from error
    for line in _summary(found):
        click.echo(line, err=True)


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
