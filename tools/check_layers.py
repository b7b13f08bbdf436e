"""The include rule of the C++ core: an include may only point down.

Reads every source below src/beeline and reports, as `file:line: message`, an include of a higher layer, of
another folder's private headers, or of Python's and torch's headers. Run as `python3 -m tools.check_layers [ROOT]`.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Bottom to top; a layer may include itself and those before it. src/beeline/CMakeLists.txt links in the same order.
STACK = ("base", "os", "memory", "ring", "transport", "transfer", "store", "runtime")
# `plan` holds pure functions beside the stack; the runtime alone links it. `api` is what programs in C++ get of the
# transfer layer, `program` of the runtime; nothing of the core stands on them.
ALLOWED = {layer: frozenset(STACK[: position + 1]) for position, layer in enumerate(STACK)}
ALLOWED["plan"] = frozenset({"base", "plan"})
ALLOWED["runtime"] |= {"plan"}
ALLOWED["api"] = ALLOWED["transfer"] | {"api"}
ALLOWED["program"] = ALLOWED["runtime"] | {"api", "program"}

# Headers of these folders are private to the folder: the allocator's exported functions, and the node daemon.
PRIVATE_FOLDERS = (("memory", "preload"), ("runtime", "node"))
# Every folder of the transport layer is a back end, private but for the one file that names them all.
BACK_END_LAYER = "transport"
BACK_END_REGISTRY = PurePosixPath("transport/builtin.cc")

FOREIGN = re.compile(r"^(Python\.h|pybind11/|nanobind/|torch/|ATen/|c10/)")
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def check(root: Path) -> list[str]:
    """Returns one line for each violation below `root`/src/beeline, in order of file and line."""
    core = root / "src" / "beeline"
    problems = []
    for path in sorted(core.rglob("*")):
        if path.suffix not in {".h", ".cc", ".inc"}:
            continue
        source = PurePosixPath(path.relative_to(core).as_posix())
        shown = path.relative_to(root).as_posix()
        if source.parts[0] not in ALLOWED:
            problems.append(f"{shown}:1: is in no layer; the layers are {', '.join(ALLOWED)}")
            continue
        for line, included in _includes(path):
            reason = _violation(core, source, included)
            if reason:
                problems.append(f"{shown}:{line}: includes {included}: {reason}")
    return problems


def _includes(path: Path) -> Iterator[tuple[int, str]]:
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match = INCLUDE.match(text)
        if match:
            yield number, match.group(1) or match.group(2)


def _violation(core: Path, source: PurePosixPath, included: str) -> str | None:
    if FOREIGN.match(included):
        return "the core includes neither Python's nor torch's headers; bind them in python/src"
    target = _inside_core(core, source, included)
    if target is None:
        return None
    here, there = source.parts[0], target.parts[0]
    if there not in ALLOWED:
        return f"'{there}' is no layer; the layers are {', '.join(ALLOWED)}"
    if there not in ALLOWED[here]:
        return f"'{there}' is not below '{here}' (may include: {', '.join(sorted(ALLOWED[here]))})"
    for folder in PRIVATE_FOLDERS:
        if target.parts[:2] == folder and len(target.parts) > 2 and source.parts[:2] != folder:
            return f"headers of {'/'.join(folder)} are private to that folder"
    if there == BACK_END_LAYER and len(target.parts) > 2 and source.parts[:2] != target.parts[:2]:
        if source != BACK_END_REGISTRY:
            return f"headers of a back end are private to it; only {BACK_END_REGISTRY} names them"
    return None


def _inside_core(core: Path, source: PurePosixPath, included: str) -> PurePosixPath | None:
    """The included file relative to src/beeline, or None where it is not ours."""
    if included.startswith("beeline/") and (core.parent.parent / "include" / included).exists():
        return None  # public: interfaces without an implementation
    if included.startswith("beeline/"):
        return PurePosixPath(included).relative_to("beeline")
    beside = (core / source).parent / included
    if beside.exists() and beside.resolve().is_relative_to(core.resolve()):
        return PurePosixPath(beside.resolve().relative_to(core.resolve()).as_posix())
    return None


def main() -> int:
    """Prints the violations; the exit status is 1 if there are any."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    problems = check(root)
    for problem in problems:
        print(problem)
    print(f"layers: {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
