"""Every error that Beeline raises, under one base; Ray's names are aliases: `except` clauses of Ray programs hold.

Nothing here needs the core. An exception survives pickling; one that user code raised arrives as an instance of both
`TaskError` and its own class (`TaskError.as_instanceof_cause`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import traceback
import types
from typing import Any, ClassVar

_log = logging.getLogger("beeline")
# What `code` is of a ValueError that the core found, which has no class of its own.
INVALID_ARGUMENT_CODE = "BL-001"
_PACKAGE_FOLDER = os.path.dirname(__file__) + os.sep


class BeelineError(Exception):
    """Base of all errors of Beeline.

    `code` is the same in every release, whatever the class is called: what docs/errors.md lists, and logs and alarms
    can go by. A class that gets another one is another error.
    """

    code: ClassVar[str] = "BL-000"


class TaskError(BeelineError):
    """User code raised in a task, an actor's method or an actor's constructor.

    `cause` is the exception itself, `traceback_str` the remote traceback as text, `function_name` what ran.
    """

    code = "BL-100"

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        pid: int = 0,
        actor_id: str = "",
        actor_repr: str = "",
    ) -> None:
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.pid = pid
        self.actor_id = actor_id
        self.actor_repr = actor_repr
        self.args = (function_name, traceback_str, cause, pid, actor_id, actor_repr)

    def _fields(self) -> tuple[Any, ...]:
        return (self.function_name, self.traceback_str, self.cause, self.pid, self.actor_id, self.actor_repr)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the fields; a dual instance is derived again on the other side."""
        return TaskError, self._fields()

    def as_instanceof_cause(self) -> TaskError:
        """Returns an exception that `except TaskError` and `except type(cause)` both catch.

        A cause whose class cannot be subclassed leaves this TaskError as it is, with a warning.
        """
        cause_class = type(self.cause)
        if issubclass(TaskError, cause_class):
            return self
        try:
            dual = _dual_class(cause_class)  # type: ignore[arg-type]
            error = dual.__new__(dual, *_group_arguments(self.cause))
            TaskError.__init__(error, *self._fields())
            _copy_slots(self.cause, error)
        except Exception as reason:
            _log.warning("%s is raised as TaskError alone: %s. Its `cause` is the original.", cause_class, reason)
            return self
        error.__cause__ = self.cause
        return error

    def __str__(self) -> str:
        """The remote traceback, its first line replaced by what ran where."""
        where = f"pid={self.pid}"
        if self.actor_id:
            where += f", actor_id={self.actor_id}"
        if self.actor_repr:
            where += f", repr={self.actor_repr}"
        header = f"beeline::{self.function_name}() ({where})"
        first = "Traceback (most recent call last):\n"
        text = self.traceback_str.rstrip("\n")
        if first in text:
            return text.replace(first, header + "\n")
        return f"{header}\n{text}"


def _copy_slots(cause: BaseException, error: TaskError) -> None:
    """Copies what the cause's class keeps outside of `__dict__`, such as OSError.errno."""
    for kind in type(cause).__mro__:
        if kind in (BaseException, Exception, object):
            break
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType):
                # A group's own are read-only; they were given to its constructor.
                with contextlib.suppress(AttributeError, TypeError):
                    setattr(error, name, getattr(cause, name))


def _group_arguments(cause: BaseException) -> tuple[Any, ...]:
    return (cause.message, cause.exceptions) if isinstance(cause, BaseExceptionGroup) else ()


@functools.cache
def _dual_class(cause_class: type[BaseException]) -> type[TaskError]:
    """A class that is both; its attributes other than TaskError's own come from the cause."""

    def getattr_of_cause(self: TaskError, name: str) -> Any:
        if name == "cause":  # not yet initialized
            raise AttributeError(name)
        return getattr(self.cause, name)

    members = {
        "__module__": __name__,
        "__init__": TaskError.__init__,
        "__reduce__": lambda self: (_dual, self._fields()),
        "__reduce_ex__": lambda self, protocol: (_dual, self._fields()),
        "__getattr__": getattr_of_cause,
        "__str__": TaskError.__str__,
        # Of the cause where it has one, its own or that of an error of Beeline's.
        "code": property(lambda self: getattr(self.cause, "code", TaskError.code)),
        # A class attribute: `args` of the cause's class may be a read-only property.
        "args": None,
    }
    return type(f"TaskError({cause_class.__name__})", (TaskError, cause_class), members)


def _dual(*fields: Any) -> TaskError:
    return TaskError(*fields).as_instanceof_cause()


class CrossLanguageError(BeelineError):
    """What a function or class of a program in C++ has thrown."""

    code = "BL-110"


