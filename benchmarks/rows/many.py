"""Very many at once: calls that wait for one actor, and small objects that come and go."""

from __future__ import annotations

import os
import tempfile

from benchmarks.actors import Held
from benchmarks.engines import Context
from benchmarks.processes import pss_bytes, session
from benchmarks.registry import Bound, Row, Samples, probe
from benchmarks.rows.memory import settled_bytes
from benchmarks.timing import clock

QUEUED, QUEUED_QUICK = 100_000, 20_000
OBJECTS, OBJECTS_QUICK = 1_000_000, 50_000
PARTS = 10  # the last one in units of the first


def _memory_bytes() -> int:
    """PSS of the session, this process included."""
    return pss_bytes(session() | {os.getpid()})


def _settled_bytes() -> int:
    """The same once what a session does in the background has ended, such as imports."""
    settled_bytes(3, 20)
    return _memory_bytes()


def _times(count: int, do) -> list[float]:
    """Seconds for each tenth of `count` calls of `do(index)`."""
    times, part = [], count // PARTS
    for start in range(0, part * PARTS, part):
        begin = clock()
        for index in range(start, start + part):
            do(index)
        times.append(clock() - begin)
    return times


@probe
def queued_calls(ctx: Context) -> Samples:
    """Calls of an actor that is busy until all were made, each with a number; the results are taken at the end."""
    ctx.init()
    ray = ctx.ray
    count = ctx.reps(QUEUED, QUEUED_QUICK)
    actor = ray.remote(num_cpus=0)(Held).remote()
    ray.get([actor.same.remote(i) for i in range(1000)])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "go")
        held = actor.hold.remote(path)
        refs: list = [None] * count
        before = _settled_bytes()

        def call(index: int) -> None:
            refs[index] = actor.same.remote(index)

        times = _times(count, call)
        after = _memory_bytes()
        open(path, "w").close()
        ray.get(held)
    if ray.get(refs) != list(range(count)):
        raise AssertionError("other results came")
    return {"bytes": [(after - before) / count], "rate": [count / sum(times)], "slowdown": [times[-1] / times[0]]}


@probe
def small_objects(ctx: Context) -> Samples:
    """Small objects, each put and dropped before the next one."""
    ctx.init()
    ray = ctx.ray
    count = ctx.reps(OBJECTS, OBJECTS_QUICK)
    for index in range(count // 100):
        ray.put(index)
    before = _settled_bytes()
    times = _times(count, ray.put)
    return {
        "growth": [float(max(0, _memory_bytes() - before))],
        "rate": [count / sum(times)],
        "slowdown": [times[-1] / times[0]],
    }


def _row(key: str, measure: str, unit: str, probe_name: str, pick: str, bound: Bound | None) -> Row:
    """The measure may have a place for `{count}`: what is measured, or what is with --quick."""
    counts = (QUEUED, QUEUED_QUICK) if probe_name == "queued_calls" else (OBJECTS, OBJECTS_QUICK)
    full, quick = (measure.format(count=f"{count:,}") for count in counts)
    return Row(key, full, unit, "many", probe_name, pick, bound, timeout_s=900, quick_measure=quick)


ROWS = [
    _row(
        "queued_bytes",
        "memory of a queued call, {count} on one actor",
        "B",
        "queued_calls",
        "bytes",
        Bound("<=", 1024, "value"),
    ),
    _row("queued_rate", "the same, submitted", "1/s", "queued_calls", "rate", None),
    _row(
        "queued_flat",
        "time of the last tenth of them in units of the first",
        "x",
        "queued_calls",
        "slowdown",
        Bound("<=", 1.25, "value"),
    ),
    _row(
        "objects_growth",
        "memory that {count} small objects leave, each put and dropped",
        "MiB",
        "small_objects",
        "growth",
        Bound("<=", 8, "value"),
    ),
    _row("objects_rate", "the same, put and dropped", "1/s", "small_objects", "rate", None),
    _row(
        "objects_flat",
        "time of the last tenth of them in units of the first",
        "x",
        "small_objects",
        "slowdown",
        Bound("<=", 1.25, "value"),
    ),
]
