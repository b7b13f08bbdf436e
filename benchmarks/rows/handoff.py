"""Direct handoff: a producer's tensor goes to a consumer, whose small result goes to the driver."""

from __future__ import annotations

import os

from benchmarks.engines import Context
from benchmarks.registry import BEELINE, RAY_TRANSPORTS, Bound, Contender, Limit, Row, Samples, probe
from benchmarks.rows.calls import FUTEX
from benchmarks.timing import clock, each, per_call

KIB, MIB, GIB = 2**10, 2**20, 2**30
STORE_MIB = 3 * 1024


def visible_gpus() -> str:
    """Which GPUs this process was given: both engines say it by this variable."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def producer_class(ctx: Context) -> type:
    """Built per run, for the transport is part of the class. Sizes are in bytes of float32."""

    class Producer:
        def __init__(self, size_bytes, device="cpu"):
            import torch

            torch.set_num_threads(1)
            self.n = size_bytes // 4
            self.tensor = torch.ones(self.n, device=device)

        @ctx.returns
        def existing(self):
            return self.tensor

        @ctx.returns
        def fresh(self, value):
            import torch

            return torch.full((self.n,), float(value))

        def ready(self):
            return visible_gpus()

    return Producer


class Consumer:
    def __init__(self):
        import torch

        torch.set_num_threads(1)

    def ends(self, tensor):
        return float(tensor[0]), float(tensor[-1])

    def total(self, tensor):
        return float(tensor.sum())

    def device(self, tensor):
        return tensor.device.type

    def ready(self):
        return visible_gpus()


def pair(ctx: Context, size_bytes: int, device: str = "cpu", num_gpus: float = 0) -> tuple:
    """A producer that holds its tensor and a consumer, both up, and joined where the transport asks for it."""
    producer = ctx.actor(producer_class(ctx), num_gpus).remote(size_bytes, device)
    consumer = ctx.actor(Consumer, num_gpus).remote()
    places = ctx.ray.get([producer.ready.remote(), consumer.ready.remote()])
    if num_gpus and places[0] != places[1]:
        raise RuntimeError(f"the producer is on GPU {places[0]}, the consumer on {places[1]}")
    ctx.link([producer, consumer])
    return producer, consumer


def existing(ctx: Context, size_bytes: int, calls: int, blocks: int, warm: int) -> Samples:
    ctx.init(num_cpus=4, store_mib=STORE_MIB)
    producer, consumer = pair(ctx, size_bytes)
    ray = ctx.ray

    def once():
        first, last = ray.get(consumer.ends.remote(producer.existing.remote()))
        if (first, last) != (1.0, 1.0):
            raise AssertionError(f"wrong bytes arrived: {first}, {last}")

    return {"seconds": per_call(once, calls, blocks, warm)}


@probe
def handoff_1kib(ctx: Context) -> Samples:
    return existing(ctx, KIB, ctx.reps(50, 20), 5, 20)


@probe
def handoff_1mib(ctx: Context) -> Samples:
    return existing(ctx, MIB, ctx.reps(50, 20), 5, 20)


@probe
def handoff_100mib(ctx: Context) -> Samples:
    return existing(ctx, 100 * MIB, 1, ctx.reps(10, 5), 2)


@probe
def handoff_1gib(ctx: Context) -> Samples:
    return existing(ctx, GIB, 1, ctx.reps(5, 3), 2)


@probe
def read_all(ctx: Context) -> Samples:
    """The consumer sums all of 1 GiB: with a producer it knows, and the first time with a new one."""
    ctx.init(num_cpus=4, store_mib=STORE_MIB)
    ray = ctx.ray
    producer, consumer = pair(ctx, GIB)

    def once():
        if ray.get(consumer.total.remote(producer.existing.remote())) != GIB // 4:
            raise AssertionError("wrong bytes arrived")

    start = clock()
    once()
    first = clock() - start
    return {"first": [first], "known": each(once, ctx.reps(5, 3), 1)}


@probe
def fresh(ctx: Context) -> Samples:
    """Every call makes a new tensor of 1 GiB and hands it on."""
    ctx.init(num_cpus=4, store_mib=STORE_MIB)
    ray = ctx.ray
    producer, consumer = pair(ctx, GIB)
    turn = iter(range(1, 1000))

    def once():
        value = float(next(turn))
        if ray.get(consumer.ends.remote(producer.fresh.remote(value))) != (value, value):
            raise AssertionError("wrong bytes arrived")

    return {"seconds": each(once, ctx.reps(5, 3), 2)}


def _row(key: str, measure: str, unit: str, bound: Bound, probe_name: str, pick: str, limit: Limit) -> Row:
    return Row(
        key,
        measure,
        unit,
        "handoff",
        probe_name,
        pick,
        bound,
        ours=BEELINE,
        peers=RAY_TRANSPORTS,
        limit=limit,
    )


READ, MAKE = Limit("local_tensor", "read_1GiB"), Limit("local_tensor", "make_1GiB")
BY_GLOO, RAY_BY_GLOO = Contender("beeline", "beeline", "gloo"), (Contender("ray gloo", "ray", "gloo"),)
PLAIN_ALLOCATOR = Contender("beeline, no preload", "beeline", "auto", (("BEELINE_PRELOAD", "0"),))

ROWS = [
    _row("handoff_1KiB", "handoff, 1 KiB", "us", Bound("<=", 1 / 16), "handoff_1kib", "seconds", FUTEX),
    *(
        Row(
            f"gloo_{size}",
            f"handoff by gloo, {size[0]} {size[1:]}",
            "us",
            "handoff",
            probe_name,
            "seconds",
            Bound("<=", 1 / 5),
            ours=BY_GLOO,
            peers=RAY_BY_GLOO,
            limit=FUTEX,
        )
        for size, probe_name in (("1KiB", "handoff_1kib"), ("1MiB", "handoff_1mib"))
    ),
    _row("handoff_100MiB", "handoff, 100 MiB", "us", Bound("<=", 1 / 500), "handoff_100mib", "seconds", FUTEX),
    _row("handoff_1GiB", "handoff, 1 GiB", "us", Bound("<=", 1 / 2000), "handoff_1gib", "seconds", FUTEX),
    _row(
        "read_all", "handoff, consumer reads all of 1 GiB", "ms", Bound("<=", 1.1, "limit"), "read_all", "known", READ
    ),
    _row(
        "read_all_first",
        "the same, first fetch from a new producer",
        "ms",
        None,
        "read_all",
        "first",
        READ,
    ),
    Row(
        "fresh_1GiB",
        "handoff of a fresh 1 GiB tensor per call",
        "ms",
        "handoff",
        "fresh",
        "seconds",
        Bound("<=", 1.15, "limit"),
        peers=(*RAY_TRANSPORTS, PLAIN_ALLOCATOR),
        limit=MAKE,
    ),
]
