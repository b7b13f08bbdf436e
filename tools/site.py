"""Makes the site of the checkout's pages and docstrings in build/docs: self-contained, searchable without a server.

Run as `python -m tools.site`, with requirements/docs.txt and the wheel installed.
"""

import re
import subprocess
import sys
from pathlib import Path

from tools.steps import BUILD, ROOT

SETTINGS = ROOT / "docs" / "site"
OUTPUT = BUILD / "docs"
START = OUTPUT / "docs" / "site" / "index.html"
# What a browser loads by itself when it opens a page. Links that a reader may follow are none of it.
LOADED = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"([^\"]+)\"|<link\b[^>]*\brel=\"stylesheet\"[^>]*>")
ELSEWHERE = re.compile(r"(?:https?:)?//")


def build() -> int:
    """Runs Sphinx; dead links, anchors that no heading has and names that cannot be imported are errors."""
    cache = BUILD / "docs-cache"
    command = [sys.executable, "-P", "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q"]
    return subprocess.run([*command, "-c", SETTINGS, "-d", cache, ROOT, OUTPUT], check=False).returncode


def loaded_from_elsewhere(site: Path) -> list[str]:
    """One line for each thing that a page of the site would fetch from another host."""
    problems = []
    for page in sorted(site.rglob("*.html")):
        for match in LOADED.finditer(page.read_text(encoding="utf-8")):
            address = match[1] or next(iter(re.findall(r"href=\"([^\"]+)\"", match[0])), "")
            if ELSEWHERE.match(address):
                problems.append(f"{page.relative_to(site).as_posix()}: loads {address}")
    return problems


def main() -> int:
    """Builds and checks; the exit status is 0 if all of it went well."""
    status = build()
    problems = loaded_from_elsewhere(OUTPUT)
    for problem in problems:
        print(problem)
    print(f"site: {len(list(OUTPUT.rglob('*.html')))} pages, {len(problems)} loads from elsewhere")
    return status or (1 if problems else 0)


if __name__ == "__main__":
    sys.exit(main())
