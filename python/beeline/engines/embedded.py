"""Starts the embedded engine: the node daemon and the warm interpreter come out of the package's own files."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beeline import _core
from beeline.engines import cgroup, preload

PACKAGE = Path(__file__).resolve().parent.parent
DAEMON = PACKAGE / "bin" / "beelined"
ZYGOTE_COMMAND = (sys.executable, "-P", "-m", "beeline._zygote")
# Of the memory there is: what published objects may take by default, and the "memory" that tasks may ask for.
QUOTA_SHARE = 0.6
MEMORY_SHARE = 0.7
# Tells workers the quota before they join, when their arena opens.
QUOTA_VARIABLE = "BEELINE_ARENA_QUOTA_BYTES"


def start(
    resources: Mapping[str, float],
    config: bytes,
    quota_bytes: int | None,
    log_to_driver: bool,
    job_name: str,
    labels: Mapping[str, str],
    virtual_nodes: bool,
    spill_dir: str = "",
) -> dict[str, Any]:
    """Starts a session with this process as its driver; returns what `_core.start_session` returns.

    quota_bytes: how much published objects may take, None for a share of the machine's memory.
    spill_dir: where a folder is made for values beyond that, "" for the session's own folder.
    Raises CoreError or OSError where the daemon does not come up; nothing is left running then.
    """
    quota = default_quota_bytes() if quota_bytes is None else quota_bytes
    return _core.start_session(
        {
            "beelined": str(DAEMON),
            "zygote_command": list(ZYGOTE_COMMAND),
            "zygote_env": {**preload.environment(), QUOTA_VARIABLE: str(quota)},
            "resources": dict(resources),
            "config": config,
            "arena_capacity_bytes": 0,  # the core's own choice: addresses cost nothing
            "arena_quota_bytes": quota,
            "spill_dir": spill_dir,
            "prestart": 1,
            "log_to_driver": log_to_driver,
            "job_name": job_name,
            "labels": dict(labels),
            "virtual_nodes": virtual_nodes,
        }
    )


def detected_resources(num_cpus: float | None, num_gpus: float | None, custom: Mapping[str, float]) -> dict[str, float]:
    """What this machine offers; a given number overrides what is found."""
    found = {
        "CPU": float(_cpu_count() if num_cpus is None else num_cpus),
        "GPU": float(_gpu_count() if num_gpus is None else num_gpus),
        "memory": float(int(memory_bytes() * MEMORY_SHARE)),
        "node:127.0.0.1": 1.0,
        **{name: float(amount) for name, amount in custom.items()},
    }
    return {name: amount for name, amount in found.items() if amount}


def default_quota_bytes() -> int:
    """What published objects of one process may take where `init` is not told."""
    return int(memory_bytes() * QUOTA_SHARE)


def memory_bytes() -> int:
    """Memory of the machine or of its cgroup, whichever is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(total, cgroup.memory_limit_bytes() or total)


def _cpu_count() -> int:
    count = len(os.sched_getaffinity(0))
    return min(count, max(1, int(cgroup.cpu_limit() or count)))


def _gpu_count() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(glob.glob("/dev/nvidia[0-9]*"))
