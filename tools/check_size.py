"""A file of more than 600 lines is two things.

Warns above 600 lines and fails above 900, for the C++ and Python sources of the checkout.
Run as `python3 -m tools.check_size [ROOT]`.
"""

import sys
from pathlib import Path

WARN_LINES = 600
FAIL_LINES = 900
FOLDERS = ("src", "python", "tests", "examples", "benchmarks", "fuzz", "tools")
SUFFIXES = {".cc", ".h", ".py"}


def check(root: Path) -> tuple[list[str], list[str]]:
    """Returns (warnings, failures), one line for each file that is too long."""
    warnings, failures = [], []
    sources = [root / "dev"] if (root / "dev").is_file() else []
    for folder in FOLDERS:
        sources += sorted(path for path in (root / folder).rglob("*") if path.suffix in SUFFIXES and path.is_file())
    for path in sources:
        lines = path.read_bytes().count(b"\n")
        shown = path.relative_to(root).as_posix()
        if lines > FAIL_LINES:
            failures.append(f"{shown}:{FAIL_LINES}: {lines} lines, more than {FAIL_LINES}: split it")
        elif lines > WARN_LINES:
            warnings.append(f"{shown}:{WARN_LINES}: {lines} lines, more than {WARN_LINES}")
    return warnings, failures


def main() -> int:
    """Prints what is too long; the exit status is 1 if something is far too long."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    warnings, failures = check(root)
    for line in warnings:
        print(f"warning: {line}")
    for line in failures:
        print(line)
    print(f"size: {len(warnings)} warnings, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
