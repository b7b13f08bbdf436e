"""What the cgroup of this process, or one above it, allows: containers, systemd slices and batch systems set these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def memory_limit_bytes() -> int | None:
    """The least limit on memory of this process's cgroups; None without any."""
    limits = [_read(folder / "memory.max") for folder in _folders("")]
    limits += [_read(folder / "memory.limit_in_bytes") for folder in _folders("memory")]
    return min((int(limit) for limit in limits if limit.isdigit()), default=None)


def cpu_limit() -> float | None:
    """The least number of CPUs that a quota of this process's cgroups allows; None without any."""
    quotas = [_read(folder / "cpu.max").split() for folder in _folders("")]
    quotas += [[_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")] for folder in _folders("cpu")]
    pairs = (tuple(map(int, quota)) for quota in quotas if len(quota) == 2 and all(part.isdigit() for part in quota))
    return min((quota / period for quota, period in pairs if period), default=None)


def _folders(controller: str) -> Iterator[Path]:
    """This process's cgroup under the controller ("": version 2's only hierarchy) and all above it."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, names, path = line.split(":", 2)
        if controller not in names.split(","):
            continue
        for mount in (_ROOT / controller, *([_ROOT / "unified"] if not controller else [])):
            # Within a container of its own namespace the path is that of the host, and only the mount is there.
            here = mount / path.lstrip("/")
            yield from (folder for folder in (here, *here.parents) if folder == mount or mount in folder.parents)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
