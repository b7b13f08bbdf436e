"""`beeline config` shows everything that can be set, and the registry behind it has all that the sources read."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from beeline import settings
from beeline.cli import main

ROOT = Path(__file__).resolve().parents[2]
NAME = r'"([A-Z][A-Za-z0-9_]+)"'
# How the sources read a variable. Those of examples/, tests/, tools/ and benchmarks/ are not part of the package.
READ = {
    ".py": (
        rf"environ(?:\.get|\.pop|\.setdefault)?[\[(]{NAME}",
        rf"getenv\({NAME}",
        rf"{NAME} (?:not )?in os\.environ",
        rf"envvar={NAME}",
        rf"VARIABLE = {NAME}",
        r'"((?:BEELINE|RAY)_[A-Za-z0-9_]+)"',
    ),
    ".cc": (rf"getenv\({NAME}", rf"environment\({NAME}", rf"Variable = {NAME}", r'"((?:BEELINE|RAY)_[A-Za-z0-9_]+)"'),
}
READ[".h"] = READ[".cc"]
# Words of Ray's that look like one: why an actor died.
NO_VARIABLES = {"RAY_KILL"}


def read_by_sources():
    """Each variable that the sources read, with one file that does."""
    found = {}
    for folder in ("src", "python", "include"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.name == "settings.py" or path.suffix not in READ:
                continue
            text = path.read_text()
            for pattern in READ[path.suffix]:
                found.update((name, path.relative_to(ROOT)) for name in re.findall(pattern, text))
    return {name: path for name, path in found.items() if name not in NO_VARIABLES}


def shown(*arguments, **environment):
    result = CliRunner().invoke(main, ["config", "--json", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return {(row["kind"], row["name"]): row for row in json.loads(result.output)}


def test_every_variable_that_the_sources_read_is_in_the_registry():
    known = {each.name for each in settings.VARIABLES}
    missing = {name: path for name, path in read_by_sources().items() if name not in known}
    assert not missing, f"give each a line in python/beeline/settings.py: {missing}"


@pytest.mark.parametrize("variable", settings.VARIABLES, ids=lambda each: each.name)
def test_every_variable_of_the_registry_is_read_where_it_says(variable):
    assert variable.name in (ROOT / variable.source).read_text()
    assert variable.meaning.endswith(".") and variable.read_by


def test_no_variable_stands_twice():
    names = [each.name for each in settings.VARIABLES]
    assert sorted(names) == sorted({*names})


@pytest.mark.parametrize("row", settings._of_init() + settings._of_agent(), ids=lambda row: f"{row.kind}-{row.name}")
def test_every_argument_is_described(row):
    assert row.meaning


def test_what_the_environment_says_is_shown(tmp_path):
    assert shown(BEELINE_TMPDIR=str(tmp_path))["variable", "BEELINE_TMPDIR"]["value"] == str(tmp_path)


def test_without_it_the_default_is_shown():
    for value in (None, ""):
        row = shown(BEELINE_TMPDIR=value)["variable", "BEELINE_TMPDIR"]
        assert row["value"] == row["default"] == "/tmp"


def test_what_init_finds_out_on_this_machine_is_shown():
    rows = shown()
    assert float(rows["init", "num_cpus"]["value"]) >= 1 and int(rows["init", "object_store_memory"]["value"]) > 0
    assert rows["init", "num_cpus"]["default"] == "None"


def test_secrets_are_not_shown():
    result = CliRunner().invoke(main, ["config"], env={"BEELINE_TOKEN": "s3cret-s3cret"})
    assert "s3cret" not in result.output
    assert "s3cret" not in shown(BEELINE_TOKEN="s3cret-s3cret")["variable", "BEELINE_TOKEN"]["value"]


def test_what_beeline_sets_for_its_own_processes_is_shown_on_request():
    assert ("variable", "BEELINE_SESSION") not in shown()
    assert ("variable", "BEELINE_SESSION") in shown("--all")


def test_names_choose_what_is_shown():
    assert set(shown("trim", "NUM_CPUS")) == {("variable", "BEELINE_TRIM_AFTER_S"), ("init", "num_cpus")}


def test_a_name_that_nothing_has_is_an_error():
    result = CliRunner().invoke(main, ["config", "no_such_setting"])
    assert result.exit_code == 1 and "no_such_setting" in result.output


def test_the_tables_are_for_people():
    result = CliRunner().invoke(main, ["config"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for text in ("Environment variables", "beeline.init()", "beeline.transfer.Agent()", "BEELINE_TMPDIR"):
        assert text in result.output


@pytest.mark.parametrize(
    ("docstring", "meanings"),
    [
        (
            "Does.\n\nArgs:\n    a: One.\n    b: Two\n        lines: here.\n\nReturns: c.",
            {"a": "One.", "b": "Two lines: here."},
        ),
        ("Does.\n\nArgs:\n    a: One.", {"a": "One."}),
        ("Does.", {}),
    ],
)
def test_arguments_are_read_off_docstrings(docstring, meanings):
    assert settings.documented(docstring) == meanings
