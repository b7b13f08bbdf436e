"""The C++ package as a program finds it: installed from the wheel's build, and projects built against that alone."""

import subprocess
import sys
from pathlib import Path

from tools.environment import WHEEL_BUILD
from tools.steps import environment

# cmake and ninja come as wheels, beside the interpreter.
CMAKE = Path(sys.executable).with_name("cmake")


def install(prefix: Path) -> None:
    """Installs headers, libbeeline.so and what find_package reads. Raises RuntimeError with what cmake said."""
    if not (WHEEL_BUILD / "CMakeCache.txt").is_file():
        raise RuntimeError(f"{WHEEL_BUILD} is not there: run ./dev build")
    _run([CMAKE, "--install", WHEEL_BUILD, "--component", "cpp", "--prefix", prefix])


def build(source: Path, prefix: Path, folder: Path) -> None:
    """Builds a project that uses the package at `prefix`; its programs are in `folder` then. Raises RuntimeError."""
    _run([CMAKE, "-G", "Ninja", "-S", source, "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}"])
    _run([CMAKE, "--build", folder])


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(
        [str(part) for part in command], env=environment(), capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
