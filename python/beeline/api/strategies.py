"""Where a task or an actor may run, as the option `scheduling_strategy` says it: Ray's classes, plain data."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from beeline.api.labels import Rule


class PlacementGroupSchedulingStrategy:
    """In a placement group.

    Args:
        placement_group: The group; None: in none.
        placement_group_bundle_index: Which of its bundles; -1: any.
        placement_group_capture_child_tasks: Whether what is called from there runs in the group too, unless it says
            otherwise. None: as the caller's own is.
    """

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeAffinitySchedulingStrategy:
    """On a certain node.

    Args:
        node_id: Its id in hexadecimal, as nodes() gives it.
        soft: Whether it may run elsewhere if there is no such node, or that can never have enough. Otherwise it fails
            then. It waits while the node has not enough now.
        _spill_on_unavailable: With `soft`: elsewhere also if the node has not enough now.
        _fail_on_unavailable: Without `soft`: fail at once if the node has not enough now.

    Raises ValueError for what is no node's id, and where the last two do not go with `soft`.
    """

    def __init__(
        self, node_id: Any, soft: bool, _spill_on_unavailable: bool = False, _fail_on_unavailable: bool = False
    ) -> None:
        self.node_id: str = node_id if isinstance(node_id, str) else node_id.hex()
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable
        digits = set(self.node_id.lower())
        if len(self.node_id) != 56 or not digits <= set(string.hexdigits) or digits == {"f"}:
            raise ValueError(f"Invalid node_id '{self.node_id}': a node's id has 56 hexadecimal digits; see nodes().")
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable needs soft=True.")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable needs soft=False.")


class _Values:
    def __init__(self, *values: str) -> None:
        operator = type(self).__name__
        if not values:
            raise ValueError(f'{operator} needs values: {operator}("value1", "value2").')
        for position, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(f"{operator}: value {position} must be str, got {value} of type {type(value)}.")
        self.values = list(values)


class In(_Values):
    """The label is one of these values."""


class NotIn(_Values):
    """The label is none of these values; a node without the label will do."""


class Exists:
    """The node has the label."""


class DoesNotExist:
    """The node does not have the label."""


Operator = In | NotIn | Exists | DoesNotExist


class NodeLabelSchedulingStrategy:
    """On a node with certain labels: `hard` ones are needed, `soft` ones are preferred.

    Each is a dict of In(...), NotIn(...), Exists() or DoesNotExist() by label. Raises ValueError for anything else, and
    where both are empty.
    """

    def __init__(self, hard: Mapping[str, Operator] | None, *, soft: Mapping[str, Operator] | None = None) -> None:
        self.hard = _rules(hard, "hard")
        self.soft = _rules(soft, "soft")
        if not self.hard and not self.soft:
            raise ValueError("The `hard` and `soft` parameter of NodeLabelSchedulingStrategy cannot both be empty.")


def _rules(expressions: Mapping[str, Operator] | None, parameter: str) -> list[Rule]:
    if expressions is None:
        return []
    if not isinstance(expressions, dict):
        raise ValueError(
            f'The {parameter} parameter must be a map, as {{"key": In("value")}}, got {type(expressions)}.'
        )
    rules: list[Rule] = []
    for key, operator in expressions.items():
        if not isinstance(key, str):
            raise ValueError(f"The map key of the {parameter} parameter must be of type str, got {key} of {type(key)}.")
        if not isinstance(operator, In | NotIn | Exists | DoesNotExist):
            raise ValueError(
                f"The map value for key {key} of the {parameter} parameter must be an `In`, `NotIn`, `Exists` or "
                f"`DoesNotExist`, got {operator} of type {type(operator)}."
            )
        values = operator.values if isinstance(operator, _Values) else []
        rules.append((key, values, isinstance(operator, NotIn | DoesNotExist)))
    return rules


SchedulingStrategyT = (
    None | str | PlacementGroupSchedulingStrategy | NodeAffinitySchedulingStrategy | NodeLabelSchedulingStrategy
)
