"""One look at a session: asked of its daemon, which asks the processes, from inside the session or outside."""

from __future__ import annotations

import os
from typing import Any

from beeline import _core
from beeline.api.runtime_context import job_id
from beeline.exceptions import BeelineError
from beeline.util.state.common import MAX_LIMIT
from beeline.util.state.exception import RayStateApiException, ServerUnavailable

# Of what is asked for within `timeout`, so that an answer in part is there in time: Ray's share.
_SHARE_FOR_PROCESSES = 0.8
_DRIVER, _WORKER = 0, 1  # control::ProcessKind


def sessions() -> list[str]:
    """The folders of this user's sessions that live, the newest last."""
    found = [folder for folder in _core.live_sessions() if os.path.isdir(folder)]
    return sorted(found, key=os.path.getmtime)


def find_session(address: str | None) -> str | None:
    """The folder of the session that is meant; None for the one that this process is in.

    Args:
        address: None or "auto": this process's session, else the only one of the user. "local": this process's.
            A session's folder, its name, or the pid of its driver.

    Raises ServerUnavailable where there is none, or several are meant, with those that there are.
    """
    if address in (None, "auto", "local") and _core.is_running():
        return None
    if address == "local":
        raise ServerUnavailable("This process is in no session: call init(), or name a session by its folder.")
    known = sessions()
    if address in (None, "auto"):
        meant = known
    else:
        meant = [
            folder
            for folder in known
            if address in (folder, os.path.basename(folder))
            or os.path.basename(folder).startswith(f"session-{address}-")
        ]
    if len(meant) == 1:
        return meant[0]
    there = ", ".join(os.path.basename(folder) for folder in known) or "none"
    if not meant:
        what = (
            "No session of this user is running" if address in (None, "auto") else f"No session is called {address!r}"
        )
        raise ServerUnavailable(f"{what}; those that run: {there}. A session starts with init() in a program.")
    raise ServerUnavailable(f"{len(meant)} sessions run: {there}. Say which by address=, its name or its driver's pid.")


class Snapshot:
    """What the daemon and the processes have told, and how things are called in it.

    Args:
        address: See find_session.
        parts: A sum of `_core.PART_*`.
        timeout: Seconds that the whole may take; processes have 0.8 of them.

    Raises ServerUnavailable where there is no session or its daemon does not answer.
    """

    def __init__(self, address: str | None, parts: int, timeout: float) -> None:
        folder = find_session(address)
        within_s = max(1.0, timeout * _SHARE_FOR_PROCESSES)
        try:
            if folder is None:
                self.raw = _core.node_state(parts, MAX_LIMIT, within_s)
            else:
                self.raw = _core.session_state(folder, parts, MAX_LIMIT, within_s)
        except (BeelineError, OSError, RuntimeError, ValueError) as error:
            raise ServerUnavailable(f"The session's state cannot be had: {error}") from error
        self.processes: dict[int, dict[str, Any]] = {row["index"]: row for row in self.raw["processes"] if row["index"]}
        self._ended: dict[int, dict[str, Any]] = {row["index"]: row for row in self.raw["ended"]}

    def members(self) -> list[dict[str, Any]]:
        """The rows of drivers and workers."""
        return [row for row in self.processes.values() if row["kind"] in (_DRIVER, _WORKER)]

    def job_of(self, index: int) -> str:
        """The id of the driver that this process works for, or last worked for; "" where it is not known any more."""
        return job_id(self.processes[index]["job"]) if index in self.processes else ""

    def is_driver(self, index: int) -> bool:
        """Whether that process is a driver that lives."""
        return index in self.processes and self.processes[index]["kind"] == _DRIVER

    def row_of(self, index: int) -> dict[str, Any] | None:
        """What there is to know of a process, one that has ended included."""
        return self.processes.get(index) or self._ended.get(index)

    def pid_of(self, index: int) -> int | None:
        """The pid of a process; None where it is not known."""
        row = self.row_of(index)
        return row["pid"] if row else None

    def ended_with(self, pid: int) -> dict[str, Any] | None:
        """The row of the process that ended last with that pid."""
        return next((row for row in reversed(self.raw["ended"]) if row["pid"] == pid), None)

    def node_of(self, index: int) -> str | None:
        """The id of the node that a process is on."""
        row = self.row_of(index)
        return _core.node_id(row["node"]) if row and row["node"] != _core.NO_NODE else None

    def unanswered(self) -> list[dict[str, Any]]:
        """The rows of processes that were asked and did not answer in time."""
        return [row for row in self.members() if row["unanswered"]]

    def started_ms(self) -> int:
        """When the session began, in milliseconds since 1970."""
        import time

        return int((time.time() - self.raw["uptime_s"]) * 1000)

    def missing(self, kind: str) -> str | None:
        """What the answer lacks of `kind` ("tasks", "objects"): why, and what to do. None where it is complete."""
        reasons = []
        if silent := self.unanswered():
            who = ", ".join(f"{row['what']} (pid {row['pid']})" for row in silent)
            reasons.append(
                f"{len(silent)} of {len(self.members())} processes did not answer in time, as they are stopped or the "
                f"machine is overloaded: {who}"
            )
        left_out = sum(row[f"{kind}_left_out"] for row in self.members())
        if left_out:
            reasons.append(f"{left_out} {kind} were left out: a process tells {MAX_LIMIT} at most")
        return "; ".join(reasons) or None

    def require_all(self, kind: str) -> None:
        """Raises RayStateApiException where something of `kind` is missing."""
        if why := self.missing(kind):
            raise RayStateApiException(
                f"Not all {kind} of the session could be retrieved: {why}. Give more time (timeout=), or accept what "
                "there is: raise_on_missing_output=False."
            )


def worker_id(index: int) -> str:
    """As get_runtime_context().get_worker_id() of that process."""
    return f"{index:056x}"
