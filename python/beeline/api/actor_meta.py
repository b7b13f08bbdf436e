"""What a handle must know of an actor's class to call it: plain data, pickled with the handle."""

from __future__ import annotations

import functools
import inspect
import io
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

from beeline.api import options as option_table
from beeline.api import signature

# Where @method keeps its options on the function.
METHOD_OPTIONS_ATTRIBUTE = "__beeline_method_options__"
# Methods that every actor has; the worker adds them to the class.
READY, CALL, TERMINATE = "__ray_ready__", "__ray_call__", "__ray_terminate__"
# What a class may define: called when its actor goes by itself.
SHUTDOWN = "__ray_shutdown__"


class MethodMeta(NamedTuple):
    """One method, as the caller sees it."""

    parameters: signature.Parameters | None
    num_returns: int | str
    mode: int  # -1: as the class
    max_task_retries: int | None  # None: as the actor
    retry_exceptions: Any
    concurrency_group: str
    is_generator: bool
    generator_options: dict[str, Any]


class AnyMethods(dict[str, MethodMeta]):
    """The methods of a class that lists none here: every public name is taken for one."""

    def __contains__(self, name: object) -> bool:
        """Whether it may be a method."""
        return isinstance(name, str) and not name.startswith("_")

    def __missing__(self, name: str) -> MethodMeta:
        """A method about which nothing is known."""
        return MethodMeta(None, 1, -1, None, None, "", False, {})


class ActorMeta(NamedTuple):
    """A class and the options of one actor that its callers need."""

    class_name: str
    module: str
    methods: dict[str, MethodMeta]
    is_async: bool
    max_task_retries: int
    max_pending_calls: int
    doc: str | None
    concurrency_groups: tuple[str, ...] = ()

    def group_number(self, group: str) -> int:
        """The number that calls of a concurrency group carry; 0 for "". Raises ValueError for one that there is not."""
        if not group:
            return 0
        if group not in self.concurrency_groups:
            known = ", ".join(map(repr, self.concurrency_groups)) or "none"
            raise ValueError(f"{self.class_name} has no concurrency group {group!r}. It has {known}.")
        return 1 + self.concurrency_groups.index(group)

    def dumps(self) -> bytes:
        """Bytes for `load`. A listed exception class must be importable or picklable by cloudpickle."""
        file = io.BytesIO()
        try:
            _PlainPickler(file, protocol=5).dump(tuple(self))
        except _NotPlainError:
            import cloudpickle  # in Python, takes several times as long

            return cloudpickle.dumps(tuple(self), protocol=5)
        return file.getvalue()


class _NotPlainError(Exception):
    """Something that is to travel is of a class that the program may have made."""


class _PlainPickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Asked of all but plain data: exception classes, a group that is a member of an Enum, any `__doc__`."""
        if value is MethodMeta or type(value) is MethodMeta:
            return NotImplemented  # as usual
        raise _NotPlainError


@functools.lru_cache(maxsize=256)
def load(data: bytes) -> ActorMeta:
    """The ActorMeta of `dumps`."""
    return ActorMeta._make(pickle.loads(data))


def describe(cls: type, options: Mapping[str, Any]) -> ActorMeta:
    """The meta of `cls` with the actor's options."""
    methods = {}
    is_async = False
    for name in dir(cls):
        function = getattr(cls, name, None)
        if not callable(function) or isinstance(function, type):
            continue
        if name.startswith("__") and getattr(object, name, None) is function:
            continue
        static = inspect.getattr_static(cls, name)
        bound = isinstance(static, classmethod | staticmethod)
        is_async |= inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        if name in ("__new__", "__init_subclass__", "__subclasshook__", "__class_getitem__"):
            continue
        methods[name] = _method(function, skip_first=not bound)
    any_arguments = (("args", 2, False), ("kwargs", 4, False))
    for name, parameters in ((READY, ()), (TERMINATE, ()), (CALL, (("fn", 0, False), *any_arguments))):
        methods[name] = MethodMeta(parameters, 1, -1, None, None, "", False, {})
    retries, pending = options.get("max_task_retries"), options.get("max_pending_calls")
    return ActorMeta(
        cls.__name__, cls.__module__, methods, is_async, retries or 0, -1 if pending is None else pending, cls.__doc__
    )


def _method(function: Any, skip_first: bool) -> MethodMeta:
    options = getattr(function, METHOD_OPTIONS_ATTRIBUTE, {})
    num_returns, mode = options.get("num_returns"), option_table.mode(options)
    is_generator = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if num_returns is None:
        num_returns = "streaming" if is_generator else 1
    return MethodMeta(
        parameters=signature.parameters_of(function, skip_first),
        num_returns=num_returns,
        mode=-1 if mode is None else mode,
        max_task_retries=options.get("max_task_retries"),
        retry_exceptions=options.get("retry_exceptions"),
        concurrency_group=options.get("concurrency_group") or "",
        is_generator=is_generator,
        generator_options={name: value for name, value in options.items() if name.startswith("_generator")},
    )
