"""What a case may say about a run: values that compare equal across engines, and errors by what they promise.

An outcome is plain data (it crosses a process boundary as JSON). An error is described by the public names that
catch it, never by the name of its class, because Ray derives classes at run time and Beeline has aliases.
"""

import time

RAY_ERRORS = (
    "RayError",
    "RayTaskError",
    "TaskCancelledError",
    "RayActorError",
    "ActorDiedError",
    "ActorUnavailableError",
    "GetTimeoutError",
    "ObjectLostError",
    "ObjectFreedError",
    "OwnerDiedError",
    "WorkerCrashedError",
    "TaskUnschedulableError",
    "ActorUnschedulableError",
    "TaskPlacementGroupRemoved",
    "ActorPlacementGroupRemoved",
    "PendingCallsLimitExceeded",
    "RayDirectTransportError",
)
PYTHON_ERRORS = (
    AttributeError,
    AssertionError,
    KeyError,
    LookupError,
    OSError,
    RuntimeError,
    TimeoutError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)


def describe(ray, error, *facts):
    """The names that catch `error`, and for each text in `facts` whether its message mentions it (ignoring case)."""
    names = [name for name in RAY_ERRORS if isinstance(error, getattr(ray.exceptions, name, ()))]
    names += [kind.__name__ for kind in PYTHON_ERRORS if isinstance(error, kind)]
    message = str(error)
    mentions = {fact: fact.lower() in message.lower() for fact in facts}
    return {"caught_as": names, "mentions": mentions, "message": message[:500]}


def raised(ray, call, *facts):
    """Describes what `call()` raises; a call that returns is an outcome too."""
    try:
        call()
    except Exception as error:
        return describe(ray, error, *facts)
    return "returned"


def until(condition, timeout_s=20.0):
    """Polls `condition` until it gives something true, which is returned; on a deadline, what it gave last."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.02)


def raised_at_last(ray, call, *facts):
    """As `raised`, of a call that is repeated until it raises: what ends an actor on Ray reaches it a moment later."""
    return until(lambda: (outcome := raised(ray, call, *facts)) != "returned" and outcome)


def process_is_gone(pid):
    """True once no process (zombies aside) has this id."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # before the open, or between it and the read
        return True


def not_yet(case):
    """Marks a case of what is known to be missing from this version of Beeline."""
    case.not_yet = True
    return case


def full(case):
    """Marks a case that is too slow on Ray for the default set."""
    case.full = True
    return case
