"""Virtual environments for workers: what pip or uv installs, over the packages that the session's interpreter has.

One lies in the session's folder, named by what was asked for, and is made once, under a lock. A mark says that it is
complete; without it, whoever made it was killed, and it is made anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import site
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from beeline.exceptions import RuntimeEnvSetupError

_FOLDER = "venvs"
_COMPLETE = ".complete"
_TAIL_BYTES = 4096
# What lines of requirements may refer to, as on Ray: where the working_dir of the same runtime_env lies.
WORKING_DIR_VARIABLE = "RAY_RUNTIME_ENV_CREATE_WORKING_DIR"
_REQUIREMENT_FILE = re.compile(r"\s*(?:-r|--requirement)[\s=]*(?P<path>[^\s$]+)\s*$")


def expanded(packages: list[str], folder: str = "") -> list[str]:
    """The lines with those of the requirements files that they name in their place.

    Raises ValueError where such a file cannot be read, and where one names itself.
    """
    return _expanded(packages, folder, ())


def _expanded(packages: list[str], folder: str, above: tuple[str, ...]) -> list[str]:
    lines = []
    for line in packages:
        named = _REQUIREMENT_FILE.match(line)
        if named is None:
            lines.append(line)
            continue
        path = os.path.abspath(os.path.join(folder, named["path"]))
        if path in above:
            raise ValueError(f"the requirements file {path} names itself")
        try:
            text = Path(path).read_text()
        except OSError as error:
            raise ValueError(f"the requirements file {path} is not a valid file: {error.strerror}") from error
        lines += _expanded(text.strip().splitlines(), os.path.dirname(path), (*above, path))
    return lines


def name_of(env: Mapping[str, Any]) -> str:
    """The name of the environment that this runtime_env asks for by pip or uv."""
    asked = {kind: env[kind] for kind in ("pip", "uv") if kind in env}
    text = json.dumps(asked, sort_keys=True)
    refers = f"${{{WORKING_DIR_VARIABLE}}}" in text
    whole = [text, env.get("working_dir") if refers else None]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


class Maker:
    """Makes one environment within its time; what it does is told by `say`."""

    def __init__(self, session_dir: str, name: str, timeout_s: float, say: Callable[[str], None]) -> None:
        self.folder = Path(session_dir, _FOLDER, name)
        self.log = Path(session_dir, "logs", f"venv-{name}.log")
        self.python = self.folder / "bin" / "python"
        self._deadline = time.monotonic() + timeout_s if timeout_s >= 0 else None
        self._timeout_s = timeout_s
        self._say = say

    def make(self, env: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        """Makes what `env` asks for, unless it is there. `variables` are those of pip or uv.

        Raises RuntimeEnvSetupError with the end of what pip or uv has printed; nothing is left but that log.
        """
        from filelock import FileLock, Timeout

        try:
            self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(f"{self.folder}.lock", timeout=self._left("its lock") or -1):
                if not (self.folder / _COMPLETE).exists():
                    self._make(env, variables)
        except Timeout as error:
            raise self._too_late(f"another process that makes {self.folder}") from error
        except OSError as error:
            raise RuntimeEnvSetupError(
                f"The virtual environment in {self.folder} cannot be made: {error.strerror} ({error.filename}). Free "
                "space there, or set BEELINE_TMPDIR to another disk."
            ) from error

    def _make(self, env: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        if self.folder.exists():
            self._say(f"{self.folder} was left unfinished and is made anew")
            shutil.rmtree(self.folder)
        tool = "pip" if "pip" in env else "uv"
        asked = env[tool]
        started = time.monotonic()
        self._say(f"{tool} installs {', '.join(asked['packages'])}; its output goes to {self.log}")
        try:
            self._create(with_pip=tool == "pip" and importlib.util.find_spec("pip") is None)
            requirements = self.folder / "requirements.txt"
            requirements.write_text("\n".join(asked["packages"]) + "\n")
            (self._pip if tool == "pip" else self._uv)(asked, str(requirements), variables)
            (self.folder / _COMPLETE).touch()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._say(f"the virtual environment is there after {time.monotonic() - started:.1f} s")

    def _create(self, with_pip: bool) -> None:
        if with_pip and importlib.util.find_spec("ensurepip") is None:
            raise RuntimeEnvSetupError(
                f"{sys.executable} has neither pip nor ensurepip: install pip there, or use runtime_env['uv']"
            )
        venv.EnvBuilder(symlinks=True, with_pip=with_pip).create(self.folder)
        # Behind its own packages come those of the interpreter that the session runs under, itself perhaps in an
        # environment, which venv's own way to share does not know.
        inherited = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
        library = self.folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        (library / "_beeline_inherited.pth").write_text(
            "import site; " + "; ".join(f"site.addsitedir({folder!r})" for folder in inherited) + "\n"
        )

    def _pip(self, asked: Mapping[str, Any], requirements: str, variables: Mapping[str, str]) -> None:
        pip = [str(self.python), "-P", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        if version := asked.get("pip_version"):
            self._run([*pip, "install", f"pip{version}"], variables)
        self._run([*pip, "install", "-r", requirements, *asked.get("pip_install_options", ())], variables)
        if asked.get("pip_check"):
            self._run([*pip, "check"], variables)

    def _uv(self, asked: Mapping[str, Any], requirements: str, variables: Mapping[str, str]) -> None:
        uv = shutil.which("uv", path=variables.get("PATH"))
        if uv is None:
            raise RuntimeEnvSetupError(
                "runtime_env['uv']: there is no uv in PATH. Install it (`pip install uv`), or use runtime_env['pip']."
            )
        if version := asked.get("uv_version"):
            self._check_uv_version(uv, version)
        target = ["--python", str(self.python)]
        options = asked.get("uv_pip_install_options", ())
        self._run([uv, "pip", "install", *target, "-r", requirements, *options], variables)
        if asked.get("uv_check"):
            self._run([uv, "pip", "check", *target], variables)

    def _check_uv_version(self, uv: str, wanted: str) -> None:
        done = subprocess.run([uv, "--version"], capture_output=True, text=True, timeout=self._left("uv --version"))
        found = done.stdout.split()[1] if len(done.stdout.split()) > 1 else done.stdout
        if wanted.lstrip("=").strip() != found:
            raise RuntimeEnvSetupError(f"runtime_env['uv']: {uv} is version {found}, asked for is {wanted}")

    def _run(self, command: list[str], variables: Mapping[str, str]) -> None:
        with self.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            try:
                done = subprocess.run(
                    command,
                    env=dict(variables),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=self._left(" ".join(command[:4])),
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise self._too_late(" ".join(command), self._tail(begin)) from error
        if done.returncode != 0:
            raise RuntimeEnvSetupError(
                f"`{' '.join(command)}` failed with exit code {done.returncode}; its whole output is in {self.log}. "
                f"The end of it:\n{self._tail(begin)}"
            )

    def _tail(self, begin: int) -> str:
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(begin, end - _TAIL_BYTES))
            return log.read().decode(errors="replace")

    def _left(self, what: str) -> float | None:
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._too_late(what)
        return left

    def _too_late(self, what: str, tail: str = "") -> RuntimeEnvSetupError:
        return RuntimeEnvSetupError(
            f"The virtual environment was not there after {self._timeout_s:g} s (setup_timeout_seconds in the config "
            f"of the runtime_env); the time was over at: {what}" + (f". The end of its output:\n{tail}" if tail else "")
        )
