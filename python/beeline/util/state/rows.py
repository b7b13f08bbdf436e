"""The rows of a snapshot as plain dicts, with the columns of the classes in `common`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beeline import _core
from beeline.api import session
from beeline.api.actor import ActorID
from beeline.api.placement_group import STATES as GROUP_STATES
from beeline.api.placement_group import PlacementGroupID, scheduling_state
from beeline.api.runtime_context import job_id
from beeline.util.state import deaths
from beeline.util.state.common import DriverInfo
from beeline.util.state.snapshot import Snapshot, worker_id

_STARTING, _ALIVE = 1, 2  # control::ActorState
_ACTOR_STATES = ("PENDING_CREATION", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD")
_TASK_STATES = (
    "PENDING_ARGS_AVAIL",
    "PENDING_NODE_ASSIGNMENT",
    "SUBMITTED_TO_WORKER",
    "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY",
    "RUNNING",
    "RUNNING_IN_RAY_GET",
    "FINISHED",
    "FAILED",
)
_RUNNING, _FINISHED, _FAILED = 4, 6, 7
_NO_TASK = 255
_REFERENCES = ("UNKNOWN_STATUS", "LOCAL_REFERENCE", "USED_BY_PENDING_TASK", "CAPTURED_IN_OBJECT", "ACTOR_HANDLE")
_ERROR_TYPES = {
    _core.ERROR_ACTOR_DIED: "ACTOR_DIED",
    _core.ERROR_ACTOR_INIT_FAILED: "ACTOR_DIED",
    _core.ERROR_ACTOR_UNAVAILABLE: "ACTOR_UNAVAILABLE",
    _core.ERROR_WORKER_CRASHED: "WORKER_DIED",
    _core.ERROR_OBJECT_LOST: "OBJECT_LOST",
    _core.ERROR_OWNER_DIED: "OWNER_DIED",
    _core.ERROR_CANCELLED: "TASK_CANCELLED",
    _core.ERROR_OUT_OF_MEMORY: "OUT_OF_MEMORY",
    _core.ERROR_SESSION_LOST: "LOCAL_RAYLET_DIED",
    _core.ERROR_END_OF_STREAM: "END_OF_STREAMING_GENERATOR",
    _core.ERROR_RECONSTRUCTION: "OBJECT_UNRECONSTRUCTABLE",
    _core.ERROR_NO_ENVIRONMENT: "RUNTIME_ENV_SETUP_FAILED",
}
# By control::DeathCause.
_CREATION_ERRORS = {
    deaths.INIT_FAILED: "TASK_EXECUTION_EXCEPTION",
    deaths.UNSCHEDULABLE: "ACTOR_UNSCHEDULABLE_ERROR",
    deaths.GROUP_REMOVED: "ACTOR_PLACEMENT_GROUP_REMOVED",
    deaths.NO_ENVIRONMENT: "RUNTIME_ENV_SETUP_FAILED",
}
_DRIVER_TASK_ID = "f" * 40  # and the job's id


def _if_any(column: str, value: Any) -> dict[str, Any]:
    """The column where there is a value: filters that name it hold for no other row, not even those with "!="."""
    return {} if value is None else {column: value}


def _group_id(group: int) -> str | None:
    return PlacementGroupID(group).hex() if group else None


def _error_type(kind: int, is_actor: bool) -> str | None:
    if not kind:
        return None
    who = "ACTOR" if is_actor else "TASK"
    if kind == _core.ERROR_INFEASIBLE:
        return f"{who}_UNSCHEDULABLE_ERROR"
    if kind == _core.ERROR_GROUP_REMOVED:
        return f"{who}_PLACEMENT_GROUP_REMOVED"
    return _ERROR_TYPES.get(kind, "TASK_EXECUTION_EXCEPTION")


def _error_type_of_task(row: dict[str, Any]) -> str | None:
    """Also of one that was interrupted by cancel(): its worker tells that as an exception of the program's."""
    if row["error"] == _core.ERROR_TASK and deaths.was_cancelled(row["error_pickle"]):
        return _ERROR_TYPES[_core.ERROR_CANCELLED]
    return _error_type(row["error"], bool(row["actor"]))


