"""Writes the judgements into docs/compatibility.md, between two marks; the rest of the page is written by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from tools.compatibility.judge import (
    ABSENT,
    DIFFERS,
    OTHERS,
    RAY_ENGINE,
    WORKS,
    Judgement,
    Names,
    Table,
    line_for,
    spoken_of,
)
from tools.compatibility.survey import Name

BEGIN = "<!-- What follows is made by `python -m tools.compatibility` from tools/compatibility/judgements.toml. -->"
END = "<!-- What was made ends here. -->"
WORDS = {
    WORKS: "works",
    DIFFERS: "differs",
    RAY_ENGINE: "on the Ray engine only",
    ABSENT: "absent",
}


def splice(page: str, made: str) -> str:
    """The page with `made` between the marks. Raises ValueError for a page without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def render(table: Table, ray: Names) -> str:
    """A summary, then a section for each module, in Markdown."""
    sections = {name: _rows(table.get(name, {}), ray[name]) for name in ray}
    # Parts of names are not counted: a class is one.
    counts = {
        section: Counter(judgement.verdict for name, judgement in rows.items() if name in ray[section])
        for section, rows in sections.items()
    }
    total = sum(counts.values(), Counter())
    shown = [verdict for verdict in WORDS if total[verdict]]
    lines = ["| | " + " | ".join(WORDS[verdict] for verdict in shown) + " |", "|---|" + "---|" * len(shown)]
    lines += [_count_row(f"[{section}](#{_anchor(section)})", its, shown) for section, its in counts.items()]
    lines.append(_count_row("names in all", total, shown))
    for section, rows in sections.items():
        lines += ["", f"### {section}", "", *_section(rows, table.get(section, {}), ray[section])]
    return "\n".join(lines) + "\n"


def _rows(lines: Mapping[str, Judgement], names: Mapping[str, Name]) -> dict[str, Judgement]:
    """Every name, and every line about parts of one."""
    rows: dict[str, Judgement] = {}
    for name, part_of in spoken_of(names):
        line = line_for(lines, name, part_of)
        if line and not part_of:
            rows[name] = lines[line]
        elif line and line not in (part_of, OTHERS) and line not in names:
            rows[line] = lines[line]
    return rows


def _section(rows: Mapping[str, Judgement], lines: Mapping[str, Judgement], names: Mapping[str, Name]) -> list[str]:
    works = [f"`{name}`" for name, judgement in rows.items() if judgement == Judgement(WORKS, "")]
    # What the line for all others says is said once for all of them.
    others = [name for name in rows if name not in lines and rows[name] != Judgement(WORKS, "")]
    said = {name: judgement for name, judgement in rows.items() if judgement.note and name not in others}
    text = []
    if works:
        text.append(f"Works: {', '.join(works)}.")
    if others:
        judgement = lines[OTHERS]
        whole = "All of it" if len(others) == len(names) else ", ".join(f"`{name}`" for name in others)
        text += ["", f"{whole}: {WORDS[judgement.verdict]}; {judgement.note}."]
    if said:
        text += ["", "| name | | |", "|---|---|---|"]
        text += [f"| `{name}` | {WORDS[judgement.verdict]} | {judgement.note} |" for name, judgement in said.items()]
    return text[1:] if text and not text[0] else text


def _count_row(title: str, counts: Mapping[str, int], shown: Iterable[str]) -> str:
    return f"| {title} | " + " | ".join(str(counts.get(verdict, 0) or "") for verdict in shown) + " |"


def _anchor(heading: str) -> str:
    """As GitHub makes it from a heading."""
    return heading.lower().replace(".", "").replace(" ", "-")
