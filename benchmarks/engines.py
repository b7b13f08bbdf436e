"""The engines a probe can run on, behind the one module argument `ray`.

Both offer Ray Core's API; what differs (how a session starts, what a two-sided transport needs first) is here.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import Any

ENGINES = ("beeline", "ray")


@dataclass
class Context:
    """What a probe gets: the engine's module and how to use it for this run."""

    ray: Any
    engine: str
    variant: str
    quick: bool

    def reps(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def init(self, num_cpus: int | None = None, store_mib: int | None = None) -> None:
        """Starts a session as a program would. Ray gets no dashboard and no log forwarding, which favours Ray."""
        options: dict[str, Any] = {}
        if num_cpus is not None:
            options["num_cpus"] = num_cpus
        if self.engine == "ray":
            options |= {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
            if store_mib is not None:
                options["object_store_memory"] = store_mib * 2**20
        self.ray.init(**options)

    def returns(self, method: Any) -> Any:
        """Marks a method as returning tensors over this run's transport. Ray's object store is no mark at all."""
        if self.engine == "ray" and self.variant in ("", "object_store"):
            return method
        return self.ray.method(tensor_transport=self.variant or "auto")(method)

    def actor(self, cls: type, num_gpus: float = 0) -> Any:
        """An actor class that may send and receive over any transport (Ray has to be told so)."""
        options: dict[str, Any] = {"num_cpus": 0}
        if num_gpus:
            options["num_gpus"] = num_gpus
        if self.engine == "ray" and self.variant not in ("", "object_store"):
            options["enable_tensor_transport"] = True
        return self.ray.remote(**options)(cls)

    def link(self, actors: list) -> None:
        """Builds the process group a two-sided transport needs; an actor can be in one group only."""
        if self.engine == "ray" and self.variant == "gloo":
            from ray.experimental.collective import create_collective_group

            create_collective_group(actors, backend="torch_gloo")


def context(engine: str, variant: str, quick: bool) -> Context:
    """Raises ImportError where the engine is not installed."""
    if engine == "none":
        return Context(None, engine, variant, quick)
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    if engine == "ray":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return Context(importlib.import_module(engine), engine, variant, quick)
