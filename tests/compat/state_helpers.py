"""A session to look into by ray.util.state, and what runs in it.

Ray's state API needs its dashboard: pip install "ray[default]" of the pinned version. Where that is not there Ray's
outcomes come from the record; see runner.can_ask.
"""

import contextlib
import importlib
import os
import sys
import time
import types

from outcome import raised, until

DETACHED = "kept"
INIT = {
    "num_cpus": 4,
    "num_gpus": 2,
    "resources": {"slot": 2},
    "object_store_memory": 512 << 20,
    "logging_level": "ERROR",
    "namespace": "compat",
}


@contextlib.contextmanager
def session(ray):
    """The state API of a session of its own, once it answers."""
    is_ray = ray.__name__ == "ray"
    ray.init(**INIT, include_dashboard=is_ray)
    state = importlib.import_module(f"{ray.__name__}.util.state")
    try:
        if is_ray:  # which asks for an address where there are other clusters on the machine
            os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        until(lambda: raised(ray, state.list_nodes) == "returned")
        yield state
    finally:
        with contextlib.suppress(ValueError):
            ray.kill(ray.get_actor(DETACHED))  # it would keep Beeline's session
        os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()


def state_error(ray):
    """The class of the state API's own errors."""
    return importlib.import_module(f"{ray.__name__}.util.state.exception").RayStateApiException


def quietly(ray, ref):
    """Waits for what may have failed."""
    with contextlib.suppress(Exception):
        ray.get(ref)


def at_last(rows, wanted):
    """Polls until each name that is wanted has its state: what Ray's processes report arrives later."""
    until(lambda: {name: row.state for name, row in rows().items() if name in wanted} == wanted, timeout_s=30)
    return rows()


def kinds(row):
    """Of what type each field is."""
    return {name: type(getattr(row, name)).__name__ for name in sorted(row.columns())}


def counter(ray):
    """A class of actors that do what there is to see."""

    class Counter:
        def __init__(self, fails=False):
            if fails:
                raise ValueError("on purpose")

        def add(self):
            return os.getpid()

        def broken(self):
            raise KeyError("on purpose")

        def leave(self):
            ray.actor.exit_actor()

        def crash(self):
            os._exit(3)

        def keep(self, boxed):
            self.boxed = boxed

        def say(self):
            print("to stdout", flush=True)
            print("to stderr", file=sys.stderr, flush=True)

    Counter.__qualname__ = "Counter"  # as if it were not within a function: Ray's `class_name` is the qualified name
    return ray.remote(num_cpus=0)(Counter)


def functions(ray):
    """Tasks likewise."""

    @ray.remote
    def good(x=None):
        return x

    @ray.remote(max_retries=0)
    def bad():
        raise ValueError("on purpose")

    @ray.remote(max_retries=0)
    def crash():
        os._exit(1)

    @ray.remote
    def outer():
        return ray.get(good.options(name="inner").remote())

    @ray.remote
    def forever():
        while True:
            time.sleep(0.01)

    @ray.remote(max_retries=2, retry_exceptions=True)
    def flaky():
        raise ValueError("again")

    return types.SimpleNamespace(good=good, bad=bad, crash=crash, outer=outer, forever=forever, flaky=flaky)
