"""Functions and classes of programs in C++, called from Python as any others.

The program registers them (`BEELINE_REMOTE`, see docs/cpp.md), and its workers run it. Arguments and results are plain
values (None, bool, int of 64 bits, float, str, bytes, list, tuple, dict) and contiguous tensors; arrays of numpy arrive
as tensors. What a function throws is raised as a RayTaskError that is also a CrossLanguageError.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beeline import _core
from beeline.api import environment, scheduling, session
from beeline.api import options as option_table
from beeline.api.actor import ActorHandle
from beeline.api.actor_meta import ActorMeta, AnyMethods
from beeline.exceptions import ActorAlreadyExistsError
from beeline.tensors import transports

# For CMake: `-DCMAKE_PREFIX_PATH=$(python -c "from beeline.cross_language import *; print(cmake_prefix_path)")`, where
# find_package(beeline) finds the headers and the library that came with this package.
cmake_prefix_path = str(Path(__file__).resolve().parent / "cpp")
# In the environment of a worker: the program that it runs (src/beeline/runtime/launch.h).
PROGRAM_VARIABLE = "BEELINE_PROGRAM"


class CppFunction:
    """A function of a program in C++: `f.remote(...)` runs it in a worker of that program."""

    def __init__(self, program: str, name: str, options: Mapping[str, Any]) -> None:
        self._program = program
        self._name = name
        self._options = dict(options)

    def remote(self, *args: Any) -> Any:
        """Submits a task and returns one ObjectRef, or a list of `num_returns`. Never blocks.

        Raises TypeError or ValueError for arguments that cannot be pickled; nothing was submitted then.
        """
        session.ensure()
        options = self._options
        resources = option_table.resources(options, default_cpus=1)
        max_retries, mode = options.get("max_retries"), option_table.mode(options)
        num_returns = options.get("num_returns")
        call = _core.FunctionCall(
            self._name.encode(),
            options.get("name") or self._name,
            self._name,
            1 if num_returns is None else num_returns,
            resources,
            transports.OBJECT_STORE if mode is None else mode,
            option_table.DEFAULT_MAX_RETRIES if max_retries is None else max_retries,
            options.get("retry_exceptions", False),
            False,
            {**environment.variables(options), PROGRAM_VARIABLE: self._program},
            0,
            scheduling.where(options, resources, {}, self._name),
            0,
            0,
        )
        return call.remote(*args)

    def options(self, **options: Any) -> CppFunction:
        """The same function with other options, those of tasks; this one is unchanged."""
        option_table.validate_task(options)
        return CppFunction(self._program, self._name, {**self._options, **options})

    def __repr__(self) -> str:
        """For people."""
        return f"CppFunction({self._name}, {self._program})"


class CppActorClass:
    """What a factory of a program in C++ makes: `A.remote(...)` starts an actor that is one."""

    def __init__(self, program: str, factory: str, options: Mapping[str, Any]) -> None:
        self._program = program
        self._factory = factory
        self._options = dict(options)

    def remote(self, *args: Any) -> ActorHandle:
        """Starts an actor and returns a handle at once; with a name, after the name is taken.

        The handle has every method that the program has registered for the class; one that it has not is an error of
        the call. Raises ValueError if the name is taken. What the factory throws is raised by the calls.
        """
        session.ensure()
        options = self._options
        held, to_place = option_table.actor_resources(options)
        retries, pending = options.get("max_task_retries"), options.get("max_pending_calls")
        meta = cpp_meta(self._factory)._replace(
            max_task_retries=retries or 0, max_pending_calls=-1 if pending is None else pending
        )
        meta_bytes = meta.dumps()
        settings = {
            "resources": held,
            "creation_resources": to_place,
            "scheduling": scheduling.where(options, held, to_place, self._factory),
            "name": options.get("name") or "",
            "namespace": options.get("namespace") or session.current.namespace,
            "max_restarts": options.get("max_restarts") or 0,
            "detached": options.get("lifetime") == "detached",
            "wants_torch": False,
            "env": {**environment.variables(options), PROGRAM_VARIABLE: self._program},
            "handle_meta": meta_bytes,
        }
        try:
            actor = _core.create_actor(self._factory.encode(), self._factory, args, {}, settings)
        except ValueError as error:
            raise (ActorAlreadyExistsError(str(error)) if options.get("name") else error) from None
        return ActorHandle(actor, meta_bytes)

    def options(self, **options: Any) -> CppActorClass:
        """The same class with other options, those of actors; this one is unchanged."""
        option_table.validate_actor(options, in_options=True)
        for name in ("max_concurrency", "concurrency_groups", "get_if_exists"):
            if options.get(name):
                raise ValueError(f"{name} is not for actors in C++, which run one call at a time.")
        return CppActorClass(self._program, self._factory, {**self._options, **options})

    def __repr__(self) -> str:
        """For people."""
        return f"CppActorClass({self._factory}, {self._program})"


def cpp_function(function_name: str, *, program: str) -> CppFunction:
    """A function that a program in C++ has registered.

    Args:
        function_name: Its name there.
        program: The program: a path, or the name of one in PATH.

    Raises ValueError where there is no such program.
    """
    return CppFunction(_resolved(program), function_name, {})


def cpp_actor_class(create_function_name: str, *, program: str) -> CppActorClass:
    """The class that a factory makes which a program in C++ has registered; arguments as of `cpp_function`."""
    return CppActorClass(_resolved(program), create_function_name, {})


def cpp_meta(class_name: str) -> ActorMeta:
    """What handles know of an actor in C++: its methods are not listed."""
    return ActorMeta(class_name, "", AnyMethods(), False, 0, -1, None)


def _resolved(program: str) -> str:
    found = shutil.which(os.path.expanduser(program))
    if found is None:
        raise ValueError(f"program={program!r} is no program that can be run, here or in PATH.")
    return os.path.abspath(found)
