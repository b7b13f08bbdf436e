"""What the state API returns: a class for each kind of thing, with the fields that Ray's have.

A column with `detail` is filled in by `get_*`, and by `list_*` with detail=True; it is None otherwise.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

DEFAULT_LIMIT = 100
DEFAULT_RPC_TIMEOUT = 30
# Rows of one kind that are asked of a process, and that a caller can have.
MAX_LIMIT = 10_000


# Lengths of ids, in hexadecimal digits.
_ACTOR_ID, _TASK_ID, _NODE_ID, _JOB_ID = 32, 48, 56, 8
_ACTOR_STATES = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD")  # the first is Ray's alone


def _column(*, filterable: bool = True, detail: bool = False, digits: int = 0, one_of: tuple[str, ...] = ()) -> Any:
    """A field; what a filter compares it with must be an id of so many digits, or one of the texts, where Ray asks."""
    metadata = {"filterable": filterable, "detail": detail, "digits": digits, "one_of": one_of}
    return field(metadata=metadata, default=None) if detail else field(metadata=metadata)


class StateSchema:
    """What the classes have in common. Fields are items, too: `state["name"]`."""

    @classmethod
    def list_columns(cls, detail: bool = True) -> list[str]:
        """Names of the fields, in order; without those of the details if not `detail`."""
        return [column.name for column in fields(cls) if detail or not column.metadata["detail"]]  # type: ignore[arg-type]

    @classmethod
    def columns(cls) -> set[str]:
        """All fields."""
        return set(cls.list_columns())

    @classmethod
    def base_columns(cls) -> set[str]:
        """Fields that are always there."""
        return set(cls.list_columns(detail=False))

    @classmethod
    def detail_columns(cls) -> set[str]:
        """Fields that are there in detail: all."""
        return set(cls.list_columns())

    @classmethod
    def filterable_columns(cls) -> set[str]:
        """Fields that filters may name."""
        return {column.name for column in fields(cls) if column.metadata["filterable"]}  # type: ignore[arg-type]

    @classmethod
    def check_filter(cls, column: str, value: Any) -> str | None:
        """What is wrong with a value that a filter compares a column with."""
        metadata = next(each.metadata for each in fields(cls) if each.name == column)  # type: ignore[arg-type]
        digits, one_of = metadata["digits"], metadata["one_of"]
        if digits and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", str(value)):
            return f"an id has {digits} hexadecimal digits"
        if one_of and str(value).upper() not in one_of:
            return f"it is one of {', '.join(one_of)}"
        return None

    def asdict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)  # type: ignore[call-overload]

    def __getitem__(self, key: str) -> Any:
        """A field."""
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        """Changes a field."""
        setattr(self, key, value)

    def get(self, key: str, default: Any = None) -> Any:
        """A field, or the default where there is none of that name."""
        return getattr(self, key, default)


@dataclass
class ActorState(StateSchema):
    """An actor, dead ones (the last 4096) included."""

    actor_id: str = _column(digits=_ACTOR_ID)
    class_name: str = _column()
    state: str = _column(one_of=_ACTOR_STATES)  # PENDING_CREATION: until __init__ has finished
    job_id: str = _column(digits=_JOB_ID)
    name: str | None = _column()
    node_id: str | None = _column()
    pid: int | None = _column()
    ray_namespace: str | None = _column()
    serialized_runtime_env: str | None = _column(filterable=False, detail=True)
    required_resources: dict[str, float] | None = _column(filterable=False, detail=True)
    death_cause: dict[str, Any] | None = _column(filterable=False, detail=True)
    is_detached: bool | None = _column(filterable=False, detail=True)
    placement_group_id: str | None = _column(detail=True)
    repr_name: str | None = _column(detail=True)
    num_restarts: int | None = _column(filterable=False, detail=True)
    num_restarts_due_to_lineage_reconstruction: int | None = _column(filterable=False, detail=True)
    num_restarts_due_to_node_preemption: int | None = _column(filterable=False, detail=True)
    call_site: str | None = _column(filterable=False, detail=True)
    label_selector: dict[str, str] | None = _column(filterable=False, detail=True)
    fallback_strategy: dict[str, Any] | None = _column(filterable=False, detail=True)


@dataclass
class TaskState(StateSchema):
    """One attempt of a task: of a function, a method, or an actor's creation.

    Those that have ended are the last 4096 of each process that called them, and as many as 1024 that failed.
    """

    task_id: str = _column(digits=_TASK_ID)
    attempt_number: int = _column()
    name: str = _column()
    state: str = _column()
    job_id: str = _column(digits=_JOB_ID)
    actor_id: str | None = _column(digits=_ACTOR_ID)
    type: str = _column()  # NORMAL_TASK, ACTOR_TASK, ACTOR_CREATION_TASK
    func_or_class_name: str = _column()
    parent_task_id: str = _column()
    node_id: str | None = _column()
    worker_id: str | None = _column()
    worker_pid: int | None = _column()
    error_type: str | None = _column()
    language: str | None = _column(detail=True)
    required_resources: dict[str, float] | None = _column(filterable=False, detail=True)
    runtime_env_info: dict[str, Any] | None = _column(filterable=False, detail=True)
    placement_group_id: str | None = _column(detail=True)
    events: list[dict[str, Any]] | None = _column(filterable=False, detail=True)
    profiling_data: dict[str, Any] | None = _column(filterable=False, detail=True)
    creation_time_ms: int | None = _column(filterable=False, detail=True)
    start_time_ms: int | None = _column(filterable=False, detail=True)
    end_time_ms: int | None = _column(filterable=False, detail=True)
    task_log_info: dict[str, Any] | None = _column(filterable=False, detail=True)
    error_message: str | None = _column(filterable=False, detail=True)
    is_debugger_paused: bool | None = _column(detail=True)
    call_site: str | None = _column(filterable=False, detail=True)
    label_selector: dict[str, str] | None = _column(filterable=False, detail=True)
    fallback_strategy: dict[str, Any] | None = _column(filterable=False, detail=True)


@dataclass
class ObjectState(StateSchema):
    """An object as one process holds it: there is one for each process that has a reference.

    Not in Ray: from `owner_pid` on.
    """

    object_id: str = _column()
    object_size: int = _column()  # bytes; -1 until its value is known here
    task_status: str = _column()  # of the task that makes it, FINISHED once it is here; NIL: not known here
    attempt_number: int = _column()  # from 1 on
    reference_type: str = _column()  # LOCAL_REFERENCE, USED_BY_PENDING_TASK, CAPTURED_IN_OBJECT, ACTOR_HANDLE ...
    call_site: str = _column()  # "disabled" without RAY_record_ref_creation_sites=1
    type: str = _column()  # of the process: DRIVER or WORKER
    pid: int = _column()
    ip: str = _column()
    owner_pid: int | None = _column(detail=True)
    holder_pid: int | None = _column(detail=True)  # of the process whose memory has the bytes; None: none's arena
    transport: str | None = _column(detail=True)  # "message", "object_store", "direct", or a named transport
    num_readers: int | None = _column(detail=True)  # processes that may read the published bytes now
    num_leases: int | None = _column(detail=True)  # those, and others whose lease is not back yet
    num_borrowers: int | None = _column(detail=True)  # processes beside the owner with references, as the owner knows
    num_holds: int | None = _column(detail=True)  # references and uses within this process
    task_name: str | None = _column(detail=True)
    error_type: str | None = _column(detail=True)  # of an object that holds an error


@dataclass
class NodeState(StateSchema):
    """This machine, or a virtual node."""

    node_id: str = _column(digits=_NODE_ID)
    node_ip: str = _column()
    is_head_node: bool = _column()
    state: str = _column(one_of=("ALIVE", "DEAD"))
    state_message: str | None = _column(filterable=False)
    node_name: str = _column()
    resources_total: dict[str, float] = _column(filterable=False)
    labels: dict[str, str] = _column(filterable=False)
    start_time_ms: int | None = _column(filterable=False, detail=True)
    end_time_ms: int | None = _column(filterable=False, detail=True)


@dataclass
class WorkerState(StateSchema):
    """A driver or worker; workers that have ended (the last 1000) included."""

    worker_id: str = _column()
    is_alive: bool = _column()
    worker_type: str = _column()  # WORKER or DRIVER
    exit_type: str | None = _column()  # SYSTEM_ERROR, INTENDED_SYSTEM_EXIT, INTENDED_USER_EXIT, USER_ERROR
    node_id: str = _column()
    ip: str = _column()
    pid: int = _column()
    exit_detail: str | None = _column(filterable=False, detail=True)
    worker_launch_time_ms: int | None = _column(filterable=False, detail=True)
    worker_launched_time_ms: int | None = _column(filterable=False, detail=True)
    start_time_ms: int | None = _column(filterable=False, detail=True)  # 0: it has ended
    end_time_ms: int | None = _column(filterable=False, detail=True)
    debugger_port: int | None = _column(detail=True)
    num_paused_threads: int | None = _column(detail=True)


@dataclass
class PlacementGroupState(StateSchema):
    """A placement group; removed ones (the last 1000) included."""

    placement_group_id: str = _column()
    name: str = _column()
    creator_job_id: str = _column()
    state: str = _column()  # PENDING, CREATED, RESCHEDULING, REMOVED
    bundles: list[dict[str, Any]] | None = _column(filterable=False, detail=True)
    is_detached: bool | None = _column(detail=True)
    stats: dict[str, Any] | None = _column(filterable=False, detail=True)
    topology_strategy: dict[str, str] | None = _column(filterable=False, detail=True)
    topology_assignments: dict[str, str] | None = _column(filterable=False, detail=True)


@dataclass
class DriverInfo:
    """What JobState says of the driver."""

    id: str
    node_ip_address: str
    pid: str


@dataclass
class JobState(StateSchema):
    """A driver of the session: there are no submitted jobs."""

    job_id: str = _column()
    submission_id: str | None = _column()
    entrypoint: str = _column(filterable=False)
    type: str = _column()  # DRIVER
    status: str = _column()  # RUNNING
    message: str | None = _column(filterable=False)
    error_type: str | None = _column(filterable=False)
    driver_info: DriverInfo | None = _column(filterable=False)
    start_time: int | None = _column(filterable=False, detail=True)
    end_time: int | None = _column(filterable=False, detail=True)
    metadata: dict[str, str] | None = _column(filterable=False, detail=True)
    runtime_env: dict[str, Any] | None = _column(filterable=False, detail=True)
    driver_agent_http_address: str | None = _column(filterable=False, detail=True)
    driver_node_id: str | None = _column(filterable=False, detail=True)
    driver_exit_code: int | None = _column(filterable=False, detail=True)
