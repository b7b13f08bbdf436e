"""The C++ core as Python sees it. Raw: no defaults that users rely on, no Ray names; `beeline.api` is the surface.

Threads: every function may be called from any thread; whatever can block releases the GIL and returns to Python
to run signal handlers (a waiting main thread sees KeyboardInterrupt).
"""

from collections.abc import Callable, Sequence
from typing import Any

class ObjectRef:
    """A counted reference to an object: a task's result, a `put` value. Value-like: equal and hashable by id.

    `beeline.api.object_ref` adds `__await__`, `future()` and friends to this type, so there is one type.
    """

    def binary(self) -> bytes: ...  # 28 bytes, as Ray's
    def hex(self) -> str: ...
    def __init__(self, binary: bytes) -> None: ...  # what a pickled reference becomes; another hold
    def is_nil(self) -> bool: ...
    def owner_index(self) -> int: ...
    def task_name(self) -> str: ...  # "Counter.incr", "" for put
    # Pickling outside a Beeline value (plain pickle.dumps) keeps the object alive for good, as on Ray.

# ----- sessions ---------------------------------------------------------------------------------------------------

def start_session(options: dict[str, Any]) -> dict[str, Any]:
    """Starts beelined, registers this process as the driver.

    options: beelined (path), zygote_command (list), zygote_env (dict: on top of the daemon's environment, for the
    zygote alone), resources (dict name -> float),
    config (bytes: opaque to C++, every worker gets it), arena_capacity_bytes, arena_quota_bytes, spill_dir
    (where a folder for spilled values is made, "" for the session's own), prestart (int), prestart_env (dict: of the
    workers that are started before anybody asks), venv_command (list: makes a virtual environment),
    log_to_driver (bool), job_name, labels (dict, of the node), virtual_nodes (bool: add_node() may be called, and what
    no node has is waited for). Returns {session_name, session_dir, process_index, job, pid}.
    """

def start_lasting_session(options: dict[str, Any]) -> str:
    """Starts a session that has no driver and lives until it is stopped; the options are start_session's. Returns its
    folder.
    """

def join_as_driver(session_dir: str, config: bytes, wants_logs: bool, arena_quota_bytes: int) -> dict[str, Any]:
    """Registers this process as another driver of a session; `config` is for its workers. Returns what start_session
    does.
    """

def prestart_worker(env: dict[str, str]) -> None:
    """Has a worker with these variables ready before anybody asks. Returns at once."""

def join_session(
    session_dir: str, fork_token: int, arena_capacity_bytes: int = 0, arena_quota_bytes: int = 0
) -> dict[str, Any]:
    """A forked worker registers itself; 0: the arena's defaults.

    Returns {session_name, session_dir, process_index, job, config}.
    """

def stop() -> None:
    """Ends this process's part; as the driver, ends the session (bounded: 2 s). Idempotent."""

def is_running() -> bool: ...
def session_error() -> str | None:
    """Why the session ended under us (beelined died), or None."""

def live_sessions() -> list[str]: ...  # directories of this user's sessions on this machine
def usable_cpus() -> int: ...  # those that the process is bound to, or fewer where a cgroup's quota allows less
def usable_memory() -> int: ...  # bytes: the machine's, or less where a cgroup allows less
def default_quota_bytes() -> int: ...  # what the published objects of one process may take where `init` is not told
def default_memory_resource() -> int: ...  # of "memory", which tasks may ask for
def remove_stale_sessions() -> dict[str, int]: ...  # what dead sessions left: {directories, processes}
def end_lost_session(session_dir: str) -> bool: ...  # kills what is left of one without a daemon, removes its folder

PART_USAGE: int  # parts of the state that are told on request, to be added
PART_TASKS: int
PART_OBJECTS: int
PART_GROUPS: int
PART_ERRORS: int

def session_state(session_dir: str, parts: int = ..., limit: int = 0, within_s: float = 0.0) -> dict[str, Any]:
    """As node_state(), of any session, by default with what each process holds and has moved: `usage` of its row."""

