"""How time is taken: blocks of calls, one sample per block, after a warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable

clock = time.perf_counter


def per_call(call: Callable[[], object], calls: int, blocks: int, warm: int) -> list[float]:
    """Seconds per call, one mean per block of `calls` calls."""
    for _ in range(warm):
        call()
    samples = []
    for _ in range(blocks):
        start = clock()
        for _ in range(calls):
            call()
        samples.append((clock() - start) / calls)
    return samples


def each(call: Callable[[], object], calls: int, warm: int) -> list[float]:
    """Seconds of every single call, for calls that are long beside the clock."""
    return per_call(call, 1, calls, warm)
