"""What the machine itself takes: the figures beside which every engine's are read. Engine "none"."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.engines import Context
from benchmarks.registry import Samples, probe
from benchmarks.timing import clock, each, per_call

GIB = 2**30
FUTEX_WAIT, FUTEX_WAKE = 0, 1
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}


class Words:
    """Shared memory between a process and its forks, and the kernel's futexes on 32-bit words of it."""

    def __init__(self, size_bytes: int) -> None:
        self.page = mmap.mmap(-1, size_bytes)
        self._here = ctypes.addressof(ctypes.c_char.from_buffer(self.page))
        self._number = SYS_FUTEX[platform.machine()]
        self._call = ctypes.CDLL(None, use_errno=True).syscall

    def wait(self, offset: int, seen: int, timeout: ctypes.Array | None = None) -> None:
        """Sleeps unless the word is another than `seen` already; `timeout` is a timespec."""
        self._call(self._number, ctypes.c_void_p(self._here + offset), FUTEX_WAIT, seen, timeout, None, 0)

    def wake(self, offset: int) -> None:
        self._call(self._number, ctypes.c_void_p(self._here + offset), FUTEX_WAKE, 1, None, None, 0)


@probe
def futex(ctx: Context) -> Samples:
    """Round trip of a counter between two processes that sleep on futexes, called from Python (about 2 us of it)."""
    words = Words(4096)
    ping, pong = 0, 64

    def wait_for(offset: int, value: int) -> None:
        while (seen := struct.unpack_from("i", words.page, offset)[0]) != value:
            words.wait(offset, seen)

    def tell(offset: int, value: int) -> None:
        struct.pack_into("i", words.page, offset, value)
        words.wake(offset)

    calls, blocks, warm = ctx.reps(2000, 500), 5, 200
    total = warm + calls * blocks

    def answer() -> None:
        for i in range(1, total + 1):
            wait_for(ping, i)
            tell(pong, i)

    turn = iter(range(1, total + 1))

    def once() -> None:
        i = next(turn)
        tell(ping, i)
        wait_for(pong, i)

    with _forked(answer):
        samples = per_call(once, calls, blocks, warm)
    return {"round_trip": samples}


@contextlib.contextmanager
def _forked(work: Callable[[], None]) -> Iterator[None]:
    """A fork of this process does `work` meanwhile."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    try:
        yield
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the other process ended with status {status}")


class Ring:
    """Pickled messages from one process to one other, through shared memory: what two Python processes need at least.

    The reader spins for 20 us, then sleeps on the count of messages. There is room for all messages of a block, so
    that nobody waits for room. What is written first has to be seen first, which Python can ask of x86 alone.
    """

    SLOTS, SLOT_BYTES, HEAD_BYTES = 8192, 128, 128
    SPIN_S = 20e-6
    COUNT, ASLEEP = 0, 64  # on cache lines of their own
    MOST = (ctypes.c_long * 2)(0, 1_000_000)  # ns; a wake-up can be missed: the writer's store of COUNT may wait

    def __init__(self) -> None:
        if platform.machine() != "x86_64":
            raise NotImplementedError("the ring needs stores to be seen in their order, as on x86-64")
        self._words = Words(self.HEAD_BYTES + self.SLOTS * self.SLOT_BYTES)
        self._ints = memoryview(self._words.page).cast("i")
        self._done = 0  # by this side

    def send(self, message: Any) -> None:
        pickled = pickle.dumps(message, 5)
        at = self.HEAD_BYTES + self._done % self.SLOTS * self.SLOT_BYTES
        self._words.page[at : at + len(pickled)] = pickled
        self._done += 1
        self._ints[self.COUNT] = self._done
        if self._ints[self.ASLEEP // 4]:
            self._words.wake(self.COUNT)

    def receive(self) -> Any:
        ints, done = self._ints, self._done
        if ints[self.COUNT] <= done:
            self._await(done)
        at = self.HEAD_BYTES + done % self.SLOTS * self.SLOT_BYTES
        self._done += 1
        return pickle.loads(self._words.page[at : at + self.SLOT_BYTES])

    def _await(self, done: int) -> None:
        ints, until = self._ints, clock() + self.SPIN_S
        while ints[self.COUNT] <= done:
            if clock() < until:
                continue
            ints[self.ASLEEP // 4] = 1
            self._words.wait(self.COUNT, done, self.MOST)
            ints[self.ASLEEP // 4] = 0


@probe
def ring(ctx: Context) -> Samples:
    """Two Python processes: seconds until a message the size of a call is answered, and messages per second with all
    sent before the first answer is read, and sent one way.
    """
    there, back = Ring(), Ring()
    calls, blocks, warm = ctx.reps(2000, 500), 5, 200
    count = ctx.reps(4000, 1000)
    cores = sorted(os.sched_getaffinity(0))  # on one core each would spin in the other's way

    def call(number: int) -> tuple:
        return (number, "nop", (), {})

    def answer() -> None:
        os.sched_setaffinity(0, cores[-1:])
        for _ in range(warm + calls * blocks + blocks * count):
            back.send((there.receive()[0], None))
        for _ in range(blocks):
            there.receive()
            for number in range(count):
                back.send((number, None))

    def once() -> None:
        there.send(call(0))
        back.receive()

    def rate(send: Callable[[], None]) -> float:
        start = clock()
        send()
        for number in range(count):
            if back.receive()[0] != number:
                raise AssertionError("another message came")
        return count / (clock() - start)

    def send_all() -> None:
        for number in range(count):
            there.send(call(number))

    with _forked(answer):
        os.sched_setaffinity(0, cores[:1])
        try:
            return {
                "round_trip": per_call(once, calls, blocks, warm),
                "pipelined": [rate(send_all) for _ in range(blocks)],
                "one_way": [rate(lambda: there.send(call(0))) for _ in range(blocks)],
            }
        finally:
            os.sched_setaffinity(0, cores)


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
