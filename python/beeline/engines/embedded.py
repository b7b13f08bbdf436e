"""Starts the embedded engine: the node daemon and the warm interpreter come out of the package's own files."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from beeline import _core
from beeline.engines import preload

DAEMON = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "bin", "beelined")
ZYGOTE_COMMAND = (sys.executable, "-P", "-m", "beeline._zygote")
VENV_COMMAND = (sys.executable, "-P", "-m", "beeline.runtime_env.make_venv")
# Tells workers the quota before they join, when their arena opens.
QUOTA_VARIABLE = "BEELINE_ARENA_QUOTA_BYTES"


class Options(NamedTuple):
    """What a session is started with."""

    resources: Mapping[str, float]
    config: bytes  # for the workers of the driver that starts it
    quota_bytes: int | None  # how much published objects may take, None for a share of the machine's memory
    labels: Mapping[str, str]
    spill_dir: str = ""  # where a folder is made for values beyond the quota, "" for the session's own folder
    log_to_driver: bool = True
    job_name: str = ""
    virtual_nodes: bool = False
    # Variables of the worker that is started before anybody asks; None: none is started.
    prestart_env: Mapping[str, str] | None = None


def start(options: Options) -> dict[str, Any]:
    """Starts a session with this process as its driver; returns what `_core.start_session` returns.

    Raises CoreError or OSError where the daemon does not come up; nothing is left running then.
    """
    return _core.start_session(_for_core(options))


def start_lasting(options: Options) -> str:
    """Starts a session that waits for drivers, and lives until it is stopped; returns its folder. Raises as start()."""
    return _core.start_lasting_session(_for_core(options))


def join(session_dir: str, config: bytes, log_to_driver: bool) -> dict[str, Any]:
    """Makes this process another driver of a session; returns what `_core.join_as_driver` returns. Raises CoreError."""
    return _core.join_as_driver(session_dir, config, log_to_driver, _quota(None))


def _quota(given: int | None) -> int:
    return _core.default_quota_bytes() if given is None else given


def _for_core(options: Options) -> dict[str, Any]:
    quota = _quota(options.quota_bytes)
    return {
        "beelined": DAEMON,
        "zygote_command": list(ZYGOTE_COMMAND),
        "venv_command": list(VENV_COMMAND),
        "zygote_env": {**preload.environment(), QUOTA_VARIABLE: str(quota)},
        "resources": dict(options.resources),
        "config": options.config,
        "arena_capacity_bytes": 0,  # the core's own choice: addresses cost nothing
        "arena_quota_bytes": quota,
        "spill_dir": options.spill_dir,
        "prestart": 0 if options.prestart_env is None else 1,
        "prestart_env": dict(options.prestart_env or {}),
        "log_to_driver": options.log_to_driver,
        "job_name": options.job_name,
        "labels": dict(options.labels),
        "virtual_nodes": options.virtual_nodes,
    }


def detected_resources(num_cpus: float | None, num_gpus: float | None, custom: Mapping[str, float]) -> dict[str, float]:
    """What this machine offers; a given number overrides what is found."""
    found = {
        "CPU": float(_core.usable_cpus() if num_cpus is None else num_cpus),
        "GPU": float(_gpu_count() if num_gpus is None else num_gpus),
        "memory": float(_core.default_memory_resource()),
        "node:127.0.0.1": 1.0,
        **{name: float(amount) for name, amount in custom.items()},
    }
    return {name: amount for name, amount in found.items() if amount}


def _gpu_count() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    try:
        devices = os.listdir("/dev")
    except OSError:  # a sandbox may have none
        return 0
    return sum(name.removeprefix("nvidia").isdigit() for name in devices if name.startswith("nvidia"))
