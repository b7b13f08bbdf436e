"""`transfer`: one process reads memory of another, without a runtime, beside the engines that people use for it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.engines import Context
from benchmarks.owners import STREAMS, TOKEN, Owner
from benchmarks.peers import CALLS, GIB, KIB, READERS, REGISTRATIONS, SIZES, check, from_torch_queue, nixl_batch
from benchmarks.registry import Bound, Contender, Limit, Row, Samples, probe
from benchmarks.timing import each, per_call
from tools import cpp_package

MAPPED = {**SIZES, "1 GiB": GIB}
MANY, MANY_QUICK = 100_000, 10_000

OURS = {path: Contender(f"beeline {path}", "none", path) for path in ("shm", "cma", "tcp")}
# Paths that go through an engine of others', or through somebody else's memory: reported beside the memcpy.
OTHERS = {
    path: Contender(f"beeline {path}", "none", path) for path in ("ucx", "nixl", "object_store", "gloo", "tcp tls")
}
# As it comes; and with UCX restricted to what reads by the kernel (which needs another path to meet), and to TCP.
NIXL = Contender("nixl ucx", "none", "nixl")
NIXL_CMA = Contender("nixl cma", "none", "nixl", (("UCX_TLS", "cma,tcp"),))
NIXL_TCP = Contender("nixl tcp", "none", "nixl", (("UCX_TLS", "tcp"),))
MOONCAKE = Contender("mooncake tcp", "none", "mooncake")
MONARCH = Contender("monarch rdma over tcp", "none", "monarch")
GLOO = Contender("gloo", "none", "gloo", (("GLOO_SOCKET_IFNAME", "lo"),))
TORCH_QUEUE = Contender("torch.multiprocessing", "none", "torch_queue")


@probe
def read(ctx: Context) -> Samples:
    """A prepared read of each size into existing memory; the variant says by what: a peer, or a path of ours and
    whether agents speak TLS.
    """
    return READERS[ctx.variant](ctx) if ctx.variant in READERS else _read_by_beeline(ctx)


def _read_by_beeline(ctx: Context) -> Samples:
    from beeline.transfer import Agent, TensorRefs

    samples: Samples = {}
    path, _, security = ctx.variant.partition(" ")
    with Owner(f"beeline {security}".strip()) as owner, Agent("reader", token=TOKEN, tls=bool(security)) as agent:
        for name, size in SIZES.items():
            refs = TensorRefs.from_json(owner.ask([size]))
            target = agent.empty((size,), "uint8").zero_()
            batch = agent.prepare(refs, [target], path=path)
            batch.run()
            check(target)
            samples[name] = per_call(batch.run, CALLS[name], ctx.reps(15, 5), 3)
    return samples


# 256 MiB of float32.
MATRIX = (8192, 8192)
BLOCK = 128


def _convert(ctx: Context, what: str, path: str, how: str) -> list[float]:
    import torch

    from beeline.transfer import Agent, TensorRefs

    with Owner("beeline") as owner, Agent("reader", token=TOKEN) as agent:
        refs = TensorRefs.from_json(owner.ask({"shape": MATRIX, "dtype": "float32"}))
        fetched = agent.empty(MATRIX, "float32").zero_() if how != "fused" else None
        values = agent.empty(MATRIX, "float8_e4m3fn" if what == "blocks" else "bfloat16")
        scales = torch.zeros(MATRIX[0] // BLOCK, MATRIX[1] // BLOCK)
        if fetched is not None:
            batch = agent.prepare(refs, [fetched], path=path)
        elif what == "blocks":
            batch = agent.prepare(refs, [(values, scales)], dtype=values.dtype, block=(BLOCK, BLOCK), path=path)
        else:
            batch = agent.prepare(refs, [values], dtype=values.dtype, path=path)

        def once() -> None:
            batch.run()
            if how != "after":
                return
            if what == "blocks":
                values.copy_(_quantized_by_torch(fetched, scales))
            else:
                values.copy_(fetched)

        samples = each(once, ctx.reps(15, 5), 2)
        if how != "plain":
            check(values[0].float() * (scales[0, 0] if what == "blocks" else 1))
    return samples


def _quantized_by_torch(matrix: Any, scales: Any) -> Any:
    """What one writes without a fused fetch: values and scales, bit for bit as `block=` gives them."""
    import torch

    side = MATRIX[0] // BLOCK
    blocks = matrix.view(side, BLOCK, side, BLOCK)
    by_block = blocks.abs().amax(dim=(1, 3), keepdim=True) / 448
    by_block = torch.where(by_block == 0, 1.0, by_block)
    scales.copy_(by_block.view(side, side))
    return (blocks / by_block).view(MATRIX)


@probe
def convert(ctx: Context) -> Samples:
    """A prepared fetch of 256 MiB of float32 that become something else; the variant says what, by which path and how.

    `fused` converts on the way. `after` fetches as it is, and torch converts, on as many threads as it likes; all
    memory but what torch needs in between is there before.
    """
    return {"256 MiB": _convert(ctx, *ctx.variant.split())}


@probe
def convert_nothing(ctx: Context) -> Samples:
    """As `convert`, of the same bytes, which stay as they are; by path."""
    return {path: _convert(ctx, "float32", path, "plain") for path in OURS}


# 16 MiB of float32.
TRANSPOSED = (2048, 2048)


@probe
def transpose(ctx: Context) -> Samples:
    """A prepared fetch of a transposed matrix into a row-major one; the variant says by which path."""
    from beeline.transfer import Agent, TensorRefs

    with Owner("beeline") as owner, Agent("reader", token=TOKEN) as agent:
        refs = TensorRefs.from_json(owner.ask({"shape": TRANSPOSED, "dtype": "float32", "transposed": True}))
        target = agent.empty(TRANSPOSED, "float32").zero_()
        batch = agent.prepare(refs, [target], path=ctx.variant)
        samples = each(batch.run, ctx.reps(15, 5), 2)
        check(target[0])
    return {"16 MiB": samples}


@probe
def transpose_here(ctx: Context) -> Samples:
    """As torch copies the like within a process, on as many threads as it likes."""
    import torch

    source, target = torch.ones(TRANSPOSED).t(), torch.zeros(TRANSPOSED)
    return {"16 MiB": each(lambda: target.copy_(source), ctx.reps(15, 5), 2)}


@probe
def read_from_cpp(ctx: Context) -> Samples:
    """A prepared read of 1 KiB and maps, as a program in C++ makes them; and what memcpy takes there."""
    with tempfile.TemporaryDirectory(prefix="beeline-bench-") as folder, Owner("beeline") as owner:
        cpp_package.install(Path(folder, "prefix"))
        cpp_package.build(Path(__file__).parent.parent / "cpp", Path(folder, "prefix"), Path(folder, "build"))

        def run(size: int, *more: str) -> Samples:
            measured = subprocess.run(
                [Path(folder, "build", "transfer_read"), "100000", str(ctx.reps(15, 5)), *more],
                input=owner.ask([size]) + "\n",
                capture_output=True,
                text=True,
                check=False,
            )
            if measured.returncode != 0:
                raise RuntimeError(f"transfer_read: exit status {measured.returncode}: {measured.stderr}")
            return json.loads(measured.stdout)  # type: ignore[no-any-return]

        samples = run(KIB)
        for name, size in MAPPED.items():
            samples |= {f"{what} {name}": seconds for what, seconds in run(size, "maps").items()}
        return samples


@probe
def copy_warm(ctx: Context) -> Samples:
    """Between two warm buffers of one process, as torch copies and as memcpy does, whichever is faster."""
    import ctypes

    import torch

    memcpy = ctypes.CDLL(None).memcpy
    memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    samples: Samples = {}
    for name, size in SIZES.items():
        source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
        a, b = target.data_ptr(), source.data_ptr()
        samples[name] = per_call(lambda a=a, b=b, n=size: memcpy(a, b, n), CALLS[name], ctx.reps(15, 5), 3)
    return samples


@probe
def loopback(ctx: Context) -> Samples:
    """Raw sockets over loopback, as many streams as Beeline uses, a thread at either end of each."""
    import socket
    import threading

    part = SIZES["256 MiB"] // STREAMS
    with Owner("loopback") as owner:
        ends = [socket.create_connection(("127.0.0.1", owner.hello["port"])) for _ in range(STREAMS)]
        targets = [memoryview(bytearray(part)) for _ in ends]

        def receive(end: socket.socket, target: memoryview) -> None:
            end.sendall(part.to_bytes(8, "little"))
            at = 0
            while at < part:
                at += end.recv_into(target[at:])

        def once() -> None:
            threads = [threading.Thread(target=receive, args=pair) for pair in zip(ends, targets, strict=True)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        samples = each(once, ctx.reps(15, 5), 2)
        for end in ends:
            end.close()
    return {"256 MiB": samples}


@probe
def map_tensor(ctx: Context) -> Samples:
    """A new torch tensor over the owner's memory, and its end; and what torch alone takes to make one over memory of
    its own. The variant says by what, if not by Beeline.
    """
    import torch

    from beeline.transfer import Agent, TensorRefs

    if ctx.variant == TORCH_QUEUE.variant:
        return from_torch_queue(MAPPED, ctx.reps(500, 50), lambda size: lambda tensor: None)
    samples: Samples = {}
    with Owner("beeline") as owner, Agent("reader", token=TOKEN) as agent:
        for name, size in MAPPED.items():
            (ref,) = TensorRefs.from_json(owner.ask([size]))
            check(agent.map(ref))
            samples[name] = per_call(lambda ref=ref: agent.map(ref), 500, ctx.reps(15, 5), 3)
    here = torch.zeros(16)
    samples["from_dlpack"] = per_call(lambda: torch.from_dlpack(here), 2000, ctx.reps(15, 5), 3)
    return samples


@probe
def many_tensors(ctx: Context) -> Samples:
    """Many tensors of 4 KiB and one of as many bytes, prepared, into existing memory; of NIXL the many alone."""
    from beeline.transfer import Agent, TensorRefs

    count, size = ctx.reps(MANY, MANY_QUICK), 4096
    if ctx.variant == NIXL.variant:
        with Owner("nixl") as owner, nixl_batch(owner, "reader", size, count) as once:
            return {"many": each(once, ctx.reps(15, 5), 2)}
    samples: Samples = {}
    with Owner("beeline") as owner, Agent("reader", token=TOKEN) as agent:
        for name, sizes in {"many": [size] * count, "one": [size * count]}.items():
            refs = TensorRefs.from_json(owner.ask(sizes))
            # Apart from each other, so that none can be joined with its neighbour.
            field = agent.empty((2 * sum(sizes),), "uint8").zero_()
            targets = [field[2 * at * each_size :][:each_size] for at, each_size in enumerate(sizes)]
            batch = agent.prepare(refs, targets, path="shm")
            samples[name] = each(batch.run, ctx.reps(15, 5), 2)
            check(targets[-1])
            del batch, targets, field
    return samples


@probe
def register_many(ctx: Context) -> Samples:
    """10,000 tensors registered in one call, and let go of; the variant says with what, if not with Beeline."""
    import numpy as np

    from beeline.transfer import Agent

    count, shape = 10_000, (1024,)
    if ctx.variant in REGISTRATIONS:
        field = np.zeros((count, *shape), np.float32)
        pieces = [(each_row.ctypes.data, each_row.nbytes) for each_row in field]
        return {"seconds": each(REGISTRATIONS[ctx.variant](pieces), ctx.reps(15, 5), 2)}
    with Agent("owner") as agent:
        tensors = list(agent.empty((count, *shape), "float32").zero_())
        return {"seconds": each(lambda: agent.register(tensors), ctx.reps(15, 5), 2)}


@probe
def publish(ctx: Context) -> Samples:
    """From before `publish` until the last subscriber, each a process, has mapped the version."""
    import contextlib
    import time

    from beeline.transfer import Agent

    samples: Samples = {}
    for count in (1, 8):
        with Agent("publisher") as agent, contextlib.ExitStack() as stack:
            subscribers = [stack.enter_context(Owner("subscriber")) for _ in range(count)]
            for subscriber in subscribers:
                subscriber.ask({"address": agent.address})
            version = 0
            for name in ("1 KiB", "256 MiB"):
                tensor = agent.empty((SIZES[name],), "uint8").fill_(1)
                taken = samples.setdefault(f"{name} to {count}", [])
                for turn in range(ctx.reps(15, 5) + 2):
                    for subscriber in subscribers:
                        subscriber.tell({"after": version})
                    time.sleep(0.05)  # all of them wait by now
                    start = time.monotonic()
                    version = agent.publish("weights", tensor)
                    ended = max(subscriber.hear() for subscriber in subscribers)
                    if turn >= 2:
                        taken.append(ended - start)
    return samples


def _read_row(
    size: str, bound: Bound | None, ours: Contender, peers: tuple[Contender, ...], limit: Limit, against: str = ""
) -> Row:
    return Row(
        f"read_{ours.variant.replace(' ', '_')}_{size.replace(' ', '')}{'_limit' if against else ''}",
        f"copying fetch by {ours.variant}, {size}, prepared, into existing memory{against}",
        "us",
        "fetch",
        "read",
        size,
        bound,
        ours=ours,
        peers=peers,
        limit=limit,
        timeout_s=300,
    )


def _map_row(size: str, key: str, against: str, bound: Bound) -> Row:
    return Row(
        f"{key}_{size.replace(' ', '')}",
        f"map on one host, {size}, a new torch tensor; {against}",
        "us",
        "transfer",
        "map_tensor",
        size,
        bound,
        ours=Contender("beeline", "none"),
        peers=(TORCH_QUEUE,),
        limit=Limit("map_tensor", "from_dlpack"),
        timeout_s=300,
    )


def _own_row(
    key: str,
    measure: str,
    unit: str,
    name: str,
    pick: str,
    bound: Bound | None,
    limit: Limit | None,
    peers: tuple[Contender, ...] = (),
    quick_measure: str = "",
) -> Row:
    """A row whose bound is of the machine, or of another figure of Beeline's."""
    return Row(
        key,
        measure,
        unit,
        "transfer",
        name,
        pick,
        bound,
        ours=Contender("beeline", "none"),
        peers=peers,
        limit=limit,
        timeout_s=300,
        quick_measure=quick_measure,
    )


