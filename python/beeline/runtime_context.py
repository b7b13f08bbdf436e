"""The runtime context by Ray's name: `beeline.runtime_context.get_runtime_context`."""

from beeline.api.runtime_context import RuntimeContext, get_runtime_context

__all__ = ["RuntimeContext", "get_runtime_context"]
