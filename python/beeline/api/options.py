"""Options of tasks, actors and methods: one table of types, values and defaults, and what they mean to the core.

Names, defaults and the kind of error are those of Ray's `@ray.remote(...)`, `@ray.method(...)` and `.options(...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from beeline.api import labels, notices
from beeline.api.strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)
from beeline.runtime_env import runtime_env
from beeline.tensors import transports

# Smallest amount of a resource, as in Ray.
RESOURCE_PRECISION = 0.0001
DEFAULT_MAX_RETRIES = 3
DEFAULT_ASYNC_CONCURRENCY = 1000
# What a call's header has room for: returns, arguments that are references, bytes of the name.
CALL_LIMIT = 65535


class Option(NamedTuple):
    """What an option may be: types, and a check of the value that returns what is wrong with it.

    `without_effect`: why the option, checked, does nothing here; whoever gives it is told.
    """

    types: tuple[type, ...]
    check: Callable[[Any], str | None] | None = None
    without_effect: str | None = None


_NONE = type(None)


def _count(name: str, infinite: bool = True) -> Option:
    least = -1 if infinite else 0
    allowed = "None, 0, -1 (no bound) or a positive integer" if infinite else "None, 0 or a positive integer"
    return Option(
        (int, _NONE),
        lambda value: None if value is None or value >= least else f"The keyword '{name}' only accepts {allowed}.",
    )


def quantity_error(name: str, amount: float) -> str | None:
    """What is wrong with this amount of a resource, if anything."""
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        return f"The quantity of resource {name} must be a number, got {type(amount).__name__}"
    if amount < 0:
        return f"The quantity of resource {name} cannot be negative"
    if 0 < amount < RESOURCE_PRECISION:
        return f"The precision of the fractional quantity of resource {name} cannot go beyond {RESOURCE_PRECISION}"
    if name in ("num_gpus", "GPU") and amount > 1 and amount != int(amount):
        return f"{name} = {amount}: more than one GPU must be a whole number"
    return None


def _quantity(name: str) -> Option:
    return Option((float, int, _NONE), lambda value: None if value is None else quantity_error(name, value))


def _resources_error(resources: dict[str, float] | None) -> str | None:
    if resources is None:
        return None
    if "CPU" in resources or "GPU" in resources:
        return "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword"
    for name, amount in resources.items():
        if not isinstance(name, str):
            return f"Names in 'resources' must be strings, got {name!r}"
        if error := quantity_error(name, amount):
            return error
    return None


def _num_returns_error(value: Any) -> str | None:
    if value is None or (isinstance(value, int) and 0 <= value <= CALL_LIMIT):
        return None
    if isinstance(value, int) and value > CALL_LIMIT:
        return f"num_returns={value}: a call has at most {CALL_LIMIT} returns; return lists of values instead"
    if value in ("streaming", "dynamic"):
        return None
    return (
        f"The keyword 'num_returns' only accepts None, a non-negative integer, 'streaming' or 'dynamic', got {value!r}"
    )


def _backpressure_error(value: int | None) -> str | None:
    if value is None or value == -1 or 0 < value < 1 << 32:
        return None
    return (
        f"_generator_backpressure_num_objects={value} is not allowed. Use a value > 0: how many items may be there "
        "that nobody has taken; 1 makes one at each `next`. Use -1 for any number."
    )


def _retry_exceptions_error(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if all(isinstance(kind, type) and issubclass(kind, Exception) for kind in value):
        return None
    return "retry_exceptions must be either a boolean or a list of exceptions"


def _runtime_env_error(value: Mapping[str, Any] | None) -> str | None:
    runtime_env.checked(value)  # raises
    return None


def _strategy_error(value: Any) -> str | None:
    if not isinstance(value, str) or value in ("DEFAULT", "SPREAD"):
        return None
    return f"scheduling_strategy must be 'DEFAULT', 'SPREAD' or one of util.scheduling_strategies, got {value!r}"


def _name_error(value: str | None) -> str | None:
    size = len((value or "").encode())
    return None if size <= CALL_LIMIT else f"name: at most {CALL_LIMIT} bytes, got {size}"


def _label_selector_error(value: dict[str, str] | None) -> str | None:
    error = labels.selector_error(value or {})
    return error and f"label_selector: {error}"


def _choice(name: str, *choices: Any) -> Callable[[Any], str | None]:
    allowed = ", ".join(repr(choice) for choice in choices)
    return lambda value: None if value in choices else f"`{name}` must be one of {allowed}; got {value!r}"


def _groups_error(value: Any) -> str | None:
    for group, limit in (value or {}).items():
        if not isinstance(group, str) or not isinstance(limit, int) or limit < 1:
            return f"concurrency_groups must map names to positive integers, got {group!r}: {limit!r}"
    return None


NAME = Option((str, _NONE), _name_error)
DIRECTORY = Option((str, _NONE))
OBJECT_STORE_MEMORY = _count("object_store_memory", infinite=False)
_LABELS = Option((dict, _NONE), without_effect="nodes have labels (init, VirtualCluster), tasks and actors do not")
_COMMON: dict[str, Option] = {
    "num_cpus": _quantity("num_cpus"),
    "num_gpus": _quantity("num_gpus"),
    "memory": _quantity("memory"),
    "resources": Option((dict, _NONE), _resources_error),
    "accelerator_type": Option((str, _NONE)),
    "name": NAME,
    "runtime_env": Option((dict, _NONE), _runtime_env_error),
    "scheduling_strategy": Option(
        (
            str,
            PlacementGroupSchedulingStrategy,
            NodeAffinitySchedulingStrategy,
            NodeLabelSchedulingStrategy,
            _NONE,
        ),
        _strategy_error,
    ),
    # As Ray, which prefers PlacementGroupSchedulingStrategy.
    "placement_group": Option((object,)),
    "placement_group_bundle_index": Option((int,)),
    "placement_group_capture_child_tasks": Option((bool, _NONE)),
    "tensor_transport": Option((str, _NONE)),
    "isolation": Option((str, _NONE)),
    "enable_task_events": Option((bool,)),
    "_labels": _LABELS,
    "label_selector": Option((dict, _NONE), _label_selector_error),
}
TASK_OPTIONS: dict[str, Option] = {
    **_COMMON,
    "num_returns": Option((int, str, _NONE), _num_returns_error),
    "_generator_backpressure_num_objects": Option((int, _NONE), _backpressure_error),
    "max_calls": _count("max_calls", infinite=False),
    "max_retries": _count("max_retries"),
    "retry_exceptions": Option((bool, list, tuple), _retry_exceptions_error),
}
ACTOR_OPTIONS: dict[str, Option] = {
    **_COMMON,
    "concurrency_groups": Option((dict, _NONE), _groups_error),
    "enable_tensor_transport": Option((bool, _NONE)),
    "lifetime": Option((str, _NONE), _choice("lifetime", None, "detached", "non_detached")),
    "max_concurrency": _count("max_concurrency", infinite=False),
    "max_restarts": _count("max_restarts"),
    "max_task_retries": _count("max_task_retries"),
    "max_pending_calls": _count("max_pending_calls"),
    "object_store_memory": OBJECT_STORE_MEMORY._replace(
        without_effect="it reserves nothing, as on Ray; init(object_store_memory=...) sets the quota"
    ),
    "namespace": Option((str, _NONE)),
    "get_if_exists": Option((bool,)),
    "allow_out_of_order_execution": Option((bool, _NONE)),
}
METHOD_OPTIONS: dict[str, Option] = {
    "num_returns": TASK_OPTIONS["num_returns"],
    "_generator_backpressure_num_objects": TASK_OPTIONS["_generator_backpressure_num_objects"],
    "max_task_retries": ACTOR_OPTIONS["max_task_retries"],
    "retry_exceptions": TASK_OPTIONS["retry_exceptions"],
    "concurrency_group": Option((str, _NONE)),
    "enable_task_events": Option((bool,)),
    "tensor_transport": Option((str, _NONE)),
    "isolation": Option((str, _NONE)),
}
# For one call or a few: `handle.method.options(...)`.
CALL_OPTIONS: dict[str, Option] = {**METHOD_OPTIONS, "name": NAME, "_labels": _LABELS}


def validate(options: Mapping[str, Any], table: Mapping[str, Option], what: str) -> None:
    """Raises ValueError for an option that is not in `table` or has a bad value, TypeError for a wrong type.

    `what` ("actors") goes into the message. Says which options have no effect here (notices.py).
    """
    for name, value in options.items():
        option = table.get(name)
        if option is None:
            raise ValueError(f"Invalid option keyword {name} for {what}. Valid ones are {list(table)}.")
        if not isinstance(value, option.types) or (isinstance(value, bool) and bool not in option.types):
            expected = " or ".join("None" if kind is _NONE else kind.__name__ for kind in option.types)
            raise TypeError(f"The type of keyword '{name}' must be {expected}, but received type {type(value)}")
        if option.check and (error := option.check(value)):
            raise ValueError(error)
        if option.without_effect and value is not None:
            notices.without_effect(f"{name} of {what}", option.without_effect)
    if options.get("placement_group", "default") not in ("default", None) and options.get("scheduling_strategy"):
        raise ValueError("placement_group and scheduling_strategy: the latter says it all; leave the former out.")
    if "tensor_transport" in options or "isolation" in options:
        mode(options)


def validate_task(options: Mapping[str, Any]) -> None:
    """Validates the options of a remote function; ValueError or TypeError."""
    validate(options, TASK_OPTIONS, "remote functions")


def max_calls(options: Mapping[str, Any]) -> int:
    """After how many calls of the function a worker exits; 0: never. As Ray: by default after one that holds GPUs, so
    that their memory is free again.
    """
    given = options.get("max_calls")
    return int(bool(options.get("num_gpus"))) if given is None else int(given)


def window(options: Mapping[str, Any]) -> int:
    """How many items of a stream may be untaken before it pauses; 0: any number."""
    return max(0, options.get("_generator_backpressure_num_objects") or 0)


def validate_actor(options: Mapping[str, Any], in_options: bool) -> None:
    """Validates the options of an actor class; `in_options`: they come from `.options()`. ValueError or TypeError."""
    validate(options, ACTOR_OPTIONS, "actors")
    if in_options and "concurrency_groups" in options:
        raise ValueError("Setting 'concurrency_groups' is not supported in '.options()'.")
    if options.get("get_if_exists") and not options.get("name"):
        raise ValueError("The actor name must be specified to use `get_if_exists`.")
    if options.get("name") == "":
        raise ValueError("Actor name cannot be an empty string.")
    if options.get("namespace") == "":
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')


def mode(options: Mapping[str, Any]) -> int | None:
    """The mode that `tensor_transport` and `isolation` ask for, None where neither is given.

    An isolation alone asks for a direct transport.
    """
    transport, isolation = options.get("tensor_transport"), options.get("isolation")
    if transport is None and isolation is None:
        return None
    return transports.mode_for("auto" if transport is None else transport, isolation)


def resources(options: Mapping[str, Any], default_cpus: float) -> dict[str, float]:
    """What the daemon accounts for: amounts by resource name, zero amounts left out."""
    amounts = {name: float(amount) for name, amount in (options.get("resources") or {}).items()}
    cpus = options.get("num_cpus")
    amounts["CPU"] = float(default_cpus if cpus is None else cpus)
    amounts["GPU"] = float(options.get("num_gpus") or 0)
    amounts["memory"] = float(options.get("memory") or 0)
    if kind := options.get("accelerator_type"):
        amounts[f"accelerator_type:{kind}"] = 0.001
    return {name: amount for name, amount in amounts.items() if amount}


def actor_resources(options: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """What an actor holds while it lives, and what it needs to be placed.

    As Ray: one that asks for nothing holds nothing, and needs a CPU for the moment of its creation; one that asks for
    anything but memory holds a CPU as well, unless it says how many.
    """
    asks = any(options.get(name) is not None for name in ("num_cpus", "num_gpus", "accelerator_type"))
    asks = asks or bool(options.get("resources"))
    held = resources(options, default_cpus=1 if asks else 0)
    return held, held if asks else {**held, "CPU": 1.0}
