"""The checks of ./dev lint: format, style, types, layers, links, sizes."""

from pathlib import Path

from tools.environment import PYTHON
from tools.steps import ROOT, VENV, StepError, environment, say, step

CPP_FOLDERS = ("src", "python/src", "tests/cpp", "fuzz", "examples", "benchmarks")
BIN = VENV / "bin"


def run(*, fix: bool) -> int:
    """Runs every check, also after one has failed; returns the exit status. `fix` rewrites what can be rewritten."""
    say("lint")
    source_tree = environment(PYTHONPATH="python")
    package = any((ROOT / "python" / "beeline").glob("*.py"))
    checks: list[tuple[str, list[str | Path], dict[str, str]]] = [
        ("clang-format", [BIN / "clang-format", *(["-i"] if fix else ["--dry-run", "-Werror"]), *_cpp_files()], {}),
        ("ruff", [BIN / "ruff", "check", *(["--fix"] if fix else []), "."], {}),
        ("ruff format", [BIN / "ruff", "format", *([] if fix else ["--check", "--diff"]), "."], {}),
        ("layers", [PYTHON, "-m", "tools.check_layers"], {}),
        ("links", [PYTHON, "-m", "tools.check_links"], {}),
        ("size", [PYTHON, "-m", "tools.check_size"], {}),
    ]
    if package:
        checks += [
            ("mypy", [BIN / "mypy"], source_tree),
            ("import contracts", [BIN / "lint-imports", "--no-cache"], source_tree),
        ]
    failed = []
    for title, command, env in checks:
        try:
            log = step(title, command, timeout_s=600, env=env or None)
        except StepError:
            failed.append(title)
            continue
        if title == "size":
            _show_warnings(log)
    say(f"lint: {'failed: ' + ', '.join(failed) if failed else 'clean'}")
    return 1 if failed else 0


def _cpp_files() -> list[Path]:
    files = [path for folder in CPP_FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".cc", ".h"}]
    return sorted(files)


def _show_warnings(log: Path) -> None:
    for line in log.read_text().splitlines():
        if line.startswith("warning:"):
            say(f"    {line}")
