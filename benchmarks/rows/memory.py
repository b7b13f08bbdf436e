"""Memory when idle, and many actors: seconds to have them, memory of each, and whether the last cost more."""

from __future__ import annotations

import time

from benchmarks.actors import Plain, UsesTorch
from benchmarks.engines import Context
from benchmarks.processes import pss_bytes, session
from benchmarks.registry import BEELINE, RAY, Bound, Contender, Row, Samples, probe
from benchmarks.timing import clock

SETTLED_BYTES = 2**20
MANY, MANY_QUICK, MANY_RAY = 500, 50, 16


def settled_bytes(least_s: float, most_s: float) -> int:
    """PSS of the session once it moves by less than 1 MiB a second (background imports included), or after `most_s`."""
    begin = time.monotonic()
    last = pss_bytes(session())
    while True:
        time.sleep(1.0)
        now = pss_bytes(session())
        passed = time.monotonic() - begin
        if (passed >= least_s and abs(now - last) < SETTLED_BYTES) or passed >= most_s:
            return now
        last = now


@probe
def idle_plain(ctx: Context) -> Samples:
    """After init, when no program has touched torch."""
    ctx.init()
    return {"pss": [float(settled_bytes(4, 20))]}


@probe
def idle_torch(ctx: Context) -> Samples:
    """The same once an actor has used torch and is gone. Variant "idle": there was no such actor."""
    ctx.init()
    if ctx.variant == "idle":
        return {"pss": [float(settled_bytes(4, 20))]}
    actor = ctx.ray.remote(num_cpus=0)(UsesTorch).remote()
    ctx.ray.get(actor.ready.remote())
    ctx.ray.kill(actor)
    return {"pss": [float(settled_bytes(4, 20))]}


@probe
def many_actors(ctx: Context) -> Samples:
    """Creates actors one batch at a time and calls each once. Ray gets fewer: 500 of its workers do not fit here."""
    count = MANY_RAY if ctx.engine == "ray" else ctx.reps(MANY, MANY_QUICK)
    batch = max(1, count // 10) if count >= 10 else 1
    ctx.init()
    ray = ctx.ray
    cls = ray.remote(num_cpus=0)(Plain)
    before = settled_bytes(2, 10)
    actors, times = [], []
    begin = clock()
    while len(actors) < count:
        start = clock()
        new = [cls.remote() for _ in range(min(batch, count - len(actors)))]
        ray.get([actor.ready.remote() for actor in new])
        actors += new
        times.append((clock() - start) / len(new))
    total = clock() - begin
    after = settled_bytes(2, 10)
    fifth = max(1, len(times) // 5)
    growth = (sum(times[-fifth:]) / fifth) / (sum(times[:fifth]) / fifth)
    return {
        "seconds_for_500": [total / count * MANY],
        "pss_each": [(after - before) / count],
        "growth": [growth],
    }


SCALED = (Contender(f"ray ({MANY_RAY}, scaled)", "ray"),)

ROWS = [
    Row(
        "idle_plain",
        "idle memory after init, before torch",
        "MiB",
        "memory",
        "idle_plain",
        "pss",
        Bound("<=", 1 / 5),
        note="PSS of all processes but the driver",
    ),
    Row(
        "idle_torch",
        "idle memory, with the torch zygote",
        "MiB",
        "memory",
        "idle_torch",
        "pss",
        Bound("<=", 1 / 2, "peer ray idle"),
        peers=(*RAY, Contender("ray idle", "ray", "idle")),
        note="against Ray where torch was never used",
    ),
    Row(
        "actors_500",
        f"{MANY} actors created and called once",
        "s",
        "memory",
        "many_actors",
        "seconds_for_500",
        Bound("<=", 8, "value"),
        ours=BEELINE,
        peers=SCALED,
        timeout_s=600,
        quick_measure=f"{MANY_QUICK} actors created and called once, scaled to {MANY}",
    ),
    Row(
        "actors_pss",
        "memory of each of them when idle",
        "MiB",
        "memory",
        "many_actors",
        "pss_each",
        Bound("<=", 15, "value"),
        peers=SCALED,
        timeout_s=600,
    ),
    Row(
        "actors_growth",
        "time of the last fifth of them in units of the first",
        "x",
        "memory",
        "many_actors",
        "growth",
        Bound("<=", 1.25, "value"),
        peers=SCALED,
        timeout_s=600,
    ),
]
