"""Remote functions by Ray's name: `beeline.remote_function.RemoteFunction`."""

from beeline.api.function import RemoteFunction

__all__ = ["RemoteFunction"]
