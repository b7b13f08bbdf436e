"""Actors: what `@remote` makes of a class, handles to living actors, and their methods."""

from __future__ import annotations

import functools
import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any

from beeline import _core
from beeline.api import actor_meta, environment, scheduling, session, signature, streams
from beeline.api import options as option_table
from beeline.api.actor_meta import ActorMeta
from beeline.api.function import is_generator, pickled, uses_torch
from beeline.exceptions import ActorAlreadyExistsError, AsyncioActorExit
from beeline.tensors import registered


class ActorID(int):
    """An actor's id; `hex()` and `binary()` as Ray's ids have them."""

    def hex(self) -> str:
        """32 hexadecimal digits."""
        return f"{int(self):032x}"

    def binary(self) -> bytes:
        """16 bytes."""
        return int(self).to_bytes(16, "big")

    def __repr__(self) -> str:
        """For people."""
        return f"ActorID({self.hex()})"

    __str__ = __repr__


class ActorMethod(_core.ActorCall):
    """One method of one actor: `handle.method.remote(...)`; `remote` is the core's own."""

    def __init__(self, actor: Any, meta: ActorMeta, name: str, overrides: Mapping[str, Any] | None = None) -> None:
        method, given = meta.methods[name], overrides or {}
        mode = option_table.mode(given)
        num_returns, yields = streams.returns_of(
            method.num_returns if given.get("num_returns") is None else given["num_returns"]
        )
        retries = given.get("max_task_retries")
        if retries is None:
            retries = meta.max_task_retries if method.max_task_retries is None else method.max_task_retries
        retry_exceptions = given.get("retry_exceptions")
        if retry_exceptions is None:
            retry_exceptions = method.retry_exceptions or False
        self._parts = (actor, meta, name)
        super().__init__(
            actor,
            name,
            given.get("name") or f"{meta.class_name}.{name}",
            f"{meta.class_name}.{name}",
            num_returns,
            method.mode if mode is None else mode,
            retries,
            retry_exceptions,
            meta.group_number(given.get("concurrency_group") or method.concurrency_group),
            meta.max_pending_calls,
            yields,
            option_table.window({**method.generator_options, **given}),
        )
        self.set_signature(*signature.arity(method.parameters), signature.checker(method.parameters, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises TypeError: a method is called by `.remote(...)`."""
        name = self._parts[2]
        raise TypeError(
            f"Actor methods cannot be called directly. Instead of running 'object.{name}()', "
            f"try 'object.{name}.remote()'."
        )

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options for its calls; this one is unchanged.

        num_returns, name, max_task_retries, retry_exceptions, concurrency_group, tensor_transport, isolation,
        _generator_backpressure_num_objects (of a generator: how many items may be untaken before it pauses).
        Raises TypeError for an option that there is not, ValueError for a bad value.
        """
        for name in options:
            if name not in option_table.CALL_OPTIONS:
                raise TypeError(f"options() got an unexpected keyword argument '{name}'")
        option_table.validate(options, option_table.CALL_OPTIONS, "actor methods")
        _, meta, name = self._parts
        streams.check(options.get("num_returns"), meta.methods[name].is_generator, f"{meta.class_name}.{name}")
        return ActorMethod(*self._parts, options)

    def __repr__(self) -> str:
        """For people."""
        return f"ActorMethod({self._parts[1].class_name}.{self._parts[2]})"


class ActorHandle:
    """A way to call a living actor. May be passed to other tasks and actors; the last one dropped ends the actor.

    Its attributes are the actor's methods, of type ActorMethod.
    """

    def __init__(self, actor: Any, meta_bytes: bytes) -> None:
        self._beeline_actor = actor
        self._beeline_meta_bytes = meta_bytes
        self._beeline_meta = actor_meta.load(meta_bytes)

    def __getattr__(self, name: str) -> ActorMethod:
        """A method, made at its first use and kept."""
        meta = self.__dict__.get("_beeline_meta")
        if meta is None or name not in meta.methods:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        method = self.__dict__[name] = ActorMethod(self._beeline_actor, meta, name)
        return method

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(self._beeline_actor.id())

    _ray_actor_id = _actor_id

    def __dir__(self) -> list[str]:
        """The actor's methods."""
        return sorted(self._beeline_meta.methods)

    def __reduce__(self) -> tuple[Any, ...]:
        """By id, with the reference that keeps the actor alive."""
        return restore_handle, (self._beeline_actor.id(), self._beeline_actor.lifetime(), self._beeline_meta_bytes)

    def __eq__(self, other: object) -> bool:
        """Whether both are handles to the same actor."""
        if not isinstance(other, ActorHandle):
            return NotImplemented
        return self._beeline_actor.id() == other._beeline_actor.id()

    def __hash__(self) -> int:
        """By actor."""
        return hash(self._beeline_actor.id())

    def __repr__(self) -> str:
        """Class and id, as Ray's."""
        return f"Actor({self._beeline_meta.class_name}, {self._actor_id.hex()})"


def restore_handle(actor_id: int, lifetime: Any, meta_bytes: bytes) -> ActorHandle:
    """What a pickled handle becomes; without `lifetime` the handle does not keep the actor alive."""
    return ActorHandle(_core.restore_actor(actor_id, lifetime), meta_bytes)


class ActorClass:
    """A class whose instances are actors: `Class.remote(...)` starts one in a process of its own."""

    def __init__(self, cls: type, options: Mapping[str, Any]) -> None:
        self._cls = cls
        self._options = dict(options)
        self._lock = threading.Lock()
        self._blob: bytes | None = None
        self._wants_torch = False
        self._meta: ActorMeta | None = None
        self.__name__ = self.__qualname__ = cls.__name__
        self.__module__ = cls.__module__
        self.__doc__ = cls.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises TypeError: an actor is made by `.remote(...)`."""
        name = self._cls.__name__
        raise TypeError(f"Actors cannot be instantiated directly. Instead of '{name}()', use '{name}.remote()'.")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """Raises TypeError: derive from the plain class."""
        raise TypeError(
            f"Inheriting from actor classes is not supported. Derive from the class itself, and apply @remote to the "
            f"derived class; {self._cls.__name__} is an actor class."
        )

    def __getattr__(self, name: str) -> Any:
        """Attributes of the class itself (class variables, plain functions)."""
        if name.startswith("_"):
            raise AttributeError(f"'ActorClass' object has no attribute '{name}'")
        return getattr(self._cls, name)

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Starts an actor and returns a handle at once; with a name, after the name is taken.

        Raises TypeError for arguments that do not fit the constructor or cannot be pickled, ValueError if the name
        is taken (see `get_if_exists`). An error in the constructor is raised by the calls.
        """
        return self._create(self._options, args, kwargs)

    def options(self, **options: Any) -> _ConfiguredActorClass:
        """The same class with other options (those of `@remote`); this one is unchanged.

        Raises ValueError or TypeError for options that actors do not have.
        """
        return _ConfiguredActorClass(self, _merged(self._options, options))

    @functools.cached_property
    def _constructor(self) -> signature.Parameters | None:
        # Not in __init__: unpickled within a method of its own, the class is not complete there.
        return signature.parameters_of(self._cls.__init__, skip_first=True)  # type: ignore[misc]

    def _create(self, options: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle:
        if self._constructor is not None:
            least, most = signature.arity(self._constructor)
            if kwargs or not least <= len(args) <= most:
                signature.checker(self._constructor, "__init__")(args, kwargs)
        session.ensure()
        if options.get("get_if_exists"):
            found = find_actor(options["name"], options.get("namespace"))
            if found is not None:
                return found
        with self._lock:
            if self._blob is None:
                self._blob = pickled(self._cls, f"the actor class {self._cls.__name__}")
                self._wants_torch = uses_torch(self._cls, self._blob)
                self._meta = actor_meta.describe(self._cls, {})
        meta = self._meta_with(options)
        meta_bytes = meta.dumps()
        settings = self._settings(options, meta, meta_bytes)
        try:
            blob = pickle.dumps((self._blob, meta_bytes, registered.export()), protocol=5)
            actor = _core.create_actor(blob, meta.class_name, args, kwargs, settings)
        except ValueError as error:
            if not options.get("name"):
                raise
            if options.get("get_if_exists"):  # somebody was faster
                found = find_actor(options["name"], options.get("namespace"))
                if found is not None:
                    return found
            raise ActorAlreadyExistsError(str(error)) from None
        return ActorHandle(actor, meta_bytes)

    def _meta_with(self, options: Mapping[str, Any]) -> ActorMeta:
        assert self._meta is not None
        retries, pending = options.get("max_task_retries"), options.get("max_pending_calls")
        groups = tuple(options.get("concurrency_groups") or ())
        for name, method in self._meta.methods.items():
            if method.concurrency_group and method.concurrency_group not in groups:
                raise AssertionError(  # as Ray
                    f"{self._meta.class_name}.{name} is in the concurrency group {method.concurrency_group!r}, which "
                    f"@remote(concurrency_groups=...) does not name. It names {list(groups)}."
                )
        return self._meta._replace(
            max_task_retries=retries or 0,
            max_pending_calls=-1 if pending is None else pending,
            concurrency_groups=groups,
        )

    def _settings(self, options: Mapping[str, Any], meta: ActorMeta, meta_bytes: bytes) -> dict[str, Any]:
        """The options of `_core.create_actor`."""
        concurrency = options.get("max_concurrency")
        if not concurrency:  # as Ray, 0 is the default
            concurrency = option_table.DEFAULT_ASYNC_CONCURRENCY if meta.is_async else 1
        if concurrency < 1:
            raise ValueError("max_concurrency must be >= 1.")
        out_of_order = options.get("allow_out_of_order_execution")
        concurrent = meta.is_async or concurrency > 1
        if concurrent and out_of_order is False:
            raise ValueError(
                "An actor that runs several calls at once (async, or max_concurrency > 1) cannot keep their order. "
                "Set `allow_out_of_order_execution=True`, or leave it out."
            )
        groups = options.get("concurrency_groups") or {}
        held, to_place = option_table.actor_resources(options)
        class_mode = option_table.mode(options)
        modes = {
            name: class_mode if method.mode < 0 else method.mode
            for name, method in meta.methods.items()
            if method.mode >= 0 or class_mode is not None
        }
        return {
            "resources": held,
            "creation_resources": to_place,
            "scheduling": scheduling.where(options, held, to_place, meta.class_name),
            "name": options.get("name") or "",
            "namespace": options.get("namespace") or session.current.namespace,
            "max_restarts": options.get("max_restarts") or 0,
            "max_task_retries": meta.max_task_retries,
            "max_concurrency": concurrency,
            "is_async": meta.is_async,
            "group_limits": [concurrency, *groups.values()] if groups else [],
            "detached": options.get("lifetime") == "detached",
            "wants_torch": self._wants_torch,
            "env": environment.variables(options),
            "handle_meta": meta_bytes,
            "method_modes": modes,
            "execute_out_of_order": bool(out_of_order) or concurrent,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """By class and options."""
        return ActorClass, (self._cls, self._options)

    def __repr__(self) -> str:
        """For people."""
        return f"ActorClass({self._cls.__name__})"


def _merged(given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What `.options()` makes of the options that are there. They are looked at together: a name may stand in @remote,
    and what needs it in `.options()`.
    """
    merged = {**given, **options}
    checked = {k: v for k, v in merged.items() if k != "concurrency_groups" or k in options}  # of @remote they may be
    option_table.validate_actor(checked, in_options=True)
    return merged


class _ConfiguredActorClass:
    """An actor class with options of its own: what `.options(...)` returns."""

    def __init__(self, actor_class: ActorClass, options: Mapping[str, Any]) -> None:
        self._actor_class = actor_class
        self._options = options

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """As ActorClass.remote, with these options."""
        return self._actor_class._create(self._options, args, kwargs)

    def options(self, **options: Any) -> _ConfiguredActorClass:
        """As ActorClass.options, on top of these."""
        return _ConfiguredActorClass(self._actor_class, _merged(self._options, options))


def method(*args: Any, **options: Any) -> Any:
    """Sets options of one method of an actor class: `@method(num_returns=2)`; `@method` alone changes nothing.

    num_returns, tensor_transport, isolation ("live" or "snapshot"), concurrency_group, max_task_retries,
    retry_exceptions, _generator_backpressure_num_objects. Returns the function itself, marked.
    Raises AssertionError (as Ray) for an option that methods do not have, ValueError or TypeError for a bad value.
    """
    if len(args) == 1 and callable(args[0]) and not options:
        return args[0]
    known = list(option_table.METHOD_OPTIONS)
    if args:
        raise AssertionError(
            f"The @method decorator takes keywords only: {known}, for example '@method(num_returns=2)'."
        )
    for name in options:
        if name not in known:
            raise AssertionError(f"Unexpected keyword argument to @method: '{name}'. It has {known}.")
    option_table.validate(options, option_table.METHOD_OPTIONS, "actor methods")

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        streams.check(options.get("num_returns"), is_generator(function), function.__name__)
        setattr(function, actor_meta.METHOD_OPTIONS_ATTRIBUTE, options)
        return function

    return mark


def make_actor_class(cls: type, options: Mapping[str, Any]) -> ActorClass:
    """What the decorator returns for a class. Raises ValueError or TypeError for bad options."""
    option_table.validate_actor(options, in_options=False)
    return ActorClass(cls, options)


def find_actor(name: str, namespace: str | None) -> ActorHandle | None:
    """A handle to the living actor of that name, or None. It does not keep the actor alive."""
    found = _core.lookup_actor(name, namespace or session.current.namespace)
    if found is None:
        return None
    actor_id, meta_bytes = found
    if not meta_bytes:  # made by a program in C++
        from beeline.cross_language import cpp_meta

        meta_bytes = cpp_meta(name).dumps()
    return restore_handle(actor_id, None, meta_bytes)


def exit_actor() -> None:
    """Ends the actor that this code runs in, on purpose: it is not restarted, and the call gets ActorDiedError.

    Raises TypeError outside of an actor.
    """
    info = _core.actor_info()
    if info is None:
        raise TypeError(
            "exit_actor API is called on a non-actor process. It should be called inside an actor's method."
        )
    _core.exit_actor()
    if info["is_async"]:
        raise AsyncioActorExit
    raise SystemExit(0)
