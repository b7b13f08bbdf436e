"""Exceptions of user code: their types, texts, causes and ways through other tasks."""

import sys

from outcome import raised, raised_at_last


class _PartError(Exception):
    """Needs more than its message to be built again."""

    def __init__(self, code, detail):
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


def case_error_is_also_the_users(ray):
    @ray.remote
    def divide_badly(x):
        return x / 0

    ref = divide_badly.remote(1)
    return raised(ray, lambda: ray.get(ref), "divide_badly", "ZeroDivisionError", "x / 0", "errors.py")


def case_error_of_an_actor(ray):
    @ray.remote
    class Sorter:
        def look_up(self, table):
            return table["missing_key"]

    return raised(ray, lambda: ray.get(Sorter.remote().look_up.remote({})), "Sorter.look_up", "missing_key", "KeyError")


def case_definitions_that_capture_too_much(ray):
    weights = bytes(101 * 10**6)

    @ray.remote
    def function():
        return len(weights)

    @ray.remote
    class Actor:
        def size(self):
            return len(weights)

    return [
        raised(ray, lambda: ray.get(function.remote()), "too large", "FUNCTION_SIZE_ERROR_THRESHOLD"),
        raised(ray, lambda: ray.get(Actor.remote().size.remote()), "too large", "FUNCTION_SIZE_ERROR_THRESHOLD"),
    ]


def case_cause(ray):
    @ray.remote
    def fail():
        raise ValueError("original", 7)

    try:
        ray.get(fail.remote())
    except ray.exceptions.RayTaskError as error:
        return [type(error.cause).__name__, list(error.cause.args), list(getattr(error, "args", ()))[-1:] != []]


def case_custom_exception(ray):
    class MineError(Exception):
        def __init__(self, message):
            super().__init__(message)
            self.extra = "kept"

    @ray.remote
    def fail():
        raise MineError("told")

    try:
        ray.get(fail.remote())
    except MineError as error:
        return [isinstance(error, ray.exceptions.RayTaskError), "told" in str(error), error.extra, error.cause.extra]


def case_exception_that_needs_arguments(ray):
    @ray.remote
    def fail():
        raise _PartError(5, "broken part")

    try:
        ray.get(fail.remote())
    except ray.exceptions.RayError as error:
        return ["broken part" in str(error), "_PartError" in str(error)]


def case_unpicklable_exception(ray):
    @ray.remote
    def fail():
        import threading

        error = ValueError("holds a lock")
        error.lock = threading.Lock()
        raise error

    return raised(ray, lambda: ray.get(fail.remote()), "holds a lock")


def case_exception_passes_through_dependents(ray):
    @ray.remote
    def fail():
        raise ValueError("at the root")

    @ray.remote
    def use(x):
        return x

    return raised(ray, lambda: ray.get(use.remote(use.remote(fail.remote()))), "at the root", "fail", "use")


def case_exception_passes_through_an_actor(ray):
    @ray.remote
    def fail():
        raise ValueError("as an argument")

    @ray.remote
    class A:
        def __init__(self):
            self.calls = 0

        def use(self, x):
            self.calls += 1

        def count(self):
            return self.calls

    a = A.remote()
    return [raised(ray, lambda: ray.get(a.use.remote(fail.remote())), "as an argument"), ray.get(a.count.remote())]


def case_exception_passes_through_get_in_a_task(ray):
    @ray.remote
    def fail():
        raise ValueError("innermost")

    @ray.remote
    def outer():
        ray.get(fail.remote())

    return raised(ray, lambda: ray.get(outer.remote()), "innermost", "outer", "fail")


def case_constructor_argument_failed(ray):
    @ray.remote
    def fail():
        raise ValueError("no argument")

    @ray.remote
    class A:
        def __init__(self, x):
            pass

        def f(self):
            return 1

    return raised(ray, lambda: ray.get(A.remote(fail.remote()).f.remote()), "no argument")


def case_one_error_in_a_list(ray):
    @ray.remote
    def f(bad):
        if bad:
            raise ValueError("the bad one")
        return 1

    refs = [f.remote(False), f.remote(True), f.remote(False)]
    return [raised(ray, lambda: ray.get(refs), "the bad one"), ray.get([refs[0], refs[2]])]


def case_error_is_raised_at_every_get(ray):
    @ray.remote
    def fail():
        raise ValueError("again")

    ref = fail.remote()
    return [raised(ray, lambda: ray.get(ref), "again") for _ in range(3)]


def case_every_result_carries_the_error(ray):
    @ray.remote(num_returns=2)
    def fail():
        raise ValueError("both")

    return [raised(ray, lambda ref=ref: ray.get(ref), "both") for ref in fail.remote()]


