"""The programs of the README, the tutorial and the page on migration are complete, and print what the pages say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/tutorial.md", "docs/migration.md")
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
README = (ROOT / "README.md").read_text()
README_PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What is printed stands behind it: `print(x)  # 24: why`.
SAID = re.compile(r"^print\(.*\)  # ([^:\n]*)", re.MULTILINE)
TWO_PROGRAMS = "# another one\n"


def programs():
    for page in PAGES:
        text = (ROOT / page).read_text()
        found = list(PROGRAM.finditer(text))
        assert len(found) == text.count("```python"), f"{page}: a program without the lines that it prints"
        for match in found:
            heading = HEADING.findall(text, 0, match.start())[-1]
            yield pytest.param(match[1], match[2], id=f"{Path(page).stem}: {heading}")
    for match in README_PROGRAM.finditer(README):
        if TWO_PROGRAMS in match[1]:
            continue
        heading = HEADING.findall(README, 0, match.start())[-1]
        assert (printed := SAID.findall(match[1])) and len(printed) == match[1].count("print("), heading
        yield pytest.param(match[1], "".join(f"{line}\n" for line in printed), id=f"README: {heading}")


@pytest.mark.parametrize(("program", "printed"), list(programs()))
def test_it_prints_what_the_page_says(tmp_path, program, printed):
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run([sys.executable, "-P", script], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed, done.stderr


def test_the_readmes_two_programs_reach_each_other(tmp_path):
    (both,) = (match[1] for match in README_PROGRAM.finditer(README) if TWO_PROGRAMS in match[1])
    first, second = both.split(TWO_PROGRAMS)
    (tmp_path / "first.py").write_text(f"{first}\nprint(trainer.address, flush=True)\ninput()\n")
    imports = "import sys\nfrom beeline.transfer import Agent\naddress = sys.argv[1]\n"
    shown = '\nprint(version, weights["layer"].shape, weights["layer"].min().item())\n'
    (tmp_path / "second.py").write_text(imports + second + shown)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-P", tmp_path / "first.py"], stdin=pipe, stdout=pipe, text=True) as owner:
        address = owner.stdout.readline().strip()
        command = [sys.executable, "-P", tmp_path / "second.py", address]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
        owner.communicate("\n", timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 torch.Size([1024, 1024]) 1.0\n"
    assert owner.returncode == 0
