"""The `remote` decorator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from beeline.api import options as option_table
from beeline.api.actor import make_actor_class
from beeline.api.function import make_remote_function


def remote(*args: Any, **options: Any) -> Any:
    """Makes a function a task or a class an actor: `@remote`, `@remote(num_cpus=2)`, `remote(function)`.

    Options of functions: num_returns, num_cpus (default 1), num_gpus, memory, resources, max_retries (3),
    retry_exceptions, runtime_env, scheduling_strategy, name, tensor_transport, isolation.
    Options of classes: num_cpus (default: 1 to place the actor, 0 held), num_gpus, memory, resources, name,
    namespace, lifetime, get_if_exists, max_restarts (0), max_task_retries (0), max_concurrency (1; async 1000),
    max_pending_calls, concurrency_groups, runtime_env, tensor_transport and isolation (for all its methods).

    Returns a RemoteFunction or an ActorClass; with options, a decorator that does.
    Raises TypeError for anything callable that is neither a function nor a class, AssertionError (as Ray) for a wrong
    use of the decorator, ValueError or TypeError for bad options. Starts nothing.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make(args[0], {})
    if args or not options:
        names = sorted({*option_table.TASK_OPTIONS, *option_table.ACTOR_OPTIONS})
        raise AssertionError(
            "The @remote decorator must be applied either with no arguments and no parentheses, for example "
            f"'@remote', or it must be applied using some of the arguments in the list {names}, for example "
            "'@remote(num_returns=2)'."
        )
    return functools.partial(_make, options=options)


def _make(function_or_class: Callable[..., Any], options: dict[str, Any]) -> Any:
    if inspect.isclass(function_or_class):
        return make_actor_class(function_or_class, options)
    if inspect.isfunction(function_or_class) or type(function_or_class).__name__ == "cython_function_or_method":
        return make_remote_function(function_or_class, options)
    raise TypeError("The @remote decorator must be applied to either a function or a class.")
