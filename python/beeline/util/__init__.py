"""What Ray has under `ray.util`, as far as it is here. What needs asyncio, multiprocessing or joblib is imported when
its name is first used.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from beeline.api.cluster import available_resources_per_node
from beeline.util import accelerators, scheduling_strategies
from beeline.util.actor_pool import ActorPool
from beeline.util.check_serialize import inspect_serializability
from beeline.util.debug import disable_log_once_globally, enable_periodic_logging, log_once
from beeline.util.helpers import as_completed, map_unordered
from beeline.util.named_actors import list_named_actors
from beeline.util.node import get_node_instance_id, get_node_ip_address
from beeline.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from beeline.util.serialization import deregister_serializer, register_serializer

_ON_DEMAND = (
    "collective",
    "executor",
    "joblib",
    "metrics",
    "metrics_files",
    "multiprocessing",
    "queue",
    "state",
)


def __getattr__(name: str) -> ModuleType:
    if name in _ON_DEMAND:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


__all__ = [
    "ActorPool",
    "accelerators",
    "as_completed",
    "available_resources_per_node",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_instance_id",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
    "scheduling_strategies",
]
