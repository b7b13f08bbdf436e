"""docs/compatibility.md says what is true of every name of Ray Core; the tool that sees to it finds what is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.compatibility import judge, page, survey
from tools.compatibility.survey import Name

ROOT = Path(__file__).resolve().parents[2]
RAY = {
    "ray": {"get": Name(["refs", "timeout"]), "Ref": Name([], {"hex": Name(), "size": Name(["unit"])})},
    "ray.util": {"iter": Name(), "log": Name()},
}


class Having:
    """A package with these names."""

    def __init__(self, *names):
        self.names = names

    def has(self, section, name):
        return name in self.names


ALL = Having("get", "get(refs)", "get(timeout)", "Ref", "Ref.hex", "Ref.size", "Ref.size(unit)", "iter", "log")
GOOD = """
[ray]
get = "works"
Ref = "works"
["ray.util"]
"*" = "works: as on Ray"
"""


def problems(text, having=ALL, ray=RAY):
    return judge.problems(judge.load(text), ray, having)


def without(*names):
    return Having(*(name for name in ALL.names if name not in names))


def test_the_page_is_what_the_judgements_make_and_they_are_true():
    command = [sys.executable, "-m", "tools.compatibility", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr


def test_judgements_that_are_true_are_no_problem():
    assert problems(GOOD) == []


def test_a_name_of_ray_without_a_judgement_is_reported():
    assert problems(GOOD.replace('get = "works"\n', "")) == ["[ray] get: has no judgement"]


def test_a_section_without_judgements_is_reported_name_by_name():
    assert problems(GOOD.partition('["ray.util"]')[0]) == [
        "[ray.util] iter: has no judgement",
        "[ray.util] log: has no judgement",
    ]


@pytest.mark.parametrize("missing", ["get", "get(timeout)", "Ref.hex", "Ref.size(unit)"])
def test_what_is_said_to_work_and_is_not_there_is_reported(missing):
    (problem,) = problems(GOOD, without(missing))
    assert problem.startswith(f"[ray] {missing}: ") and "does not have it" in problem


@pytest.mark.parametrize("missing", ["get(timeout)", "Ref.hex"])
def test_a_part_of_a_name_that_is_absent_takes_a_line_of_its_own(missing):
    text = GOOD.replace("[ray]\n", f'[ray]\n"{missing}" = "absent: not needed"\n')
    assert problems(text, without(missing)) == []


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("get(*)", ["get(refs)", "get(timeout)"]),
        ("Ref.*", ["Ref.hex", "Ref.size(unit)"]),
        ("Ref.size(*)", ["Ref.size(unit)"]),
    ],
)
def test_one_line_may_speak_for_the_parts_that_have_none(line, missing):
    text = GOOD.replace("[ray]\n", f'[ray]\n"{line}" = "absent: not needed"\n')
    assert problems(text, without(*missing)) == [] and problems(text) == []
    assert f"| `{line}` | absent | not needed |" in page.render(judge.load(text), RAY)


def test_the_members_of_an_absent_class_are_not_asked_for():
    text = GOOD.replace('Ref = "works"', 'Ref = "absent: not needed"')
    assert problems(text, without("Ref", "Ref.hex", "Ref.size", "Ref.size(unit)")) == []


@pytest.mark.parametrize("there", ["get(timeout)", "Ref.hex", "get"])
def test_what_is_said_to_be_absent_and_is_there_is_reported(there):
    text = GOOD.replace(f'{there} = "works"\n', "").replace("[ray]\n", f'[ray]\n"{there}" = "absent: not needed"\n')
    assert f"[ray] {there}: judged as 'absent', but Beeline has it" in problems(text)


def test_what_a_line_for_all_others_says_is_held_against_each():
    assert problems(GOOD.replace("works: as on Ray", "absent: not needed"), without("log")) == [
        "[ray.util] iter: judged as 'absent', but Beeline has it"
    ]


@pytest.mark.parametrize("line", ['gone = "works"', '"Ref.gone" = "works"'])
def test_a_judgement_of_a_name_that_ray_does_not_have_is_reported(line):
    (problem,) = problems(GOOD.replace("[ray]\n", f"[ray]\n{line}\n"))
    assert "Ray has no such name" in problem


def test_a_judgement_of_a_parameter_that_ray_does_not_have_is_reported():
    text = GOOD.replace("[ray]\n", '[ray]\n"get(gone)" = "differs: somehow"\n')
    assert problems(text) == ["[ray] get(gone): Ray has no such name"]


def test_a_section_that_ray_does_not_have_is_reported():
    assert problems(GOOD + '["ray.gone"]\n"*" = "works"\n') == ["[ray.gone]: Ray has no such section"]


@pytest.mark.parametrize("line", ["perhaps", "absent", "differs: ", "Works"])
def test_a_line_that_is_no_judgement_is_refused(line):
    with pytest.raises(ValueError, match=r"\[ray\] get"):
        judge.load(f'[ray]\nget = "{line}"\n')


def test_the_page_names_what_works_and_says_how_the_rest_differs():
    text = (
        '[ray]\nget = "works"\n"get(timeout)" = "differs: in ms"\nRef = "absent: no refs"\n["ray.util"]\n"*" = "works"'
    )
    made = page.render(judge.load(text), RAY)
    assert "### ray\n\nWorks: `get`.\n" in made
    assert "| `get(timeout)` | differs | in ms |" in made
    assert "| `Ref` | absent | no refs |" in made
    assert "### ray.util\n\nWorks: `iter`, `log`.\n" in made
    assert "| [ray.util](#rayutil) | 2 |" in made


def test_a_section_that_is_absent_as_a_whole_is_said_in_one_line():
    text = '[ray]\n"*" = "works"\n["ray.util"]\n"*" = "absent: not needed"'
    assert "### ray.util\n\nAll of it: absent; not needed.\n" in page.render(judge.load(text), RAY)


def test_what_is_written_by_hand_stays():
    before = f"above\n{page.BEGIN}\nold\n{page.END}\nbelow\n"
    after = page.splice(before, "new\n")
    assert after == f"above\n{page.BEGIN}\n\nnew\n\n{page.END}\nbelow\n"
    assert page.splice(after, "new\n") == after


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the marks"):
        page.splice("above\nbelow\n", "new\n")


def test_names_are_found_with_members_and_parameters():
    class Base:
        def inherited(self, a):
            pass

    class Own(Base):
        def __init__(self, first, *rest, second=0, **others):
            pass

        def _hidden(self):
            pass

    Base.__module__ = Own.__module__ = "package.module"
    found = survey.describe(Own, "package")
    assert found.parameters == ["first", "second"]
    assert {name: its.parameters for name, its in found.members.items()} == {"inherited": ["a"]}
