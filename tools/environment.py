"""Set-up of a machine for Beeline: Debian packages, the virtual environment, pinned Python packages, the wheel."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tools.steps import BUILD, ROOT, VENV, StepError, environment, say, step

APT_LIST = ROOT / "tools" / "apt.txt"
TRANSFER_PEERS_APT_LIST = ROOT / "tools" / "apt_transfer_peers.txt"
REQUIREMENTS = ROOT / "requirements"
# Everything that ./dev test, demo and lint need; torch goes first and alone.
GROUPS = ("runtime", "build", "examples", "bench", "test", "lint")
PYTHON = VENV / "bin" / "python"
OLDEST_PYTHON = (3, 11)
SETUP_STAMP = VENV / ".beeline-setup"
WHEEL_STAMP = VENV / ".beeline-wheel"
WHEEL_BUILD = BUILD / "release"  # pyproject.toml says so, too; the C++ package is installed from there
PEERS_STAMP = VENV / ".beeline-bench-peers"
FULL_STAMP = VENV / ".beeline-full"
TRANSFER_PEERS_STAMP = VENV / ".beeline-transfer-peers"
DOCS_STAMP = VENV / ".beeline-docs"
PIP_ALONE = (PYTHON, "-m", "pip", "install", "--no-input", "--no-deps")


def setup() -> None:
    """Brings the machine and .venv to what requirements/ and tools/apt.txt say. An existing .venv is kept.

    Raises StepError, with what to do printed, where that is not possible.
    """
    wanted = digest([APT_LIST, *sorted(REQUIREMENTS.glob("*.txt"))])
    if _stamp_holds(SETUP_STAMP, wanted) and not missing_packages():
        return
    say("set-up")
    install_packages()
    _make_venv()
    pip: list[str | Path] = [PYTHON, "-m", "pip", "install", "--no-input"]
    step("install torch", [*pip, "-r", REQUIREMENTS / "torch.txt"], timeout_s=1800)
    lists: list[str | Path] = [part for group in GROUPS for part in ("-r", REQUIREMENTS / f"{group}.txt")]
    step("install requirements", [*pip, *lists], timeout_s=1800)
    SETUP_STAMP.write_text(wanted)


def setup_peers() -> None:
    """Installs what the benchmarks and tests/compat compare with, and UCX."""
    page = REQUIREMENTS / "peers.txt"
    wanted = digest([page])
    if not _stamp_holds(PEERS_STAMP, wanted):
        step("install peers", [*PIP_ALONE, "-r", page], timeout_s=1800)
        PEERS_STAMP.write_text(wanted)


def setup_full() -> None:
    """Installs what tests marked `full` need beside."""
    page = REQUIREMENTS / "full.txt"
    wanted = digest([page])
    if not _stamp_holds(FULL_STAMP, wanted):
        step("install for full tests", [*PIP_ALONE, "-r", page], timeout_s=1800)
        FULL_STAMP.write_text(wanted)


def setup_transfer_peers() -> None:
    """Installs what `bench transfer` compares with beside. What cannot be installed shows as an error in its rows."""
    page = REQUIREMENTS / "transfer_peers.txt"
    wanted = digest([TRANSFER_PEERS_APT_LIST, page])
    if _stamp_holds(TRANSFER_PEERS_STAMP, wanted) and not missing_packages(TRANSFER_PEERS_APT_LIST):
        return
    failed = []
    try:
        install_packages(TRANSFER_PEERS_APT_LIST)
    except StepError as error:
        failed.append(str(error))
    for requirement in filter(None, (line.partition("#")[0].strip() for line in page.read_text().splitlines())):
        try:
            step(f"install {requirement}", [*PIP_ALONE, requirement], timeout_s=1800)
        except StepError:
            failed.append(requirement)
    if failed:
        say(f"  without {', '.join(failed)}: rows will show the error")
    else:
        TRANSFER_PEERS_STAMP.write_text(wanted)


def setup_docs() -> None:
    """Installs what makes the site."""
    page = REQUIREMENTS / "docs.txt"
    wanted = digest([page])
    if not _stamp_holds(DOCS_STAMP, wanted):
        step("install docs tools", [*PIP_ALONE, "-r", page], timeout_s=600)
        DOCS_STAMP.write_text(wanted)


def ucx() -> dict[str, str]:
    """What tells C++ programs of the UCX in .venv; nothing where there is none, or where the caller names one."""
    found = sorted(VENV.glob("lib/python*/site-packages/libucx/lib/libucp.so*"))
    return {"BEELINE_UCX_LIBRARY": str(found[0])} if found and "BEELINE_UCX_LIBRARY" not in os.environ else {}


def build_wheel() -> None:
    """Builds the wheel and installs it into .venv, unless what it is made of has not changed since."""
    wanted = digest(_wheel_sources())
    if _stamp_holds(WHEEL_STAMP, wanted) and (WHEEL_BUILD / "CMakeCache.txt").is_file():
        return
    say("build")
    WHEEL_STAMP.unlink(missing_ok=True)
    dist = BUILD / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    pip: list[str | Path] = [PYTHON, "-m", "pip"]
    env = environment(CMAKE_BUILD_PARALLEL_LEVEL=str(os.cpu_count() or 2))
    build = [*pip, "wheel", ".", "--no-build-isolation", "--no-deps", "--wheel-dir", dist, "-v"]
    build += ["-C", "cmake.define.BEELINE_WERROR=ON"]
    step("build wheel", build, timeout_s=1800, env=env)
    wheels = sorted(dist.glob("beeline-*.whl"))
    step("install wheel", [*pip, "install", "--no-deps", "--force-reinstall", *wheels], timeout_s=300)
    # -P and a foreign folder: what is imported is the installed package, not the sources.
    step("import beeline", [PYTHON, "-P", "-c", "import beeline, beeline._core"], timeout_s=120)
    WHEEL_STAMP.write_text(wanted)


def digest(files: Iterable[Path]) -> str:
    """A hash over the names and contents of files."""
    summary = hashlib.sha256()
    for path in files:
        summary.update(f"{path.relative_to(ROOT).as_posix()}\0{path.stat().st_size}\0".encode())
        summary.update(path.read_bytes())
    return summary.hexdigest()


def missing_packages(page: Path | None = None) -> list[str]:
    """The Debian packages of a list (tools/apt.txt) that are not installed; none where the machine is not Debian's."""
    lines = (page or APT_LIST).read_text().splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not shutil.which("dpkg-query"):
        return []
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    installed = {line.split()[0] for line in query.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def install_packages(page: Path | None = None) -> None:
    """Installs what is missing when root; otherwise says what to install and raises StepError."""
    missing = missing_packages(page)
    if not missing:
        return
    if os.geteuid() != 0:
        say(f"Only root can install what is missing:\n\n  sudo apt-get install {' '.join(missing)}\n")
        raise StepError("system packages")
    env = environment(DEBIAN_FRONTEND="noninteractive")
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    step("apt update", ["apt-get", *wait, "update"], timeout_s=600, env=env)
    install = ["apt-get", *wait, "install", "-y", "--no-install-recommends", *missing]
    step("apt install", install, timeout_s=1200, env=env)


def _make_venv() -> None:
    if _python_version(PYTHON) >= OLDEST_PYTHON:
        return
    candidates = [sys.executable, "python3.11", "python3.12", "python3.13", "python3"]
    found = [name for name in candidates if name and _python_version(name) >= OLDEST_PYTHON]
    if not found:
        say("Python 3.11 or newer is needed: apt-get install python3.11 python3.11-venv python3.11-dev")
        raise StepError("python")
    step("make .venv", [found[0], "-m", "venv", "--clear", VENV], timeout_s=300)


def _python_version(interpreter: str | Path) -> tuple[int, int]:
    """(major, minor) of an interpreter, (0, 0) where it does not run."""
    try:
        asked = subprocess.run(
            [interpreter, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return (0, 0)
    major, minor = asked.stdout.split()
    return (int(major), int(minor))


def _wheel_sources() -> list[Path]:
    files = [ROOT / name for name in ("pyproject.toml", "CMakeLists.txt", "LICENSE")]
    files += [REQUIREMENTS / "build.txt"]
    for folder in ("cmake", "src", "python"):
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    # README.md is the package's long description, which the installed package does not depend on.
    return sorted(path for path in files if "__pycache__" not in path.parts)


def _stamp_holds(stamp: Path, wanted: str) -> bool:
    return stamp.is_file() and stamp.read_text() == wanted
