"""`python -m tools.compatibility` writes the page; with `--check` it says what is wrong, and writes nothing.

Ray and Beeline must be installed. The exit status is 1 where a judgement is missing or untrue, or the page is not what
the judgements make.
"""

import argparse
import sys
from pathlib import Path

from tools.compatibility import judge, page, survey

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"


def main() -> int:
    """Checks, then writes or compares."""
    parser = argparse.ArgumentParser(prog="python -m tools.compatibility", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    table = judge.load(judge.TABLE.read_text(encoding="utf-8"))
    ray = survey.of_ray()
    found = judge.problems(table, ray, survey.Beeline())
    if not found:
        before = PAGE.read_text(encoding="utf-8")
        after = page.splice(before, page.render(table, ray))
        if check and before != after:
            found.append(f"{PAGE.name} is not what the judgements make; run python -m tools.compatibility")
        elif before != after:
            PAGE.write_text(after, encoding="utf-8")
    for line in found:
        print(line)
    print(f"compatibility: {sum(map(len, ray.values()))} names of Ray, {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
