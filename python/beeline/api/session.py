"""init and shutdown: one session per process, started on first use."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import sys
import threading
import uuid
import weakref
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from beeline import _core
from beeline.api import addresses, notices
from beeline.api import labels as label_rules
from beeline.api import options as option_table
from beeline.engines import embedded
from beeline.exceptions import CoreError, SessionLostError
from beeline.runtime_env.runtime_env import RuntimeEnv, checked
from beeline.runtime_env.variables import Resolver, needs_setup, variables_of
from beeline.tensors import registered

if TYPE_CHECKING:
    from beeline.api.logging_config import LoggingConfig

_log = logging.getLogger("beeline")
# Of the one machine, for whoever asks.
NODE_IP_ADDRESS = "127.0.0.1"
_lock = threading.RLock()


class _Session:
    """What Python knows of the session that this process is in; empty outside of one."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}
        self.namespace = ""
        # What this process's tasks and actors inherit, and as the environment variables of their workers.
        self.runtime_env: dict[str, Any] = {}
        self.variables: dict[str, str] = {}
        self.resolver = Resolver()
        self.labels: dict[str, str] | None = {}  # of the driver's node; None: the daemon knows them
        # Where this worker is; a driver is on node 0, and in no placement group.
        self.node = 0
        self.group = 0
        self.captures = False  # what is called from here runs in the group too
        self.is_worker = False
        self.pid = 0  # of the process that is in it; a fork of it is not
        # Things with state that ends with the session; each has `session_ended()`.
        self.dependents: weakref.WeakSet[Any] = weakref.WeakSet()
        # Remote functions that were called: what they know holds for this session, and this placement group.
        self.functions: weakref.WeakSet[Any] = weakref.WeakSet()

    def clear(self) -> None:
        """This process is in no session."""
        self.info, self.namespace, self.labels = {}, "", {}
        self.runtime_env, self.variables, self.resolver = {}, {}, Resolver()

    def move_to(self, node: int, group: int, captures: bool) -> None:
        """This worker is somewhere else from here on."""
        if (self.group, self.captures) != (group, captures):
            self.forget_functions()
        self.node, self.group, self.captures = node, group, captures

    def adopt(self, runtime_env: dict[str, Any], settled: Mapping[str, str] = MappingProxyType({})) -> None:
        """The environment of this process from here on; `settled`: see variables_of, which raises."""
        self.variables = variables_of(runtime_env, settled)
        self.runtime_env = runtime_env

    def forget_functions(self) -> None:
        """The next call of each remote function starts from scratch."""
        for function in list(self.functions):
            function.forget()


current = _Session()