class TaskCancelledError(BeelineError):
    """The task was cancelled before it finished."""

    code = "BL-101"

    def __init__(self, task_id: str | None = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        """What was cancelled, in a sentence."""
        return self.error_message or (
            f"Task {self.task_id} was cancelled." if self.task_id else "The task was cancelled."
        )


class WorkerCrashedError(BeelineError):
    """The process that ran the task ended before it had a result."""

    code = "BL-102"


class ActorError(BeelineError):
    """An actor died or cannot be reached; see the subclasses.

    `actor_id` is its id in hexadecimal, `actor_init_failed` whether its constructor raised, `preempted` always False.
    """

    code = "BL-200"

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = "The actor experienced an error before finishing this task.",
        actor_init_failed: bool = False,
    ) -> None:
        super().__init__(actor_id, error_msg, actor_init_failed)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self.actor_init_failed = actor_init_failed
        self.preempted = False

    def __str__(self) -> str:
        """The message alone."""
        return self.error_msg


class ActorDiedError(ActorError):
    """The actor is dead for good: its process ended, it was killed, or its constructor raised."""

    code = "BL-201"

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = "The actor died unexpectedly before finishing this task.",
        actor_init_failed: bool = False,
    ) -> None:
        super().__init__(actor_id, error_msg, actor_init_failed)


class ActorUnavailableError(ActorError):
    """The actor's process ended and it is being restarted; the call may or may not have run."""

    code = "BL-202"


class CoreError(BeelineError):
    """The runtime itself failed."""

    code = "BL-400"


class SessionLostError(BeelineError):
    """The session ended under the program: the node daemon died. `init()` starts a new one."""

    code = "BL-401"


class AuthenticationError(BeelineError):
    """A peer could not show that it belongs to the session."""

    code = "BL-405"


class UserCodeException(BeelineError):  # noqa: N818 - Ray's name
    """Wraps an exception of user code that a library runs."""

    code = "BL-109"


class ObjectStoreFullError(BeelineError):
    """The arena quota (`object_store_memory`) is exhausted by objects that are still referenced."""

    code = "BL-302"


class OutOfDiskError(BeelineError):
    """No disk space is left: the file system of the session's folder is full."""

    code = "BL-403"


class OutOfMemoryError(BeelineError):
    """The machine or its cgroup has no memory left."""

    code = "BL-402"


class NodeDiedError(BeelineError):
    """The node is dead or cannot be reached."""

    code = "BL-404"


class ObjectLostError(BeelineError):
    """The object's bytes are gone, with the process that held them."""

    code = "BL-300"


class ObjectFetchTimedOutError(ObjectLostError):
    """Fetching the object took longer than its deadline."""

    code = "BL-305"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted while a reference to it existed."""

    code = "BL-306"


class ObjectFreedError(ObjectLostError):
    """The object was freed by the program."""

    code = "BL-303"


class OwnerDiedError(ObjectLostError):
    """The process that created the reference has ended."""

    code = "BL-301"


class ObjectReconstructionFailedError(ObjectLostError):
    """The object is lost and its task cannot run again."""

    code = "BL-304"


class GetTimeoutError(BeelineError, TimeoutError):
    """A wait took longer than its timeout; what was waited for goes on."""

    code = "BL-106"


class PlasmaObjectNotAvailable(BeelineError):  # noqa: N818 - Ray's name
    """The object was not there within the given time."""

    code = "BL-307"


class AsyncioActorExit(BeelineError):  # noqa: N818 - Ray's name
    """Leaves a coroutine after `exit_actor()`."""

    code = "BL-207"


class RuntimeEnvSetupError(BeelineError):
    """The environment asked for by `runtime_env` could not be made; `error_message` says why."""

    def __init__(self, error_message: str | None = None) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        """What failed, and why."""
        return "Failed to set up the runtime environment." + (f"\n{self.error_message}" if self.error_message else "")

    code = "BL-108"


class TaskPlacementGroupRemoved(BeelineError):  # noqa: N818 - Ray's name
    """The task's placement group was removed."""

    code = "BL-104"


class ActorPlacementGroupRemoved(BeelineError):  # noqa: N818 - Ray's name
    """The actor's placement group was removed."""

    code = "BL-204"


class PendingCallsLimitExceeded(BeelineError):  # noqa: N818 - Ray's name
    """More calls than `max_pending_calls` wait for the actor; this one was not sent."""

    code = "BL-206"


class TaskUnschedulableError(BeelineError):
    """The task asks for resources that this machine can never give."""

    code = "BL-103"


class ActorUnschedulableError(BeelineError):
    """The actor asks for resources that this machine can never give."""

    code = "BL-203"


