"""From nothing to actors that answer. Each round is a fresh driver, so every sample is a real start."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.actors import Plain, UsesTorch
from benchmarks.engines import Context
from benchmarks.registry import Bound, Limit, Row, Samples, probe
from benchmarks.timing import clock


@probe
def start_plain(ctx: Context) -> Samples:
    """init, then a first actor created and called; nothing here imports torch."""
    begin = clock()
    ctx.init()
    started = clock()
    actor = ctx.ray.remote(num_cpus=0)(Plain).remote()
    ctx.ray.get(actor.ready.remote())
    return {"init": [started - begin], "first_actor": [clock() - started]}


@probe
def start_torch(ctx: Context) -> Samples:
    """A start with a first actor that imports torch, then four more of them created at once and called."""
    subprocess.run([sys.executable, "-c", "import torch"], check=True)  # its files: in the page cache for everyone
    cls = ctx.ray.remote(num_cpus=0)(UsesTorch)
    begin = clock()
    ctx.init()
    actors = [cls.remote()]
    ctx.ray.get(actors[0].ready.remote())
    first = clock()
    actors += [cls.remote() for _ in range(4)]
    ctx.ray.get([actor.ready.remote() for actor in actors[1:]])
    return {"bare_start": [first - begin], "four_more": [clock() - first]}


IMPORT_TORCH = Limit("import_torch", "seconds")
BARE = "init + first actor that imports torch, bare start"

ROWS = [
    Row(
        "init",
        "init",
        "ms",
        "start",
        "start_plain",
        "init",
        Bound("<=", 1 / 20),
        limit=Limit("start_python", "seconds"),
        note="limit: exec of a bare interpreter",
    ),
    Row(
        "first_actor",
        "first actor without torch",
        "ms",
        "start",
        "start_plain",
        "first_actor",
        Bound("<=", 1 / 10),
    ),
    Row(
        "four_more_actors",
        "4 more actors that import torch",
        "ms",
        "start",
        "start_torch",
        "four_more",
        Bound("<=", 1 / 50),
        limit=Limit("fork_torch", "four"),
        note="limit: four forks of a process with torch",
    ),
    Row(
        "bare_start_import",
        f"{BARE}, against import torch",
        "ms",
        "start",
        "start_torch",
        "bare_start",
        Bound("<=", 1.3, "limit"),
        limit=IMPORT_TORCH,
    ),
    Row(
        "bare_start_ray",
        f"{BARE}, against Ray's",
        "ms",
        "start",
        "start_torch",
        "bare_start",
        Bound("<=", 0.5),
        limit=IMPORT_TORCH,
    ),
]
