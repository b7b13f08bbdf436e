"""Agents as the command line names them, and amounts as it takes and prints them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from beeline.transfer.counters import AgentCounters, Row

_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SHORTEST_ID = 4

folder_option = click.option(
    "--folder", default="", metavar="DIR", help="Where the agents keep their files, if they were told to (folder=)."
)
token_option = click.option(
    "--token", default="", envvar="BEELINE_TOKEN", help="What agents ask of whoever comes by TCP.  [env: BEELINE_TOKEN]"
)
tls_option = click.option(
    "--tls",
    nargs=3,
    type=click.Path(exists=True, dir_okay=False),
    envvar="BEELINE_TLS",
    metavar="CERTIFICATE KEY CA",
    help="PEM files, for agents that ask for a certificate.  [env: BEELINE_TLS, separated by colons]",
)


class Size(click.ParamType):
    """A number of bytes: 4096, 64KiB, 1MiB, 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Fails for what is no size, or none at all."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)\s*([KMG]i?B)?", str(value).strip(), re.IGNORECASE)
        if not match or int(match[1]) == 0:
            self.fail(f"{value!r} is no size: write 4096, 64KiB, 1MiB or 2GiB", param, ctx)
        return int(match[1]) * _UNITS[(match[2] or "").upper()]


class Duration(click.ParamType):
    """A time in seconds: 10s, 500ms, 2m, 1.5."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails for what is no time, or none at all."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?", str(value).strip())
        if not match or float(match[1]) == 0:
            self.fail(f"{value!r} is no time: write 500ms, 10s or 2m", param, ctx)
        return float(match[1]) * _SECONDS[match[2] or "s"]


def find(text: str, folder: str) -> tuple[str, AgentCounters | None]:
    """The address of an agent that was named, and its counters where it is on this host.

    Args:
        text: An address, or a live agent's name, or the beginning of its id.
        folder: Where the agents keep their files.

    Raises ClickException, with the names there are, where none or several agents are meant.
    """
    from beeline.transfer import counters

    agents = [agent for agent in counters.live(folder) if agent.address]
    if text.startswith("beeline://"):
        known = [agent for agent in agents if agent.address == text]
        return text, known[0] if known else None
    named = [agent for agent in agents if agent.name == text]
    if not named and len(text) >= _SHORTEST_ID:
        named = [agent for agent in agents if agent.id.startswith(text)]
    if len(named) == 1:
        return named[0].address, named[0]
    if named:
        ids = ", ".join(f"{agent.id} (pid {agent.pid})" for agent in named)
        raise click.ClickException(
            f"{len(named)} agents are called {text!r}; say which by the beginning of its id: {ids}"
        )
    there = ", ".join(sorted({agent.name for agent in agents})) or "none"
    raise click.ClickException(
        f"no agent called {text!r} runs in {folder or counters.folder()}; those that run: {there}. "
        "An agent elsewhere is named by its address (beeline://..., Agent.address)."
    )


def measured_by(source: str, address: str, folder: str) -> list[Row]:
    """What an agent of this host has measured of its transfers with the one at an address.

    Raises ClickException where the agent is not on this host, or as `find`.
    """
    _, found = find(source, folder)
    if found is None:
        raise click.ClickException(
            f"{source} is not an agent of this user on this host, so its counters cannot be read: "
            "run this command where it runs, or leave it out"
        )
    query = address.partition("?")[2]
    peer_id = next((part[3:] for part in query.split("&") if part.startswith("id=")), "")
    return [row for row in found.rows if row.peer_id == peer_id]


def printable(text: str) -> str:
    """What a process calls itself, without what would steer a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def size_text(count: float) -> str:
    """1536 as "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 999.5 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def time_text(seconds: float | None, digits: int = 2) -> str:
    """0.000123 as "120 us"; None as "-". `digits`: the significant ones."""
    if seconds is None:
        return "-"
    for unit, factor in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        value = float(f"{seconds * factor:.{digits}g}")
        if value < 1000:
            return f"{value:g} {unit}"
    return f"{float(f'{seconds:.{digits}g}'):g} s"


def speed_text(gbps: float | None) -> str:
    """10^9 bytes per second; None as "-"."""
    return "-" if gbps is None else f"{gbps:.3g}"
