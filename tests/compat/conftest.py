"""Runs the selected cases of a group once per engine, when the first of them is asked for."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import runner


def pytest_configure(config):
    config.addinivalue_line("markers", "full: too slow for the default set")


@pytest.fixture(scope="session")
def outcomes_of(request):
    """`outcomes_of(group)` gives {engine: {case: Outcome}} for the cases that this session selected."""
    selected = {}
    for item in request.session.items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if "group" in parameters:
            selected.setdefault(parameters["group"], []).append(parameters["case"])
    cache = {}

    def outcomes_of(group):
        if group not in cache:
            cache[group] = {engine: runner.run_group(engine, group, selected[group]) for engine in runner.ENGINES}
        return cache[group]

    return outcomes_of
