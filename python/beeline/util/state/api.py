"""list_*, get_* and summarize_* of a session's actors, tasks, objects, nodes, workers, placement groups and jobs.

They ask the daemon, and by it the processes, at each call: nothing is recorded for them but the tasks that ended last.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from beeline.util.state import rows, summaries
from beeline.util.state.common import (
    DEFAULT_LIMIT,
    DEFAULT_RPC_TIMEOUT,
    MAX_LIMIT,
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    StateSchema,
    TaskState,
    WorkerState,
)
from beeline.util.state.exception import RayStateApiException
from beeline.util.state.snapshot import Snapshot

# (column, "=" or "!=", value): all must hold. Texts are compared without regard to case.
Filters = Sequence[tuple[str, str, Any]]

# By resource: the class of its rows, and the column that names one.
SCHEMAS: dict[str, tuple[type[StateSchema], str]] = {
    "actors": (ActorState, "actor_id"),
    "tasks": (TaskState, "task_id"),
    "objects": (ObjectState, "object_id"),
    "nodes": (NodeState, "node_id"),
    "workers": (WorkerState, "worker_id"),
    "placement_groups": (PlacementGroupState, "placement_group_id"),
    "jobs": (JobState, "job_id"),
}
_ASKED_OF_PROCESSES = ("tasks", "objects")
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_Schema = TypeVar("_Schema", bound=StateSchema)


class Rows:
    """Rows of one kind, filtered, and what is to be said of them."""

    def __init__(self, resource: str, snapshot: Snapshot, filters: Filters | None, detail: bool) -> None:
        self.schema, key = SCHEMAS[resource]
        source, _ = rows.SOURCES[resource]
        checked = [_checked(self.schema, *each) for each in check_filters(filters)]
        columns = self.schema.list_columns(detail=detail)
        found = [row for row in source(snapshot) if all(_matches(row.get(column), *rest) for column, *rest in checked)]
        found.sort(key=lambda row: row[key] or "")
        self.found = [{column: row.get(column) for column in columns} for row in found]
        forgotten = sum(row["tasks_forgotten"] for row in snapshot.members()) if resource == "tasks" else 0
        self.notes = [f"{forgotten} tasks ended so long ago that they are not kept any more."] if forgotten else []

    def limited(self, limit: int) -> list[StateSchema]:
        """The first of them; a note says how many there are more."""
        if len(self.found) > limit:
            self.notes.append(
                f"{len(self.found) - limit} of {len(self.found)} are not shown: filter, or set a higher limit."
            )
        return [self.schema(**row) for row in self.found[:limit]]


def query(
    resource: str,
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> tuple[list[StateSchema], list[str]]:
    """What list_* do: the rows, and notes of what is not among them."""
    if limit > MAX_LIMIT:
        raise RayStateApiException(f"Given limit {limit} exceeds the supported limit {MAX_LIMIT}. Use a lower limit.")
    if _contradict(check_filters(filters)):
        return [], ["The filters contradict each other."]
    snapshot = Snapshot(address, rows.SOURCES[resource][1], timeout)
    notes = []
    if resource in _ASKED_OF_PROCESSES:
        if raise_on_missing_output:
            snapshot.require_all(resource)
        if why := snapshot.missing(resource):
            notes.append(f"The answer is incomplete: {why}.")
    found = Rows(resource, snapshot, filters, detail)
    shown = found.limited(limit)
    return shown, [*notes, *found.notes]


def check_filters(filters: Filters | None) -> list[tuple[str, str, Any]]:
    """The filters as a list. Raises ValueError for what is none."""
    checked = []
    for each in filters or ():
        if len(each) != 3:
            raise ValueError(
                f"The given filter has incorrect input type, {each}. Provide (key, predicate, value) tuples."
            )
        column, predicate, value = each
        if predicate not in ("=", "!="):
            raise ValueError(f"Unsupported filter predicate {predicate} is given. Available predicates: =, !=.")
        checked.append((column, predicate, value))
    return checked


def _contradict(filters: Iterable[tuple[str, str, Any]]) -> bool:
    wanted: dict[str, Any] = {}
    for column, predicate, value in filters:
        if predicate == "=" and wanted.setdefault(column, value) != value:
            warnings.warn(
                f"There are multiple '=' filters with the same key '{column}' but different values "
                f"'{wanted[column]}' & '{value}'. Empty result set will be returned",
                UserWarning,
                stacklevel=4,
            )
            return True
    return False


def _checked(schema: type[StateSchema], column: str, predicate: str, value: Any) -> tuple[str, str, Any]:
    column = column.lower()
    if column not in schema.filterable_columns():
        raise RayStateApiException(
            f"The given filter column {column} is not supported. Supported filter columns: "
            f"{sorted(schema.filterable_columns())}"
        )
    return column, predicate, value


def _matches(have: Any, predicate: str, want: Any) -> bool:
    return _is_equal(have, want) == (predicate == "=")


def _is_equal(have: Any, want: Any) -> bool:
    if not isinstance(want, str) or have is None:
        return bool(have == want)
    text = want.lower()
    if isinstance(have, bool):
        if text not in (*_TRUE, *_FALSE):
            raise RayStateApiException(f"A filter compares a boolean with {want!r}: write True or False.")
        return have == (text in _TRUE)
    if isinstance(have, int | float):
        try:
            return bool(have == float(text))
        except ValueError as error:
            raise RayStateApiException(f"A filter compares a number with {want!r}.") from error
    return str(have).lower() == text


def _list(
    schema: type[_Schema],
    resource: str,
    address: str | None,
    filters: Filters | None,
    limit: int,
    timeout: float,
    detail: bool,
    raise_on_missing_output: bool,
    explain: bool,
) -> list[_Schema]:
    found, notes = query(resource, address, filters, limit, timeout, detail, raise_on_missing_output)
    if explain:
        for note in notes:
            warnings.warn(note, stacklevel=3)
    return [row for row in found if isinstance(row, schema)]


def _get(schema: type[_Schema], resource: str, id: str, address: str | None, timeout: float) -> list[_Schema]:  # noqa: A002
    key = SCHEMAS[resource][1]
    return _list(schema, resource, address, [(key, "=", id)], MAX_LIMIT, timeout, True, True, False)


# The arguments of all list_* are those of list_actors, those of all get_* those of get_actor.


def list_actors(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ActorState]:
    """The actors of a session, by id; dead ones included.

    Args:
        address: None or "auto": this process's session, else the user's only one; or a session's name or folder, or the
            pid of its driver.
        filters: [("state", "=", "ALIVE"), ("class_name", "!=", "Counter")]: all must hold.
        limit: How many at most (10,000 at most).
        timeout: Seconds that the session may take to answer.
        detail: Whether all columns are filled in.
        raise_on_missing_output: Whether an answer in part is an error: a process that does not answer in time.
        _explain: Whether what is left out is warned of.

    Raises:
        ServerUnavailable: no session, or several, or its daemon does not answer.
        RayStateApiException: a column that cannot be filtered by, a limit that is too high, an answer in part.
        ValueError: what is no filter.
    """
    return _list(ActorState, "actors", address, filters, limit, timeout, detail, raise_on_missing_output, _explain)


def list_tasks(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[TaskState]:
    """The tasks that are not over, and those that ended last, by id; each attempt is one."""
    return _list(TaskState, "tasks", address, filters, limit, timeout, detail, raise_on_missing_output, _explain)


def list_objects(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ObjectState]:
    """The objects, by id: one entry for each process that has a reference."""
    return _list(ObjectState, "objects", address, filters, limit, timeout, detail, raise_on_missing_output, _explain)


def list_nodes(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[NodeState]:
    """This machine, and virtual nodes."""
    return _list(NodeState, "nodes", address, filters, limit, timeout, detail, raise_on_missing_output, _explain)


def list_workers(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[WorkerState]:
    """Drivers and workers, by id; workers that have ended included."""
    return _list(WorkerState, "workers", address, filters, limit, timeout, detail, raise_on_missing_output, _explain)


def list_placement_groups(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[PlacementGroupState]:
    """Placement groups, by id; removed ones included."""
    return _list(
        PlacementGroupState,
        "placement_groups",
        address,
        filters,
        limit,
        timeout,
        detail,
        raise_on_missing_output,
        _explain,
    )


def list_jobs(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[JobState]:
    """The session's drivers."""
    return _list(JobState, "jobs", address, filters, limit, timeout, detail, raise_on_missing_output, _explain)