class Context(Mapping[str, Any]):
    """What `init` returns: facts about the session; a context manager that ends it."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        self.address_info = {
            "node_ip_address": NODE_IP_ADDRESS,
            "node_id": node_id(),
            "session_dir": info["session_dir"],
            "session_name": info["session_name"],
            "address": info["session_dir"],
            "gcs_address": info["session_dir"],
        }
        self.dashboard_url: str | None = None

    def __getitem__(self, key: str) -> Any:
        """One of the facts in `address_info`."""
        return self.address_info[key]

    def __iter__(self) -> Any:
        """Over the names of the facts."""
        return iter(self.address_info)

    def __len__(self) -> int:
        """How many facts there are."""
        return len(self.address_info)

    def __repr__(self) -> str:
        """For people."""
        return f"Context(session={self.address_info['session_name']!r})"

    def __enter__(self) -> Context:
        """Nothing more to start."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends the session."""
        shutdown()

    def disconnect(self) -> None:
        """Ends the session."""
        shutdown()


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    object_store_memory: int | None = None,
    object_spilling_directory: str | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config: Any = None,
    configure_logging: bool = True,
    logging_level: int | str = logging.INFO,
    logging_format: str | None = None,
    logging_config: LoggingConfig | None = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    _virtual_nodes: bool = False,
    **unknown: Any,
) -> Context:
    """Starts a session on this machine with this process as its driver, or joins a running one as another driver.

    Args:
        address: The session to join: its folder, the folder's name, or "auto" for what the variable RAY_ADDRESS says,
            the latest that `beeline start` started, or the only one there is. None: as "auto", but where there is
            neither variable nor session of `beeline start`, one is started. "local": one is started.
        num_cpus: How many CPUs tasks and actors may hold; None: those this process may use.
        num_gpus: How many GPUs; None: those in CUDA_VISIBLE_DEVICES or /dev.
        resources: Amounts of custom resources by name.
        labels: Labels of the node, as nodes() and get_runtime_context().get_node_labels() give them.
        object_store_memory: Bytes that published objects of one process may take at most (the arena quota). Stored
            values beyond that are moved to disk.
        object_spilling_directory: A folder on the disk for that; None: the session's own, below BEELINE_TMPDIR or /tmp.
        local_mode: Not in this version.
        ignore_reinit_error: Return the running session's context instead of raising.
        include_dashboard: There is no dashboard; True is warned of, and so is a dashboard_port.
        dashboard_host: See include_dashboard.
        dashboard_port: See include_dashboard.
        job_config: Not in this version.
        configure_logging: Whether logging_level is applied to the logger "beeline".
        logging_level: Level of the logger "beeline", here and in the workers.
        logging_format: How the logger "beeline" of this process writes to stderr (a format of logging.Formatter);
            without, it has no handler of its own.
        logging_config: How this process and its workers log, root logger included; see LoggingConfig.
        log_to_driver: Whether what workers print appears here, with a prefix. Default: yes.
        namespace: Where names of actors are looked up; None: one of this session's own.
        runtime_env: The environment of all workers, as far as tasks and actors have none of their own: see RuntimeEnv.
            Folders are copied before this returns; packages are installed meanwhile, and their failure is raised by
            the tasks and actors that need them.
        _virtual_nodes: For beeline.testing.VirtualCluster: nodes may be added.
        **unknown: Nothing else.

    Returns: facts about the session.

    Raises:
        RuntimeError: a session is running already, or an argument that there is not, as on Ray (state unchanged).
        ValueError, TypeError: an argument that this version does not support, or that only the start of a session can
            have (nothing started).
        ConnectionError: the session to join is not running.
        RuntimeEnvSetupError: a folder of runtime_env cannot be copied (nothing left running).
        CoreError: the daemon did not come up (nothing left running).
        OutOfDiskError: there is no room for what was registered before (nothing left running).
    """
    if unknown:
        raise RuntimeError(f"Unknown keyword argument(s) of init: {', '.join(unknown)}.")
    _check_arguments(
        local_mode,
        job_config,
        resources,
        object_store_memory,
        namespace,
        object_spilling_directory,
    )
    node_labels = label_rules.checked(labels)
    if logging_config is not None:
        _check_logging_config(logging_config)
    env = checked(runtime_env)
    if include_dashboard or dashboard_port is not None:
        notices.without_effect("include_dashboard of init", "there is no dashboard; `beeline status` shows the session")
    for name, amount in (("num_cpus", num_cpus), ("num_gpus", num_gpus)):
        if amount is not None and amount < 0:
            raise ValueError(f"{name} must not be negative, got {amount}.")
    with _lock:
        if is_initialized():
            if ignore_reinit_error or current.is_worker:
                return Context(current.info)
            raise RuntimeError(
                "Maybe you called beeline.init twice by accident? This error can be suppressed by passing in "
                "'ignore_reinit_error=True' or by calling 'beeline.shutdown()' prior to 'beeline.init()'."
            )
        if current.info:  # the last session ended under us
            shutdown()
        joined = addresses.session_to_join(address)
        if joined is not None:
            _refuse_what_a_start_alone_has(
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                resources=resources,
                labels=labels,
                object_store_memory=object_store_memory,
                object_spilling_directory=object_spilling_directory,
            )
        if configure_logging:
            _configure_logger(logging_level, logging_format)
        if logging_config is not None:
            logging_config.apply()
        current.namespace = namespace or str(uuid.uuid4())
        current.labels = node_labels if joined is None else None
        current.pid = os.getpid()
        config = pickle.dumps(_job_config(logging_config))
        wants_logs = True if log_to_driver is None else log_to_driver
        try:
            if joined is not None:
                current.info = _join(joined, config, wants_logs)
            else:
                current.info = embedded.start(
                    embedded.Options(
                        embedded.detected_resources(num_cpus, num_gpus, resources or {}),
                        config,
                        object_store_memory,
                        node_labels,
                        object_spilling_directory or "",
                        wants_logs,
                        os.path.basename(sys.argv[0]) if sys.argv else "",
                        _virtual_nodes,
                        None if needs_setup(env) else variables_of(env),
                    )
                )
            _set_environment(env, is_new=joined is None)
        except BaseException:
            # Ctrl-C may arrive when the session runs already and nobody knows of it.
            _core.stop()
            current.clear()
            raise
        try:
            registered.announce()
        except BaseException:
            shutdown()
            raise
        return Context(current.info)


def _check_logging_config(value: Any) -> None:
    from beeline.api.logging_config import LoggingConfig  # here alone: it would cost every start

    if not isinstance(value, LoggingConfig):
        raise TypeError(f"logging_config must be a LoggingConfig, got {type(value)}")


def _job_config(logging_config: LoggingConfig | None) -> dict[str, Any]:
    """What the workers of this driver get, see `_worker`."""
    cwd = _cwd()
    for_all = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {
        "cwd": cwd,
        "sys_path": list(sys.path),
        # The program's own, which a working_dir takes the place of.
        "own_folders": [folder for folder in (*sys.path[:1], "", cwd) if folder not in for_all],
        "prefixes": sorted({sys.prefix, sys.base_prefix}),
        "namespace": current.namespace,
        "labels": current.labels,
        "log_level": _log.level,
        "logging": None if logging_config is None else logging_config.to_dict(),
        "driver_pid": os.getpid(),
    }


def _refuse_what_a_start_alone_has(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"When connecting to a running session, {name} must not be provided: it was settled when that started. "
                "init(address='local') starts a session of its own."
            )


