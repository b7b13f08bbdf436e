"""The last transfers of agents one by one, read from outside: every agent keeps its spans in a file beside its socket.

    timeline = read(last_s=10)
    for span in timeline.spans:
        print(span.agent, span.operation, span.peer, span.path, span.nbytes, span.seconds, span.outcome)
    json.dump(timeline.to_chrome(), file)  # opens in https://ui.perfetto.dev and chrome://tracing

Reading costs the agents nothing: they are not asked. The file's format is described in docs/wire_format.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from beeline import _core
from beeline.exceptions import BeelineError
from beeline.transfer import counters

SUFFIX = ".spans"


@dataclass(frozen=True)
class Span:
    """One transfer, as `counters.Row` counts them, or one version that was published.

    What failed before a path was taken has `path` "none". `outcome` is "ok", or says what it failed by ("peer lost").
    """

    agent: str
    agent_id: str
    pid: int
    thread: int  # the kernel's number
    operation: str  # "fetch", "push", "map" or "publish"
    peer: str  # whose memory it was; empty for a publication
    path: str  # likewise
    name: str  # of what was published, cut to 24 bytes; else empty
    begin_ns: int  # of time.monotonic_ns()
    nanoseconds: int
    nbytes: int
    outcome: str

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.nanoseconds / 1e9

    @property
    def gbps(self) -> float | None:
        """10^9 bytes per second; None where no byte moved."""
        if self.outcome != "ok" or self.operation == "map" or not self.nanoseconds:
            return None
        return self.nbytes / self.nanoseconds

    def to_chrome(self) -> dict[str, Any]:
        """As an event of Chrome's trace format; times in microseconds."""
        return {
            "name": f"{self.operation} {self.peer or self.name}",
            "cat": self.operation,
            "ph": "X",
            "pid": self.pid,
            "tid": self.thread,
            "ts": self.begin_ns / 1e3,
            "dur": self.nanoseconds / 1e3,
            "args": {
                "agent": self.agent,
                "agent_id": self.agent_id,
                "peer": self.peer,
                "path": self.path,
                "bytes": self.nbytes,
                "GB/s": self.gbps,
                "outcome": self.outcome,
            },
        }


@dataclass(frozen=True)
class Timeline:
    """Spans of several agents by when they began, and what is missing from them, by the agent's id."""

    spans: tuple[Span, ...]
    overwritten: dict[str, int]  # older than what an agent keeps
    lost: dict[str, int]  # were being written by one thread, or read, when another one came by
    unreadable: dict[str, str]  # files, with why

    def to_chrome(self) -> dict[str, Any]:
        """A trace in Chrome's JSON format: a row for each thread of each process, in which agents' transfers lie."""
        names: dict[int, list[str]] = {}
        for span in self.spans:
            agents = names.setdefault(span.pid, [])
            if span.agent not in agents:
                agents.append(span.agent)
        events: list[dict[str, Any]] = [
            {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": ", ".join(agents)}}
            for pid, agents in names.items()
        ]
        events += [span.to_chrome() for span in self.spans]
        missing = {"overwritten": self.overwritten, "lost": self.lost, "unreadable": self.unreadable}
        return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"clock": "CLOCK_MONOTONIC", **missing}}


def read(where: str = "", *, last_s: float | None = None) -> Timeline:
    """What the agents whose files lie in a folder keep of their transfers; of killed ones too, until one opens there.

    Args:
        where: The folder; by default where agents keep their files by default.
        last_s: Only what ended in the last so many seconds; by default all there is.
    """
    since_ns = None if last_s is None else time.monotonic_ns() - int(last_s * 1e9)
    agents, unreadable = counters.scan(where)
    spans: list[Span] = []
    overwritten: dict[str, int] = {}
    lost: dict[str, int] = {}
    for agent in agents:
        path = agent.path.removesuffix(counters.SUFFIX) + SUFFIX
        try:
            raw = _core.read_spans(path)
            # Read again: rows are written before the spans that name them.
            agent = counters.read(agent.path) or agent
        except (BeelineError, ValueError, OSError, RuntimeError) as error:
            unreadable[path] = str(error)
            continue
        if raw is None:
            continue  # it has ended meanwhile
        spans += (
            span
            for span in _spans_of(agent, raw["spans"])
            if since_ns is None or span.begin_ns + span.nanoseconds >= since_ns
        )
        overwritten[agent.id] = raw["overwritten"]
        lost[agent.id] = raw["dropped"] + raw["changing"]
    return Timeline(tuple(sorted(spans, key=lambda span: span.begin_ns)), overwritten, lost, unreadable)


def _spans_of(agent: counters.AgentCounters, raw: list[tuple]) -> Iterator[Span]:
    for begin_ns, nanoseconds, nbytes, thread, row, operation, outcome, name in raw:
        # Row 0 counts what found no row of its own; rows begin with the first one after it.
        known = agent.rows[row - 1] if 0 < row <= len(agent.rows) else agent.rest
        yield Span(
            agent=agent.name,
            agent_id=agent.id,
            pid=agent.pid,
            thread=thread,
            operation=operation,
            peer=known.peer,
            path=known.path,
            name=name,
            begin_ns=begin_ns,
            nanoseconds=nanoseconds,
            nbytes=nbytes,
            outcome=outcome,
        )
