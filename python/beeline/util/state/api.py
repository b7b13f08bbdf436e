"""list_*, get_* and summarize_* of a session's actors, tasks, objects, nodes, workers, placement groups and jobs.

They ask the daemon, and by it the processes, at each call: nothing is recorded for them but the tasks that ended last.
The functions of one sort are one function, made for each kind of thing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from beeline.util.state import kinds, query
from beeline.util.state.common import DEFAULT_LIMIT, DEFAULT_RPC_TIMEOUT, MAX_LIMIT, ObjectState, TaskState
from beeline.util.state.filters import Filters
from beeline.util.state.kinds import Kind, Schema

_Listed = TypeVar("_Listed")
_Answer = TypeVar("_Answer", covariant=True)
_Found = TypeVar("_Found")
_Made = TypeVar("_Made", bound=Callable[..., Any])

_ADDRESS = """\
address: None or "auto": this process's session, else the user's only one; or a session's name or folder, or the
            pid of its driver."""
_EXPLAIN = "_explain: Whether what is left out is warned of."
_UNAVAILABLE = "ServerUnavailable: no session, or several, or its daemon does not answer."
_PARTIAL = "raise_on_missing_output: Whether an answer in part is an error: a process that does not answer in time."


class Lister(Protocol[_Listed]):
    """What all list_* are."""

    def __call__(
        self,
        address: str | None = None,
        filters: Filters | None = None,
        limit: int = DEFAULT_LIMIT,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[_Listed]: ...


class Getter(Protocol[_Answer]):
    """What all get_* are."""

    def __call__(
        self,
        id: str,  # noqa: A002
        address: str | None = None,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        _explain: bool = False,
    ) -> _Answer: ...


class Summarizer(Protocol):
    """What all summarize_* are."""

    def __call__(
        self,
        address: str | None = None,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> dict[str, Any]: ...


def _called(function: _Made, name: str, document: str, result: Any) -> _Made:
    """The function as if it had been written out under that name."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = document
    function.__annotations__["return"] = result
    return function


def _lister(kind: Kind[Schema], what: str) -> Lister[Schema]:
    def listing(
        address: str | None = None,
        filters: Filters | None = None,
        limit: int = DEFAULT_LIMIT,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[Schema]:
        found, notes = query.rows_of(kind, address, filters, limit, timeout, detail, raise_on_missing_output)
        if _explain:
            _warn([*notes, *query.hints(kind)])
        return found

    document = f"""{what}

    Args:
        {_ADDRESS}
        filters: [(column, "=" or "!=", value), ...]: all must hold. Texts are compared without regard to case; a column
            without a value fits none.
        limit: How many at most (10,000 at most).
        timeout: Seconds that the session may take to answer.
        detail: Whether all columns are filled in.
        {_PARTIAL}
        {_EXPLAIN}

    Raises:
        {_UNAVAILABLE}
        RayStateApiException: a column that cannot be filtered by, a value that it never has, a limit that is too high,
            an answer in part.
        ValueError: what is no filter.
    """
    return _called(listing, f"list_{kind.name}", document, list[kind.schema])  # type: ignore[name-defined]


def _getter(
    kind: Kind[Schema], choose: Callable[[list[Schema]], _Found], what: str, *, name: str = "", result: Any = None
) -> Getter[_Found]:
    def getting(
        id: str,  # noqa: A002
        address: str | None = None,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        _explain: bool = False,
    ) -> _Found:
        found, notes = query.rows_of(kind, address, [(kind.key, "=", id)], MAX_LIMIT, timeout, detail=True)
        if _explain:
            _warn([*notes, *query.hints(kind)])
        return choose(found)

    document = f"""{what}

    Args:
        id: Hexadecimal, as list_{kind.name} gives it.
        {_ADDRESS}
        timeout: Seconds that the session may take to answer.
        {_EXPLAIN}

    Raises:
        {_UNAVAILABLE}
        RayStateApiException: what cannot be such an id, an answer in part.
    """
    return _called(getting, name or f"get_{kind.name[:-1]}", document, result or kind.schema | None)


def _summarizer(kind: Kind[Any], what: str) -> Summarizer:
    def summarizing(
        address: str | None = None,
        timeout: int = DEFAULT_RPC_TIMEOUT,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> dict[str, Any]:
        found, notes = query.summary_of(kind, address, timeout, raise_on_missing_output)
        if _explain:
            _warn([*notes, *query.hints(kind)])
        return found

    document = f"""{what}

    Args:
        {_ADDRESS}
        timeout: Seconds that the session may take to answer.
        {_PARTIAL}
        {_EXPLAIN}

    Raises:
        {_UNAVAILABLE}
        RayStateApiException: an answer in part.
    """
    return _called(summarizing, f"summarize_{kind.name}", document, dict[str, Any])


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        warnings.warn(note, stacklevel=3)


def _first(found: list[Schema]) -> Schema | None:
    return found[0] if found else None


def _attempts(found: list[TaskState]) -> TaskState | list[TaskState] | None:
    return found[0] if len(found) == 1 else found or None


def _all(found: list[ObjectState]) -> list[ObjectState] | None:
    return found or None


list_actors = _lister(kinds.ACTORS, "The actors of a session, by id; dead ones included.")
list_tasks = _lister(kinds.TASKS, "The tasks that are not over, and those that ended last, by id; each attempt is one.")
list_objects = _lister(kinds.OBJECTS, "The objects, by id: one entry for each process that has a reference.")
list_nodes = _lister(kinds.NODES, "This machine, and virtual nodes.")
list_workers = _lister(kinds.WORKERS, "Drivers and workers, by id; workers that have ended included.")
list_placement_groups = _lister(kinds.PLACEMENT_GROUPS, "Placement groups, by id; removed ones included.")
list_jobs = _lister(kinds.JOBS, "The session's drivers.")

get_actor = _getter(kinds.ACTORS, _first, "The actor with that id, in detail; None where there is none.")
get_task = _getter(
    kinds.TASKS,
    _attempts,
    "The task with that id, in detail; a list of its attempts where there were several, None where there is none.",
    result=TaskState | list[TaskState] | None,
)
get_objects = _getter(
    kinds.OBJECTS,
    _all,
    "The object with that id, in detail, as each process holds it; None where no process does.",
    name="get_objects",
    result=list[ObjectState] | None,
)
get_node = _getter(kinds.NODES, _first, "The node with that id, in detail; None where there is none.")
get_worker = _getter(kinds.WORKERS, _first, "The worker or driver with that id, in detail; None where there is none.")
get_placement_group = _getter(
    kinds.PLACEMENT_GROUPS, _first, "The placement group with that id, in detail; None where there is none."
)

summarize_tasks = _summarizer(
    kinds.TASKS,
    'How many tasks there are: {"cluster": {"summary": {name: {"type", "state_counts": {state: count}, ...}}, '
    '"total_tasks", ...}}.',
)
summarize_actors = _summarizer(
    kinds.ACTORS,
    'How many actors: {"cluster": {"summary": {class: {"state_counts": {state: count}, ...}}, "total_actors", ...}}.',
)
summarize_objects = _summarizer(
    kinds.OBJECTS,
    'How many objects: {"cluster": {"summary": {call site: {"total_objects", "total_size_mb", ...}}, '
    '"total_objects", ...}}.',
)
