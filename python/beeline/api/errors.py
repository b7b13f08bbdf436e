"""The one place where the core's errors become Python exceptions."""

from __future__ import annotations

from collections.abc import Callable

from beeline import _core, exceptions


def make_error(kind: int, message: str, payload: bytes, actor_id: int, name: str) -> BaseException:
    """The exception that `get` raises for an object's error; see `_core.set_hooks`."""
    actor_hex = f"{actor_id:032x}"
    if kind == _core.ERROR_TASK:
        return exceptions.load_task_error(payload).as_instanceof_cause()
    if kind == _core.ERROR_ACTOR_INIT_FAILED:
        cause = exceptions.load_task_error(payload) if payload else message
        return exceptions.ActorDiedError(
            actor_hex, f"The actor died because of an error raised in its creation task, {cause}", True
        )
    if kind == _core.ERROR_ACTOR_DIED:
        return exceptions.ActorDiedError(actor_hex, message)
    if kind == _core.ERROR_ACTOR_UNAVAILABLE:
        return exceptions.ActorUnavailableError(actor_hex, message)
    if kind == _core.ERROR_CANCELLED:
        return exceptions.TaskCancelledError(error_message=message)
    if kind == _core.ERROR_INFEASIBLE:
        unschedulable = exceptions.ActorUnschedulableError if actor_id else exceptions.TaskUnschedulableError
        return unschedulable(message)
    if kind == _core.ERROR_GROUP_REMOVED:
        removed = exceptions.ActorPlacementGroupRemoved if actor_id else exceptions.TaskPlacementGroupRemoved
        return removed(message)
    return _BY_KIND.get(kind, exceptions.CoreError)(message)


def _invalid_argument(message: str) -> ValueError:
    error = ValueError(message)
    error.code = exceptions.INVALID_ARGUMENT_CODE  # type: ignore[attr-defined]
    return error


_BY_KIND: dict[int, Callable[[str], BaseException]] = {
    _core.ERROR_WORKER_CRASHED: exceptions.WorkerCrashedError,
    _core.ERROR_OBJECT_LOST: exceptions.ObjectLostError,
    _core.ERROR_OWNER_DIED: exceptions.OwnerDiedError,
    _core.ERROR_SESSION_LOST: exceptions.SessionLostError,
    _core.ERROR_TRANSPORT: exceptions.DirectTransportError,
    _core.ERROR_MUTATED: exceptions.TensorMutatedError,
    _core.ERROR_PENDING_CALLS: exceptions.PendingCallsLimitExceeded,
    _core.ERROR_OUT_OF_MEMORY: exceptions.ObjectStoreFullError,
    _core.ERROR_TIMEOUT: exceptions.GetTimeoutError,
    _core.ERROR_INVALID: _invalid_argument,
    _core.ERROR_SYSTEM: exceptions.CoreError,
    _core.ERROR_PEER_LOST: exceptions.PeerLostError,
    _core.ERROR_STALE_REFERENCE: exceptions.StaleReferenceError,
    _core.ERROR_UNAVAILABLE: exceptions.TransportUnavailableError,
    _core.ERROR_TRANSFER_TIMEOUT: exceptions.TransferTimeoutError,
    _core.ERROR_TRANSFER_CANCELLED: exceptions.TransferCancelledError,
    _core.ERROR_TORN: exceptions.TornReadError,
    _core.ERROR_REFUSED: exceptions.NotificationRefusedError,
    _core.ERROR_END_OF_STREAM: exceptions.ObjectRefStreamEndOfStreamError,
    _core.ERROR_RECONSTRUCTION: exceptions.ObjectReconstructionFailedError,
    _core.ERROR_NO_ENVIRONMENT: exceptions.RuntimeEnvSetupError,
}
