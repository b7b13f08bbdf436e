"""One script on Beeline and on real Ray, same outcome: a failing case is one failing test."""

import pytest
import runner


def _parameters():
    for group in runner.groups():
        for case, full in runner.cases(group).items():
            yield pytest.param(group, case, id=f"{group}.{case}", marks=[pytest.mark.full] if full else [])


@pytest.mark.timeout(2 * runner.GROUP_TIMEOUT_S)
@pytest.mark.parametrize(("group", "case"), list(_parameters()))
def test_same_outcome_as_ray(outcomes_of, group, case):
    outcomes = outcomes_of(group)
    ray, beeline = outcomes["ray"][case], outcomes["beeline"][case]
    assert ray.broke is None, f"the case itself is wrong, it does not run on Ray:\n{ray.broke}"
    assert beeline.broke is None, beeline.broke
    assert beeline.value == ray.value
