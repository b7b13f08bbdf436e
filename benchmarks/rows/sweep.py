"""`handoff`: one tensor from 1 KiB to 1 GiB over every transport that both engines have for tensors on the CPU."""

from __future__ import annotations

from benchmarks.engines import Context
from benchmarks.registry import BEELINE, RAY_TRANSPORTS, Contender, Row, Samples, probe
from benchmarks.rows.calls import FUTEX
from benchmarks.rows.handoff import STORE_MIB, pair
from benchmarks.timing import per_call

SIZES = (
    {f"{4**i} KiB": 2**10 * 4**i for i in range(5)} | {f"{4**i} MiB": 2**20 * 4**i for i in range(5)} | {"1 GiB": 2**30}
)
QUICK_SIZES = ("1 KiB", "1 MiB", "64 MiB", "1 GiB")
TRANSPORTS = ("shm", "object_store", "cma", "tcp", "ucx", "nixl", "gloo")
OTHERS = tuple(Contender(f"beeline {name}", "beeline", name) for name in TRANSPORTS)


def over_sizes(ctx: Context, device: str = "cpu", num_gpus: float = 0) -> Samples:
    """All sizes in one session; a pair of actors for each, so that only one large tensor exists at a time."""
    ctx.init(num_cpus=4, store_mib=STORE_MIB)
    ray = ctx.ray
    samples: Samples = {}
    for name in QUICK_SIZES if ctx.quick else SIZES:
        size = SIZES[name]
        producer, consumer = pair(ctx, size, device, num_gpus)
        arrived = ray.get(consumer.device.remote(producer.existing.remote()))
        if arrived != device:
            raise AssertionError(f"a tensor on {device} arrived on {arrived}")

        def once(producer=producer, consumer=consumer):
            if ray.get(consumer.ends.remote(producer.existing.remote())) != (1.0, 1.0):
                raise AssertionError("wrong bytes arrived")

        calls = ctx.reps(20, 5) if size <= 2**20 else 1
        samples[name] = per_call(once, calls, ctx.reps(5, 2), ctx.reps(2, 1))
        for actor in (producer, consumer):
            ray.kill(actor)
    return samples


@probe
def sweep(ctx: Context) -> Samples:
    return over_sizes(ctx)


ROWS = [
    Row(
        f"sweep_{name.replace(' ', '')}",
        f"handoff, {name}",
        "us",
        "sweep",
        "sweep",
        name,
        ours=BEELINE,
        peers=(*OTHERS, *RAY_TRANSPORTS),
        limit=FUTEX,
        timeout_s=600,
        with_quick=name in QUICK_SIZES,
    )
    for name in SIZES
]


def points(rows: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """The series of a finished sweep: contender -> (bytes, microseconds)."""
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        size = SIZES[row["measure"].removeprefix("handoff, ")]
        for name, value in {"beeline auto": row["beeline"], **row["peers"]}.items():
            if value is not None:
                series.setdefault(name, []).append((size, value))
    return series


def draw(rows: list[dict], path: str, machine: str) -> None:
    """Time against size, both logarithmic, one line per engine and transport."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    for name, series in points(rows).items():
        sizes, times = zip(*sorted(series), strict=True)
        ours = name.startswith("beeline")
        axes.plot(sizes, times, marker="o", linewidth=2.2 if ours else 1.4, linestyle="-" if ours else "--", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(SIZES.values()), list(SIZES), rotation=30)
    axes.set_xlabel("size of the tensor")
    axes.set_ylabel("produce, hand on, consume, answer (microseconds, median)")
    axes.set_title(f"Handoff of an existing tensor between two actors\n{machine}", fontsize=11)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
