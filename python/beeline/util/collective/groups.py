"""The groups that this process is in, and those that a driver has declared: actors join when they first use them."""

from __future__ import annotations

import json
import os
import threading
from typing import Any, NamedTuple

from beeline.api import session_folder, this_worker
from beeline.util.collective import backend_registry, meeting
from beeline.util.collective.types import Backend


class Membership(NamedTuple):
    """What makes a process a rank of a group."""

    backend: str
    world_size: int
    rank: int
    gloo_timeout: int | None  # milliseconds


class Groups:
    """Thread-safe. A group that is being made is waited for; that ends, by its meeting's time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._made: dict[str, Any] = {}  # both need the lock
        self._being_made: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether this process is in it."""
        with self._changed:
            return name in self._made

    def make(self, name: str, membership: Membership) -> Any:
        """Joins, which every rank has to do. Raises RuntimeError for a name that is taken here, and as the backend."""
        with self._changed:
            if name in self._made or name in self._being_made:
                raise RuntimeError(f"Trying to initialize a group a second time: this process is in {name!r} already.")
            self._being_made.add(name)
        try:
            group = _make(name, membership)
            with self._changed:
                self._made[name] = group
            return group
        finally:
            with self._changed:
                self._being_made.discard(name)
                self._changed.notify_all()

    def find(self, name: str) -> Any:
        """The group, None if this process is in none of that name."""
        with self._changed:
            while name in self._being_made:
                self._changed.wait()
            return self._made.get(name)

    def leave(self, name: str) -> bool:
        """Whether there was one; it is destroyed, and nothing is declared under the name any more."""
        group = self.find(name)
        with self._changed:
            if group is None or self._made.pop(name, None) is None:
                return False
        group.destroy_group()
        withdraw(name)
        return True


def _make(name: str, membership: Membership) -> Any:
    backend, world_size, rank, gloo_timeout = membership
    group_class = backend_registry.group_class(backend)
    if not group_class.check_backend_availability():
        raise RuntimeError(f"Backend {backend} is not available in this process: install what it needs.")
    if backend == Backend.GLOO:
        return group_class(world_size, rank, name, gloo_timeout)
    return group_class(world_size, rank, name)


def declare(name: str, actor_ids: list[str], ranks: list[int], membership: Membership) -> None:
    """For the actors of those ids to find. Raises RuntimeError for a name that is declared already."""
    path = _declared(name)
    if os.path.exists(path):
        raise RuntimeError(f"Trying to initialize a group twice: {name!r} is declared already.")
    what = {"actors": actor_ids, "ranks": ranks, **membership._asdict()}
    with session_folder.writing(f"the collective group {name!r}"):
        session_folder.put_file(path, json.dumps(what).encode())


def declared(name: str) -> Membership | None:
    """What a driver has declared for this actor, or what its environment says of it; None if nothing."""
    try:
        with open(_declared(name)) as file:
            told = json.load(file)
    except FileNotFoundError:
        return _of_environment(name)
    own = f"{this_worker.state.actor_id:032x}"
    if own not in told["actors"]:
        return _of_environment(name)
    rank = told["ranks"][told["actors"].index(own)]
    return Membership(told["backend"], told["world_size"], rank, told["gloo_timeout"])


def withdraw(name: str) -> None:
    """Undoes `declare`, by whichever rank is first."""
    try:
        os.unlink(_declared(name))
    except FileNotFoundError:
        return


def _declared(name: str) -> str:
    return meeting.path_of(name) + ".declared"


def _of_environment(name: str) -> Membership | None:
    if os.environ.get("collective_group_name") != name:
        return None
    return Membership(
        os.environ["collective_backend"].upper(),
        int(os.environ["collective_world_size"]),
        int(os.environ["collective_rank"]),
        int(os.environ.get("collective_gloo_timeout", "30000")),
    )


current = Groups()
