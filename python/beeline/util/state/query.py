"""How every question of the state API is asked: of one snapshot, kind by kind."""

from __future__ import annotations

import os
from typing import Any

from beeline.util.state import filters as filtering
from beeline.util.state.common import DEFAULT_LIMIT, DEFAULT_RPC_TIMEOUT, MAX_LIMIT
from beeline.util.state.exception import RayStateApiException
from beeline.util.state.filters import Filters
from beeline.util.state.kinds import OBJECTS, TASKS, Kind, Schema
from beeline.util.state.snapshot import Snapshot

_CALL_SITES = "RAY_record_ref_creation_sites"


def rows_of(
    kind: Kind[Schema],
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = DEFAULT_LIMIT,
    timeout: float = DEFAULT_RPC_TIMEOUT,
    detail: bool = False,
    raise_on_missing_output: bool = True,
) -> tuple[list[Schema], list[str]]:
    """What list_* do: the rows, by id, and notes of what is not among them."""
    checked = filtering.check(filters)
    if limit < 0 or limit > MAX_LIMIT:
        raise RayStateApiException(
            f"Given limit {limit} exceeds the supported limit {MAX_LIMIT}. Use a lower limit."
            if limit > 0
            else f"Given limit {limit} is below 0."
        )
    if filtering.contradict(checked):
        return [], ["The filters contradict each other."]
    matches = filtering.matcher(checked, kind.schema)
    snapshot = Snapshot(address, kind.parts, timeout)
    notes = _missing(kind, snapshot, raise_on_missing_output)
    found = sorted(filter(matches, kind.rows(snapshot)), key=lambda row: row[kind.key] or "")
    if len(found) > limit:
        notes.append(f"{len(found) - limit} of {len(found)} are not shown: filter, or set a higher limit.")
    columns = kind.schema.list_columns(detail=detail)
    return [kind.schema(**{column: row.get(column) for column in columns}) for row in found[:limit]], notes


def summary_of(
    kind: Kind[Any], address: str | None, timeout: float, raise_on_missing_output: bool
) -> tuple[dict[str, Any], list[str]]:
    """What summarize_* do: the counts, and notes of what is not among them."""
    snapshot = Snapshot(address, kind.parts, timeout)
    notes = _missing(kind, snapshot, raise_on_missing_output)
    assert kind.count is not None, kind.name
    return {"cluster": kind.count(kind.rows(snapshot))}, notes


def hints(kind: Kind[Any]) -> list[str]:
    """What an answer of that kind never has as this process is set up, and how it would."""
    if kind is not OBJECTS or os.environ.get(_CALL_SITES) in ("1", "true"):
        return []
    return [f"Call sites are not recorded: run the program with {_CALL_SITES}=1 in its environment."]


def _missing(kind: Kind[Any], snapshot: Snapshot, is_error: bool) -> list[str]:
    """Notes of what the processes did not tell, or do not keep. Raises RayStateApiException if that is an error."""
    if not kind.asks_processes:
        return []
    if is_error:
        snapshot.require_all(kind.name)
    notes = [f"The answer is incomplete: {why}."] if (why := snapshot.missing(kind.name)) else []
    forgotten = sum(row["tasks_forgotten"] for row in snapshot.members()) if kind is TASKS else 0
    return [*notes, *([f"{forgotten} tasks ended so long ago that they are not kept any more."] if forgotten else [])]
