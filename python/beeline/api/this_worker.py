"""What this process is when it is a worker; in the driver everything here is empty. `_worker` fills it in."""

from __future__ import annotations

import os
import sys
from typing import Any

from beeline.api import actor


class State:
    """The actor that runs here, if any, and the accelerators it may use."""

    def __init__(self) -> None:
        self.instance: Any = None
        self.actor_id = 0
        self.meta_bytes = b""
        self.gpus: list[str] = []
        # As the worker was started; restored when a task without GPUs follows one with.
        self.visible_devices: str | None = None
        # The user's own OMP_NUM_THREADS, which stands; "" where the number is ours to set.
        self.openmp_threads = ""


state = State()


def use_gpus(indexes: list[int]) -> None:
    """Limits CUDA to the given devices; without any, the process sees what the driver saw."""
    inherited = state.visible_devices
    named = inherited.split(",") if inherited else []
    state.gpus = [named[index] if index < len(named) else str(index) for index in indexes]
    if indexes:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(state.gpus)
    elif inherited is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = inherited


def use_threads(cpus: float) -> None:
    """Gives OpenMP, and torch if it is loaded, one thread per CPU that the actor or task holds, at least one.

    As Ray sets OMP_NUM_THREADS: several workers that each take every core would fight for them. The user's own number
    comes first; a torch that was loaded before the fork has not seen it.
    """
    own = state.openmp_threads.split(",")[0]
    threads = int(own) if own.isdigit() and int(own) > 0 else max(1, int(cpus))
    if not state.openmp_threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(threads)


def own_handle() -> actor.ActorHandle | None:
    """A handle to the actor of this process, None if there is none. It does not keep the actor alive."""
    if not state.meta_bytes:
        return None
    return actor.restore_handle(state.actor_id, None, state.meta_bytes)


def actor_repr() -> str:
    """What the actor's own `__repr__` says, "" where it has none; for tracebacks."""
    instance = state.instance
    if instance is None or type(instance).__repr__ is object.__repr__:
        return ""
    try:
        return repr(instance)
    except Exception as error:
        return f"<its __repr__ raised {type(error).__name__}>"
