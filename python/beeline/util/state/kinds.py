"""What there is in a session, kind by kind: of which class its rows are, where they come from, how they are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from beeline import _core
from beeline.util.state import rows, summaries
from beeline.util.state.common import (
    ActorState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    StateSchema,
    TaskState,
    WorkerState,
)
from beeline.util.state.snapshot import Snapshot

Schema = TypeVar("Schema", bound=StateSchema)


@dataclass(frozen=True)
class Kind(Generic[Schema]):
    """One kind of thing."""

    name: str
    schema: type[Schema]
    key: str  # the column that names one
    rows: Callable[[Snapshot], Iterator[dict[str, Any]]]
    parts: int = 0  # what a snapshot must ask for, a sum of _core.PART_*
    asks_processes: bool = False  # so that an answer may lack something
    count: Callable[[Iterable[dict[str, Any]]], dict[str, Any]] | None = None  # what summarize_* gives


ACTORS = Kind("actors", ActorState, "actor_id", rows.actors, _core.PART_ERRORS, count=summaries.of_actors)
TASKS = Kind("tasks", TaskState, "task_id", rows.tasks, _core.PART_TASKS | _core.PART_ERRORS, True, summaries.of_tasks)
OBJECTS = Kind("objects", ObjectState, "object_id", rows.objects, _core.PART_OBJECTS, True, summaries.of_objects)
NODES = Kind("nodes", NodeState, "node_id", rows.nodes)
WORKERS = Kind("workers", WorkerState, "worker_id", rows.workers)
PLACEMENT_GROUPS = Kind(
    "placement_groups", PlacementGroupState, "placement_group_id", rows.placement_groups, _core.PART_GROUPS
)
JOBS = Kind("jobs", JobState, "job_id", rows.jobs)

BY_NAME: dict[str, Kind[Any]] = {
    kind.name: kind for kind in (ACTORS, TASKS, OBJECTS, NODES, WORKERS, PLACEMENT_GROUPS, JOBS)
}
