"""What the fields of a runtime_env may be. Each check returns the field in its full form, None for one that asks for
nothing; bad types raise TypeError, bad values ValueError, as on Ray.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

# Of files that are unpacked.
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.xz")
WHEEL = ".whl"
# Where a packaged folder is found again, and one that is used where it lies.
PACKAGE_SCHEME = "package"
LOCAL_SCHEME = "local"
DEFAULT_TIMEOUT_S = 600
_OWN_VARIABLES = ("BEELINE_RUNTIME_ENV", "BEELINE_VENV", "BEELINE_PY_EXECUTABLE", "BEELINE_SESSION")
# Ray's, for other machines, containers and tools that this version does not start.
_REFUSED = {
    "conda": "make the environment by hand and name its interpreter: py_executable='/path/to/env/bin/python'",
    "container": "start the whole program in the container",
    "image_uri": "start the whole program in the container",
    "java_jars": "there are no Java workers",
    "nsight": "start workers under it: py_executable='nsys profile python'",
    "_nsight": "start workers under it: py_executable='nsys profile python'",
    "_rocprof_sys": "start workers under it by py_executable",
}


def is_uri(text: str) -> bool:
    """Whether it names a package rather than a path."""
    return bool(_scheme(text))


def _scheme(text: str) -> str:
    from urllib.parse import urlsplit  # takes 2 ms, of every process's start

    return urlsplit(text).scheme


def _checked_uri(uri: str, field: str) -> str:
    scheme = _scheme(uri)
    if scheme == LOCAL_SCHEME and not os.path.isabs(uri.removeprefix("local://")):
        raise ValueError(f"runtime_env['{field}']: {uri!r} must name an absolute path: local:///path/to/folder")
    if scheme not in (PACKAGE_SCHEME, LOCAL_SCHEME):
        raise ValueError(
            f"runtime_env['{field}']: {uri!r} lies elsewhere, which this version does not fetch. Download it and pass "
            "the path."
        )
    return uri


def working_dir(value: Any) -> str:
    """A folder, an archive of one, or what a packaged one has become."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"runtime_env['working_dir'] must be a string or a Path, got {type(value)}")
    text = os.fsdecode(value)
    if is_uri(text):
        return _checked_uri(text, "working_dir")
    if not os.path.exists(text or "."):
        raise ValueError(f"runtime_env['working_dir']: {text} is not a valid path: there is nothing")
    if not os.path.isdir(text or ".") and not text.endswith(ARCHIVES):
        raise ValueError(
            f"runtime_env['working_dir']: {text} must be an existing directory or a supported archive "
            f"({', '.join(ARCHIVES)})"
        )
    return text


def py_modules(value: Any) -> list[str]:
    """Paths of folders, files, wheels and archives; of a module that was imported, its own."""
    if not isinstance(value, list):
        raise TypeError(f"runtime_env['py_modules'] must be a list of paths or modules, got {type(value)}")
    return [_py_module(module) for module in value]


def _py_module(module: Any) -> str:
    if isinstance(module, ModuleType):
        return _path_of_module(module)
    if not isinstance(module, str | os.PathLike):
        raise TypeError(f"runtime_env['py_modules'] must hold paths (strings) or modules, got {type(module)}")
    text = os.fsdecode(module)
    if is_uri(text):
        return _checked_uri(text, "py_modules")
    if not os.path.exists(text or "."):
        raise ValueError(f"runtime_env['py_modules']: {text} is not a valid path: there is nothing")
    if not os.path.isdir(text or ".") and not text.endswith((".py", WHEEL, *ARCHIVES)):
        raise ValueError(
            f"runtime_env['py_modules']: {text} must be a directory, a .py file, a {WHEEL} file or an archive "
            f"({', '.join(ARCHIVES)})"
        )
    return text


def _path_of_module(module: ModuleType) -> str:
    folders = list(getattr(module, "__path__", ()))
    if len(folders) > 1:
        raise ValueError(
            f"runtime_env['py_modules']: the parts of {module.__name__} lie in {len(folders)} folders; pass their "
            "common parent's path"
        )
    path = folders[0] if folders else module.__file__
    if path is None:
        raise ValueError(f"runtime_env['py_modules']: {module.__name__} has no file")
    return str(path)