def case_failed_task_is_ready(ray):
    @ray.remote
    def fail():
        raise ValueError

    ref = fail.remote()
    ready, rest = ray.wait([ref], timeout=20)
    return [ready == [ref], rest]


def case_chained_exceptions(ray):
    @ray.remote
    def fail():
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    return raised(ray, lambda: ray.get(fail.remote()), "first", "second", "direct cause")


def case_exit_in_a_task(ray):
    @ray.remote(max_retries=0)
    def leave(code):
        sys.exit(code)

    return [raised(ray, lambda code=code: ray.get(leave.remote(code))) for code in (0, 1)]


def case_keyboard_interrupt_in_user_code(ray):
    @ray.remote(max_retries=0)
    def interrupt():
        raise KeyboardInterrupt

    return raised(ray, lambda: ray.get(interrupt.remote()))


def case_base_exception(ray):
    class Odd(BaseException):
        pass

    @ray.remote(max_retries=0)
    def fail():
        raise Odd("odd one")

    @ray.remote
    def fine():
        return 1

    return [raised(ray, lambda: ray.get(fail.remote())), ray.get(fine.remote())]


def case_stop_iteration(ray):
    @ray.remote
    def fail():
        raise StopIteration("stopped")

    return raised(ray, lambda: ray.get(fail.remote()), "stopped")


def case_assertion_and_os_error(ray):
    @ray.remote
    def check(x):
        assert x > 0, "must be positive"

    @ray.remote
    def read():
        open("/no/such/file")

    return [
        raised(ray, lambda: ray.get(check.remote(0)), "must be positive"),
        raised(ray, lambda: ray.get(read.remote()), "/no/such/file"),
    ]


def case_returned_exception_is_a_value(ray):
    @ray.remote
    def give():
        return ValueError("just data")

    return repr(ray.get(give.remote()))


def case_recursion(ray):
    @ray.remote
    def forever():
        def again():
            return again()

        return again()

    return raised(ray, lambda: ray.get(forever.remote()), "RecursionError")


def case_hierarchy(ray):
    names = (
        "RayError RayTaskError RayActorError ActorDiedError ActorUnavailableError TaskCancelledError GetTimeoutError "
        "WorkerCrashedError ObjectLostError OwnerDiedError ObjectFreedError ObjectStoreFullError OutOfMemoryError "
        "TaskUnschedulableError ActorUnschedulableError RuntimeEnvSetupError PendingCallsLimitExceeded "
        "ObjectFetchTimedOutError RayDirectTransportError RaySystemError AsyncioActorExit"
    ).split()
    classes = {name: getattr(ray.exceptions, name) for name in names}
    return {
        name: [other for other, base in classes.items() if other != name and issubclass(kind, base)]
        for name, kind in classes.items()
    }


def case_actor_error_of_a_dead_actor_says_why(ray):
    @ray.remote
    class Doomed:
        def f(self):
            return 1

    doomed = Doomed.remote()
    ray.get(doomed.f.remote())
    ray.kill(doomed)

    def call():
        ray.get(doomed.f.remote(), timeout=20)

    return raised_at_last(ray, call, "Doomed", "ray.kill")


# All of Ray 2.60.
NAMES = """
ActorAlreadyExistsError ActorDiedError ActorHandleNotFoundError ActorPlacementGroupRemoved
ActorUnavailableError ActorUnschedulableError AsyncioActorExit AuthenticationError CrossLanguageError
GetTimeoutError LocalRayletDiedError NodeDiedError ObjectFetchTimedOutError ObjectFreedError ObjectLostError
ObjectReconstructionFailedError ObjectRefStreamEndOfStreamError ObjectStoreFullError
OufOfBandObjectRefSerializationException OutOfDiskError OutOfMemoryError OwnerDiedError
PendingCallsLimitExceeded PlasmaObjectNotAvailable RayActorError RayCgraphCapacityExceeded RayChannelError
RayChannelTimeoutError RayDirectTransportError RayError RaySystemError RayTaskError
ReferenceCountingAssertionError RpcError RuntimeEnvSetupError StreamingGeneratorReplayInconsistentError
TaskCancelledError TaskPlacementGroupRemoved TaskUnschedulableError UnserializableException UserCodeException
WorkerCrashedError
""".split()


def case_names_of_exceptions(ray):
    """Which exist, and by what else an `except` clause catches them."""
    kinds = {name: getattr(ray.exceptions, name, None) for name in NAMES}
    bases = (ray.exceptions.RayError, ray.exceptions.RaySystemError, TimeoutError, ValueError, AssertionError)
    return {name: kind and [issubclass(kind, base) for base in bases] for name, kind in kinds.items()}
