"""What Ray has under `ray.util`, as far as it is here. What needs asyncio, multiprocessing or joblib is imported when
its name is first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from beeline.util import accelerators
from beeline.util.actor_pool import ActorPool
from beeline.util.check_serialize import inspect_serializability
from beeline.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
from beeline.util.helpers import as_completed, map_unordered
from beeline.util.named_actors import list_named_actors
from beeline.util.node import get_node_instance_id, get_node_ip_address
from beeline.util.serialization import deregister_serializer, register_serializer

_ON_DEMAND = ("executor", "joblib", "multiprocessing", "queue")


def __getattr__(name: str) -> ModuleType:
    if name in _ON_DEMAND:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


__all__ = [
    "ActorPool",
    "accelerators",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_node_instance_id",
    "get_node_ip_address",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "register_serializer",
]
