"""ray.util.state as far as it can be compared without Ray's dashboard: columns, and what there is without a session.

What it says of a program that runs is tested in tests/python/util/test_state.py.
"""

import importlib

from outcome import raised

SHARED_SESSION = False
_CLASSES = ("ActorState", "TaskState", "NodeState", "WorkerState", "PlacementGroupState")


def _common(ray):
    return importlib.import_module(f"{ray.__name__}.util.state.common")


def case_columns(ray):
    common = _common(ray)
    classes = [getattr(common, name) for name in _CLASSES]
    return [
        [sorted(each.columns()) for each in classes],
        [sorted(each.base_columns()) for each in (*classes, common.ObjectState)],
        [sorted(each.filterable_columns()) for each in classes],
        [each.list_columns(detail=False) for each in classes],
    ]


def case_without_a_session(ray):
    state = importlib.import_module(f"{ray.__name__}.util.state")
    listing = (state.list_actors, state.list_tasks, state.list_objects, state.list_nodes, state.list_workers)
    return [
        [raised(ray, call, "running")["caught_as"] for call in (*listing, state.summarize_tasks)],
        raised(ray, lambda: state.get_actor("0" * 32))["caught_as"],
    ]


def case_names(ray):
    state = importlib.import_module(f"{ray.__name__}.util.state")
    absent = {"StateApiClient", "get_job", "list_cluster_events", "list_runtime_envs"}
    return sorted(set(state.__all__) - absent)