def stop_session(session_dir: str, timeout_s: float) -> bool: ...  # False: it has not ended in time
def set_hooks(hooks: Any) -> None:
    """`hooks` is a module or object with the functions below; set once at import of beeline.api.

    dumps(value, mode: int) -> (skeleton: bytes, buffers: list of buffers, flags: bytes, refs: list[ObjectRef], ranges)
        mode 0: object store (numpy buffers come back read-only), 1: direct, live, 2: direct, snapshot.
        flags: one byte per buffer, a sum. 1: the consumer's view is writable (copy-on-write); 2, in mode 1: it is the
        program's own memory, not a copy made on the way.
        ranges: (address, bytes) of tensors and arrays that no buffer with flag 2 shows; empty unless mode is 1.
    dumps_call(args: tuple, kwargs: dict) -> (skeleton, buffers, flags, refs, ranges, dependencies: list[ObjectRef])
        skeleton unpickles to (args: list, kwargs: dict, slots: tuple[int | str]): slots[i] says where the
        value of dependencies[i] (the top-level ObjectRefs) goes. refs: nested ones only.
    dumps_registered(value, mode: int) -> (skeleton, buffers, flags, refs, ranges, shipment)
        as dumps(), in a mode above 2: of a registered transport. shipment has the value as `value`; its end says that
        nobody refers to the object any more. None: the value has no tensors.
    loads_into(skeleton: bytes-like, buffers: list[memoryview], targets) -> value
        targets: what set_target(ref, targets) registered for this object. Without, the core unpickles it itself.
    make_error(kind: int, message: str, payload: bytes, actor_id: int, name: str) -> BaseException
        an object's error becomes the exception that `get` raises; kind: the ERROR_* constants; payload:
        what dumps_error made (kinds TASK and ACTOR_INIT_FAILED), else empty.
    dumps_error(exception, function_name: str) -> bytes
        in the worker, with the traceback; never raises (falls back to a description when it does not pickle).
    published(publication: int)
        on the thread that called dumps() with mode 1, when what it gave was published in place: ties the tensors that
        dumps() saw to the publication, for before_call and after_call. Small values are copied, and not reported.
    remember(tensors: list)
        as dumps() does with mode 1, for a value that the core pickled itself.
    """

ERROR_TASK: int  # user code raised; payload
ERROR_ACTOR_DIED: int
ERROR_ACTOR_UNAVAILABLE: int
ERROR_WORKER_CRASHED: int
ERROR_OBJECT_LOST: int
ERROR_OWNER_DIED: int
ERROR_CANCELLED: int
ERROR_INFEASIBLE: int
ERROR_SESSION_LOST: int
ERROR_TRANSPORT: int
ERROR_MUTATED: int
ERROR_PENDING_CALLS: int
ERROR_ACTOR_INIT_FAILED: int
ERROR_OUT_OF_MEMORY: int  # arena quota
ERROR_TIMEOUT: int  # make_error makes GetTimeoutError; message says what was waited for
ERROR_INVALID: int  # ValueError
ERROR_SYSTEM: int  # CoreError: a system call, the daemon or its answer failed
ERROR_PEER_LOST: int  # PeerLostError: an agent of the transfer engine is gone
ERROR_STALE_REFERENCE: int  # StaleReferenceError
ERROR_UNAVAILABLE: int  # TransportUnavailableError
ERROR_TRANSFER_TIMEOUT: int  # TransferTimeoutError
ERROR_TRANSFER_CANCELLED: int  # TransferCancelledError
ERROR_TORN: int  # TornReadError
ERROR_REFUSED: int  # NotificationRefusedError
ERROR_END_OF_STREAM: int  # ObjectRefStreamEndOfStreamError: what is asked for comes after a stream's last item
ERROR_RECONSTRUCTION: int  # ObjectReconstructionFailedError
ERROR_GROUP_REMOVED: int  # TaskPlacementGroupRemoved, of an actor ActorPlacementGroupRemoved
ERROR_NO_ENVIRONMENT: int  # RuntimeEnvSetupError

# ----- objects ----------------------------------------------------------------------------------------------------

def put(value: Any, mode: int) -> ObjectRef:
    """mode as for hooks.dumps. With mode 1 a driver or actor keeps a `value` that has tensors or arrays: fetched here,
    it is the same object.
    """

def get(refs: Sequence[ObjectRef], timeout_s: float | None) -> list[Any]:
    """Values in order. Raises what make_error makes for the first failed one; GetTimeoutError (ERROR_TIMEOUT)."""

def seconds_left_to_load() -> float | None:
    """Within unpickling on behalf of get(): what is left of its timeout; None without one."""

def wait(refs: Sequence[ObjectRef], num_returns: int, timeout_s: float | None) -> list[bool]:
    """One flag per ref: ready (a value or an error) or not."""

