"""A worker process after its fork: joins the session, runs what it is told, exits.

The zygote calls `main` in the child.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import signal
import sys
from typing import Any, NoReturn

from beeline import _core
from beeline.api import actor, actor_meta, session
from beeline.api.hooks import Hooks
from beeline.api.this_worker import state, use_gpus, use_threads
from beeline.engines.embedded import QUOTA_VARIABLE
from beeline.runtime_env import variables, worker
from beeline.tensors import mutation, registered


class WorkerHooks(Hooks):
    """What `_core.run_worker` calls, besides what it calls in every process; see there."""

    # Of an async actor, from its constructor on.
    async_executor: Any = None

    @staticmethod
    def load_function(blob: bytes) -> Any:
        """The function of a task, ready to be called."""
        return pickle.loads(blob)

    @staticmethod
    def create_actor(blob: bytes, args: list[Any], kwargs: dict[str, Any], info: dict[str, Any]) -> Any:
        """Makes the actor's instance; what its constructor raises leaves this function."""
        class_blob, state.meta_bytes, transports = pickle.loads(blob)
        registered.adopt(transports)
        state.actor_id = info["actor_id"]
        session.current.namespace = info["namespace"] or session.current.namespace
        cls = pickle.loads(class_blob)
        _add_standard_methods(cls)
        if info["is_async"]:
            from beeline.api.async_executor import AsyncExecutor

            WorkerHooks.async_executor = AsyncExecutor()
            state.instance = WorkerHooks.async_executor.construct(lambda: cls(*args, **kwargs))
        else:
            state.instance = cls(*args, **kwargs)
        return state.instance

    @staticmethod
    def assign(
        accelerators: dict[str, list[int]], resources: dict[str, float], node: int, group: int, capture: bool
    ) -> None:
        """Limits CUDA to the devices, and OpenMP to the CPUs, that the actor or task was given; notes where it is."""
        session.current.move_to(node, group, capture)
        use_gpus(accelerators.get("GPU", []))
        use_threads(resources.get("CPU", 0))

    @staticmethod
    def start_async(instance: Any, max_concurrency: int) -> None:
        """Runs the event loop of an async actor until the process is to exit."""
        WorkerHooks.async_executor.run(instance, max_concurrency)

    @staticmethod
    def rehearse() -> None:
        """Does what a first assignment will need, in a worker that has none yet: what a fork touches first is slow."""
        try:
            importlib.util.find_spec("beeline_no_such_module")  # looks through every folder of sys.path
            from beeline._rehearsal import Rehearsal

            cls = pickle.loads(pickle.dumps(Rehearsal, protocol=5))
            _add_standard_methods(cls)
            getattr(cls(), actor_meta.READY)()
        except Exception:  # whatever the program's import hooks do: it will be seen when it is meant
            logging.getLogger("beeline").debug("The rehearsal failed", exc_info=True)

    before_call = staticmethod(mutation.check)
    after_call = staticmethod(mutation.check)


def _add_standard_methods(cls: type) -> None:
    def ready(self: Any) -> bool:
        return True

    def call(self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return fn(self, *args, **kwargs)

    def terminate(self: Any) -> None:
        actor.exit_actor()

    for name, function in ((actor_meta.READY, ready), (actor_meta.CALL, call), (actor_meta.TERMINATE, terminate)):
        setattr(cls, name, function)


def main(session_dir: str, fork_token: int) -> NoReturn:
    """The life of a worker. Called in a fresh fork with one thread; ends the process."""
    status = 0
    try:
        quota_bytes = int(os.environ.pop(QUOTA_VARIABLE, "0"))
        info = _core.join_session(session_dir, fork_token, 0, quota_bytes)
        _apply(info)
        signal.signal(signal.SIGINT, _interrupt)
        _core.run_worker(WorkerHooks)
        _shut_down(state.instance)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        logging.getLogger("beeline").exception("The worker failed")
        status = 1
    finally:
        _exit(status)
    raise AssertionError("unreachable")


def _shut_down(instance: Any) -> None:
    """Calls `__ray_shutdown__` of an actor that goes by itself; what it raises is logged, and changes nothing."""
    shutdown = getattr(instance, actor_meta.SHUTDOWN, None)
    if shutdown is None:
        return
    try:
        outcome = shutdown()
        if hasattr(outcome, "__await__"):
            import asyncio

            async def finish() -> None:
                await outcome

            asyncio.run(finish())
    except Exception:
        logging.getLogger("beeline").exception("%s.%s failed", type(instance).__name__, actor_meta.SHUTDOWN)


def _interrupt(signum: int, frame: Any) -> None:
    """The core interrupts a cancelled task by SIGINT. One that comes late is for a task that is over."""
    task = _core.current_task()
    if task is not None and task.is_cancelled():
        raise KeyboardInterrupt


def _apply(info: dict[str, Any]) -> None:
    """Makes this process see the modules, folder and names of its driver."""
    config = pickle.loads(info["config"])
    state.openmp_threads = os.environ.get("OMP_NUM_THREADS", "")
    session.current.is_worker = True
    session.current.pid = os.getpid()
    session.current.info = info
    session.current.namespace = config["namespace"]
    session.current.labels = config["labels"]
    env, own_interpreter = variables.taken(os.environ)
    session.current.adopt(env, os.environ)
    state.visible_devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        os.chdir(config["cwd"])
    except OSError as error:
        logging.getLogger("beeline").warning("The driver's folder cannot be entered: %s", error)
    worker.put_on(env, own_interpreter, config, info["session_dir"])
    logging.getLogger("beeline").setLevel(config["log_level"])
    if config["logging"] is not None:
        from beeline.api.logging_config import LoggingConfig

        LoggingConfig.from_dict(config["logging"]).apply()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    worker.run_hook(env, info["session_dir"])


def _exit(status: int) -> NoReturn:
    """Ends the process without finalizers of other threads; what atexit would do and the streams is done."""
    import atexit

    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        _core.stop()
    finally:
        os._exit(status)