class ObjectRefStreamEndOfStreamError(BeelineError):
    """A stream of results has ended."""

    code = "BL-105"


class StreamingGeneratorReplayInconsistentError(CoreError):
    """A generator gave something else when it ran again."""

    code = "BL-111"


class OufOfBandObjectRefSerializationException(BeelineError):  # noqa: N818 - Ray's name, as it is spelt there
    """A reference was pickled by something else than Beeline."""

    code = "BL-308"


class RpcError(BeelineError):
    """Kept for programs that name it; processes of a session talk through shared memory."""

    code = "BL-406"


class RayChannelError(CoreError):
    """Kept for programs that name it; there are no compiled graphs."""

    code = "BL-407"


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """As RayChannelError."""

    code = "BL-408"


class RayCgraphCapacityExceeded(CoreError):  # noqa: N818 - Ray's name
    """As RayChannelError."""

    code = "BL-409"


class DirectTransportError(CoreError):
    """A direct transfer failed; the processes on both ends go on."""

    code = "BL-500"


class TransportUnavailableError(DirectTransportError, ValueError):
    """The transport asked for cannot be used; the message lists which can, and why the others cannot."""

    code = "BL-501"


class TensorMutatedError(DirectTransportError):
    """A tensor published with isolation="live" was written before its consumers were done."""

    code = "BL-502"


class PeerLostError(DirectTransportError):
    """The agent on the other side has ended or cannot be reached; what was being filled is undefined."""

    code = "BL-504"


class StaleReferenceError(DirectTransportError):
    """The tensors that a reference names are not registered any more; what was being filled is undefined."""

    code = "BL-505"


class TornReadError(DirectTransportError):
    """The tensors were written, or damaged on the way, while they were read; what was being filled is undefined."""

    code = "BL-506"


class TransferTimeoutError(DirectTransportError, TimeoutError):
    """A transfer did not end within its time; nothing of it is written later."""

    code = "BL-507"


class TransferCancelledError(DirectTransportError):
    """A transfer was cancelled; nothing of it is written later."""

    code = "BL-508"


class NotificationRefusedError(DirectTransportError):
    """The other agent takes no notification of that topic, or none for now; it has not got this one."""

    code = "BL-509"


class TargetMismatchError(DirectTransportError, ValueError):
    """The tensors given to `set_target_for_ref` do not fit the object's; nothing was written."""

    code = "BL-503"


class UnserializableException(BeelineError):  # noqa: N818 - Ray's name
    """Stands for an exception that could not be pickled or unpickled; the message holds its text."""

    code = "BL-107"


class ActorAlreadyExistsError(ValueError, BeelineError):
    """The name is taken by a living actor."""

    code = "BL-205"


class ActorHandleNotFoundError(ValueError, BeelineError):
    """The handle belongs to another session."""

    code = "BL-208"


RayError = BeelineError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = CoreError
RayDirectTransportError = DirectTransportError
LocalRayletDiedError = SessionLostError


def traceback_text(error: BaseException) -> str:
    """The traceback of `error` as text, without Beeline's own frames at its outer end."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE_FOLDER):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def dump_task_error(error: BaseException, function_name: str, actor_id: str = "", actor_repr: str = "") -> bytes:
    """Pickles what user code raised; never raises. A cause that cannot be pickled is replaced by its description."""
    try:
        text = traceback_text(error)
    except Exception:  # an exception whose __str__ raises
        text = f"{type(error).__name__} (its traceback could not be formatted)"
    cause = error.cause if isinstance(error, TaskError) else error
    about = (function_name, text, os.getpid(), actor_id, actor_repr)
    return pickle.dumps((about, _dump_cause(cause, text)), protocol=5)


def _dump_cause(cause: BaseException, text: str) -> bytes:
    import cloudpickle

    try:
        blob = cloudpickle.dumps(cause, protocol=5)
        pickle.loads(blob)  # many exceptions pickle but do not come back (a constructor with other arguments)
        return blob
    except Exception as reason:
        name = f"{type(cause).__module__}.{type(cause).__qualname__}"
        return pickle.dumps(
            UnserializableException(f"{name} cannot be pickled ({reason}). It was:\n{text}"), protocol=5
        )


def load_task_error(payload: bytes) -> TaskError:
    """The TaskError that `dump_task_error` described; a cause that does not unpickle here is replaced by its text."""
    (function_name, text, pid, actor_id, actor_repr), blob = pickle.loads(payload)
    try:
        cause = pickle.loads(blob)
    except Exception as reason:
        cause = UnserializableException(f"The exception cannot be unpickled here ({reason}). It was:\n{text}")
    return TaskError(function_name, text, cause, pid, actor_id, actor_repr)
