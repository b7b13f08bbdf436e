"""Groups that a driver makes in its actors, by Ray's names (`ray.experimental.collective`).

Direct transport needs none of them: with `tensor_transport="gloo"` or "nccl" each pair of processes makes its own. They
are for `beeline.util.collective` in the actors, and for programs that make them because Ray asks for them.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from beeline.api import objects, session
from beeline.api.actor import restore_handle
from beeline.exceptions import ActorError
from beeline.experimental.collective.communicator import CommunicatorHandle
from beeline.util.collective.types import Backend

_lock = threading.Lock()
_made: dict[str, CommunicatorHandle] = {}  # by this process, in this session; needs the lock
_joined: dict[str, CommunicatorHandle] = {}  # those that this process is in; needs the lock
_seeing = threading.local()


class _Made:
    """Forgets them with the session."""

    def session_ended(self) -> None:
        with _lock:
            _made.clear()
            _joined.clear()


_with_session = _Made()


def create_collective_group(actors: Sequence[Any], backend: str, name: str | None = None) -> CommunicatorHandle:
    """Makes a collective group of actors; in all of them when this returns.

    Args:
        actors: Handles; their places are their ranks. Each is busy with it until all are.
        backend: "gloo" (also "torch_gloo") or "nccl", in any case, or one that the actors have registered.
        name: By which the actors use it (`group_name=`); None: a random one.

    Raises:
        ValueError: a backend that there is not, the same actor twice, no actors.
        RuntimeError: an actor is in a group of that backend already, or the name is taken.
        What an actor raised (`init_collective_group`), ActorDiedError: the group is in none of them then.
    """
    session.ensure()
    name = str(uuid.uuid4()) if name is None else name
    wanted = str(Backend(backend))
    members = list(actors)
    if not members:
        raise ValueError("A collective group has at least one actor; got none.")
    if name in {group.name for group in get_collective_groups([])}:
        raise RuntimeError(f"This process has made a collective group {name!r} already: destroy it first.")
    for actor in members:
        if get_collective_groups([actor], wanted):
            raise RuntimeError(
                f"Actor {actor} already in group for backend {wanted}. Destroy that group first: an actor is in one "
                "group of each backend at most."
            )
    if len(set(members)) != len(members):
        raise ValueError(f"All actors must be unique, got: {members}")
    known = [(actor._beeline_actor.id(), actor._beeline_meta_bytes) for actor in members]
    joining = [actor.__ray_call__.remote(_join, known, rank, wanted, name) for rank, actor in enumerate(members)]
    left: list[Any] = joining
    try:
        while left:  # the first that fails says why; the others only wait for it
            ready, left = objects.wait(left)
            objects.get(ready)
    except BaseException:
        for actor, joined in zip(members, joining, strict=True):  # where joining failed, this call is not run
            actor.__ray_call__.remote(_leave, name, joined)
        raise
    group = CommunicatorHandle(members, name, wanted)
    with _lock:
        _made[name] = group
    session.current.dependents.add(_with_session)
    return group


def destroy_collective_group(group_or_name: CommunicatorHandle | str) -> None:
    """Destroys a group that this process has made, in all actors that live; they may be in others from then on.

    Raises ValueError for a name that there is not, or anything else.
    """
    if not isinstance(group_or_name, CommunicatorHandle | str):
        raise ValueError(f"Expected CommunicatorHandle or str (group name), got {type(group_or_name).__name__}.")
    name = group_or_name if isinstance(group_or_name, str) else group_or_name.name
    with _lock:
        group = _made.pop(name, None)
    if group is None:
        raise ValueError(f"No group with name {name} found.")
    for left in [actor.__ray_call__.remote(_leave, name) for actor in group.actors]:
        with contextlib.suppress(ActorError):  # the group went with the process
            objects.get(left)


def destroy_all_collective_groups() -> None:
    """Destroys all groups that this process has made."""
    for group in get_collective_groups([]):
        destroy_collective_group(group)


def get_collective_groups(actors: Sequence[Any], backend: str | None = None) -> list[CommunicatorHandle]:
    """The groups that this process has made with all of these actors in them, of the backend where one is named.

    Raises ValueError for a backend that there is not.
    """
    wanted = None if backend is None else str(Backend(backend))
    with _lock:
        groups = list(({**_joined, **_made} if getattr(_seeing, "joined", False) else _made).values())
    return [
        group for group in groups if set(actors) <= set(group.actors) and (wanted is None or group.backend == wanted)
    ]


@contextlib.contextmanager
def seen_by_members() -> Iterator[None]:
    """`get_collective_groups` in this thread also gives groups that this process is in, whoever has made them.

    Ray asks a tensor transport how two actors reach each other in the process that made their group, Beeline in the
    actor that receives.
    """
    _seeing.joined = True
    try:
        yield
    finally:
        _seeing.joined = False


def _join(instance: Any, members: list[tuple[int, bytes]], rank: int, backend: str, name: str) -> None:
    from beeline.util import collective

    collective.init_collective_group(len(members), rank, backend, name)
    handles = [restore_handle(actor_id, None, meta_bytes) for actor_id, meta_bytes in members]  # keep none alive
    with _lock:
        _joined[name] = CommunicatorHandle(handles, name, backend)


def _leave(instance: Any, name: str, joined: None = None) -> None:
    from beeline.util import collective

    with _lock:
        _joined.pop(name, None)
    if collective.is_group_initialized(name):
        collective.destroy_collective_group(name)
