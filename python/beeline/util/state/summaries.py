"""Counts of a session's tasks, actors and objects, as summarize_* give them: Ray's shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

_MIB = 2**20


def of_tasks(tasks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """By name."""
    summary: dict[str, dict[str, Any]] = {}
    types: Counter[str] = Counter()
    for task in tasks:
        name = task["name"] or task["func_or_class_name"]
        entry = summary.setdefault(name, {"func_or_class_name": name, "type": task["type"], "state_counts": {}})
        _count(entry["state_counts"], task["state"])
        types[task["type"]] += 1
    return {
        "summary": summary,
        "total_tasks": types["NORMAL_TASK"],
        "total_actor_tasks": types["ACTOR_TASK"],
        "total_actor_scheduled": types["ACTOR_CREATION_TASK"],
        "summary_by": "func_name",
    }


def of_actors(actors: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """By class."""
    summary: dict[str, dict[str, Any]] = {}
    total = 0
    for actor in actors:
        entry = summary.setdefault(actor["class_name"], {"class_name": actor["class_name"], "state_counts": {}})
        _count(entry["state_counts"], actor["state"])
        total += 1
    return {"summary": summary, "total_actors": total, "summary_by": "class"}


def of_objects(objects: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """By call site; the key is "disabled" where they are not recorded."""
    summary: dict[str, dict[str, Any]] = {}
    pids: dict[str, set[int]] = {}
    for row in objects:
        site = row["call_site"]
        entry = summary.setdefault(
            site,
            {
                "total_objects": 0,
                "total_size_mb": 0.0,
                "total_num_workers": 0,
                "total_num_nodes": 1,
                "task_state_counts": {},
                "task_attempt_number_counts": {},
                "ref_type_counts": {},
            },
        )
        entry["total_objects"] += 1
        entry["total_size_mb"] += max(row["object_size"], 0) / _MIB
        _count(entry["task_state_counts"], row["task_status"])
        _count(entry["task_attempt_number_counts"], str(row["attempt_number"]))
        _count(entry["ref_type_counts"], row["reference_type"])
        pids.setdefault(site, set()).add(row["pid"])
    for site, entry in summary.items():
        entry["total_num_workers"] = len(pids[site])
    return {
        "summary": summary,
        "total_objects": sum(entry["total_objects"] for entry in summary.values()),
        "total_size_mb": sum(entry["total_size_mb"] for entry in summary.values()),
        "callsite_enabled": "disabled" not in summary,
        "summary_by": "callsite",
    }


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1
