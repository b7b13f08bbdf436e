"""Stored values that do not fit: to disk and back, beside the disk's own speed for the same bytes."""

from __future__ import annotations

import os
import pathlib
import tempfile

from benchmarks.engines import Context
from benchmarks.registry import Bound, Limit, Row, Samples, probe
from benchmarks.timing import clock

SIZE = 64 << 20


def _forget(path: str | os.PathLike[str]) -> None:
    """Has the page cache let go of a file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@probe
def disk(ctx: Context) -> Samples:
    """Files of 64 MiB where sessions have theirs: written and synced, and read into warm memory once forgotten."""
    import numpy as np

    data, target = np.ones(SIZE, np.uint8), np.ones(SIZE, np.uint8)
    written, read = [], []
    with tempfile.TemporaryDirectory(dir=os.environ.get("BEELINE_TMPDIR", "/tmp")) as folder:
        paths = [os.path.join(folder, str(i)) for i in range(ctx.reps(12, 6))]
        for path in paths:
            start = clock()
            with open(path, "wb", buffering=0) as file:
                file.write(data)
                os.fdatasync(file.fileno())
            written.append(SIZE / (clock() - start))
            _forget(path)
        for path in paths:
            start = clock()
            with open(path, "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                if file.readinto(target) != SIZE:
                    raise AssertionError("a file ended early")
            read.append(SIZE / (clock() - start))
            _forget(path)
    return {"write": written, "read": read}


@probe
def spilling(ctx: Context) -> Samples:
    """Values of 64 MiB in a store of 256: the rate at which each publication waits, and that of fetching them again.

    As for the limit, each file is forgotten once it is written, and once it was read: the cache that the next one fills
    is memory that was used before.
    """
    import numpy as np

    ray = ctx.ray
    ray.init(num_cpus=1, object_store_memory=256 << 20)
    from beeline import _core
    from beeline.api import session

    folder = pathlib.Path(session.current.info["session_dir"], "spill")
    data, target = np.ones(SIZE, np.uint8), np.ones(SIZE, np.uint8)
    refs, written, read = [], [], []
    before = _core.transfer_stats()
    while len(written) < ctx.reps(12, 6):
        refs.append(ray.put(data))
        after = _core.transfer_stats()
        if after["spilled_bytes"] > before["spilled_bytes"]:
            stalled = after["spill_stalled_s"] - before["spill_stalled_s"]
            written.append((after["spilled_bytes"] - before["spilled_bytes"]) / stalled)
            for path in folder.iterdir():
                _forget(path)
        before = after
    for ref in refs[: len(written)]:
        start = clock()
        np.copyto(target, ray.get(ref))
        read.append(SIZE / (clock() - start))
        for path in folder.iterdir():
            _forget(path)
    if _core.transfer_stats()["restored_objects"] != len(read):
        raise AssertionError("not all of them lay on disk")
    return {"write": written, "read": read}


ROWS = [
    Row(
        f"spill_{pick}",
        what,
        "MiB/s",
        "spilling",
        "spilling",
        pick,
        Bound(">=", 0.7, "limit"),
        peers=(),
        limit=Limit("disk", pick),
        note=note,
    )
    for pick, what, note in (
        ("write", "spill, values of 64 MiB", "limit: a file, written and synced"),
        ("read", "fetch of a spilled value of 64 MiB into memory", "limit: a file that is not cached, read"),
    )
]