def _convert_row(what: str, path: str, measure: str, bound: Bound | None) -> Row:
    return Row(
        f"convert_{what}_{path}",
        f"copying fetch by {path}, 256 MiB of float32 that become {measure}; limit: the same bytes as they are",
        "ms",
        "convert",
        "convert",
        "256 MiB",
        bound,
        ours=Contender(f"beeline {path}", "none", f"{what} {path} fused"),
        peers=(Contender("fetch, then torch", "none", f"{what} {path} after"),),
        limit=Limit("convert_nothing", path),
        timeout_s=300,
    )


NIXLS = (NIXL, NIXL_CMA, NIXL_TCP)
OVER_TCP = (NIXL_TCP, MOONCAKE, MONARCH, GLOO)
MANY_TENSORS = "{} tensors of 4 KiB, prepared, against one of as many bytes"
ALL = (*NIXLS, MOONCAKE, MONARCH, GLOO, TORCH_QUEUE)


def _best_of(*peers: Contender) -> str:
    return f"best of {', '.join(peer.name for peer in peers)}"


ROWS = [
    _read_row("1 KiB", Bound("<=", 1 / 3, _best_of(*NIXLS)), OURS["shm"], ALL, Limit("copy_warm", "1 KiB")),
    *(
        _read_row(size, Bound("<=", 1 / 1.5, _best_of(*NIXLS)), OURS["shm"], ALL, Limit("copy_warm", size))
        for size in ("1 MiB", "256 MiB")
    ),
    *(
        _read_row(size, Bound("<=", 1 / 0.9, "limit"), OURS["shm"], (), Limit("copy_warm", size), ", against memcpy")
        for size in ("1 MiB", "256 MiB")
    ),
    _read_row("256 MiB", None, OURS["cma"], ALL, Limit("copy_warm", "256 MiB")),
    _read_row(
        "256 MiB",
        Bound("<=", 1 / 2, _best_of(NIXL_TCP, MOONCAKE)),
        OURS["tcp"],
        OVER_TCP,
        Limit("loopback", "256 MiB"),
    ),
    _read_row(
        "256 MiB", Bound("<=", 1 / 0.8, "limit"), OURS["tcp"], (), Limit("loopback", "256 MiB"), ", against raw sockets"
    ),
    *(
        _read_row(size, None, contender, (), Limit("copy_warm", size))
        for contender in OTHERS.values()
        for size in ("1 KiB", "256 MiB")
    ),
    *(_map_row(size, "map", "limit: torch.from_dlpack", Bound("<=", 1.0, "limit", slack=2.0)) for size in MAPPED),
    *(_map_row(size, "map_ahead", "against torch.multiprocessing", Bound("<=", 1 / 50)) for size in MAPPED),
    _own_row(
        "many_tensors",
        MANY_TENSORS.format(f"{MANY:,}"),
        "ms",
        "many_tensors",
        "many",
        Bound("<=", 3.0, "limit"),
        Limit("many_tensors", "one"),
        (NIXL,),
        MANY_TENSORS.format(f"{MANY_QUICK:,}"),
    ),
    *(
        _own_row(
            f"{name}_cpp_{size.replace(' ', '')}",
            f"{measure} on one host, {size}, from C++",
            "us",
            "read_from_cpp",
            f"{name} {size}",
            Bound("<=", 2, "value"),
            None,
        )
        for name, measure in (("view", "map to read only"), ("map", "map"))
        for size in MAPPED
    ),
    _own_row(
        "fetch_cpp_1KiB",
        "copying fetch, prepared, into existing memory, by shm, 1 KiB, from C++",
        "ns",
        "read_from_cpp",
        "fetch",
        None,
        Limit("read_from_cpp", "copy"),
    ),
    _own_row(
        "register",
        "10,000 tensors registered",
        "ms",
        "register_many",
        "seconds",
        Bound("<=", 10, "value"),
        None,
        (NIXL, MOONCAKE),
    ),
    *(
        _own_row(
            f"publish_{size.replace(' ', '')}",
            f"publish to 8 subscribers that map, {size}, against one",
            "us",
            "publish",
            f"{size} to 8",
            Bound("<=", factor, "limit"),
            Limit("publish", f"{size} to 1"),
        )
        for size, factor in (("1 KiB", 6.0), ("256 MiB", 1.2))
    ),
    *(
        Row(
            f"transpose_{path}",
            f"copying fetch by {path}, a transposed matrix of 16 MiB into a row-major one; limit: torch's copy_()",
            "ms",
            "transpose",
            "transpose",
            "16 MiB",
            None,
            ours=Contender(f"beeline {path}", "none", path),
            peers=(),
            limit=Limit("transpose_here", "16 MiB"),
            timeout_s=300,
        )
        for path in ("shm", "cma", "ucx", "nixl", "tcp")
    ),
    _convert_row("bfloat16", "shm", "bfloat16", Bound("<=", 0.5)),
    _convert_row("bfloat16", "cma", "bfloat16", None),
    _convert_row("bfloat16", "tcp", "bfloat16", None),
    _convert_row("blocks", "shm", "float8_e4m3fn in blocks of 128 x 128", Bound("<=", 0.5)),
]
