"""What processes of sessions store and have moved to disk: read from outside, and as Prometheus takes it.

    for store in session_metrics.stores()[0]:
        print(store.session_name, store.pid, store.used_bytes, store.spilled_bytes, store.spill_stalled_s)

It is in no file: each session is asked, and by it the processes, which have half a second to answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from beeline import _core
from beeline.exceptions import BeelineError
from beeline.util.metrics_files import LABELS

_GAUGES = {
    "used_bytes": "Bytes of the object store that are in use.",
    "quota_bytes": "Bytes that the object store may take; stored values beyond that are moved to disk.",
}
_COUNTERS = {
    "spilled_objects": "Stored values that were moved to disk.",
    "spilled_bytes": "Bytes of them.",
    "restored_objects": "Values that were read from disk, by whichever process they are.",
    "restored_bytes": "Bytes of them.",
    "spill_stalled_s": "Time that publications have waited for the disk.",
}


@dataclass(frozen=True)
class Store:
    """The object store of one process, as it was when it was asked."""

    session_name: str
    worker_id: str
    pid: int
    what: str  # "driver", "actor Producer", ...
    used_bytes: int
    quota_bytes: int
    spilled_objects: int  # since it began, as all that follows
    spilled_bytes: int
    restored_objects: int
    restored_bytes: int
    spill_stalled_s: float


def stores() -> tuple[list[Store], dict[str, int]]:
    """Of all processes of this user's sessions; and of each session, by name, how many did not answer.

    A session whose daemon does not answer has 1 there.
    """
    found, silent = [], {}
    for folder in _core.live_sessions():
        name = os.path.basename(folder)
        try:
            state = _core.session_state(folder, _core.PART_USAGE)
        except (BeelineError, ValueError, OSError, RuntimeError):  # it may have ended meanwhile
            if os.path.exists(folder):
                silent[name] = 1
            continue
        silent[name] = sum(row["unanswered"] for row in state["processes"])
        found += [_store(name, row) for row in state["processes"] if row["usage"]]
    return found, silent


def _store(session_name: str, row: dict[str, Any]) -> Store:
    usage: dict[str, int] = row["usage"]
    return Store(
        session_name=session_name,
        worker_id=f"{row['index']:056x}",
        pid=row["pid"],
        what=row["what"],
        used_bytes=usage["arena_used_bytes"],
        quota_bytes=usage["arena_quota_bytes"],
        spilled_objects=usage["spilled_objects"],
        spilled_bytes=usage["spilled_bytes"],
        restored_objects=usage["restored_objects"],
        restored_bytes=usage["restored_bytes"],
        spill_stalled_s=usage["spill_stalled_us"] / 1e6,
    )


def collector() -> Collector:
    """The stores of this user's sessions, to be registered with a `prometheus_client` registry."""
    return _Collector()


class _Collector(Collector):
    # Empty: registering it asks nobody.
    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        found, silent = stores()
        unanswered = GaugeMetricFamily(
            "beeline_session_unanswered", "Processes that did not answer in time.", labels=LABELS[:1]
        )
        for name, count in silent.items():
            unanswered.add_metric([name], count)
        yield unanswered
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, text in _GAUGES.items():
            families[name] = GaugeMetricFamily(f"beeline_store_{name}", text, labels=LABELS)
        for name, text in _COUNTERS.items():
            unit = name.removesuffix("_s") + ("_seconds" if name.endswith("_s") else "")
            families[name] = CounterMetricFamily(f"beeline_store_{unit}", text, labels=LABELS)
        for store in found:
            labels = [store.session_name, store.worker_id, str(store.pid)]
            for name, family in families.items():
                family.add_metric(labels, getattr(store, name))
        yield from families.values()
