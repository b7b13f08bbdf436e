"""Runs the selected cases once per engine, when the first of them is asked for."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import record
import runner


@pytest.fixture(scope="session")
def outcomes(request):
    """{engine: {"group.case": Outcome}} for the cases that this session selected.

    What every push runs takes Ray's from the record, as far as it holds; anything else asks Ray, if it can be asked.
    """
    parameters = [getattr(getattr(item, "callspec", None), "params", {}) for item in request.session.items]
    names = [p["case"] for p in parameters if p.get("case") in runner.cases()]
    is_push = request.config.option.markexpr == "not full"
    recorded = record.outcomes([name for name in names if is_push or not runner.can_ask("ray", name)])
    ray = {name: runner.Outcome(value) for name, value in recorded.items()}
    ray |= runner.run("ray", [name for name in names if name not in recorded])
    return {"ray": ray, "beeline": runner.run("beeline", names, at_once=2)}
