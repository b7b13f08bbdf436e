"""Runs the selected cases once per engine, when the first of them is asked for."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import runner


@pytest.fixture(scope="session")
def outcomes(request):
    """{engine: {"group.case": Outcome}} for the cases that this session selected."""
    parameters = [getattr(getattr(item, "callspec", None), "params", {}) for item in request.session.items]
    names = [p["case"] for p in parameters if p.get("case") in runner.cases()]
    return {engine: runner.run(engine, names) for engine in runner.ENGINES}
