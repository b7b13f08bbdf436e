"""Counters of transfers as Prometheus metrics, read when they are asked for.

In a program of your own, beside what else it exports:

    from prometheus_client import REGISTRY
    from beeline.transfer import prometheus

    REGISTRY.register(prometheus.collector(pid=os.getpid()))

For all agents of a user on a machine: `beeline metrics --port 9464`. Names and labels: docs/observability.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from beeline.transfer import counters

_LABELS = ("agent", "agent_id", "peer", "peer_id", "path", "operation", "size")
_AGENT_LABELS = ("agent", "agent_id")
# Exponents of two, in nanoseconds, of the buckets' upper bounds: 256 ns to 69 s, by factors of four. A bound of theirs
# is one of the file's, so that no count is a guess.
_BOUNDS = tuple(range(8, 37, 2))


def collector(folder: str = "", *, pid: int | None = None) -> Collector:
    """A collector to be registered with a `prometheus_client` registry.

    Args:
        folder: Where the agents keep their files; by default where they do so by default.
        pid: Only agents of that process; by default all live ones of this user.
    """
    return _Collector(folder, pid)


class _Collector(Collector):
    def __init__(self, folder: str, pid: int | None) -> None:
        self._folder = folder
        self._pid = pid

    # Empty: registering it does not read the files.
    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        found, unreadable = counters.scan(self._folder)
        agents = [agent for agent in found if agent.alive and self._pid in (None, agent.pid)]
        yield from _of_agents(agents, len(unreadable))
        yield from _of_rows(agents)


def _of_agents(agents: list[counters.AgentCounters], unreadable: int) -> Iterator[Metric]:
    files = GaugeMetricFamily("beeline_counters_unreadable", "Files of counters that could not be read.")
    files.add_metric([], unreadable)
    yield files
    started = GaugeMetricFamily("beeline_agent_start_time_seconds", "Since 1970.", labels=[*_AGENT_LABELS, "pid"])
    gauges = [
        ("registrations", "Regions of memory that the agent has registered now."),
        ("visitors", "Agents that have connected to it, now."),
        ("peers", "Agents that it has connected to, now."),
    ]
    families = {name: GaugeMetricFamily(f"beeline_agent_{name}", text, labels=_AGENT_LABELS) for name, text in gauges}
    refused = CounterMetricFamily("beeline_agent_refused", "Callers that were turned away.", labels=_AGENT_LABELS)
    unreached = CounterMetricFamily(
        "beeline_agent_unreached", "Times that it could not connect to an agent.", labels=_AGENT_LABELS
    )
    lost = CounterMetricFamily(
        "beeline_agent_rows_lost",
        "Kinds of transfers that are counted together, for want of room.",
        labels=_AGENT_LABELS,
    )
    for agent in agents:
        labels = (agent.name, agent.id)
        started.add_metric([*labels, str(agent.pid)], agent.started)
        for name, family in families.items():
            family.add_metric(labels, getattr(agent, name))
        refused.add_metric(labels, agent.refused)
        unreached.add_metric(labels, agent.unreached)
        lost.add_metric(labels, agent.rows_lost)
    yield from (started, *families.values(), refused, unreached, lost)


def _of_rows(agents: list[counters.AgentCounters]) -> Iterator[Metric]:
    names = {
        "transfers": "Transfers that succeeded.",
        "bytes": "Bytes that they moved, or with operation=map made visible.",
        "failures": "Attempts that failed.",
        "failovers": "Attempts that failed, after which another path was looked for.",
    }
    families = {
        name: CounterMetricFamily(f"beeline_transfer_{name}", text, labels=_LABELS) for name, text in names.items()
    }
    durations = HistogramMetricFamily(
        "beeline_transfer_duration_seconds", "How long transfers took that succeeded.", labels=_LABELS
    )
    for agent in agents:
        for row in (*agent.rows, *([agent.rest] if agent.rows_lost else [])):
            labels = (agent.name, agent.id, row.peer, row.peer_id, row.path, row.operation, row.size)
            families["transfers"].add_metric(labels, row.transfers)
            families["bytes"].add_metric(labels, row.nbytes)
            families["failures"].add_metric(labels, row.failures)
            families["failovers"].add_metric(labels, row.failovers)
            durations.add_metric(labels, _buckets(row.latency), row.seconds)
    yield from (*families.values(), durations)


def _buckets(latency: counters.Latency) -> list[tuple[str, float]]:
    below = [(str(2**bound / 1e9), float(sum(latency.counts[:bound]))) for bound in _BOUNDS]
    return [*below, ("+Inf", float(latency.total))]