def get_actor(
    id: str,  # noqa: A002
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> ActorState | None:
    """The actor with that id (hexadecimal), in detail; None where there is none. Raises as list_actors."""
    return next(iter(_get(ActorState, "actors", id, address, timeout)), None)


def get_task(
    id: str,  # noqa: A002
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> TaskState | list[TaskState] | None:
    """The task with that id, in detail; a list of its attempts where there were several."""
    found = _get(TaskState, "tasks", id, address, timeout)
    return found[0] if len(found) == 1 else found or None


def get_objects(
    id: str,  # noqa: A002
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> list[ObjectState] | None:
    """The object with that id, in detail, as each process holds it; None where no process does."""
    return _get(ObjectState, "objects", id, address, timeout) or None


def get_node(
    id: str,  # noqa: A002
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> NodeState | None:
    """The node with that id, in detail."""
    return next(iter(_get(NodeState, "nodes", id, address, timeout)), None)


def get_worker(
    id: str,  # noqa: A002
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> WorkerState | None:
    """The worker or driver with that id, in detail."""
    return next(iter(_get(WorkerState, "workers", id, address, timeout)), None)


def get_placement_group(
    id: str,  # noqa: A002
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    _explain: bool = False,
) -> PlacementGroupState | None:
    """The placement group with that id, in detail."""
    return next(iter(_get(PlacementGroupState, "placement_groups", id, address, timeout)), None)


def _summary(resource: str, address: str | None, timeout: float, raise_on_missing_output: bool, explain: bool) -> Any:
    snapshot = Snapshot(address, rows.SOURCES[resource][1], timeout)
    if resource in _ASKED_OF_PROCESSES:
        if raise_on_missing_output:
            snapshot.require_all(resource)
        elif explain and (why := snapshot.missing(resource)):
            warnings.warn(f"The answer is incomplete: {why}.", stacklevel=3)
    return {"cluster": summaries.BY_RESOURCE[resource](rows.SOURCES[resource][0](snapshot))}


def summarize_tasks(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """{"cluster": {"summary": {name: {"type", "state_counts": {state: count}, ...}}, "total_tasks", ...}}.

    Arguments and errors as of list_actors.
    """
    return _summary("tasks", address, timeout, raise_on_missing_output, _explain)


def summarize_actors(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """{"cluster": {"summary": {class: {"state_counts": {state: count}, ...}}, "total_actors", ...}}."""
    return _summary("actors", address, timeout, raise_on_missing_output, _explain)


def summarize_objects(
    address: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> dict[str, Any]:
    """{"cluster": {"summary": {call site: {"total_objects", "total_size_mb", ...}}, "total_objects", ...}}."""
    return _summary("objects", address, timeout, raise_on_missing_output, _explain)
