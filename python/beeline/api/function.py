"""Remote functions: what `@remote` makes of a function."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from beeline import _core
from beeline.api import environment, scheduling, session, signature, streams
from beeline.api import options as option_table
from beeline.exceptions import TransportUnavailableError
from beeline.tensors import registered, serializers, transports

_log = logging.getLogger("beeline")


class RemoteFunction:
    """A function whose calls run as tasks in other processes: `f.remote(...)` returns a reference at once.

    The function is pickled at the first call, with what it refers to as it is then.
    """

    def __init__(
        self, function: Callable[..., Any], options: Mapping[str, Any], shared: _Pickled | None = None
    ) -> None:
        self._function = function
        self._options = dict(options)
        self._pickled = shared or _Pickled(function)
        self._function_name = self._pickled.name
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises TypeError: a remote function is called by `.remote(...)`."""
        name = self._pickled.name
        raise TypeError(
            f"Remote functions cannot be called directly. Instead of running '{name}()', try '{name}.remote()'."
        )

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Submits a task and returns one ObjectRef, a list of them, or None, by `num_returns`; of a generator an
        ObjectRefGenerator. Never blocks.

        Raises TypeError for arguments that do not fit the function or cannot be pickled; nothing was submitted then.
        """
        # From the second call on, the core's own `remote` is found on the instance instead of this method.
        session.ensure()
        call = self._call()
        parameters = self._pickled.parameters
        call.set_signature(*signature.arity(parameters), signature.checker(parameters, self._pickled.name))
        remote = self.__dict__["remote"] = call.remote
        session.current.functions.add(self)
        return remote(*args, **kwargs)

    def _call(self) -> Any:
        options = self._options
        blob = self._pickled.blob()
        num_returns, yields = streams.returns_of(self._num_returns())
        max_retries = options.get("max_retries")
        resources = option_table.resources(options, default_cpus=1)
        mode = option_table.mode(options)
        if mode is not None and mode >= registered.FIRST_MODE:
            raise TransportUnavailableError(
                f"The tensor transport '{options['tensor_transport']}' keeps tensors where they were made: it serves "
                "methods of actors, and put() in actors and the driver, but no tasks, whose processes end."
            )
        return _core.FunctionCall(
            blob,
            options.get("name") or self._pickled.name,
            self._pickled.name,
            num_returns,
            resources,
            transports.OBJECT_STORE if mode is None else mode,
            option_table.DEFAULT_MAX_RETRIES if max_retries is None else max_retries,
            options.get("retry_exceptions", False),
            uses_torch(self._function, blob),
            environment.variables(options),
            option_table.max_calls(options),
            scheduling.where(options, resources, {}, self._pickled.name),
            yields,
            option_table.window(options),
        )

    def _num_returns(self) -> int | str:
        given = self._options.get("num_returns")
        if given is None:
            return streams.STREAMING if is_generator(self._function) else 1
        return given

    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options (those of `@remote`); this one is unchanged.

        Raises ValueError or TypeError for options that tasks do not have.
        """
        option_table.validate_task(options)
        if "max_calls" in options:
            raise ValueError("Setting 'max_calls' is not supported in '.options()'.")
        streams.check(options.get("num_returns"), is_generator(self._function), self._pickled.name)
        return RemoteFunction(self._function, {**self._options, **options}, self._pickled)

    def forget(self) -> None:
        """The next call starts from scratch."""
        self.__dict__.pop("remote", None)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by function and options; a worker makes calls of its own."""
        return RemoteFunction, (self._function, self._options)

    def __repr__(self) -> str:
        """For people."""
        return f"RemoteFunction({self._pickled.name})"


class _Pickled:
    """A function's pickle and signature, shared by all its `.options()` variants."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self._blob: bytes | None = None
        self._lock = threading.Lock()

    @functools.cached_property
    def parameters(self) -> signature.Parameters | None:
        # Not in __init__: unpickled within its own closure, the function is not complete there.
        return signature.parameters_of(self.function, skip_first=False)

    def blob(self) -> bytes:
        """The cloudpickled function. Raises TypeError that names the function where that is impossible."""
        with self._lock:
            if self._blob is None:
                self._blob = pickled(self.function, f"the remote function {self.name}")
            return self._blob


# Bytes of a pickled definition, as Ray has them: from the first on it is warned of, beyond the second it is refused.
LARGE_DEFINITION = 10**7
MAX_DEFINITION = int(os.environ.get("FUNCTION_SIZE_ERROR_THRESHOLD", 10**8))


def pickled(value: Any, what: str) -> bytes:
    """cloudpickle's bytes of `value`. Raises TypeError that names `what` where it cannot be pickled, and ValueError
    where that takes more than MAX_DEFINITION.
    """
    try:
        blob = serializers.dumps(value)
    except Exception as error:
        raise TypeError(
            f"Could not serialize {what}: {error}. Something that it refers to (a global, a closure or a default "
            "value) cannot be pickled; create it inside, or pass it as an argument."
        ) from error
    if len(blob) > LARGE_DEFINITION:
        advice = (
            f"({len(blob) >> 20} MiB). Check that its definition does not capture a large array or other object; pass "
            "it as an argument, or the reference that put() gives for it."
        )
        if len(blob) > MAX_DEFINITION:
            raise ValueError(f"{what} is too large, more than FUNCTION_SIZE_ERROR_THRESHOLD={MAX_DEFINITION} {advice}")
        _log.warning("%s is very large %s", what, advice)
    return blob


def is_generator(function: Any) -> bool:
    """Whether calls of it are streams: it yields, plainly or as a coroutine."""
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def uses_torch(definition: Any, blob: bytes) -> bool:
    """Whether what `blob` defines will want torch, so that its worker comes from the zygote that has it imported.

    Told from the pickle; of what that only names (the definition or its base classes), from the module and the code.
    """
    if b"torch" in blob:
        return True
    parts = definition.__mro__[:-1] if isinstance(definition, type) else (definition,)
    by_value = b"cloudpickle" in blob
    return any(_names_torch(part) for part in parts[1 if by_value else 0 :])


def _names_torch(definition: Any) -> bool:
    module = sys.modules.get(getattr(definition, "__module__", None) or "")
    members = vars(definition).values() if isinstance(definition, type) else (definition,)
    functions = (getattr(member, "__func__", member) for member in members)
    return any(map(_is_of_torch, vars(module).values() if module else ())) or any(
        "torch" in names for function in functions for names in _names_in(getattr(function, "__code__", None))
    )


def _is_of_torch(value: Any) -> bool:
    if isinstance(value, types.ModuleType):
        return value.__name__.partition(".")[0] == "torch"
    return isinstance(value, type | types.FunctionType) and str(value.__module__).partition(".")[0] == "torch"


def _names_in(code: Any) -> Iterator[tuple[str, ...]]:
    """The globals, attributes and imported modules that code refers to, its inner functions' included."""
    if isinstance(code, types.CodeType):
        yield tuple(name.partition(".")[0] for name in code.co_names)
        for constant in code.co_consts:
            yield from _names_in(constant)


def make_remote_function(function: Callable[..., Any], options: Mapping[str, Any]) -> RemoteFunction:
    """What the decorator returns for a function. Raises ValueError or TypeError for bad options, ValueError for a
    coroutine function.
    """
    option_table.validate_task(options)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(
            "'async def' should not be used for remote tasks. You can wrap the async function with "
            "`asyncio.run(f())`, or use an async actor."
        )
    name = getattr(function, "__name__", type(function).__name__)
    streams.check(options.get("num_returns"), is_generator(function), name)
    return RemoteFunction(function, options)
