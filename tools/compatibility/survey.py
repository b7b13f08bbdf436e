"""What a package offers: public names of its modules, members of its classes, parameters of what can be called."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# The modules of Ray Core, in the order of the page.
MODULES = (
    "ray",
    "ray.actor",
    "ray.exceptions",
    "ray.runtime_context",
    "ray.runtime_env",
    "ray.util",
    "ray.util.accelerators",
    "ray.util.actor_group",
    "ray.util.annotations",
    "ray.util.collective",
    "ray.util.debug",
    "ray.util.joblib",
    "ray.util.metrics",
    "ray.util.multiprocessing",
    "ray.util.placement_group",
    "ray.util.queue",
    "ray.util.scheduling_strategies",
    "ray.util.serialization",
    "ray.util.state",
    "ray.experimental",
    "ray.experimental.collective",
    "ray.experimental.rdt",
    "ray.cluster_utils",
    "ray.cross_language",
    "ray.job_config",
)
# What is said of a module as a whole, one row for each.
PACKAGES = ("ray", "ray.util", "ray.experimental")
OPTIONS = ("options of tasks", "options of actors", "options of methods")
# Objects that only Ray makes: their constructors are not for programs.
MADE_BY_RAY = {
    "ActorClass",
    "ActorHandle",
    "ActorMethod",
    "ClientBuilder",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroup",
    "RuntimeContext",
}
_MISSING = object()


@dataclass
class Name:
    """One name of a module; `members` are of a class, `parameters` of what it takes to call it."""

    parameters: list[str] = field(default_factory=list)
    members: dict[str, Name] = field(default_factory=dict)


def names_of(module: types.ModuleType) -> dict[str, Name]:
    """The public names of a module: those of `__all__`, or else what it defines itself."""
    package = module.__name__.partition(".")[0]
    listed = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    # By vars(): what Ray imports on demand may lack what it needs itself.
    return {
        name: describe(vars(module).get(name), package)
        for name in sorted(listed, key=str.lower)
        if not name.startswith("_") and not isinstance(vars(module).get(name), typing.TypeVar)
    }


def describe(value: Any, package: str) -> Name:
    """Parameters and, of a class, the members that `package` gives it."""
    if not inspect.isclass(value):
        return Name(parameters(value))
    if issubclass(value, BaseException):
        return Name()  # made by the runtime, and known to programs by its class
    constructor = [] if value.__name__ in MADE_BY_RAY else parameters(value)
    own = [base for base in value.__mro__ if base.__module__.partition(".")[0] == package]
    names = {name for base in own for name in vars(base) if not name.startswith("_")}
    return Name(constructor, {name: Name(parameters(getattr(value, name, None))) for name in sorted(names)})


def parameters(value: Any) -> list[str]:
    """Names of parameters, without `self` and without those that stand for any."""
    try:
        found = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # not callable, or written in C without a signature
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in found if each.kind not in variadic and each.name not in ("self", "cls")]


def of_ray() -> dict[str, dict[str, Name]]:
    """Everything of the installed Ray that the page speaks of: sections, each with its names."""
    found = {name: names_of(importlib.import_module(name)) for name in MODULES}
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        modules = [each.name for each in pkgutil.iter_modules(path) if each.name.isidentifier()]
        found[f"modules of {package}"] = {name: Name() for name in sorted(modules) if not name.startswith("_")}
    return {**found, **_options_of_ray()}


def _options_of_ray() -> dict[str, dict[str, Name]]:
    from ray import actor
    from ray._common import ray_option_utils as table

    # What `@ray.method` takes is known to its overloads alone, and what `.options()` of a method takes to `_remote`.
    methods = {name for overload in typing.get_overloads(actor.method) for name in parameters(overload)}
    methods |= set(parameters(actor.ActorMethod._remote)) - {"args", "kwargs"}
    methods -= {"method"}  # the function itself
    every = (table.task_options, table.actor_options, methods)
    return {
        title: {name: Name() for name in sorted(names) if not name.startswith("__") and "__" not in name}
        for title, names in zip(OPTIONS, every, strict=True)
    }


class Beeline:
    """Whether Beeline has what Ray has, looked up by Ray's names."""

    def __init__(self, root: str = "beeline") -> None:
        self._root = root

    def has(self, section: str, name: str) -> bool:
        """`name`: "get", "ObjectRef.hex", "get(timeout)" or "Queue.put(block)"."""
        path, _, parameter = name.partition("(")
        value = self._find(section, path)
        if value is _MISSING:
            return False
        return not parameter or _takes(value, parameter.rstrip(")"))

    def _find(self, section: str, path: str) -> Any:
        if section in OPTIONS:
            return True if path in _options_of_beeline(section) else _MISSING
        owner = section.removeprefix("modules of ")
        value = self._module(owner)
        if section.startswith("modules of "):
            return self._module(f"{owner}.{path}") or _MISSING
        for part in path.split(".") if value else ():
            value = _member(value, part)
        return _MISSING if value is None else value

    def _module(self, ray_name: str) -> Any:
        name = self._root + ray_name.removeprefix("ray")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and name.startswith(error.name):
                return None
            raise


def _takes(value: Any, parameter: str) -> bool:
    """Whether a call may give it; `*args` takes any, `**options` are looked at by the sections of options."""
    try:
        kinds = [each.kind for each in inspect.signature(value).parameters.values()]
    except (TypeError, ValueError):  # as in `parameters`
        return False
    return parameter in parameters(value) or inspect.Parameter.VAR_POSITIONAL in kinds


def _member(value: Any, name: str) -> Any:
    """A member; an object that stands for its presence where its value is None or of an instance."""
    if value is None or value is _MISSING:
        return _MISSING
    found = getattr(value, name, _MISSING)
    if found is _MISSING and name in getattr(value, "__annotations__", {}):
        return True
    return True if found is None else found


def _options_of_beeline(section: str) -> Iterable[str]:
    from beeline.api import options

    tables: Mapping[str, Iterable[str]] = dict(
        zip(OPTIONS, (options.TASK_OPTIONS, options.ACTOR_OPTIONS, options.CALL_OPTIONS), strict=True)
    )
    return tables[section]
