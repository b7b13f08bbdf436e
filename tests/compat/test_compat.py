"""One script on Beeline and on real Ray, same outcome: a failing case is one failing test."""

import signal

import pytest
import record
import runner


def _parameter(name, full):
    marks = [pytest.mark.full] if full else []
    if runner.not_yet(name):
        marks.append(pytest.mark.xfail(reason="not in this version", strict=True))
    return pytest.param(name, id=name, marks=marks)


_CASES = [_parameter(name, full) for name, full in runner.cases().items()]


@pytest.mark.timeout(2 * runner.CHILD_TIMEOUT_S)
@pytest.mark.parametrize("case", _CASES)
def test_same_outcome_as_ray(outcomes, case):
    ray, beeline = outcomes["ray"][case], outcomes["beeline"][case]
    assert ray.broke is None, f"the case itself is wrong, it does not run on Ray:\n{ray.broke}"
    assert beeline.broke is None, beeline.broke
    assert runner.disagreements(ray.value, beeline.value) == []


@pytest.mark.full
@pytest.mark.timeout(2 * runner.CHILD_TIMEOUT_S)
@pytest.mark.parametrize("case", [name for name in runner.cases() if runner.can_ask("ray", name)])
def test_the_record_is_what_ray_gives(outcomes, case):
    recorded = record.outcomes([case])
    assert case in recorded, "the case is new or has changed: python tests/compat/runner.py record"
    given = outcomes["ray"][case].value
    assert runner.disagreements(given, recorded[case]) == runner.disagreements(recorded[case], given) == []


def test_what_needs_a_dashboard_is_recorded():
    names = [name for name in runner.cases() if runner.needs_dashboard(name)]
    assert names and sorted(record.outcomes(names)) == sorted(names), "see runner.py for how such a group is recorded"


def test_without_a_dashboard_the_cases_that_need_one_say_so(monkeypatch):
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    name = next(name for name in runner.cases() if runner.needs_dashboard(name))
    assert not runner.can_ask("ray", name) and runner.can_ask("beeline", name)
    assert "needs a dashboard" in runner.run("ray", [name])[name].broke


@pytest.mark.full
def test_a_task_is_interrupted_also_where_the_tests_ignore_interrupts():
    name = "wait_cancel_kill.cancel_a_running_task_interrupts_it"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        given = runner.run("ray", [name])[name]
    finally:
        signal.signal(signal.SIGINT, before)
    assert given.broke is None, given.broke
    assert runner.disagreements(record.outcomes([name])[name], given.value) == []


def test_disagreements_are_found():
    error = {"caught_as": ["RayError", "ValueError"], "mentions": {"a": True, "b": False}, "message": "a"}
    more = {"caught_as": ["RayError", "TypeError", "ValueError"], "mentions": {"a": True, "b": True}, "message": "ab"}
    assert runner.disagreements([error], [more]) == []
    assert len(runner.disagreements([more], [error])) == 2
    assert runner.disagreements([error], ["returned"]) != []
    assert runner.disagreements(error, {**error, "caught_as": ["RayError", "RayTaskError", "ValueError"]}) != []
    assert runner.disagreements([1, [2]], [1, [3]]) == ["outcome[1][0]: Ray gave 2, Beeline 3"]
    assert runner.disagreements(True, 1) != []
    assert runner.disagreements([1], [1, 2]) != []
