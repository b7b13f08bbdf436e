"""Calls of actors and tasks: round trips and rates."""

from __future__ import annotations

from benchmarks.actors import AsyncEcho, Echo, Numbers
from benchmarks.engines import Context
from benchmarks.registry import Bound, Limit, Row, Samples, probe
from benchmarks.timing import clock, per_call


def nop():
    return None


def _rates(submit, ray, count: int, blocks: int) -> list[float]:
    """Calls per second with all of them submitted before the first result is asked for."""
    ray.get([submit() for _ in range(count // 4)])
    rates = []
    for _ in range(blocks):
        start = clock()
        ray.get([submit() for _ in range(count)])
        rates.append(count / (clock() - start))
    return rates


@probe
def actor_calls(ctx: Context) -> Samples:
    ctx.init()
    ray = ctx.ray
    actor = ray.remote(Echo).remote()
    trips = per_call(lambda: ray.get(actor.nop.remote()), ctx.reps(400, 100), 5, 100)
    return {"round_trip": trips, "rate": _rates(actor.nop.remote, ray, ctx.reps(4000, 1000), 3)}


@probe
def async_actor_calls(ctx: Context) -> Samples:
    ctx.init()
    ray = ctx.ray
    actor = ray.remote(AsyncEcho).remote()
    return {"rate": _rates(actor.nop.remote, ray, ctx.reps(4000, 1000), 3)}


@probe
def tasks(ctx: Context) -> Samples:
    ctx.init()
    ray = ctx.ray
    task = ray.remote(nop)
    trips = per_call(lambda: ray.get(task.remote()), ctx.reps(200, 50), 5, 50)
    return {"round_trip": trips, "rate": _rates(task.remote, ray, ctx.reps(2000, 500), 3)}


def numbers(count):
    for number in range(count):  # noqa: UP028 (Ray cannot `yield from` an iterator)
        yield number


@probe
def streams(ctx: Context) -> Samples:
    """Items of a generator per second, each fetched as it comes."""
    ctx.init()
    ray = ctx.ray
    count = ctx.reps(4000, 1000)
    stream = ray.remote(numbers)
    rates = {"task": [], "method": []}
    actor = ray.remote(Numbers).remote()
    for name, submit in (("task", stream.remote), ("method", actor.numbers.remote)):
        for _ in range(4):
            start = clock()
            total = sum(ray.get(ref) for ref in submit(count))
            rates[name].append(count / (clock() - start))
            if total != count * (count - 1) // 2:
                raise AssertionError("other items came")
    return {name: found[1:] for name, found in rates.items()}


@probe
def placement_groups(ctx: Context) -> Samples:
    """As Ray's own benchmark: groups of one bundle, made, waited for, removed, and seen as removed."""
    ctx.init()
    util = ctx.ray.util
    count = ctx.reps(100, 50)

    def round_of_groups() -> float:
        start = clock()
        groups = [util.placement_group([{"CPU": 0.001}]) for _ in range(count)]
        if not all(group.wait(30) for group in groups):
            raise RuntimeError("a group did not come to be within 30 s")
        for group in groups:
            util.remove_placement_group(group)
        left = {group.id.hex() for group in groups}
        while left:
            table = util.placement_group_table()
            left = {group for group in left if group in table and table[group]["state"] != "REMOVED"}
        return count / (clock() - start)

    round_of_groups()
    return {"rate": [round_of_groups() for _ in range(5)]}


FUTEX = Limit("futex", "round_trip")  # of handoffs
RING_TRIP, RING_PIPELINED, RING_ONE_WAY = (Limit("ring", pick) for pick in ("round_trip", "pipelined", "one_way"))

ROWS = [
    Row(
        "call_round_trip",
        "actor call, round trip",
        "us",
        "calls",
        "actor_calls",
        "round_trip",
        Bound("<=", 1 / 40),
        limit=RING_TRIP,
    ),
    Row(
        "calls_sync",
        "pipelined calls, sync actor",
        "1/s",
        "calls",
        "actor_calls",
        "rate",
        Bound(">=", 40),
        limit=RING_PIPELINED,
    ),
    Row(
        "calls_async",
        "pipelined calls, async actor",
        "1/s",
        "calls",
        "async_actor_calls",
        "rate",
        Bound(">=", 25),
        limit=RING_PIPELINED,
    ),
    Row(
        "task_round_trip",
        "task, round trip",
        "us",
        "calls",
        "tasks",
        "round_trip",
        Bound("<=", 1 / 40),
        limit=RING_TRIP,
    ),
    Row(
        "stream_task",
        "items of a task that yields",
        "1/s",
        "calls",
        "streams",
        "task",
        Bound(">=", 20),
        limit=RING_ONE_WAY,
    ),
    Row(
        "stream_method",
        "items of a method that yields",
        "1/s",
        "calls",
        "streams",
        "method",
        Bound(">=", 20),
        limit=RING_ONE_WAY,
    ),
    Row(
        "placement_groups",
        "placement groups made and removed",
        "1/s",
        "calls",
        "placement_groups",
        "rate",
        Bound(">=", 20),
    ),
    Row("task_rate", "tasks per second", "1/s", "calls", "tasks", "rate", Bound(">=", 50), limit=RING_PIPELINED),
]
