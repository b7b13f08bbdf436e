"""The session's last tasks in Chrome's trace format."""

from __future__ import annotations

import json
import os
from typing import Any

from beeline import _core
from beeline.util.state import rows
from beeline.util.state.common import DEFAULT_RPC_TIMEOUT
from beeline.util.state.snapshot import Snapshot


def timeline(
    filename: str | os.PathLike[str] | None = None, *, address: str | None = None, timeout: int = DEFAULT_RPC_TIMEOUT
) -> list[dict[str, Any]] | None:
    """When the last tasks ran, and where: opens in https://ui.perfetto.dev and chrome://tracing.

    Args:
        filename: Where to write it as JSON; None: it is returned.
        address: As of list_tasks.
        timeout: Likewise.

    Returns: one event for each attempt that has ended, of those that are kept (see list_tasks), times in microseconds
    since 1970; and the names of the processes. None where it was written.

    Raises ServerUnavailable as list_tasks; OSError where the file cannot be written.
    """
    events = events_of(Snapshot(address, _core.PART_TASKS, timeout))
    if filename is None:
        return events
    with open(filename, "w", encoding="utf-8") as file:
        json.dump(events, file)
    return None


def events_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """What timeline() returns, of a look at the session's tasks."""
    events: list[dict[str, Any]] = []
    for row in snapshot.members():
        name = f"{row['what']} (pid {row['pid']})"
        events.append({"name": "process_name", "ph": "M", "pid": row["pid"], "args": {"name": name}})
    ends = {row["key"]: row for process in snapshot.members() for row in process["tasks"] if row["of_executor"]}
    for process in snapshot.members():
        for raw in process["tasks"]:
            end = ends.get(raw["key"])
            if raw["of_executor"] or end is None or not end["ended_ns"]:
                continue
            task = rows.task(snapshot, raw, end, is_of_driver=snapshot.is_driver(process["index"]))
            events.append(
                {
                    "cat": f"task::{task['func_or_class_name']}",
                    "name": task["name"],
                    "ph": "X",
                    "pid": task["worker_pid"],
                    "tid": task["worker_pid"],
                    "ts": end["started_ns"] / 1000,
                    "dur": (end["ended_ns"] - end["started_ns"]) / 1000,
                    "args": {
                        name: task.get(name)
                        for name in ("task_id", "attempt_number", "state", "actor_id", "error_type")
                    },
                }
            )
    return events
