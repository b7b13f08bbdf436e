"""What the options of a task or an actor say about where it runs, as the core takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beeline import _core
from beeline.api import labels, session
from beeline.api.placement_group import PlacementGroup, get_current_placement_group
from beeline.api.strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

_SPREAD, _ONE_NODE = 1, 2  # the core's policies


def where(
    options: Mapping[str, Any], held: Mapping[str, float], to_place: Mapping[str, float], name: str
) -> dict[str, Any] | None:
    """The core's `scheduling` of what holds these resources, and needs those to be placed; None: anywhere.

    Raises ValueError for a bundle that does not exist, and for resources that no bundle of the group has.
    """
    strategy = options.get("scheduling_strategy")
    found: dict[str, Any] = {}
    if rules := labels.rules_of(options.get("label_selector")):
        found["required"] = rules
    if strategy is None or isinstance(strategy, PlacementGroupSchedulingStrategy):
        found.update(_in_group(strategy, options, held, to_place, name))
    elif isinstance(strategy, NodeAffinitySchedulingStrategy):
        found.update(
            policy=_ONE_NODE,
            node=_core.node_of_id(strategy.node_id),
            soft=strategy.soft,
            spill=strategy._spill_on_unavailable,
            no_wait=strategy._fail_on_unavailable,
        )
    elif isinstance(strategy, NodeLabelSchedulingStrategy):
        found.update(required=[*rules, *strategy.hard], preferred=strategy.soft)
    elif strategy == "SPREAD":
        found["policy"] = _SPREAD
    return found or None


def _in_group(
    strategy: PlacementGroupSchedulingStrategy | None,
    options: Mapping[str, Any],
    held: Mapping[str, float],
    to_place: Mapping[str, float],
    name: str,
) -> dict[str, Any]:
    if strategy is None:
        group = options.get("placement_group", "default")
        index = options.get("placement_group_bundle_index", -1)
        captures = options.get("placement_group_capture_child_tasks")
    else:
        group, index = strategy.placement_group, strategy.placement_group_bundle_index
        captures = strategy.placement_group_capture_child_tasks
    if captures is None:
        captures = session.current.captures
    if group == "default":
        group = get_current_placement_group() if captures else None
    group = group or PlacementGroup.empty()
    if not isinstance(group, PlacementGroup):
        raise ValueError(f"placement_group must be a PlacementGroup or None, got {group!r}")
    if group.is_empty:
        if index != -1:
            raise ValueError("If placement group is not set, the value of bundle index must be -1.")
        return {}
    if not -1 <= index < group.bundle_count:
        raise ValueError(
            f"placement group bundle index {index} is invalid. Valid placement group indexes: 0-{group.bundle_count}"
        )
    _check_shape(group, held, to_place, name)
    return {"group": int(group.id), "bundle": index, "capture": captures}


def _check_shape(group: PlacementGroup, held: Mapping[str, float], to_place: Mapping[str, float], name: str) -> None:
    bundles = group.bundle_specs

    def fit_in_one(needed: Mapping[str, float]) -> bool:
        return any(all(bundle.get(key, 0) >= amount for key, amount in needed.items()) for bundle in bundles)

    if not fit_in_one(held):
        raise ValueError(
            f"Cannot schedule {name} with the placement group because the resource request {dict(held)} cannot fit "
            f"into any bundles for the placement group, {bundles}."
        )
    if not fit_in_one({**held, **to_place}):
        raise ValueError(
            f"Cannot schedule {name} with the placement group because the actor requires {to_place.get('CPU', 0):g} "
            f"CPU for creation, but it cannot fit into any bundles for the placement group, {bundles}. Consider "
            "creating a placement group with CPU resources."
        )
