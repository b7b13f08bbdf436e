"""A worker puts on its environment: the folders that it imports from, the folder it is in, its setup hook."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Mapping
from typing import Any

from beeline.runtime_env import variables


def put_on(env: Mapping[str, Any], own_interpreter: bool, config: Mapping[str, Any], session_dir: str) -> None:
    """Sets sys.path and the current folder, as far as that has to do with the environment.

    config: the driver's sys_path, own_folders (those of it that a working_dir takes the place of) and prefixes (where
    its interpreter's own modules lie).
    """
    path = list(config["sys_path"] or sys.path)  # a driver in C++ has none
    if own_interpreter:
        # Its own modules, and of the driver's folders those that were added to an interpreter's.
        foreign = tuple(os.path.join(prefix, "lib", "python") for prefix in config["prefixes"])
        path = [*(folder for folder in path if folder not in sys.path and not folder.startswith(foreign)), *sys.path]
    if "PYTHONPATH" in env.get("env_vars", ()):
        named = os.environ["PYTHONPATH"].split(os.pathsep)
        path = [*(folder for folder in named if folder and folder not in path), *path]
    added = [_path_of(uri, session_dir) for uri in env.get("py_modules", ())]
    if "working_dir" in env:
        folder = _path_of(env["working_dir"], session_dir)
        added.insert(0, folder)
        path = [entry for entry in path if entry not in config["own_folders"]]
        os.chdir(folder)
    sys.path[:] = [*added, *path]
    if added:
        # For the interpreters that it starts.
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([*added, *([inherited] if inherited else [])])


def _path_of(uri: str, session_dir: str) -> str:
    from beeline.runtime_env import packages

    return packages.path_of(uri, session_dir)


def run_hook(env: Mapping[str, Any], session_dir: str) -> None:
    """Runs the setup hook, if there is one. What it raises ends the worker."""
    package, name = variables.hook_of(env)
    if package:
        with open(os.path.join(_path_of(package, session_dir), variables.HOOK_FILE), "rb") as file:
            pickle.load(file)()
    elif name:
        module, _, function = name.rpartition(".")
        getattr(importlib.import_module(module), function)()
