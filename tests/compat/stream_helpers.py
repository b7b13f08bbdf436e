"""What the cases of streams share."""

import builtins
import time
import warnings

from outcome import raised, until


def taken(ray, stream):
    """What a stream gives until it ends; of an error, its names."""
    values = []
    for ref in stream:
        try:
            values.append(ray.get(ref))
        except Exception as error:
            values.append(sorted(name for name in KINDS if isinstance(error, _kind(ray, name))))
    return values


KINDS = ("RayTaskError", "TaskCancelledError", "ActorDiedError", "WorkerCrashedError", "ValueError", "RuntimeError")


def _kind(ray, name):
    return getattr(ray.exceptions, name, None) or getattr(builtins, name)


def stops(stream):
    try:
        next(stream)
    except StopIteration:
        return "stop"
    return "more"


def fails(ray, ref):
    return raised(ray, lambda: ray.get(ref))


def counting(ray, **options):
    def count(n, fails=False):
        for i in range(n):
            yield i * 10
        if fails:
            raise ValueError("midway")

    return ray.remote(**options)(count) if options else ray.remote(count)


def still_at(call, number):
    """Whether it comes to the number, and is there a while later."""
    reached = until(lambda: call() == number)
    time.sleep(0.3)
    return reached and call() == number


def dynamic(function):
    """The function with num_returns="dynamic", which is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function.options(num_returns="dynamic")
