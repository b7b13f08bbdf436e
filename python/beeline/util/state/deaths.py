"""Why an actor died and how a worker ended, in the words of Ray's state API."""

from __future__ import annotations

import pickle
import re
from typing import Any

from beeline.api import session
from beeline.api.actor import ActorID
from beeline.exceptions import TaskCancelledError
from beeline.util.state.snapshot import worker_id

DEAD = 4  # control::ActorState
# control::DeathCause
WORKER_DIED, KILLED, EXITED, INIT_FAILED, OWNER_DIED, UNSCHEDULABLE, OUT_OF_SCOPE, GROUP_REMOVED = range(1, 9)
NO_ENVIRONMENT = 12
# Those for which an actor was never created.
KEPT_FROM_CREATION = (INIT_FAILED, UNSCHEDULABLE, GROUP_REMOVED, NO_ENVIRONMENT)

_REASONS = {
    WORKER_DIED: "WORKER_DIED",
    KILLED: "RAY_KILL",
    EXITED: "WORKER_DIED",
    OWNER_DIED: "OWNER_DIED",
    OUT_OF_SCOPE: "OUT_OF_SCOPE",
}
_EXITS = {
    WORKER_DIED: "SYSTEM_ERROR",
    KILLED: "INTENDED_SYSTEM_EXIT",
    EXITED: "INTENDED_USER_EXIT",
    INIT_FAILED: "USER_ERROR",
    OWNER_DIED: "INTENDED_SYSTEM_EXIT",
    OUT_OF_SCOPE: "INTENDED_SYSTEM_EXIT",
}
_CONTEXTS = {
    UNSCHEDULABLE: "actor_unschedulable_context",
    GROUP_REMOVED: "actor_unschedulable_context",
    NO_ENVIRONMENT: "runtime_env_failed_context",
}
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")


def traceback_of(error: bytes) -> str | None:
    """Of what `dump_task_error` gave: the outer pickle is text and numbers, the exception within stays as it is."""
    if not error:
        return None
    (_, text, *_), _ = pickle.loads(error)
    return _TERMINAL_CODES.sub("", text)


def was_cancelled(error: bytes) -> bool:
    """Whether what `dump_task_error` gave is the end of a task that was cancelled while it ran.

    A task that fails with the cancellation of another one ends in the same class of exception, but names that one.
    """
    if not error:
        return False
    (name, text, *_), _ = pickle.loads(error)
    own = f"{TaskCancelledError.__module__}.{TaskCancelledError.__qualname__}: {name} was cancelled"
    return text.rstrip().rpartition("\n")[2].startswith(own)


def death_cause(actor: dict[str, Any]) -> dict[str, Any] | None:
    """A context that says why, under its name; None of an actor that is not dead."""
    if actor["state"] != DEAD:
        return None
    cause = actor["cause"]
    if cause == INIT_FAILED:
        text = traceback_of(actor["error_pickle"]) or actor["message"]
        return {"creation_task_failure_context": {"language": "PYTHON", "formatted_exception_string": text}}
    if cause in _CONTEXTS:
        return {_CONTEXTS[cause]: {"error_message": actor["message"]}}
    return {
        "actor_died_error_context": {
            "reason": _REASONS.get(cause, "UNSPECIFIED"),
            "error_message": f"The actor is dead because {_because(cause, actor['message'])}.",
            "actor_id": ActorID(actor["actor_id"]).hex(),
            "class_name": actor["class_name"],
            "name": actor["name"],
            "ray_namespace": actor["namespace"],
            "never_started": not actor["pid"],
            "pid": actor["pid"],
            "node_ip_address": session.NODE_IP_ADDRESS,
            "owner_id": worker_id(actor["owner"]),
            "owner_ip_address": session.NODE_IP_ADDRESS,
        }
    }


def _because(cause: int, message: str) -> str:
    if cause == OUT_OF_SCOPE:
        return "all references to the actor were removed"
    if cause == EXITED:
        return f"its worker process has ended by itself ({message}), as by exit_actor()"
    return f"its worker process has died: {message}" if cause == WORKER_DIED else message.rstrip(".")


def exit_type(ended: dict[str, Any], actor: dict[str, Any] | None) -> str:
    """Of a worker that has ended, in which that actor lived, if any.

    What the actor died of says it even where the exit status came too late to be known.
    """
    cause = actor["cause"] if actor else 0
    if cause in _EXITS:
        return _EXITS[cause]
    failed = not ended["intended"] or re.fullmatch(r"exit code [1-9]\d*", ended["how"])
    return "SYSTEM_ERROR" if failed else "INTENDED_SYSTEM_EXIT"