def _join(session_dir: str, config: bytes, wants_logs: bool) -> dict[str, Any]:
    _log.info("Joining the session in %s", session_dir)
    try:
        return embedded.join(session_dir, config, wants_logs)
    except CoreError as error:
        raise ConnectionError(f"The session in {session_dir} cannot be joined: {error}") from error


def _set_environment(env: RuntimeEnv, is_new: bool) -> None:
    """The job's environment: its folders are packaged, and a worker of it is made ready."""
    current.adopt(current.resolver.resolved(env, current.info["session_dir"]))
    is_eager = env.get("config", {}).get("eager_install", True)
    if is_eager and (needs_setup(env) or not is_new):
        _core.prestart_worker(current.variables)


def _configure_logger(level: int | str, text_format: str | None) -> None:
    _log.setLevel(level.upper() if isinstance(level, str) else level)
    if text_format is None:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(text_format))
    _log.handlers[:] = [handler]
    _log.propagate = False


def _check_arguments(
    local_mode: bool,
    job_config: Any,
    resources: Mapping[str, float] | None,
    object_store_memory: int | None,
    namespace: str | None,
    object_spilling_directory: str | None,
) -> None:
    if local_mode:
        raise ValueError("local_mode=True is not in this version; a session starts in milliseconds.")
    if job_config is not None:
        raise ValueError("job_config is not in this version; pass runtime_env or namespace.")
    table = {
        "resources": option_table.ACTOR_OPTIONS["resources"],
        "object_store_memory": option_table.OBJECT_STORE_MEMORY,
        "namespace": option_table.ACTOR_OPTIONS["namespace"],
        "object_spilling_directory": option_table.DIRECTORY,
    }
    given = {
        "resources": resources,
        "object_store_memory": object_store_memory,
        "namespace": namespace,
        "object_spilling_directory": object_spilling_directory,
    }
    option_table.validate({name: value for name, value in given.items() if value is not None}, table, "init")
    if namespace == "":
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')


def _cwd() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the folder was removed
        return "/"


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Ends this driver's part: its actors, tasks, objects. Within two seconds; without a session it does nothing.

    The session ends with it, unless `beeline start` started it, or another driver or a detached actor is in it.

    Args:
        wait_for_processes: Both values wait for the session's processes.
        _exiting_interpreter: A worker may then leave its session.

    References and handles of the session are of no use afterwards; `init` may be called again. The logger
    "beeline" says what went otherwise than asked: options without effect, transfers by another path, what the daemon
    complained of.
    """
    with _lock:
        if current.is_worker and not _exiting_interpreter:
            raise RuntimeError("beeline.shutdown() cannot be called by a worker; it belongs to its session.")
        # One that Ctrl-C interrupted before may have left the core running.
        was_running = bool(current.info) and current.pid == os.getpid() or _core.is_running()
        session_dir = str(current.info.get("session_dir", ""))
        with contextlib.ExitStack() as rest:  # goes its way to the end, from the last line up, also where Ctrl-C comes
            for dependent in list(current.dependents):
                rest.callback(dependent.session_ended)
            rest.callback(current.forget_functions)
            rest.callback(current.clear)
            if was_running:
                _stop(session_dir)


def _stop(session_dir: str) -> None:
    """Ends this process's part; a driver says what went otherwise than asked (summary.py)."""
    if current.is_worker:
        return _core.stop()
    try:
        from beeline.api import summary  # few need it before

        is_lost = _core.session_error() is not None
        lines = summary.before_end(session_dir)
    finally:
        _core.stop()
    # A session that was lost removes its folder in its own time.
    summary.say(lines if is_lost else lines + summary.after_end(session_dir))


def is_initialized() -> bool:
    """Whether this process is in a session that lives."""
    return bool(current.info) and _core.is_running() and _core.session_error() is None


def ensure() -> None:
    """Starts a session with default arguments where there is none, as the first use of Ray's API does.

    Raises SessionLostError where the session ended under the program: a new one would not know its actors and objects.
    """
    if _core.is_running():
        return
    with _lock:
        if current.info and not _core.is_running():
            reason = _core.session_error() or "the session has ended"
            raise SessionLostError(f"{reason}. Call beeline.shutdown() and beeline.init() to start anew.")
        if current.is_worker:
            raise CoreError("This worker has left its session.")
        if not current.info:
            init()


@contextlib.contextmanager
def kept() -> Iterator[bool]:
    """Whether there is a session, which nobody can end or start meanwhile: for what must not start one by itself."""
    with _lock:
        yield _core.is_running()


def require() -> None:
    """Raises where no session is running, for what makes no sense in a new one."""
    if not _core.is_running():
        if current.info:
            ensure()
        raise CoreError("No session has been started. Call beeline.init() (ray.init(), imported as ray) first.")


def node_id() -> str:
    """The id of this process's node in hexadecimal, as Ray's (28 bytes)."""
    return _core.node_id(current.node)


def node_labels() -> dict[str, str]:
    """The labels of this process's node: those that it was given, and its id under Ray's name."""
    if current.node == 0 and current.labels is not None:
        return {label_rules.NODE_ID: node_id(), **current.labels}
    return dict(_core.node_state()["nodes"][current.node]["labels"])


atexit.register(lambda: shutdown(_exiting_interpreter=True))