def ready(ref: ObjectRef) -> bool: ...

class View:
    """The bytes of a fetched value, as unpickling gets them in memoryviews; keeps their lease (or memory) alive."""

    @property
    def nbytes(self) -> int: ...

def copied_view(data: bytes, writable: bool) -> View: ...  # a view of a copy
def pickle_tree(value: Any, mode: int) -> tuple[bytes, list[tuple[bytes, bool]]] | None:
    """How the core pickles a tree of tensors, arrays and plain values: the skeleton, and copies of its buffers with
    whether the consumer may write them. None: it leaves such a value to hooks.dumps.
    """

def unpickle_tree(skeleton: bytes, buffers: list[tuple[bytes, bool]]) -> tuple[Any] | None:
    """How the core reads such a skeleton: the value, alone in a tuple. None: it leaves the skeleton to pickle."""

def restore_tensor(header: bytes, buffer: Any) -> Any:
    """In skeletons of the core: a torch tensor over a memoryview of a View, or over a copy of bytes."""

def restore_array(header: bytes, buffer: Any) -> Any:
    """In skeletons of the core: a numpy array over a buffer."""

def replacing_tensors(replace: Callable[[Any], Any], load: Callable[[], Any]) -> Any:
    """load(), in which every tensor that restore_tensor makes is what replace(tensor) returns."""

class CompletionQueue:
    """Tells when objects are ready without a thread in `get`: for event loops and `.future()`."""

    def __init__(self) -> None: ...
    def fileno(self) -> int: ...  # an eventfd: readable when drain() has something
    def add(self, ref: ObjectRef, token: Any) -> None: ...  # token comes back from drain() once
    def drain(self) -> list[Any]: ...
    def wait(self, timeout_s: float | None) -> bool: ...  # blocks without the GIL; True if drain() has something

class ObjectRefGenerator:
    """What a call that streams returns; `beeline.api.streams` adds asynchronous iteration and Ray's other names.

    Any number of threads may take items: each gets another one. When it goes, what nobody took is freed; the call goes
    on to its end.
    """

    def __iter__(self) -> ObjectRefGenerator: ...
    def __next__(self) -> ObjectRef:
        """Waits for the next item. What the call itself failed with comes as the last one; then StopIteration."""

    def next_within(self, timeout_s: float | None) -> ObjectRef | None: ...  # as __next__; None: not in time
    def peek(self) -> ObjectRef: ...  # what is ready once there is a next item, or none any more
    def completed(self) -> ObjectRef: ...  # ready when the call has ended: None, or what it failed with
    def next_ready(self) -> bool: ...  # whether __next__ would return at once
    def is_finished(self) -> bool: ...  # whether __next__ would raise StopIteration

def set_target(ref: ObjectRef, targets: Any) -> None: ...
def holds_overlapping(address: int, nbytes: int) -> int:
    """How many live direct publications of this process refer to memory that overlaps this range."""

def wait_unpublished(address: int, nbytes: int, timeout_s: float | None) -> bool: ...
def publication_readers(publication: int) -> int: ...  # processes that read it; -1 once it is over
def mark_mutated(publication: int) -> None:
    """Later fetches of what this process published raise ERROR_MUTATED."""

def is_shareable(address: int, nbytes: int) -> bool: ...  # lies in this process's arena

# ----- calls ------------------------------------------------------------------------------------------------------

class ActorRef:
    """A process's hold on an actor. Dropping the last hold anywhere ends an actor that is neither named-detached.

    Passed in values as an ObjectRef is: `lifetime` is what dumps() puts into refs.
    """

    def id(self) -> int: ...
    def lifetime(self) -> ObjectRef | None: ...  # None: weak (found by name)

def restore_actor(actor_id: int, lifetime: ObjectRef | None) -> ActorRef: ...

