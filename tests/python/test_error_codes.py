"""Every error has a code of its own, which docs/errors.md lists; a program's own codes are left alone."""

import inspect
import pickle
import re
from pathlib import Path

import pytest

from beeline import _core, exceptions
from beeline.api.errors import make_error

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {
    name: value
    for name, value in vars(exceptions).items()
    if inspect.isclass(value) and issubclass(value, exceptions.BeelineError) and value.__name__ == name
}
KINDS = sorted(name for name in vars(_core) if name.startswith("ERROR_"))


def arrived(error):
    """What `get` raises for an exception that a task raised."""
    return exceptions.load_task_error(exceptions.dump_task_error(error, "f")).as_instanceof_cause()


def listed():
    """The codes that stand in the page's tables, each with the names beside it."""
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| (BL-[^|]*) \| ([^|]*) \|", page, re.MULTILINE)
    return {
        code: names for codes, names in rows for code, names in zip(codes.split(", "), names.split(", "), strict=True)
    }


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_has_a_code_of_its_own(name):
    assert re.fullmatch(r"BL-\d{3}", vars(CLASSES[name]).get("code", "none of its own"))


def test_no_code_is_given_twice():
    codes = [kind.code for kind in CLASSES.values()]
    assert sorted(codes) == sorted({*codes}) and exceptions.INVALID_ARGUMENT_CODE not in codes


def test_the_page_says_what_each_code_is_and_knows_no_others():
    page = (ROOT / "docs" / "errors.md").read_text()
    for name, kind in CLASSES.items():
        assert kind.code in page, f"docs/errors.md lacks {kind.code} ({name})"
    for code, names in listed().items():
        described = re.search(r"`(\w+)`", names).group(1)
        known = CLASSES[described].code if described in CLASSES else exceptions.INVALID_ARGUMENT_CODE
        assert code == known, f"docs/errors.md calls {described} {code}"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("actor", [0, 7])
def test_each_kind_of_error_of_the_core_has_a_code(name, actor):
    payload = exceptions.dump_task_error(ValueError("v"), "f")
    error = make_error(getattr(_core, name), "what happened", payload, actor, "name")
    assert re.fullmatch(r"BL-\d{3}", error.code) and error.code != exceptions.BeelineError.code
    assert pickle.loads(pickle.dumps(error)).code == error.code


def test_an_argument_that_the_core_refuses_is_a_value_error_with_a_code():
    error = make_error(_core.ERROR_INVALID, "no such thing", b"", 0, "")
    assert type(error) is ValueError and error.code == exceptions.INVALID_ARGUMENT_CODE


class Refused(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (ValueError("v"), exceptions.TaskError.code),
        (Refused(404), 404),
        (SystemExit(3), 3),
        (exceptions.ObjectLostError("gone"), exceptions.ObjectLostError.code),
    ],
)
def test_what_user_code_raised_keeps_the_code_that_it_had(raised, code):
    got = arrived(raised)
    assert got.code == code
    assert pickle.loads(pickle.dumps(got)).code == code


def test_the_page_lists_the_codes_of_the_cpp_library():
    header = (ROOT / "src" / "beeline" / "base" / "status.h").read_text()
    declared = re.findall(
        r"^  (k\w+) = (\d+),", header.partition("enum class Code")[2].partition("};")[0], re.MULTILINE
    )
    page = (ROOT / "docs" / "errors.md").read_text()
    assert re.findall(r"^\| (\d+) \| `(k\w+)` \|", page, re.MULTILINE) == [(number, name) for name, number in declared]
