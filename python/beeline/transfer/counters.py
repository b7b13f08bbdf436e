"""Counters of transfers, read from outside: every agent keeps them in a file beside its socket.

    for agent in counters.live():
        for row in agent.rows:
            print(agent.name, row.peer, row.path, row.nbytes, row.latency.quantile(0.99))

Reading costs the agent nothing: it is not asked. The file's format is described in docs/wire_format.md.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from beeline import _core
from beeline.exceptions import BeelineError

SUFFIX = ".counters"
SIZES = ("<4KiB", "<64KiB", "<1MiB", "<16MiB", ">=16MiB")
OPERATIONS = ("fetch", "push", "map")


@dataclass(frozen=True)
class Latency:
    """How long transfers took: `counts[i]` of them 2**i ns or more, and less than 2**(i + 1) ns.

    The last one also counts what took longer.
    """

    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Seconds within which `share` (0 to 1) of them ended, by interpolation within a bucket; None of none.

        True to a factor of two: buckets are no finer.
        """
        if not self.total:
            return None
        wanted = share * self.total
        below = 0
        for at, count in enumerate(self.counts):
            if count and below + count >= wanted:
                return 2**at * (1 + (wanted - below) / count) / 1e9
            below += count
        return 2 ** len(self.counts) / 1e9

    def __add__(self, other: Latency) -> Latency:
        return Latency(tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)))

    def __sub__(self, other: Latency) -> Latency:
        return Latency(tuple(a - b for a, b in zip(self.counts, other.counts, strict=True)))


@dataclass(frozen=True)
class Row:
    """What one agent has moved from or to one peer, by one path, in one class of sizes.

    A transfer is what moves by one path at a time: a fetch of many tensors is one, or two where some of them lie in
    the owner's arena and others do not. `operation` "map" moves no byte: `nbytes` is what was made visible. What failed
    without a path (the registration was undone, no path would do, no grant) is counted as `path` "none".
    """

    peer_id: str
    peer: str
    path: str
    operation: str
    size: str
    nbytes: int
    seconds: float
    failures: int  # attempts that failed, by whatever cause
    failovers: int  # those of them after which another path was looked for
    latency: Latency

    @property
    def transfers(self) -> int:
        """How many have succeeded."""
        return self.latency.total

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the row counts, unique within its agent."""
        return self.peer_id, self.path, self.operation, self.size

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "peer": self.peer,
            "peer_id": self.peer_id,
            "path": self.path,
            "operation": self.operation,
            "size": self.size,
            "transfers": self.transfers,
            "bytes": self.nbytes,
            "seconds": self.seconds,
            "failures": self.failures,
            "failovers": self.failovers,
            "p50_s": self.latency.quantile(0.5),
            "p99_s": self.latency.quantile(0.99),
            "latency_ns_log2": list(self.latency.counts),
        }


@dataclass(frozen=True)
class AgentCounters:
    """One agent's counters, as they were when they were read."""

    path: str
    name: str
    id: str
    pid: int
    address: str
    started: float  # seconds since 1970
    alive: bool  # its process, or one that was forked from it, is there
    refused: int  # callers that were turned away
    registrations: int  # now, as the two below
    visitors: int  # agents that have connected to it
    peers: int  # agents that it has connected to
    unreached: int  # times that it could not connect to an agent
    rows: tuple[Row, ...]
    rows_lost: int  # kinds of transfers that found no row of their own: `rest` has them all
    rest: Row

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "name": self.name,
            "id": self.id,
            "pid": self.pid,
            "address": self.address,
            "started": self.started,
            "alive": self.alive,
            "refused": self.refused,
            "registrations": self.registrations,
            "visitors": self.visitors,
            "peers": self.peers,
            "unreached": self.unreached,
            "rows": [row.to_dict() for row in self.rows],
            "rows_lost": self.rows_lost,
            "rest": self.rest.to_dict(),
        }


def folder() -> str:
    """Where agents of this user keep their files unless they are told otherwise."""
    return _core.agents_folder()


def read(path: str) -> AgentCounters | None:
    """The counters in one file; None when it is not there (any more).

    Raises:
        ValueError: It is no file of counters, cut short, of another version, or of another user.
    """
    raw = _core.read_counters(path)
    if raw is None:
        return None
    return AgentCounters(
        path=path,
        name=raw["name"],
        id=raw["id"],
        pid=raw["pid"],
        address=raw["address"],
        started=raw["started_ns"] / 1e9,
        alive=raw["alive"],
        refused=raw["refused"],
        registrations=raw["registrations"],
        visitors=raw["visitors"],
        peers=raw["peers"],
        unreached=raw["unreached"],
        rows=tuple(_row(row) for row in raw["rows"]),
        rows_lost=raw["rows_lost"],
        rest=_row(raw["rest"]),
    )


def scan(where: str = "") -> tuple[list[AgentCounters], dict[str, str]]:
    """All agents whose files lie in a folder, dead ones among them, by name; and what could not be read, with why.

    Without a folder also the processes of this user's sessions: drivers, workers and actors. They have no address.
    """
    found, unreadable = [], {}
    patterns = [glob.escape(where or folder())]
    if not where:
        patterns.append(os.path.join(glob.escape(os.path.dirname(folder())), "session-*", "agents"))
    for path in itertools.chain.from_iterable(glob.iglob(os.path.join(each, f"*{SUFFIX}")) for each in patterns):
        try:
            agent = read(path)
        except (BeelineError, ValueError, OSError, RuntimeError) as error:
            unreadable[path] = str(error)
            continue
        if agent is not None:
            found.append(agent)
    return sorted(found, key=lambda agent: (agent.name, agent.started, agent.id)), unreadable


def live(where: str = "") -> list[AgentCounters]:
    """The agents that run, by name. What cannot be read is left out: `scan` says what and why."""
    return [agent for agent in scan(where)[0] if agent.alive]


def total(rows: Iterable[Row]) -> Row | None:
    """The sum of rows: what they have in common keeps its name, all else is "*". None of none."""
    every: Sequence[Row] = list(rows)
    if not every:
        return None
    summed = every[0].latency
    for row in every[1:]:
        summed += row.latency

    def common(name: str) -> str:
        values = {getattr(row, name) for row in every}
        return values.pop() if len(values) == 1 else "*"

    return Row(
        peer_id=common("peer_id"),
        peer=common("peer"),
        path=common("path"),
        operation=common("operation"),
        size=common("size"),
        nbytes=sum(row.nbytes for row in every),
        seconds=sum(row.seconds for row in every),
        failures=sum(row.failures for row in every),
        failovers=sum(row.failovers for row in every),
        latency=summed,
    )


def _row(raw: dict[str, Any]) -> Row:
    return Row(
        peer_id=raw["peer_id"],
        peer=raw["peer"],
        path=raw["path"],
        operation=raw["operation"],
        size=SIZES[raw["size_class"]],
        nbytes=raw["nbytes"],
        seconds=raw["nanoseconds"] / 1e9,
        failures=raw["failures"],
        failovers=raw["failovers"],
        latency=Latency(tuple(raw["latency"])),
    )
