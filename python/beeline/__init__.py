"""Beeline: direct tensor transport between processes, and the actors on both ends.

`import beeline as ray` runs a Ray Core program on one machine. Importing starts nothing.
"""

from typing import TYPE_CHECKING, Any

from beeline import _core, actor, exceptions, experimental, remote_function, runtime_context, runtime_env, util
from beeline.actor import method
from beeline.api import hooks as _hooks
from beeline.api import object_ref as _object_ref
from beeline.api import streams as _streams
from beeline.api.cluster import available_resources, cluster_resources, get_gpu_ids, nodes
from beeline.api.object_ref import ObjectRef
from beeline.api.objects import cancel, get, get_actor, kill, put, wait
from beeline.api.remote import remote
from beeline.api.session import init, is_initialized, shutdown
from beeline.api.streams import DynamicObjectRefGenerator, ObjectRefGenerator
from beeline.runtime_context import get_runtime_context

if TYPE_CHECKING:
    from beeline.api.logging_config import LoggingConfig

_object_ref.install()
_streams.install()
_hooks.install()


def __getattr__(name: str) -> object:
    if name == "LoggingConfig":  # imported when it is named: it would cost every start
        from beeline.api.logging_config import LoggingConfig

        return LoggingConfig
    if name == "__version__":
        from importlib import metadata

        return metadata.version("beeline")
    if name == "timeline":
        from beeline.util.state.timeline import timeline

        return timeline
    raise AttributeError(f"module 'beeline' has no attribute '{name}'")


__all__ = [
    "DynamicObjectRefGenerator",
    "LoggingConfig",
    "ObjectRef",
    "ObjectRefGenerator",
    "__version__",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "experimental",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "remote_function",
    "runtime_context",
    "runtime_env",
    "shutdown",
    "timeline",
    "util",
    "wait",
]