def actors(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """See common.ActorState."""
    for row in snapshot.raw["actors"]:
        yield {
            "actor_id": ActorID(row["actor_id"]).hex(),
            "class_name": row["class_name"],
            "state": _ACTOR_STATES[row["state"]],
            "job_id": job_id(row["job"]),
            "name": row["name"],
            "node_id": _actor_node(snapshot, row),
            "pid": row["pid"],
            "ray_namespace": row["namespace"],
            "serialized_runtime_env": "{}",
            "required_resources": row["resources"],
            "death_cause": deaths.death_cause(row),
            "is_detached": row["detached"],
            "repr_name": "",
            "num_restarts": row["incarnation"],
            "num_restarts_due_to_lineage_reconstruction": 0,
            "num_restarts_due_to_node_preemption": 0,
            **_if_any("placement_group_id", _group_id(row["group"])),
        }


def _actor_node(snapshot: Snapshot, row: dict[str, Any]) -> str | None:
    """Where an actor is, or was when it died."""
    if row["node"] != _core.NO_NODE:
        return _core.node_id(row["node"])
    ended = snapshot.ended_with(row["pid"]) if row["pid"] else None
    return _core.node_id(ended["node"]) if ended else None


def tasks(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """See common.TaskState. What a caller knows of a task, with what its worker knows more."""
    at_workers = {row["key"]: row for process in snapshot.members() for row in process["tasks"] if row["of_executor"]}
    for process in snapshot.members():
        for row in process["tasks"]:
            if not row["of_executor"]:
                yield task(snapshot, row, at_workers.get(row["key"]), is_of_driver=snapshot.is_driver(process["index"]))
    for actor in snapshot.raw["actors"]:
        yield _creation(snapshot, actor)


def task(
    snapshot: Snapshot, row: dict[str, Any], at_worker: dict[str, Any] | None, *, is_of_driver: bool
) -> dict[str, Any]:
    """One attempt, by what its caller tells (`row`) and its worker, if that does."""
    state, started_ns, ended_ns = row["state"], 0, 0
    if at_worker is not None:
        started_ns, ended_ns = at_worker["started_ns"], at_worker["ended_ns"]
        # It has begun; whether its end was one of success is known once its result is here.
        if state < _FINISHED:
            state, ended_ns = min(at_worker["state"], _FINISHED), 0
            state = _RUNNING if state == _FINISHED else state
    is_placed = bool(row["worker"])
    job = snapshot.job_of(row["key"][0])
    parent = row["parent_task_id"] or (_DRIVER_TASK_ID + job if is_of_driver else "")
    return {
        "task_id": row["task_id"],
        "attempt_number": row["key"][2],
        "name": row["name"],
        "state": _TASK_STATES[state],
        "job_id": job,
        "actor_id": ActorID(row["actor"]).hex() if row["actor"] else None,
        "type": "ACTOR_TASK" if row["actor"] else "NORMAL_TASK",
        "func_or_class_name": row["function"],
        "parent_task_id": parent,
        "node_id": snapshot.node_of(row["worker"]) if is_placed else None,
        "worker_id": worker_id(row["worker"]) if is_placed else None,
        "worker_pid": snapshot.pid_of(row["worker"]) if is_placed else None,
        "language": "PYTHON",
        "required_resources": row["resources"],
        "placement_group_id": _group_id(row["group"]),
        "events": _events(started_ns, ended_ns, _TASK_STATES[state]),
        "start_time_ms": started_ns // 10**6 or None,
        "end_time_ms": ended_ns // 10**6 or None,
        "error_message": _error_message(row),
        **_if_any("error_type", _error_type_of_task(row)),
    }


def _events(started_ns: int, ended_ns: int, state: str) -> list[dict[str, Any]]:
    events = [{"state": "RUNNING", "created_ms": started_ns // 10**6}] if started_ns else []
    return [*events, {"state": state, "created_ms": ended_ns // 10**6}] if ended_ns else events


def _error_message(row: dict[str, Any]) -> str | None:
    """What the program raised, with its traceback; of other failures the message."""
    if not row["error"]:
        return None
    is_of_program = row["error"] in (_core.ERROR_TASK, _core.ERROR_ACTOR_INIT_FAILED)
    return (deaths.traceback_of(row["error_pickle"]) if is_of_program else None) or row["error_message"]


def _creation(snapshot: Snapshot, row: dict[str, Any]) -> dict[str, Any]:
    """The task that makes an actor."""
    actor_id = ActorID(row["actor_id"]).hex()
    method = f"{row['class_name']}.__init__"
    failed = row["state"] == deaths.DEAD and (row["cause"] in deaths.KEPT_FROM_CREATION or not row["pid"])
    state = {_STARTING: "RUNNING", _ALIVE: "FINISHED", deaths.DEAD: "FAILED" if failed else "FINISHED"}.get(
        row["state"], "PENDING_NODE_ASSIGNMENT"
    )
    return {
        "task_id": "f" * 16 + actor_id,
        "attempt_number": 0,
        "name": f"{row['name']}:{method}" if row["name"] else method,
        "state": state,
        "job_id": job_id(row["job"]),
        "actor_id": actor_id,
        "type": "ACTOR_CREATION_TASK",
        "func_or_class_name": method,
        "parent_task_id": _DRIVER_TASK_ID + job_id(row["job"]) if snapshot.is_driver(row["owner"]) else "",
        "node_id": _actor_node(snapshot, row),
        "worker_id": worker_id(row["process"]) if row["process"] else None,
        "worker_pid": row["pid"] or None,
        "language": "PYTHON",
        "required_resources": row["resources"],
        "placement_group_id": _group_id(row["group"]),
        "events": [],
        "error_message": deaths.traceback_of(row["error_pickle"]) or row["message"] if failed else None,
        **_if_any("error_type", _CREATION_ERRORS.get(row["cause"], "ACTOR_DIED") if failed else None),
    }


def objects(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """See common.ObjectState: one for each process that has a reference."""
    published = publications(snapshot)
    for process in snapshot.members():
        for row in process["objects"]:
            publication = published.get((row["holder"], row["slot"], row["generation"]))
            transport, size = "message", row["size_bytes"]
            if publication and publication["transport"]:
                transport, size = publication["transport"], publication["nbytes"]
            elif publication and publication["nbytes"]:
                transport = "direct" if row["is_direct"] else "object_store"
            yield {
                "object_id": row["object_id"],
                "object_size": size,
                "task_status": _task_status(process["index"], row),
                "attempt_number": row["attempt"] + 1,
                "reference_type": _REFERENCES[row["reference"]],
                "call_site": row["call_site"] or "disabled",
                "type": "DRIVER" if snapshot.is_driver(process["index"]) else "WORKER",
                "pid": process["pid"],
                "ip": session.NODE_IP_ADDRESS,
                "owner_pid": snapshot.pid_of(row["owner"]),
                "holder_pid": snapshot.pid_of(row["holder"]) if transport != "message" else None,
                "transport": transport if row["size_bytes"] >= 0 else None,
                "num_readers": len(publication["readers"]) if publication else 0,
                "num_leases": len(publication["leases"]) if publication else 0,
                "num_borrowers": len(row["borrowers"]),
                "num_holds": row["holds"],
                "task_name": row["name"],
                "error_type": _error_type(row["error"], False),
            }


def _task_status(holder: int, row: dict[str, Any]) -> str:
    """Of the task that makes the object: FINISHED once there is a value, be it an error."""
    if row["task_state"] not in (_NO_TASK, _FINISHED, _FAILED):
        return _TASK_STATES[row["task_state"]]
    is_here = row["owner"] == holder and row["size_bytes"] >= 0
    return "FINISHED" if row["task_state"] != _NO_TASK or is_here else "NIL"


def publications(snapshot: Snapshot) -> dict[tuple[int, int, int], dict[str, Any]]:
    """What each process has published, by its index, the slot and the generation; with `holder` and `pid`."""
    return {
        (process["index"], row["slot"], row["generation"]): {**row, "holder": process["index"], "pid": process["pid"]}
        for process in snapshot.members()
        for row in process["publications"]
    }


def nodes(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """See common.NodeState."""
    for row in snapshot.raw["nodes"]:
        yield {
            "node_id": row["id"],
            "node_ip": session.NODE_IP_ADDRESS,
            "is_head_node": row["node"] == 0,
            "state": "ALIVE" if row["alive"] else "DEAD",
            "state_message": None,
            "node_name": session.NODE_IP_ADDRESS if row["node"] == 0 else f"virtual-{row['node']}",
            "resources_total": row["total"],
            "labels": row["labels"],
            "start_time_ms": snapshot.started_ms() if row["node"] == 0 else None,
            "end_time_ms": 0,
        }


def workers(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """See common.WorkerState."""
    for row in snapshot.members():
        yield {
            **_worker(row),
            "is_alive": True,
            "worker_type": "DRIVER" if snapshot.is_driver(row["index"]) else "WORKER",
            "start_time_ms": _started_ms(row["pid"]),
            "end_time_ms": 0,
        }
    actors_by_pid = {row["pid"]: row for row in snapshot.raw["actors"]}
    for row in snapshot.raw["ended"]:
        yield {
            **_worker(row),
            "is_alive": False,
            "worker_type": "WORKER",
            "exit_type": deaths.exit_type(row, actors_by_pid.get(row["pid"])),
            "exit_detail": f"{row['what']}: {row['how']}",
            "start_time_ms": 0,
            "end_time_ms": row["ended_ns"] // 10**6,
        }


def _started_ms(pid: int) -> int:
    """When a process began, in milliseconds since 1970; 0 where it has ended since."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, ValueError):
        return 0
    since_boot_s = ticks / os.sysconf("SC_CLK_TCK")
    return int((time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot_s) * 1000)


def _worker(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "worker_id": worker_id(row["index"]),
        "node_id": _core.node_id(row["node"]),
        "ip": session.NODE_IP_ADDRESS,
        "pid": row["pid"],
        "worker_launch_time_ms": -1,
        "worker_launched_time_ms": -1,
    }


def placement_groups(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """See common.PlacementGroupState."""
    for row in snapshot.raw["groups"]:
        bundles = (
            zip(row["bundles"], row["nodes"], strict=True) if row["nodes"] else ((b, None) for b in row["bundles"])
        )
        yield {
            "placement_group_id": PlacementGroupID(row["group"]).hex(),
            "name": row["name"],
            "creator_job_id": snapshot.job_of(row["group"] >> 32),
            "state": GROUP_STATES[row["state"]],
            "bundles": [
                {
                    "bundle_id": {"placement_group_id": PlacementGroupID(row["group"]).hex(), "bundle_index": index},
                    "unit_resources": resources,
                    "node_id": "" if node in (None, _core.NO_NODE) else _core.node_id(node),
                    "label_selector": {},
                }
                for index, (resources, node) in enumerate(bundles)
            ],
            "is_detached": row["detached"],
            "stats": {"scheduling_state": scheduling_state(row)},
            "topology_strategy": {},
            "topology_assignments": {},
        }


def jobs(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """See common.JobState."""
    for row in snapshot.members():
        if not snapshot.is_driver(row["index"]):
            continue
        yield {
            "job_id": job_id(row["job"]),
            "submission_id": None,
            "entrypoint": _command_of(row["pid"]),
            "type": "DRIVER",
            "status": "RUNNING",
            "message": None,
            "error_type": None,
            "driver_info": DriverInfo(job_id(row["job"]), session.NODE_IP_ADDRESS, str(row["pid"])),
            "start_time": _started_ms(row["pid"]),
            "end_time": 0,
            "metadata": {},
            "runtime_env": {},
            "driver_node_id": _core.node_id(row["node"]),
        }


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has ended since
        return ""
