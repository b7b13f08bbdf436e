"""Metrics of programs that run, read from outside, and as Prometheus takes them.

    for process in metrics_files.live():
        for series in process.series:
            print(process.session_name, process.pid, series.name, series.tags, series.value)

Reading costs the program nothing: each process of a session keeps them in a file, `agents/p<index>.metrics` of the
session's folder. The file's format is described in docs/wire_format.md.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from beeline import _core
from beeline.exceptions import BeelineError

SUFFIX = ".metrics"
KINDS = ("counter", "gauge", "histogram")
# Of every series, beside its own tags: Ray's names.
LABELS = ("SessionName", "WorkerId", "Pid")


@dataclass(frozen=True)
class Series:
    """The values of one metric with one set of tags."""

    kind: str  # one of KINDS
    name: str
    description: str
    tags: dict[str, str]
    value: float  # of a histogram: the sum of what was observed
    boundaries: tuple[float, ...]
    counts: tuple[int, ...]  # of a histogram: how many lie within each boundary and above the one before; then the rest


@dataclass(frozen=True)
class ProcessMetrics:
    """What one process has recorded, as it was when it was read."""

    path: str
    session_name: str
    worker_id: str
    pid: int
    started: float  # seconds since 1970
    alive: bool
    lost: int  # series that found no room: what they record is dropped
    series: tuple[Series, ...]


def read(path: str) -> ProcessMetrics | None:
    """The metrics in one file; None when it is not there (any more).

    Raises ValueError: it is no file of metrics, cut short, of another version, or of another user.
    """
    raw = _core.read_metrics(path)
    if raw is None:
        return None
    return ProcessMetrics(
        path=path,
        session_name=os.path.basename(os.path.dirname(os.path.dirname(path))),
        worker_id=f"{raw['process']:056x}",
        pid=raw["pid"],
        started=raw["started_ns"] / 1e9,
        alive=raw["alive"],
        lost=raw["lost"],
        series=tuple(
            Series(
                kind=KINDS[row["kind"]],
                name=row["name"],
                description=row["description"],
                tags=dict(row["tags"]),
                value=row["value"],
                boundaries=tuple(row["bounds"]),
                counts=tuple(row["counts"]),
            )
            for row in raw["series"]
        ),
    )


def scan() -> tuple[list[ProcessMetrics], dict[str, str]]:
    """Of all processes of this user's sessions; and the files that could not be read, with why."""
    found, unreadable = [], {}
    user_folder = os.path.dirname(_core.agents_folder())
    for path in sorted(glob.glob(os.path.join(glob.escape(user_folder), "session-*", "agents", f"*{SUFFIX}"))):
        try:
            process = read(path)
        except (BeelineError, ValueError, OSError, RuntimeError) as error:
            unreadable[path] = str(error)
            continue
        if process is not None:
            found.append(process)
    return found, unreadable


def live() -> list[ProcessMetrics]:
    """Of processes that run. What cannot be read is left out: `scan` says what and why."""
    return [process for process in scan()[0] if process.alive]


def collector() -> Collector:
    """All metrics of this user's sessions, to be registered with a `prometheus_client` registry."""
    return _Collector()


class _Collector(Collector):
    # Empty: registering it does not read the files.
    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        found, unreadable = scan()
        processes = [process for process in found if process.alive]
        files = GaugeMetricFamily("beeline_metrics_unreadable", "Files of metrics that could not be read.")
        files.add_metric([], len(unreadable))
        yield files
        lost = GaugeMetricFamily("beeline_metrics_lost", "Series that found no room.", labels=LABELS)
        for process in processes:
            lost.add_metric(_labels_of(process), process.lost)
        yield lost
        families: dict[str, list[tuple[ProcessMetrics, Series]]] = {}
        for process in processes:
            for series in process.series:
                families.setdefault(series.name, []).append((process, series))
        conflicts = 0
        for name, rows in sorted(families.items()):
            kind = rows[0][1].kind
            alike = [row for row in rows if row[1].kind == kind]
            conflicts += len(rows) - len(alike)
            yield _family(name, kind, alike)
        conflicting = GaugeMetricFamily(
            "beeline_metrics_conflicting",
            "Series left out: another process has a metric of that name and another type.",
        )
        conflicting.add_metric([], conflicts)
        yield conflicting


def _labels_of(process: ProcessMetrics) -> list[str]:
    return [process.session_name, process.worker_id, str(process.pid)]


def _family(name: str, kind: str, rows: list[tuple[ProcessMetrics, Series]]) -> Metric:
    keys = sorted({key for _, series in rows for key in series.tags} - set(LABELS))
    types = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    family = types[kind](f"ray_{name}", rows[0][1].description or name, labels=(*keys, *LABELS))
    for process, series in rows:
        labels = [*(series.tags.get(key, "") for key in keys), *_labels_of(process)]
        if kind == "histogram":
            family.add_metric(labels, _buckets(series), series.value)
        else:
            family.add_metric(labels, series.value)
    return family


def _buckets(series: Series) -> list[tuple[str, float]]:
    """As Prometheus has them: how many were at most each boundary."""
    below, buckets = 0, []
    for boundary, count in zip((*(str(bound) for bound in series.boundaries), "+Inf"), series.counts, strict=True):
        below += count
        buckets.append((boundary, float(below)))
    return buckets
