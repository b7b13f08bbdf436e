"""The programs of the tutorial and of the page on migration are complete, and print what the pages say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/tutorial.md", "docs/migration.md")
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)


def programs():
    for page in PAGES:
        text = (ROOT / page).read_text()
        found = list(PROGRAM.finditer(text))
        assert len(found) == text.count("```python"), f"{page}: a program without the lines that it prints"
        for match in found:
            heading = HEADING.findall(text, 0, match.start())[-1]
            yield pytest.param(match[1], match[2], id=f"{Path(page).stem}: {heading}")


@pytest.mark.parametrize(("program", "printed"), list(programs()))
def test_it_prints_what_the_page_says(tmp_path, program, printed):
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed, done.stderr
