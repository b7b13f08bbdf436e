"""Where am I: facts about the task, actor and session that this code runs in."""

from __future__ import annotations

import contextvars
from typing import Any

from beeline import _core
from beeline.api import actor, placement_group, session, this_worker
from beeline.runtime_env import RuntimeEnv
from beeline.runtime_env.variables import shown

# The call of an async actor that this coroutine belongs to; elsewhere the core knows.
async_task: contextvars.ContextVar[Any] = contextvars.ContextVar("beeline_task", default=None)


def _task() -> Any:
    return async_task.get() or _core.current_task()


def job_id(number: int) -> str:
    """The id of the driver with that number in its session, in hexadecimal."""
    return number.to_bytes(4, "little").hex()


class RuntimeContext:
    """Ray's RuntimeContext. What makes no sense outside of a task or an actor is None or raises, as documented."""

    def get(self) -> dict[str, Any]:
        """job_id, node_id, namespace; in workers also task_id and actor_id."""
        facts: dict[str, Any] = {
            "job_id": self.get_job_id(),
            "node_id": self.get_node_id(),
            "namespace": self.namespace,
        }
        if session.current.is_worker:
            facts["task_id"] = self.get_task_id()
            facts["actor_id"] = self.get_actor_id()
        return facts

    def get_job_id(self) -> str:
        """The id of this driver, or of the driver that this worker works for, in hexadecimal."""
        return job_id(int(session.current.info.get("job", 0)))

    def get_node_id(self) -> str:
        """The node's id in hexadecimal."""
        return session.node_id()

    def get_worker_id(self) -> str:
        """This process's id in hexadecimal, unique in the session (56 digits, as Ray's)."""
        return f"{int(session.current.info.get('process_index', 0)):056x}"

    def get_session_name(self) -> str:
        """The session's name."""
        return session.current.info["session_name"]

    def get_temp_dir(self) -> str:
        """The session's folder."""
        return session.current.info["session_dir"]

    def get_task_id(self) -> str | None:
        """The running task's id in hexadecimal; None in the driver."""
        task = _task()
        return task.task_id().hex() if task else None

    def get_task_name(self) -> str | None:
        """The running task's name: `.options(name=...)`, else "Class.method" or "function"; None in the driver."""
        task = _task()
        return task.name() if task else None

    def get_task_function_name(self) -> str | None:
        """The name of the function or method that runs, whatever its task is called; None in the driver."""
        task = _task()
        return task.function_name() if task else None

    def get_attempt_number(self) -> int | None:
        """0 at the first attempt of the running task, one more at each retry; None in the driver."""
        task = _task()
        return task.attempt() if task else None

    def get_actor_id(self) -> str | None:
        """The actor's id in hexadecimal; None outside of actors."""
        info = _core.actor_info()
        return actor.ActorID(info["actor_id"]).hex() if info else None

    @property
    def actor_id(self) -> Any:
        """The actor's id; None outside of actors."""
        info = _core.actor_info()
        return actor.ActorID(info["actor_id"]) if info else None

    def get_actor_name(self) -> str | None:
        """The actor's name, "" if it has none; None outside of actors."""
        info = _core.actor_info()
        return info["name"] if info else None

    @property
    def namespace(self) -> str:
        """Where names of actors are looked up."""
        return session.current.namespace

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor has been restarted. Raises AssertionError outside of actors, as Ray."""
        info = _core.actor_info()
        if info is None:
            raise AssertionError("This is only available in an actor.")
        return info["incarnation"] > 0

    @property
    def current_actor(self) -> actor.ActorHandle:
        """A handle to the actor that this code runs in. Raises RuntimeError outside of actors."""
        handle = this_worker.own_handle()
        if handle is None:
            raise RuntimeError("This method is only available in an actor.")
        return handle

    def get_assigned_resources(self) -> dict[str, float]:
        """Amounts that the running task or actor holds. Raises AssertionError in the driver, as Ray."""
        if not session.current.is_worker:
            raise AssertionError("This method is only available when the process is a worker; this is the driver.")
        info = _core.actor_info()
        if info:
            return dict(info["resources"])
        task = _task()
        return dict(task.resources()) if task else {}

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Ids of the accelerators that this worker may use, by resource name."""
        return {"GPU": list(this_worker.state.gpus)}

    get_resource_ids = get_accelerator_ids

    def get_placement_group_id(self) -> str | None:
        """The id of the placement group that this task or actor is in, in hexadecimal; None where it is in none."""
        group = session.current.group
        return placement_group.PlacementGroupID(group).hex() if group else None

    def get_runtime_env_string(self) -> str:
        """The runtime_env as JSON."""
        return self.runtime_env.serialize()

    @property
    def runtime_env(self) -> RuntimeEnv:
        """The environment of this task or actor, what it has from its job included; of a driver, the job's."""
        return shown(session.current.runtime_env)

    @property
    def gcs_address(self) -> str:
        """Where the node daemon is: the session's folder."""
        return session.current.info.get("session_dir", "")

    def get_node_labels(self) -> dict[str, str]:
        """What `init(labels=...)` or VirtualCluster say of this node, and its id."""
        return session.node_labels()

    def is_canceled(self) -> bool:
        """Whether cancel() was called for the running task.

        Raises RuntimeError in the driver and in async actors, whose coroutines are cancelled themselves.
        """
        task = _task()
        if not session.current.is_worker or task is None:
            raise RuntimeError("This method is only available when the process is a worker.")
        info = _core.actor_info()
        if info and info["is_async"]:
            raise RuntimeError("This method is not supported in an async actor.")
        return task.is_cancelled()


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Facts about the task, actor and session that the caller runs in. Starts a session where there is none."""
    session.ensure()
    return _context
