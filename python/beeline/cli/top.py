"""`beeline top`: what agents move, as it happens."""

from __future__ import annotations

import dataclasses
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from beeline.cli import tables
from beeline.cli.agents import folder_option, printable, size_text

if TYPE_CHECKING:
    from beeline.transfer.counters import AgentCounters, Row
    from beeline.util.session_metrics import Store

# Sessions are asked, and files are read: not at every reading of a short interval.
_ASK_EVERY_S = 1.0


class _Watch:
    """Readings one after the other, and what moved between the last two."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._before: dict[tuple[str, ...], int] = {}
        self._at = 0.0
        self.agents: list[AgentCounters] = []
        self.unreadable: dict[str, str] = {}
        self._gbps: dict[tuple[str, ...], float] = {}
        self._asked_at = -_ASK_EVERY_S
        self.on_disk: list[Store] = []

    def read(self) -> None:
        from beeline.transfer import counters

        found, self.unreadable = counters.scan(self._folder)
        now = time.monotonic()
        self.agents = [agent for agent in found if agent.alive]
        bytes_now: dict[tuple[str, ...], int] = {
            (agent.id, *row.key): row.nbytes for agent in self.agents for row in agent.rows
        }
        took = now - self._at
        self._gbps = {
            key: (count - self._before.get(key, 0)) / took / 1e9
            for key, count in bytes_now.items()
            if self._at and took
        }
        self._before, self._at = bytes_now, now
        if not self._folder and now - self._asked_at >= _ASK_EVERY_S:
            self._ask()
            self._asked_at = now

    def _ask(self) -> None:
        from beeline.util import session_metrics

        found, _ = session_metrics.stores()
        self.on_disk = [store for store in found if store.spilled_objects or store.restored_objects]

    def gbps_now(self, agent: AgentCounters, row: Row) -> float | None:
        """Of what moves: a mapping does not."""
        return None if row.operation == "map" else self._gbps.get((agent.id, *row.key))


@click.command(short_help="Watch what your agents transfer.")
@click.option("--once", is_flag=True, help="Print one reading and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one reading as one JSON object and end.")
@click.option(
    "--interval", default=1.0, show_default=True, type=click.FloatRange(min=0.05), help="Seconds between readings."
)
@folder_option
def top(once: bool, as_json: bool, interval: float, folder: str) -> None:
    """Watch what agents and actors of this user on this host transfer, until Ctrl-C.

    Each agent, and each process of a session, keeps counters in a file, which is read: nobody is asked, or need be
    well.
    A row is one operation of one agent with memory of one peer by one path, for sizes that are alike.

    \b
    peer       the other agent: whose memory is read or written
    path       by which the bytes go; "none": what failed without one
    op         the operation: fetch, push, or map, which moves no byte
    size       of a transfer
    GB/s now   moved since the reading before: "now" needs two, --interval apart
    GB/s       moved per second that transfers took, since the agent was opened
    count      transfers that succeeded
    bytes      that they moved, or that they made visible (map)
    p50, p99   how long half, and all but 1 %, of them took at most; within a factor of two
    failed     attempts that failed; by path "none": without a path, as the registration was undone, nothing was
               granted, or no path would do
    switched   those of them after which another path was looked for

    Above its rows each agent says what it has registered, which agents it has connected to (peers) and which to it
    (visitors), how many callers it refused, and how often it could not connect to one (unreached).

    Why a path is taken or not: `beeline paths`. One by one, with their times: `beeline timeline`. As Prometheus
    metrics: `beeline metrics`.
    """  # noqa: D301 - \b is a character that click reads
    console = Console()
    watch = _Watch(folder)
    watch.read()
    if as_json or once or not console.is_terminal:
        time.sleep(interval)
        watch.read()
        if as_json:
            click.echo(json.dumps(_as_dict(watch), indent=2))
        else:
            console.print(_render(watch))
        return
    try:
        with Live(_render(watch), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                watch.read()
                live.update(_render(watch), refresh=True)
    except KeyboardInterrupt:
        pass


def _as_dict(watch: _Watch) -> dict[str, Any]:
    agents = []
    for agent in watch.agents:
        told = agent.to_dict()
        for row, shown in zip(agent.rows, told["rows"], strict=True):
            shown["gbps_now"] = watch.gbps_now(agent, row)
        agents.append(told)
    on_disk = [dataclasses.asdict(store) for store in watch.on_disk]
    return {"agents": agents, "unreadable": watch.unreadable, "on_disk": on_disk}


def _render(watch: _Watch) -> RenderableType:
    parts: list[RenderableType] = []
    if not watch.agents:
        parts.append(Text("No agent runs."))
    for agent in watch.agents:
        title = Text.assemble((printable(agent.name), "bold"), f"  pid {agent.pid}  {printable(agent.id)[:8]}  ")
        counts = ((agent.registrations, "registration"), (agent.peers, "peer"), (agent.visitors, "visitor"))
        title.append("".join(f"{count} {what}{'' if count == 1 else 's'}, " for count, what in counts))
        title.append(f"{agent.refused} refused", style="red" if agent.refused else "")
        title.append(f", {agent.unreached} unreached" if agent.unreached else "", style="red")
        parts.append(title)
        if agent.rows:
            parts.append(tables.transfers(agent.rows, partial(watch.gbps_now, agent)))
        else:
            parts.append(Text("has transferred nothing yet"))
        parts.append(Text())
        if agent.rows_lost:
            rest = agent.rest
            parts.append(
                Text(
                    f"{agent.rows_lost} more kinds of transfers found no room for rows of their own; together: "
                    f"{rest.transfers} transfers, {size_text(rest.nbytes)}, {rest.failures} failed"
                )
            )
    if watch.on_disk:
        parts.append(tables.on_disk(watch.on_disk))
    for path, why in watch.unreadable.items():
        parts.append(Text(f"{printable(path)}: {printable(why)}", style="red"))
    return Group(*parts)