def excludes(value: Any) -> list[str] | None:
    """Patterns as .gitignore has them."""
    return _strings(value, "excludes") or None


def _strings(value: Any, field: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"runtime_env['{field}'] must be a list of strings, got {value!r}")
    return value


def env_vars(value: Any) -> dict[str, str] | None:
    """Environment variables by name."""
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['env_vars'] must be a dict of strings, got {type(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"runtime_env['env_vars'] must map strings to strings, got {name!r}: {text!r}")
        if name in _OWN_VARIABLES:
            raise ValueError(f"runtime_env['env_vars']: {name!r} is not for programs to set; workers are told by it")
    return dict(value) or None


def pip(value: Any) -> dict[str, Any] | None:
    """What to install by pip: {"packages": lines of a requirements file, "pip_check": bool, ...}."""
    return _packages(value, "pip", {"pip_check": bool, "pip_version": str, "pip_install_options": list})


def uv(value: Any) -> dict[str, Any] | None:
    """What to install by uv: {"packages": lines of a requirements file, "uv_check": bool, ...}."""
    return _packages(value, "uv", {"uv_check": bool, "uv_version": str, "uv_pip_install_options": list})


def _packages(value: Any, field: str, others: Mapping[str, type]) -> dict[str, Any] | None:
    where = f"runtime_env['{field}']"
    if isinstance(value, str | list):
        value = {"packages": value}
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{where} must be a list of packages, the path of a requirements file or a dict, got {type(value)}"
        )
    if unknown := set(value) - {"packages", *others}:
        raise ValueError(
            f"{where} can only have these fields: packages, {', '.join(others)}; got {', '.join(map(str, unknown))}"
        )
    if "packages" not in value:
        raise ValueError(f"{where} must include the field 'packages', got {dict(value)}")
    for name, kind in others.items():
        if name in value and not isinstance(value[name], kind):
            raise TypeError(f"{where}['{name}'] must be of type {kind.__name__}, got {type(value[name])}")
        if kind is list:
            _strings(value.get(name, []), f"{field}']['{name}")
    packages = value["packages"]
    if isinstance(packages, str):
        packages = _lines_of(packages)
    if not isinstance(packages, list):
        raise ValueError(f"{where}['packages'] must be a list or the path of a file, got {type(packages)}")
    packages = list(dict.fromkeys(_strings(packages, f"{field}']['packages")))
    return {f"{field}_check": False, **value, "packages": packages} if packages else None


def _lines_of(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip().splitlines()
    except OSError as error:
        raise ValueError(f"the requirements file {path} is not a valid file: {error.strerror}") from error


def py_executable(value: Any) -> str:
    """A command that starts a Python interpreter; what workers add to it are arguments."""
    if not isinstance(value, str):
        raise TypeError(f"runtime_env['py_executable'] must be a string, got {type(value)}")
    if not value.strip():
        raise ValueError("runtime_env['py_executable'] is empty")
    return value


def setup_hook(value: Any) -> Any:
    """A function without arguments, or where it is found: "module.function"."""
    if isinstance(value, str):
        if "." not in value:
            raise ValueError(f"runtime_env['worker_process_setup_hook']: {value!r} must be 'module.function'")
        return value
    if not callable(value):
        raise TypeError(f"runtime_env['worker_process_setup_hook'] must be a function, got {type(value)}")
    return value


CHECKS: dict[str, Callable[[Any], Any]] = {
    "working_dir": working_dir,
    "py_modules": py_modules,
    "excludes": excludes,
    "env_vars": env_vars,
    "pip": pip,
    "uv": uv,
    "py_executable": py_executable,
    "worker_process_setup_hook": setup_hook,
}


def check_name(name: str) -> None:
    """Raises ValueError for a field that there is not, or not here."""
    if name in _REFUSED:
        raise ValueError(f"runtime_env: '{name}' is not in this version; {_REFUSED[name]}")
    if name not in CHECKS and name != "config" and not name.startswith("_"):
        raise ValueError(f"runtime_env: there is no field '{name}'. There are {', '.join([*CHECKS, 'config'])}.")
