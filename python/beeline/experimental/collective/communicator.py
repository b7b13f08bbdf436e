"""`CommunicatorHandle`: a collective group as the process that made it sees it."""

from __future__ import annotations

from typing import Any

from beeline.util.collective.types import Backend


class CommunicatorHandle:
    """A group of actors, in the order of their ranks. The group was made in all of them."""

    def __init__(self, actors: list[Any], name: str, backend: str) -> None:
        self._actors = list(actors)
        self._name = name
        self._backend = str(Backend(backend))

    def get_rank(self, actor: Any) -> int:
        """The actor's rank, -1 if it is not in the group."""
        return self._actors.index(actor) if actor in self._actors else -1

    @property
    def actors(self) -> list[Any]:
        """Handles, by rank."""
        return list(self._actors)

    @property
    def name(self) -> str:
        """By which the actors know it in `beeline.util.collective`."""
        return self._name

    @property
    def backend(self) -> str:
        """In capitals: GLOO or NCCL."""
        return self._backend

    def __repr__(self) -> str:
        """For people."""
        return f"CommunicatorHandle({self._name!r}, {self._backend}, {len(self._actors)} actors)"
