"""Holds the judgements against what Ray and Beeline really have."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from tools.compatibility.survey import Name

TABLE = Path(__file__).with_name("judgements.toml")
WORKS, DIFFERS, RAY_ENGINE, ABSENT = "works", "differs", "ray engine", "absent"
NEEDS_REASON = (DIFFERS, RAY_ENGINE, ABSENT)
# A line for all names of a section that have none of their own.
OTHERS = "*"
# Lines for what has none of a class's members, "Queue.*", and of what a call takes, "Queue.put(*)". They are believed.
OTHER_MEMBERS, OTHER_PARAMETERS = ".*", "(*)"


class Judgement(NamedTuple):
    """What is said of a name: one of the four words, and how or why."""

    verdict: str
    note: str


class Package(Protocol):
    """Whether a package has what Ray has; see survey.Beeline."""

    def has(self, section: str, name: str) -> bool:
        """Whether it has `name` of `section`."""
        ...


Table = Mapping[str, Mapping[str, Judgement]]
Names = Mapping[str, Mapping[str, Name]]


def load(text: str) -> dict[str, dict[str, Judgement]]:
    """Reads judgements.toml. Raises ValueError for a line that is no judgement."""
    return {
        section: {name: _parse(f"[{section}] {name}", line) for name, line in lines.items()}
        for section, lines in tomllib.loads(text).items()
    }


def _parse(where: str, line: object) -> Judgement:
    verdict, _, note = str(line).partition(":")
    if verdict not in (WORKS, *NEEDS_REASON):
        raise ValueError(f"{where}: {line!r} begins with none of {WORKS}, {', '.join(NEEDS_REASON)}")
    if verdict in NEEDS_REASON and not note.strip():
        raise ValueError(f"{where}: {verdict!r} needs how or why, as in {verdict + ': no dashboard'!r}")
    return Judgement(verdict, note.strip())


def spoken_of(names: Mapping[str, Name]) -> Iterator[tuple[str, str]]:
    """Everything a line may be about, each with what it is a part of: ("Queue.put(block)", "Queue.put")."""
    for name, value in names.items():
        yield name, ""
        yield from ((f"{name}({each})", name) for each in value.parameters)
        for member, its in value.members.items():
            path = f"{name}.{member}"
            yield path, name
            yield from ((f"{path}({each})", path) for each in its.parameters)


def line_for(lines: Mapping[str, Judgement], name: str, part_of: str) -> str | None:
    """Which line judges a name: its own, one for the other parts of what it belongs to, that one's, or that for all."""
    if name in lines:
        return name
    if not part_of:
        return OTHERS if OTHERS in lines else None
    others = part_of + (OTHER_PARAMETERS if "(" in name else OTHER_MEMBERS)
    return others if others in lines else line_for(lines, part_of, part_of.rpartition(".")[0])


def problems(table: Table, ray: Names, beeline: Package) -> list[str]:
    """What is wrong, one line each: names without a judgement, judgements without a name, and untrue ones."""
    found = [f"[{section}]: Ray has no such section" for section in table if section not in ray]
    for section, names in ray.items():
        lines = table.get(section, {})
        parts = dict(spoken_of(names))
        found += [f"[{section}] {line}: Ray has no such name" for line in lines if not _is_about(line, parts)]
        for name, part_of in parts.items():
            line = line_for(lines, name, part_of)
            if line is None:
                if not part_of:
                    found.append(f"[{section}] {name}: has no judgement")
            elif line.endswith((OTHER_MEMBERS, OTHER_PARAMETERS)):
                continue
            elif problem := _untrue(lines[line], name in lines, part_of, beeline.has(section, name)):
                found.append(f"[{section}] {name}: {problem}")
    return found


def _is_about(line: str, parts: Mapping[str, str]) -> bool:
    return line in parts or line.removesuffix(OTHER_MEMBERS).removesuffix(OTHER_PARAMETERS) in parts or line == OTHERS


def _untrue(judgement: Judgement, is_own: bool, part_of: str, exists: bool) -> str | None:
    if judgement.verdict in (WORKS, DIFFERS) and not exists:
        said = judgement.verdict if is_own else f"{judgement.verdict}, as {part_of or 'all others'}"
        return f"judged as {said!r}, but Beeline does not have it; give it a line of its own"
    if judgement.verdict == ABSENT and exists and (is_own or not part_of):
        return "judged as 'absent', but Beeline has it"
    return None
