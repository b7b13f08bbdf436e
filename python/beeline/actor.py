"""Actors by Ray's names: `beeline.actor.ActorHandle`, `exit_actor` ..."""

from beeline.api.actor import ActorClass, ActorHandle, ActorMethod, exit_actor, method

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "method"]
