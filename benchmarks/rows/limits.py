"""What the machine itself takes: the figures beside which every engine's are read. Engine "none"."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import subprocess
import sys

from benchmarks.engines import Context
from benchmarks.registry import Samples, probe
from benchmarks.timing import clock, each, per_call

GIB = 2**30
FUTEX_WAIT, FUTEX_WAKE = 0, 1
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}


@probe
def futex(ctx: Context) -> Samples:
    """Round trip of a counter between two processes that sleep on futexes, called from Python (about 2 us of it)."""
    number = SYS_FUTEX[platform.machine()]
    call = ctypes.CDLL(None, use_errno=True).syscall
    page = mmap.mmap(-1, 4096)
    here = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ping, pong = 0, 64

    def wait_for(offset: int, value: int) -> None:
        while (seen := struct.unpack_from("i", page, offset)[0]) != value:
            call(number, ctypes.c_void_p(here + offset), FUTEX_WAIT, seen, None, None, 0)

    def tell(offset: int, value: int) -> None:
        struct.pack_into("i", page, offset, value)
        call(number, ctypes.c_void_p(here + offset), FUTEX_WAKE, 1, None, None, 0)

    calls, blocks, warm = ctx.reps(2000, 500), 5, 200
    total = warm + calls * blocks
    child = os.fork()
    if child == 0:
        for i in range(1, total + 1):
            wait_for(ping, i)
            tell(pong, i)
        os._exit(0)
    turn = iter(range(1, total + 1))

    def once() -> None:
        i = next(turn)
        tell(ping, i)
        wait_for(pong, i)

    samples = per_call(once, calls, blocks, warm)
    os.waitpid(child, 0)
    return {"round_trip": samples}


@probe
def memcpy(ctx: Context) -> Samples:
    """Copying bytes between two buffers whose pages are there already."""
    import numpy as np

    def copy(size: int, calls: int, blocks: int) -> list[float]:
        source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
        return per_call(lambda: np.copyto(target, source), calls, blocks, 2)

    return {"1MiB": copy(2**20, 50, 5), "1GiB": copy(GIB, 1, ctx.reps(5, 3))}


@probe
def local_tensor(ctx: Context) -> Samples:
    """Reading (sum) and making (fill) a float32 tensor of 1 GiB in warm memory, on one thread as in an actor."""
    import torch

    torch.set_num_threads(1)
    n = GIB // 4
    tensor = torch.ones(n)
    reads = each(lambda: tensor.sum(), ctx.reps(7, 3), 1)
    makes = each(lambda: torch.full((n,), 3.0, out=tensor), ctx.reps(7, 3), 1)
    return {"read_1GiB": reads, "make_1GiB": makes}


@probe
def import_torch(ctx: Context) -> Samples:
    """`import torch` in a bare interpreter, the files being in the page cache."""
    code = "import time; t = time.perf_counter(); import torch; print(time.perf_counter() - t)"

    def once() -> float:
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    once()
    return {"seconds": [once() for _ in range(ctx.reps(3, 1))]}


@probe
def fork_torch(ctx: Context) -> Samples:
    """Four forks of a process that has torch imported, each answered by one byte."""
    import torch  # noqa: F401

    def four() -> None:
        pipes = []
        for _ in range(4):
            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(w, b"x")
                os._exit(0)
            pipes.append((r, w, pid))
        for r, w, pid in pipes:
            os.read(r, 1)
            os.close(r)
            os.close(w)
            os.waitpid(pid, 0)

    return {"four": each(four, ctx.reps(10, 5), 1)}


@probe
def start_python(ctx: Context) -> Samples:
    """A bare interpreter from exec to exit: the least that starting a fresh Python process costs."""

    def once() -> float:
        start = clock()
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
        return clock() - start

    once()
    return {"seconds": [once() for _ in range(5)]}
