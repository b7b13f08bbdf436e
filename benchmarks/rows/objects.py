"""put and get of numpy arrays by the driver, through the object store."""

from __future__ import annotations

from benchmarks.engines import Context
from benchmarks.registry import Bound, Limit, Row, Samples, probe
from benchmarks.timing import clock

MIB, GIB = 2**20, 2**30


def _measure(ctx: Context, size_bytes: int, count: int) -> Samples:
    """Every object is new: put, fetched once, dropped. The very first put (cold memory) is kept apart."""
    import numpy as np

    ctx.init(num_cpus=2, store_mib=3 * 1024)
    ray = ctx.ray
    array = np.ones(size_bytes, np.uint8)
    puts, gets = [], []
    for i in range(count + 3):
        array[-1] = i % 251
        start = clock()
        ref = ray.put(array)
        middle = clock()
        value = ray.get(ref)
        end = clock()
        if value[-1] != array[-1] or value.nbytes != size_bytes:
            raise AssertionError("another object came back")
        puts.append(middle - start)
        gets.append(end - middle)
        del ref, value
    return {"cold_put": puts[:1], "put": puts[3:], "get": gets[3:]}


@probe
def objects_1mib(ctx: Context) -> Samples:
    return _measure(ctx, MIB, ctx.reps(100, 30))


@probe
def objects_1gib(ctx: Context) -> Samples:
    return _measure(ctx, GIB, ctx.reps(5, 3))


@probe
def get_flatness(ctx: Context) -> Samples:
    """How many times longer a get of 1 GiB takes than one of 1 MiB, both right after 1 GiB was put.

    That put leaves none of the program in the processor's caches, which costs either get many times its own time.
    """
    import numpy as np

    ctx.init(num_cpus=2, store_mib=3 * 1024)
    ray = ctx.ray
    small, large = np.ones(MIB, np.uint8), np.ones(GIB, np.uint8)
    kept = ray.put(small)
    gets: dict[str, list[float]] = {"small": [], "large": []}
    for _ in range(ctx.reps(6, 4)):
        for name in gets:
            ref = ray.put(large)
            wanted = kept if name == "small" else ref
            start = clock()
            value = ray.get(wanted)
            gets[name].append(clock() - start)
            if value[-1] != 1:
                raise AssertionError("another object came back")
            del ref, wanted, value
    middle = sorted(gets["small"][1:])[len(gets["small"][1:]) // 2]
    return {"ratio": [value / middle for value in gets["large"][1:]]}


def _rows(size: str, probe_name: str) -> list[Row]:
    copy = Limit("memcpy", size)
    return [
        Row(
            f"put_{size}",
            f"put, numpy {size}",
            "us",
            "objects",
            probe_name,
            "put",
            Bound("<=", 1.2, "limit", slack=20.0),
            limit=copy,
            note="limit: warm memcpy",
        ),
        Row(
            f"put_cold_{size}",
            f"first put of a session, numpy {size}",
            "us",
            "objects",
            probe_name,
            "cold_put",
            limit=copy,
        ),
        Row(f"get_{size}", f"get, numpy {size}", "us", "objects", probe_name, "get", Bound("<=", 1 / 10)),
    ]


ROWS = [
    *_rows("1MiB", "objects_1mib"),
    *_rows("1GiB", "objects_1gib"),
    Row(
        "get_flat",
        "get of 1 GiB in units of a get of 1 MiB, both after a put of 1 GiB",
        "x",
        "objects",
        "get_flatness",
        "ratio",
        Bound("<=", 1.5, "value"),
    ),
]
