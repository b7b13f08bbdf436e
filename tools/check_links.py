"""Relative links in Markdown files must lead somewhere.

Reports, as `file:line: message`, every inline link or image whose target is neither a file nor a folder of the
checkout, or names an anchor that no heading of the page has. Links with a scheme and code are left alone.
Run as `python3 -m tools.check_links [ROOT]`.
"""

import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

SKIPPED_FOLDERS = {".git", ".venv", "build", "dist", "node_modules"}
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:")
FENCE = re.compile(r"^\s*(```|~~~)")
CODE_SPAN = re.compile(r"`[^`]*`")
HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*$")
LINKED_TEXT = re.compile(r"\[([^\]]*)\]\([^)]*\)")
NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


def check(root: Path) -> list[str]:
    """Returns one line for each dead link in the Markdown files below `root`."""
    problems = []
    for page in pages(root):
        for line, target in _links(page):
            file_part, _, anchor = unquote(target).partition("#")
            base = root if file_part.startswith("/") else page.parent
            linked = base / file_part.lstrip("/") if file_part else page
            problem = ""
            if not linked.exists():
                problem = "no such file"
            elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
                problem = "no such heading"
            if problem:
                problems.append(f"{page.relative_to(root).as_posix()}:{line}: link to {target}: {problem}")
    return problems


@functools.cache
def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings, for links to them."""
    found: set[str] = set()
    for _, text in _outside_fences(page):
        if match := HEADING.match(text):
            words = LINKED_TEXT.sub(r"\1", match[1]).lower()
            slug = NOT_IN_ANCHORS.sub("", words).strip().replace(" ", "-")
            found.add(next(name for name in (slug, *(f"{slug}-{n}" for n in range(1, 1000))) if name not in found))
    return found


def pages(root: Path) -> list[Path]:
    """The checkout's Markdown files, in order of their path."""
    return sorted(
        page for page in root.rglob("*.md") if not SKIPPED_FOLDERS.intersection(page.relative_to(root).parts[:-1])
    )


def _links(page: Path) -> Iterator[tuple[int, str]]:
    for number, text in _outside_fences(page):
        for match in LINK.finditer(CODE_SPAN.sub("", text)):
            if not SCHEME.match(match.group(1)):
                yield number, match.group(1)


def _outside_fences(page: Path) -> Iterator[tuple[int, str]]:
    fence = None
    for number, text in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        marker = FENCE.match(text)
        if marker:
            if fence is None:
                fence = marker.group(1)
            elif marker.group(1) == fence:
                fence = None
            continue
        if fence is None:
            yield number, text


def main() -> int:
    """Prints the dead links; the exit status is 1 if there are any."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    problems = check(root)
    for problem in problems:
        print(problem)
    print(f"links: {len(problems)} dead")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
