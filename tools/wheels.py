"""Wheels to give away: one for each CPython of this machine, checked, and tried in an environment of its own.

The C++ of a wheel is stripped, and goes by the oldest glibc that its symbols allow (auditwheel's manylinux tag).
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.steps import BUILD, ROOT, StepError, environment, say, step

OLDEST = (3, 11)
OUTPUT = BUILD / "wheels"
WORK = BUILD / "wheel-work"
REQUIREMENTS = ROOT / "requirements"
SMOKE = ROOT / "tools" / "wheel_smoke.py"
EXAMPLES = ROOT / "examples" / "cpp"
# Of a wheel, as it is downloaded. Whoever needs more says what for.
BUDGET_BYTES = 6 * 2**20
# Without one of these a wheel installs, and fails when it is used.
CONTENTS = (
    "beeline/_core.",
    "beeline/bin/beelined",
    "beeline/lib/libbeeline_preload.so",
    "beeline/include/beeline/transport_plugin.h",
    "beeline/cpp/lib/libbeeline.so.",
    "beeline/cpp/lib/cmake/beeline/beelineConfig.cmake",
    "beeline/cpp/lib/cmake/beeline/beelineTargets.cmake",
    "beeline/cpp/include/beeline/beeline.h",
    "beeline/cpp/include/beeline/transfer.h",
    "beeline/py.typed",
    "/licenses/LICENSE",
)
_ASK = """
import os, sys, sysconfig
print(sys.implementation.name, *sys.version_info[:2])
print(os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
"""


class Interpreter(NamedTuple):
    """A CPython that wheels can be built for."""

    path: Path
    version: tuple[int, int]

    @property
    def tag(self) -> str:
        """As wheels name it."""
        return f"cp{self.version[0]}{self.version[1]}"


def interpreters(wanted: str | None = None) -> list[Interpreter]:
    """CPythons from 3.11 on that have headers, one for each version, oldest first; or the `wanted` one ("3.12").

    Looked for on PATH and among pyenv's.
    """
    found: dict[tuple[int, int], Interpreter] = {}
    for path in _candidates():
        version = _version(path)
        if version and version >= OLDEST:
            found.setdefault(version, Interpreter(path, version))
    every = [found[version] for version in sorted(found)]
    return [each for each in every if wanted in (None, "{}.{}".format(*each.version))]


def _candidates() -> Iterator[Path]:
    for minor in range(OLDEST[1], OLDEST[1] + 10):
        if path := shutil.which(f"python3.{minor}"):
            yield Path(path)
    yield Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob("versions/*/bin/python3"))


def _version(path: Path) -> tuple[int, int] | None:
    """None for what does not run, is no CPython, or has no headers."""
    try:
        asked = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    name, major, minor, has_headers = asked.stdout.split()
    return (int(major), int(minor)) if name == "cpython" and has_headers == "True" else None


def make(wanted: str | None) -> list[Path]:
    """Builds, repairs, checks and tries a wheel for each interpreter. Raises StepError at the first that fails."""
    chosen = interpreters(wanted)
    if not chosen:
        say(f"No CPython {wanted or '3.11 or newer'} with headers is on PATH or among pyenv's.")
        raise StepError("interpreters")
    say(f"wheels for {', '.join(each.tag for each in chosen)}")
    return [_make_one(each) for each in chosen]


def _make_one(interpreter: Interpreter) -> Path:
    work = WORK / interpreter.tag
    tools = _environment(interpreter, work / "build-venv", "build.txt", "wheel.txt")
    raw, repaired = work / "raw", work / "repaired"
    for folder in (raw, repaired):
        shutil.rmtree(folder, ignore_errors=True)
    build: list[str | Path] = [tools / "python", "-m", "pip", "wheel", ROOT, "--no-build-isolation", "--no-deps"]
    build += ["--wheel-dir", raw, "-C", f"build-dir={work / 'cmake'}", "-C", "install.strip=true"]
    env = _environment_of(tools, CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count() or 2))
    step(f"build {interpreter.tag}", build, timeout_s=1800, env=env)
    (built,) = raw.glob("beeline-*.whl")
    audit: list[str | Path] = [tools / "python", "-m", "auditwheel", "repair", built, "--wheel-dir", repaired]
    step(f"repair {interpreter.tag}", audit, timeout_s=300, env=env)
    (wheel,) = repaired.glob("beeline-*.whl")
    for problem in problems(wheel):
        say(f"  {wheel.name}: {problem}")
        raise StepError(f"check {interpreter.tag}")
    tried = _try(interpreter, wheel, work / "smoke-venv")
    try_cpp(interpreter.tag, tools, tried, work / "smoke-cpp")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    final = Path(shutil.copy2(wheel, OUTPUT))
    say(f"  {final.relative_to(ROOT)}: {final.stat().st_size / 2**20:.1f} MiB")
    return final


def problems(wheel: Path) -> list[str]:
    """What is wrong with a wheel, by its name, its size and its contents."""
    found = []
    if "manylinux" not in wheel.name:
        found.append("is for this machine alone, by its name; auditwheel gives it a manylinux tag")
    size = wheel.stat().st_size
    if size > BUDGET_BYTES:
        found.append(f"has {size / 2**20:.1f} MiB, more than {BUDGET_BYTES / 2**20:.0f}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    found += [f"lacks {wanted}" for wanted in CONTENTS if not any(wanted in name for name in names)]
    strays = [name for name in names if name.startswith("beeline.libs/") or "/tests/" in name]
    return found + [f"brings along {name}" for name in strays]


def _try(interpreter: Interpreter, wheel: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    tools = _environment(interpreter, folder)
    install = [tools / "python", "-m", "pip", "install", "--no-input", "-c", REQUIREMENTS / "runtime.txt", wheel]
    step(f"install {interpreter.tag}", install, timeout_s=600, env=_environment_of(tools))
    step(f"try {interpreter.tag}", [tools / "python", "-P", SMOKE], timeout_s=300, env=_environment_of(tools))
    return tools


def try_cpp(tag: str, tools: Path, tried: Path, folder: Path) -> None:
    """Builds a program in C++ against an installed wheel, and nothing of the checkout, and runs it.

    Args:
        tag: For the steps' titles.
        tools: The bin folder of the environment that has cmake and ninja.
        tried: That of the environment with the wheel.
        folder: To work in; what is there goes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    source = shutil.copytree(EXAMPLES, folder / "source")
    ask = "from beeline.cross_language import cmake_prefix_path; print(cmake_prefix_path)"
    asked = subprocess.run(
        [tried / "python", "-P", "-c", ask], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    env = _environment_of(tools, BEELINE_PYTHON=str(tried / "python"))
    cmake: list[str | Path] = [tools / "python", "-m", "cmake"]
    configure = [*cmake, "-G", "Ninja", "-S", source, "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={asked}"]
    step(f"find C++ {tag}", configure, timeout_s=120, env=env)
    step(f"build C++ {tag}", [*cmake, "--build", folder / "build", "--target", "trainer"], timeout_s=300, env=env)
    step(f"try C++ {tag}", [folder / "build" / "trainer"], timeout_s=120, env=env)


def _environment(interpreter: Interpreter, folder: Path, *pages: str) -> Path:
    """The bin folder of a virtual environment, which is made if it is not there, with what the pages list."""
    if not (folder / "bin" / "python").exists():
        step(f"venv {interpreter.tag}", [interpreter.path, "-m", "venv", "--clear", folder], timeout_s=300)
    if pages:
        lists = [part for page in pages for part in ("-r", REQUIREMENTS / page)]
        install = [folder / "bin" / "python", "-m", "pip", "install", "--no-input", *lists]
        step(f"tools {interpreter.tag}", install, timeout_s=600)
    return folder / "bin"


def _environment_of(tools: Path, **extra: str) -> dict[str, str]:
    """As steps.environment, with another virtual environment first."""
    env = environment(VIRTUAL_ENV=str(tools.parent), **extra)
    env["PATH"] = f"{tools}{os.pathsep}{env['PATH']}"
    return env
