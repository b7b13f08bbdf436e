"""RuntimeEnv, by Ray's name: a dict whose fields are checked when they are set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from beeline.runtime_env import fields

_log = logging.getLogger("beeline")


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is made; it does not tell environments apart.

    setup_timeout_seconds: how long making it may take, 600 by default; -1: any time.
    eager_install: whether `init` has its environment made before anybody asks for a worker; True by default.
    log_files: kept, without effect: there is no dashboard to show them.

    Raises TypeError or ValueError for bad values.
    """

    known_fields = frozenset({"setup_timeout_seconds", "eager_install", "log_files"})

    def __init__(
        self,
        setup_timeout_seconds: int = fields.DEFAULT_TIMEOUT_S,
        eager_install: bool = True,
        log_files: list[str] | None = None,
    ) -> None:
        if not isinstance(setup_timeout_seconds, int) or isinstance(setup_timeout_seconds, bool):
            raise TypeError(f"setup_timeout_seconds must be of type int, got {type(setup_timeout_seconds)}")
        if setup_timeout_seconds <= 0 and setup_timeout_seconds != -1:
            raise ValueError(f"setup_timeout_seconds must be greater than zero or -1, got {setup_timeout_seconds}")
        if not isinstance(eager_install, bool):
            raise TypeError(f"eager_install must be a boolean, got {type(eager_install)}")
        if not isinstance(log_files, list | None) or not all(isinstance(name, str) for name in log_files or ()):
            raise TypeError(f"log_files must be a list of strings or None, got {log_files!r}")
        super().__init__(
            setup_timeout_seconds=setup_timeout_seconds, eager_install=eager_install, log_files=log_files or []
        )

    @classmethod
    def parse_and_validate_runtime_env_config(cls, config: Any) -> RuntimeEnvConfig:
        """A config from a dict; unknown entries are warned of and left out. Raises TypeError for anything else."""
        if isinstance(config, RuntimeEnvConfig):
            return config
        if not isinstance(config, Mapping):
            raise TypeError(f"runtime_env['config'] must be a dict or a RuntimeEnvConfig, got {type(config)}")
        if unknown := set(config) - cls.known_fields:
            _log.warning("Entries of runtime_env['config'] that there are not are ignored: %s", sorted(unknown))
        return cls(**{name: value for name, value in config.items() if name in cls.known_fields})

    @classmethod
    def default_config(cls) -> RuntimeEnvConfig:
        """What holds where nothing is said."""
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """A plain copy."""
        return dict(deepcopy(self))


class RuntimeEnv(dict[str, Any]):
    """The environment of tasks and actors: fields as keyword arguments; see Ray's class of this name.

    working_dir: a folder (or .zip, .tar.gz, .tgz, .tar.xz) whose copy workers start in and import from.
    py_modules: folders, .py files, wheels, archives or imported modules that workers can import.
    excludes: patterns, as in .gitignore, of what is left out of both.
    pip, uv: packages for a virtual environment, as a list, a requirements file or a dict.
    py_executable: the command that starts a worker's interpreter.
    env_vars: environment variables; `${NAME}` in them stands for the value that NAME has.
    worker_process_setup_hook: a function that each worker runs first.
    config: see RuntimeEnvConfig.

    Raises TypeError and ValueError for bad fields, ValueError for pip and uv together.
    """

    known_fields = frozenset({*fields.CHECKS, "config"})

    def __init__(self, *, _validate: bool = True, **given: Any) -> None:
        super().__init__()
        if not _validate:
            self.update(given)
            return
        if given.get("pip") is not None and given.get("uv") is not None:
            raise ValueError(
                "The 'pip' field and the 'uv' field of runtime_env cannot be specified at the same time: both make "
                f"the virtual environment. pip: {given['pip']!r}, uv: {given['uv']!r}"
            )
        for name, value in given.items():
            fields.check_name(name)
            if value is not None:
                self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        """Checks the field; one that asks for nothing is left out."""
        fields.check_name(name)
        if name == "config":
            value = RuntimeEnvConfig.parse_and_validate_runtime_env_config(value)
        elif name in fields.CHECKS and value is not None:
            value = fields.CHECKS[name](value)
        if value is not None:
            super().__setitem__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is: where it is unpickled, its paths need not exist."""
        return _unchecked, (dict(self),)

    def set(self, name: str, value: Any) -> None:
        """Sets a field, as `env[name] = value` does."""
        self[name] = value

    def to_dict(self) -> dict[str, Any]:
        """A plain copy."""
        return {name: dict(value) if name == "config" else deepcopy(value) for name, value in self.items()}

    def serialize(self) -> str:
        """As JSON. Raises TypeError for what JSON does not have (a function as setup hook)."""
        import json

        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def deserialize(cls, text: str) -> RuntimeEnv:
        """What serialize() gave, unchecked."""
        import json

        return cls(_validate=False, **json.loads(text))

    def has_working_dir(self) -> bool:
        """Whether workers start in a folder of their own."""
        return "working_dir" in self

    def working_dir(self) -> str:
        """The field, "" where there is none."""
        return self.get("working_dir", "")

    def working_dir_uri(self) -> str | None:
        """The field, None where there is none."""
        return self.get("working_dir")

    def py_modules(self) -> list[str]:
        """The field, [] where there is none."""
        return list(self.get("py_modules", ()))

    py_modules_uris = py_modules

    def py_executable(self) -> str | None:
        """The field, None where there is none."""
        return self.get("py_executable")

    def env_vars(self) -> dict[str, str]:
        """The field, {} where there is none."""
        return self.get("env_vars", {})

    def has_pip(self) -> bool:
        """Whether pip installs something."""
        return bool(self.get("pip"))

    def pip_config(self) -> dict[str, Any]:
        """The field, {} where there is none."""
        return self.get("pip", {})

    def has_uv(self) -> bool:
        """Whether uv installs something."""
        return bool(self.get("uv"))

    def uv_config(self) -> dict[str, Any]:
        """The field, {} where there is none."""
        return self.get("uv", {})


def _unchecked(fields_: dict[str, Any]) -> RuntimeEnv:
    return RuntimeEnv(_validate=False, **fields_)


def checked(env: Mapping[str, Any] | None) -> RuntimeEnv:
    """The environment with its fields checked and in full form. Raises as RuntimeEnv does, TypeError for no dict."""
    if env is None:
        return RuntimeEnv()
    if not isinstance(env, Mapping):
        raise TypeError(f"runtime_env must be a dict or a RuntimeEnv, got {type(env)}")
    return RuntimeEnv(**env)