class ActorCall:
    """One method of one actor, ready to be called; `beeline.api.actor.ActorMethod` subclasses it."""

    def __init__(
        self,
        actor: ActorRef,
        method: str,
        name: str,  # "Counter.incr", or what the program calls the task
        function_name: str,  # "Counter.incr"
        num_returns: int,  # >= 0; 1 where it yields
        mode: int,  # -1: as the actor's class declares; 0, 1, 2 as for dumps
        max_task_retries: int,  # -1: without bound
        retry_exceptions: bool | Sequence[type],
        concurrency_group: int,  # 0: none, else its place in the actor's group_limits
        max_pending_calls: int,  # -1: no bound
        yields: int,  # 0: it returns; 1: its items are a stream; 2: its return is the collection of its items
        window: int,  # how many items of a stream may be untaken before it pauses; 0: any number
    ) -> None: ...
    def set_signature(self, least: int, most: int, check: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> None:
        """From now on remote() calls check(args, kwargs), which raises TypeError for arguments that do not fit, where
        keywords are given or the number of positional arguments is outside of [least, most].
        """
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """None, one ObjectRef, or a list of them, by num_returns. Never blocks."""

class FunctionCall:
    """A remote function, ready to be called; `beeline.api.function.RemoteFunction` keeps its bound `remote`."""

    def __init__(
        self,
        blob: bytes,  # cloudpickled function
        name: str,  # of the task
        function_name: str,
        num_returns: int,
        resources: dict[str, float],
        mode: int,
        max_retries: int,
        retry_exceptions: bool | Sequence[type],
        wants_torch: bool,
        env: dict[str, str],
        max_calls: int,  # after as many of its calls a worker exits; 0: never
        scheduling: dict[str, Any] | None,  # see below; None: anywhere
        yields: int,  # as of ActorCall
        window: int,
    ) -> None: ...
    def set_signature(
        self, least: int, most: int, check: Callable[[tuple[Any, ...], dict[str, Any]], None]
    ) -> None: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any: ...

def create_actor(
    blob: bytes,  # what hooks.create_actor needs; opaque to the core
    class_name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: dict[str, Any],
) -> ActorRef:
    """options: resources, creation_resources, name, namespace, max_restarts, max_task_retries, max_concurrency (int),
    is_async (bool), detached, wants_torch, env, handle_meta (bytes), method_modes
    (dict method -> mode), execute_out_of_order (bool), group_limits (list of int: max_concurrency, then that of each
    concurrency group; empty without groups), scheduling (see below).

    Anonymous: returns at once. Named: asks the daemon; ERROR_INVALID if the name is taken.
    """

def lookup_actor(name: str, namespace: str) -> tuple[int, bytes] | None: ...  # (actor id, handle_meta)
def list_named_actors(namespace: str, all_namespaces: bool) -> list[tuple[str, str]]: ...
def kill_actor(actor: ActorRef, no_restart: bool) -> None: ...
def actor_state(actor: ActorRef) -> dict[str, Any]: ...  # {state, pid, incarnation, message}
def cancel(ref: ObjectRef, force: bool, recursive: bool) -> None: ...
def node_state(parts: int = 0, limit: int = 0, within_s: float = 0.0) -> dict[str, Any]:
    """control::State as dicts, with more of it by `parts`: PART_USAGE, PART_TASKS, PART_OBJECTS (of each process),
    PART_GROUPS, PART_ERRORS (of actors). limit: rows of each kind from one process. within_s: how long processes may
    take, 0: half a second; one that does not answer is `unanswered`.
    """

def transfer_stats() -> dict[str, int]: ...  # counters of this process: bytes and objects by path

# ----- metrics of the program ---------------------------------------------------------------------------------------

def metric_series(
    kind: int, name: str, description: str, bounds: Sequence[float], tags: Sequence[tuple[str, str]]
) -> int:
    """The number of a series, made if need be. kind: 0 counter, 1 gauge, 2 histogram; bounds ascend, tags are sorted.

    Raises ValueError where the name is that of another kind, ObjectStoreFullError where there is no room for one more.
    """

def metric_add(series: int, amount: float) -> None: ...
def metric_set(series: int, value: float) -> None: ...
def metric_observe(series: int, value: float) -> None: ...
def read_metrics(path: str) -> dict[str, Any] | None: ...  # a file of any process; None: it is not there (any more)

# ----- placement groups and nodes -----------------------------------------------------------------------------------
#
# `scheduling` of a function or actor, all optional: policy (0 first fit, 1 spread, 2 one node), node (number), soft,
# spill, no_wait (bool), required and preferred (lists of rules), group (0: none), bundle (-1: any), capture (bool).
# A rule is (key, values, negated): the label is one of the values, or there at all where there are none; or not so.

NO_NODE: int

def create_group(
    bundles: Sequence[dict[str, float]],
    required: Sequence[Sequence[tuple[str, list[str], bool]]],  # rules for each bundle, or empty
    strategy: int,  # 0 PACK, 1 SPREAD, 2 STRICT_PACK, 3 STRICT_SPREAD
    preferred: int,  # the node to try first, or NO_NODE
    name: str,
    namespace: str,
    detached: bool,
) -> int:
    """The group's id, at once. With a name it asks the daemon: ERROR_INVALID if the name is taken."""

def remove_group(group: int) -> None: ...
def groups(group: int, name: str, namespace: str) -> list[dict[str, Any]]:
    """Rows of one group, of the living one of that name, or (0, "", "") of all: group, name, strategy, state (0
    pending, 1 created, 2 rescheduling, 3 removed), bundles, nodes (a number for each bundle, or NO_NODE), accelerators
    (a dict for each bundle, as {"GPU": [0]}), lacks.
    """

def group_ready(group: int, value: Any) -> ObjectRef:
    """Becomes `value` once all bundles have a place; ERROR_GROUP_REMOVED when it is removed."""

def add_node(resources: dict[str, float], labels: dict[str, str]) -> int: ...  # ValueError for nonsense
def remove_node(node: int) -> None: ...
def node_id(node: int) -> str: ...  # 56 hexadecimal digits
def node_of_id(node_id: str) -> int: ...  # NO_NODE if no node can have it

# ----- the worker side --------------------------------------------------------------------------------------------

class Task:
    """What runs now, for get_runtime_context and for the asynchronous executor."""

    def name(self) -> str: ...  # "Counter.incr", "f", or what .options(name=...) says
    def function_name(self) -> str: ...  # the function's own, whatever the task is called
    def task_id(self) -> bytes: ...  # 24 bytes
    def attempt(self) -> int: ...
    def is_cancelled(self) -> bool: ...
    def resources(self) -> dict[str, float]: ...

def run_worker(hooks: Any) -> None:
    """The worker's main thread: waits for an assignment and executes calls until told to exit. Returns on exit.

    hooks (besides those of set_hooks):
    load_function(blob: bytes) -> callable
    create_actor(blob: bytes, args: list, kwargs: dict, info: dict) -> instance
        info: {actor_id, incarnation, name, namespace, accelerators, resources, is_async, max_concurrency,
        class_name}, as actor_info() gives them; runs __init__; what it raises ends the actor (ERROR_ACTOR_INIT_FAILED).
    assign(accelerators: dict[str, list[int]], resources: dict[str, float], node: int, group: int, capture: bool)
        CUDA_VISIBLE_DEVICES, threads; where it is, and whether what it calls is in the placement group too.
    rehearse() -> None: at the start of a worker that has no assignment yet
    start_async(instance, max_concurrency: int) -> None
        only for async actors: runs the event loop in this (main) thread until exit; takes calls by next_calls().
    before_call() / after_call(): only while live direct publications of this process exist (mutation check).
    """

def next_calls(limit: int) -> list[tuple[Task, Any, Any, Any]] | None:
    """Async actors: calls that are ready to run, without blocking: (task, method name, args, kwargs).

    Clears the descriptor and delivers cancellations. Calls beyond `limit`, which may be 0, stay without keeping it
    readable: ask again when a running call has ended. None: the process is to exit; start_async then returns.
    """

def calls_fileno() -> int: ...  # an eventfd, readable when next_calls has something
def reply(task: Task, value: Any) -> None: ...  # serializes by the call's mode; returns count checked
def reply_error(task: Task, exception: BaseException) -> None: ...
def streams(task: Task) -> bool: ...  # whether the call's items are sent one by one
def send_item(task: Task, item: Any) -> bool: ...  # False: nobody takes more
def has_room(task: Task) -> bool: ...  # whether another item may be sent now
def finish_stream(task: Task, error: BaseException | None) -> None: ...  # the end: a last item that raises, or none
def set_room_callback(callback: Callable[[Task], None]) -> None:
    """Async actors: called in the loop's thread by next_calls() when has_room() may have changed."""

def current_task() -> Task | None: ...
def exit_actor() -> None:
    """The actor ends after the current call, on purpose."""

def actor_info() -> dict[str, Any] | None: ...
def set_cancelled_callback(callback: Callable[[Task], None]) -> None:
    """Async actors: called in the loop's thread by next_calls() when a running call is to be cancelled."""

# ----- the transfer engine -----------------------------------------------------------------------------------------

class Cancellation:
    """Ends the transfers that were given it; of one that was started."""

class Started:
    """A transfer that was started."""

    def cancel(self) -> None: ...

class Runner:
    """Runs transfers that were started, on threads of the core."""

    def start(
        self,
        peer: str,
        timeout_s: float | None,
        work: Callable[[Cancellation, float | None], None],
        unbegun: Callable[[BaseException], None],
    ) -> Started:
        """Calls `work` within the timeout, or `unbegun` where it is cancelled or late before it begins."""

    def close(self) -> None:
        """Waits for all that were started."""

class TensorRef:
    """A registered tensor or a part of one; `beeline.transfer.TensorRef` is the surface."""

    @property
    def owner(self) -> str: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> tuple[int, int]: ...  # DLPack's type, id at its owner's
    def row(self) -> tuple[int, int, int, list[int], list[int], int, int]:
        """(dtype code, bits, lanes, shape, strides, region, offset); strides are empty where it is row-major."""

    def new_strides(self) -> list[int]:
        """In elements, of a new tensor that holds its elements: as torch's preserve_format."""

    def part(self, pieces: Sequence[tuple[int, int, int]], dropped: Sequence[int]) -> TensorRef:
        """(start, step, count) for each of the first dimensions; those in `dropped` (count 1, ascending) vanish."""

    def alone(self) -> TensorRefs: ...

class TensorRefs:
    """Tensors that were registered together; `beeline.transfer.TensorRefs` is the surface."""

    @property
    def owner(self) -> str: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def checksums(self) -> list[int]: ...
    @property
    def single(self) -> bool: ...
    def __len__(self) -> int: ...
    def at(self, index: int) -> TensorRef: ...
    def encode(self, with_schema: bool) -> bytes: ...
    @staticmethod
    def decode(data: bytes) -> TensorRefs: ...
    def regions(self) -> list[tuple[int, int, int, int, int, int, int]]:
        """(slot, generation, length, address, offset in the arena or -1, device type, device id) each."""

    def to_json(self) -> str: ...
    @staticmethod
    def from_json(text: str) -> TensorRefs: ...

class Batch:
    """A fetch that is made again and again."""

    def run(self, timeout_s: float | None) -> None: ...
    @property
    def nbytes(self) -> int: ...

class Subscription:
    """Both give (number, references): the newest version; number 0 and None where there is none."""

    def latest(self) -> tuple[int, TensorRefs | None]: ...
    def newer_than(self, number: int, timeout_s: float | None) -> tuple[int, TensorRefs | None]: ...
    # Of one that relays: whether versions are brought near.
    @property
    def needs_copies(self) -> bool: ...

class Notifications:
    """`next` and `poll` give (sender's id, sender's name, payload); `poll` None where there is none."""

    def next(self, timeout_s: float | None) -> tuple[str, str, bytes]: ...
    def poll(self) -> tuple[str, str, bytes] | None: ...
    # Readable when one may have come; `drain` before `poll`.
    def fileno(self) -> int: ...
    def drain(self) -> None: ...
    def stats(self) -> dict[str, int]: ...

class Writing:
    """Writes in place, from their beginning on."""

    def end(self) -> None: ...

class Agent:
    """`beeline.transfer.Agent` is the surface; here tensors and references come in lists."""

    def __init__(
        self,
        name: str,
        folder: str,
        share_memory: bool,
        tcp: str | None,
        advertise: str,
        token: str,
        tls: tuple[str, str, str] | None,
        plugins: list[str],
        quota_bytes: int,  # 0: the machine's memory, or the session's arena as it is
        ucx_library: str,
        nccl_library: str,
        nixl: tuple[str, int],  # where its library is; how far it may reach
        faults: list[tuple[str, int, int, int, float, int]],
        # the object, name, same_host_only, can_write, named_only, device types as a mask, expected GB/s
        transports: list[tuple[Any, str, bool, bool, bool, int, float]],
    ) -> None: ...
    def close(self) -> None: ...
    @property
    def address(self) -> str: ...
    def add(
        self, tensors: list[Any], names: Sequence[str], with_checksums: bool, stream: int | None, path: str
    ) -> TensorRefs: ...
    def announce(self, refs: TensorRefs, stream: int | None) -> None: ...
    def empty(self, row: tuple[int, int, int, Sequence[int]]) -> Any: ...
    def make(self, ref: TensorRef, dtype: tuple[int, int, int]) -> Any: ...
    def device_here(self, ref: TensorRef, timeout_s: float | None) -> tuple[int, int]: ...
    def begin_write(self, refs: TensorRefs, timeout_s: float | None) -> Writing: ...
    def grant(self, refs: TensorRefs, to: str) -> None: ...
    def publish(
        self,
        name: str,
        tensors: list[Any],
        names: Sequence[str],
        number: int,
        keep: int,
        with_checksums: bool,
        single: bool,
        fan_out: int,
    ) -> int: ...
    def withdraw(self, name: str) -> None: ...
    def subscribe(self, address: str, name: str, relays: bool, timeout_s: float | None) -> Subscription: ...
    def connect(self, address: str, timeout_s: float | None) -> None: ...
    def fetch(
        self,
        refs: Sequence[TensorRef],
        targets: list[Any] | None,
        dtypes: list[tuple[int, int, int] | None] | None,  # code, bits, lanes
        block: tuple[int, int] | None,
        path: str,
        min_gbps: float,
        verify: bool,
        timeout_s: float | None,
        cancellation: Cancellation | None,
    ) -> list[Any]: ...
    def prepare(
        self,
        refs: Sequence[TensorRef],
        targets: list[Any],
        dtypes: list[tuple[int, int, int] | None] | None,
        block: tuple[int, int] | None,
        path: str,
        min_gbps: float,
        timeout_s: float | None,
    ) -> Batch: ...
    def push(
        self,
        refs: Sequence[TensorRef],
        sources: list[Any],
        path: str,
        min_gbps: float,
        notification: tuple[str, bytes] | None,
        timeout_s: float | None,
        cancellation: Cancellation | None,
    ) -> None: ...
    def notify(self, address: str, topic: str, payload: bytes, timeout_s: float | None) -> None: ...
    def notifications(self, topic: str, limit: int, drops_oldest: bool) -> Notifications: ...
    def map(self, refs: Sequence[TensorRef], timeout_s: float | None) -> list[Any]: ...
    def explain(
        self,
        ref: TensorRef,
        path: str,
        min_gbps: float,
        is_push: bool,
        device: tuple[int, int],
        timeout_s: float | None,
    ) -> dict[str, Any]: ...
    def paths_to(self, address: str, nbytes: int, in_arena: bool, timeout_s: float | None) -> dict[str, Any]: ...
    def counters(self) -> tuple[str, str]: ...
    def stats(self) -> dict[str, int]: ...

class TransportMemory:
    """What `beeline.transfer.Transport.expose` is given; borrowed until `withdraw`."""

    @property
    def address(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def device_type(self) -> int: ...
    @property
    def device_id(self) -> int: ...
    def view(self) -> memoryview: ...  # ValueError where it is not the host's; read-only where peers may not write

class TransportRun:
    """One of `beeline.transfer.Transport.transfer`; borrowed for the time of the call."""

    @property
    def key(self) -> bytes: ...
    @property
    def offset(self) -> int: ...
    @property
    def local(self) -> int: ...  # an address
    @property
    def length(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def local_stride(self) -> int: ...
    @property
    def local_device_type(self) -> int: ...
    @property
    def local_device_id(self) -> int: ...
    def view(self) -> memoryview: ...  # from the first local byte to the last one; read-only where the peer's is filled

class TransportWait:
    """What bounds a call; ValueError once that has ended."""

    def left_s(self) -> float: ...  # inf without a bound
    def check(self) -> None: ...  # raises TransferTimeoutError or TransferCancelledError

def end_python_transports() -> None: ...  # nothing of them is called any more: the interpreter is about to end
def any_on_cuda(refs: list[TensorRef]) -> bool: ...
def cuda_status() -> dict[str, Any]: ...
def check_nixl(nixl: tuple[str, int]) -> tuple[bool, str]: ...  # (whether it can be used, what was found or why not)
def agents_folder() -> str: ...
def describe_nccl(library: str) -> tuple[bool, str]: ...  # likewise
def describe_ucx(library: str) -> tuple[bool, str]: ...  # whether it can be used; what it is, or why not
def read_counters(path: str) -> dict[str, Any] | None: ...
def read_spans(path: str) -> dict[str, Any] | None:
    """recorded, overwritten, dropped, changing: numbers; spans: (begin_ns, nanoseconds, nbytes, thread, row of the
    counters or 0, operation, outcome, name of what was published) each, by when they began."""
