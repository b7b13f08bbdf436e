"""From what the program asks for (`runtime_env`) to the environment variables that say so to a worker, and back.

What is inherited is merged here, and what lies in the program's own folders becomes packages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

from beeline.runtime_env import fields
from beeline.runtime_env.runtime_env import RuntimeEnv

# What only some environments need (packages, venvs, json) is imported where they do: this is part of every start.

# Of a worker: its runtime_env as JSON.
RUNTIME_ENV = "BEELINE_RUNTIME_ENV"
# Those that the daemon reads (kVenvVariable, kPyExecutableVariable in runtime/control.h).
VENV = "BEELINE_VENV"
PY_EXECUTABLE = "BEELINE_PY_EXECUTABLE"
# The kernel passes no longer one to a program.
_MAX_BYTES = 96 * 1024
_HOOK = "worker_process_setup_hook"
_HOOK_PACKAGE = "_setup_hook"
HOOK_FILE = "hook.pickle"


def merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """The child's environment on top of its parent's: field by field, variables one by one."""
    env = {**parent, **child}
    for one, other in (("pip", "uv"), ("uv", "pip")):
        if one in child and other in parent and other not in child:
            del env[other]
    if _HOOK in child and _HOOK_PACKAGE not in child:
        env.pop(_HOOK_PACKAGE, None)
    if "env_vars" in parent or "env_vars" in child:
        env["env_vars"] = {**parent.get("env_vars", {}), **child.get("env_vars", {})}
    return env


class Resolver:
    """Makes of a session's environments what any process of the session understands.

    A folder becomes a package when it is first met; later changes to it are not seen.
    """

    def __init__(self) -> None:
        self._packaged: dict[tuple[str, ...], str] = {}

    def resolved(self, env: RuntimeEnv, session_dir: str) -> dict[str, Any]:
        """The environment without paths of the program's. Raises RuntimeEnvSetupError where a package cannot be made,
        ValueError for a requirements file that cannot be read.
        """
        found: dict[str, Any] = {name: value for name, value in env.items() if name != "excludes"}
        excludes = env.get("excludes") or []
        if (folder := found.get("working_dir")) and not fields.is_uri(folder):
            found["working_dir"] = self._package("working_dir", folder, excludes, session_dir)
        if modules := found.get("py_modules"):
            found["py_modules"] = [
                module if fields.is_uri(module) else self._package("py_modules", module, excludes, session_dir)
                for module in modules
            ]
        for tool in ("pip", "uv"):
            if tool in found:
                from beeline.runtime_env import venvs

                found[tool] = {**found[tool], "packages": venvs.expanded(found[tool]["packages"])}
        if callable(hook := found.get(_HOOK)):
            import cloudpickle

            from beeline.runtime_env import packages

            found[_HOOK] = getattr(hook, "__name__", type(hook).__name__)
            found[_HOOK_PACKAGE] = packages.of_bytes(cloudpickle.dumps(hook), HOOK_FILE, session_dir)
        return found

    def _package(self, field: str, path: str, excludes: list[str], session_dir: str) -> str:
        from beeline.runtime_env import packages

        key = (field, os.path.abspath(path), *excludes)
        if key not in self._packaged:
            make = packages.of_working_dir if field == "working_dir" else packages.of_py_module
            self._packaged[key] = make(path, excludes, session_dir)
        return self._packaged[key]


def needs_setup(env: Mapping[str, Any]) -> bool:
    """Whether there is more to it than environment variables."""
    return any(name not in ("env_vars", "config", "excludes") for name in env)


def variables_of(env: Mapping[str, Any], settled: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The environment variables of workers of this (resolved) environment; too many of them are a ValueError.

    settled: values that those of env_vars which are inherited have already.
    """
    if not env:
        return {}
    import json

    text = json.dumps(env, sort_keys=True)
    if len(text) > _MAX_BYTES:
        raise ValueError(
            f"runtime_env: {len(text)} bytes as JSON, at most {_MAX_BYTES}; keep long lists in files of the working_dir"
        )
    given = env.get("env_vars", {})
    found = {name: settled[name] if name in settled else _expanded(value) for name, value in given.items()}
    found[RUNTIME_ENV] = text
    if "pip" in env or "uv" in env:
        from beeline.runtime_env import venvs

        timeout_s = env.get("config", {}).get("setup_timeout_seconds", fields.DEFAULT_TIMEOUT_S)
        found[VENV] = f"{venvs.name_of(env)} {timeout_s}"
    if command := env.get("py_executable"):
        import shlex

        found[PY_EXECUTABLE] = "\n".join(shlex.split(command))
    return found


def _expanded(value: str) -> str:
    """As on Ray: `${NAME}` stands for the variable's value here, and for nothing where there is none."""
    return re.sub(r"\$\{[A-Za-z0-9_]+\}", "", os.path.expandvars(value)) if "$" in value else value


def taken(environment: MutableMapping[str, str]) -> tuple[dict[str, Any], bool]:
    """Of a worker: its runtime_env, and whether it has an interpreter other than the session's. The variables that say
    so are removed, so that what it starts does not take itself for a worker.
    """
    text = environment.pop(RUNTIME_ENV, "")
    others = [environment.pop(name, None) for name in (VENV, PY_EXECUTABLE)]
    if not text:
        return {}, any(others)
    import json

    return json.loads(text), any(others)


def shown(env: Mapping[str, Any]) -> RuntimeEnv:
    """As the program may see it."""
    return RuntimeEnv(_validate=False, **{name: value for name, value in env.items() if name != _HOOK_PACKAGE})


def hook_of(env: Mapping[str, Any]) -> tuple[str, str]:
    """The setup hook: the package of its pickle or "", its name or ""."""
    return env.get(_HOOK_PACKAGE, ""), env.get(_HOOK, "")
