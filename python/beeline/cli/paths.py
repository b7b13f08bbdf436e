"""`beeline paths`: how one agent can reach another, and why not otherwise."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from beeline.cli import tables
from beeline.cli.agents import Size, find, folder_option, printable, size_text, speed_text, tls_option, token_option

if TYPE_CHECKING:
    from beeline.transfer.counters import Row

_MEMORY = {"arena": "in its arena", "other": "elsewhere"}


@click.command(short_help="Show by which paths an agent can be reached, and why.")
@click.argument("agents", nargs=-1, required=True, metavar="[A] B")
@click.option("--size", default="64MiB", type=Size(), help="Of the transfer that is asked about.  [default: 64MiB]")
@click.option("--timeout", default=10.0, show_default=True, help="Seconds to wait for an answer of B.")
@token_option
@tls_option
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def paths(
    agents: tuple[str, ...],
    size: int,
    timeout: float,
    token: str,
    tls: tuple[str, str, str] | None,
    folder: str,
    as_json: bool,
) -> None:
    """Show the paths to agent B: which can be used, how fast they are expected to be, which is taken, and why.

    B is an address (beeline://..., what Agent.address gives), or the name or the beginning of the id of an agent that
    runs on this host. An agent of this process's own connects to B by each path, so that what the kernel or the
    network does not permit shows; no tensor moves.

    \b
    path          by its name
    B's memory    in B's arena (made there, published, or under `beeline run`), or anywhere else
    GB/s          expected until four transfers of that size were measured
    why           what it lacks, or why it is (not) taken

    With A, an agent of this user on this host, also what A itself has measured of its transfers to B. What is possible
    is still asked from this process: A's own limits (another container, share_memory=False) may differ.

    \b
      beeline paths trainer
      beeline paths inference trainer --size 1KiB
      beeline paths 'beeline://trainer?id=...&tcp=10.0.0.1:7000' --token "$TOKEN"
    """  # noqa: D301 - \b is a character that click reads
    if len(agents) > 2:
        raise click.UsageError("one agent or two: [A] B")
    from beeline.exceptions import BeelineError
    from beeline.transfer import Agent, Tls

    address, _ = find(agents[-1], folder)
    measured: list[Row] = []
    if len(agents) == 2:
        _, source = find(agents[0], folder)
        if source is None:
            raise click.ClickException(
                f"{agents[0]} is not an agent of this user on this host, so its counters cannot be read: "
                "run this command where it runs, or leave it out"
            )
        peer_id = _id_of(address)
        measured = [row for row in source.rows if row.peer_id == peer_id]
    try:
        with Agent(f"beeline-paths-{os.getpid()}", token=token, tls=Tls(*tls) if tls else False, folder=folder) as own:
            possible = {
                memory: own.paths_to(address, size, in_arena=memory == "arena", timeout_s=timeout) for memory in _MEMORY
            }
    except (BeelineError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    answer = {"to": address, "size": size, "paths": possible, "measured_by": agents[0] if len(agents) == 2 else None}
    if as_json:
        told = [{**row.to_dict(), "gbps": tables.mean_gbps(row)} for row in measured]
        click.echo(json.dumps({**answer, "measured": told}, indent=2))
        return
    console = Console()
    _show_possible(console, answer)
    if len(agents) == 2:
        _show_measured(console, agents[0], agents[1], measured)


def _id_of(address: str) -> str:
    query = address.partition("?")[2]
    return next((part[3:] for part in query.split("&") if part.startswith("id=")), "")


def _show_possible(console: Console, answer: dict[str, Any]) -> None:
    target = printable(answer["to"].partition("?")[0])
    console.print(Text(f"A transfer of {size_text(answer['size'])} from {target} to a process on this host:"))
    table = Table("B's memory", "path", "", "GB/s", "why")
    for memory, explained in answer["paths"].items():
        for candidate in explained["candidates"]:
            is_chosen = candidate["path"] == explained["chosen"]
            sign = "[green]taken[/]" if is_chosen else "usable" if candidate["usable"] else "[red]no[/]"
            table.add_row(
                _MEMORY[memory],
                candidate["path"],
                sign,
                f"{speed_text(candidate['gbps'])} {'measured' if candidate['measured'] else 'expected'}",
                Text(printable(candidate["reason"])),
            )
        table.add_section()
    console.print(table)


def _show_measured(console: Console, source: str, target: str, rows: list[Row]) -> None:
    if not rows:
        console.print(Text(f"{printable(source)} has transferred nothing to or from {printable(target)} yet."))
        return
    console.print(Text(f"What {printable(source)} has measured with {printable(target)}:"))
    console.print(tables.transfers(rows))
