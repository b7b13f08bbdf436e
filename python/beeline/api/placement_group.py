"""Placement groups: bundles of resources that are reserved together, on nodes that a strategy chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beeline import _core
from beeline.api import labels, session
from beeline.api import options as option_table
from beeline.exceptions import CoreError, TaskPlacementGroupRemoved

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")  # in the core's order
STATES = ("PENDING", "CREATED", "RESCHEDULING", "REMOVED")


class PlacementGroupID(int):
    """A placement group's id; `hex()` and `binary()` as Ray's ids have them."""

    SIZE = 18

    @classmethod
    def nil(cls) -> PlacementGroupID:
        """The id of no group."""
        return cls((1 << (8 * cls.SIZE)) - 1)

    @classmethod
    def from_hex(cls, digits: str) -> PlacementGroupID:
        """The id with these digits."""
        return cls(int(digits, 16))

    def is_nil(self) -> bool:
        """Whether it is the id of no group."""
        return self == self.nil()

    def hex(self) -> str:
        """36 hexadecimal digits."""
        return f"{int(self):0{2 * self.SIZE}x}"

    def binary(self) -> bytes:
        """18 bytes."""
        return int(self).to_bytes(self.SIZE, "big")

    def __repr__(self) -> str:
        """For people."""
        return f"PlacementGroupID({self.hex()})"

    __str__ = __repr__


class PlacementGroup:
    """A handle to a placement group: what `placement_group` returns. It does not keep the group alive."""

    @staticmethod
    def empty() -> PlacementGroup:
        """What stands for no group."""
        return PlacementGroup(PlacementGroupID.nil())

    def __init__(self, id: PlacementGroupID, bundle_cache: list[dict[str, float]] | None = None) -> None:  # noqa: A002
        self.id = id
        self.bundle_cache = bundle_cache

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        return self.id.is_nil()

    def ready(self) -> Any:
        """A reference that becomes this group once all its bundles have a place.

        `get` of it raises TaskPlacementGroupRemoved if the group is removed before.
        """
        session.ensure()
        return _core.put(self, 0) if self.is_empty else _core.group_ready(self.id, self)

    def wait(self, timeout_seconds: float = 30) -> bool:
        """Whether all bundles have a place within this time. Raises ValueError where the group was removed."""
        session.ensure()
        ref = _core.group_ready(self.id, None)
        if not _core.wait([ref], 1, timeout_seconds)[0]:
            return False
        try:
            _core.get([ref], None)
        except TaskPlacementGroupRemoved:
            raise ValueError(f"Placement group {self.id!r} does not exist (any more).") from None
        return True

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The resources of each bundle. Raises ValueError for a group that is not known any more."""
        if not self.bundle_cache:
            rows = [] if self.is_empty else _core.groups(self.id, "", "")
            if not rows:
                raise ValueError(f"Placement group {self.id!r} does not exist (any more).")
            self.bundle_cache = rows[0]["bundles"]
        assert self.bundle_cache is not None
        return self.bundle_cache

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    def __eq__(self, other: object) -> bool:
        """Whether both are handles to the same group."""
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        """By group."""
        return hash(self.id)

    def __repr__(self) -> str:
        """For people."""
        return f"PlacementGroup({self.id.hex()})"


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str | None = None,
    name: str = "",
    lifetime: str | None = None,
    _soft_target_node_id: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
    topology_strategy: Mapping[str, str] | None = None,
) -> PlacementGroup:
    """Reserves bundles of resources; returns at once, with a name after the name is taken.

    Args:
        bundles: The resources of each, as {"CPU": 2, "GPU": 1}.
        strategy: "PACK" (default): on as few nodes as possible; "SPREAD": on as many; "STRICT_PACK": on one;
            "STRICT_SPREAD": each on a node of its own.
        name: By which get_placement_group() finds it in the session's namespace.
        lifetime: None: until it is removed or its driver ends; "detached": until it is removed or the session ends.
        _soft_target_node_id: With STRICT_PACK, the node to try first.
        bundle_label_selector: For each bundle, labels that its node must have.
        topology_strategy: {"ray.io/node-id": strategy} is the same as `strategy`.

    A group that does not fit waits (`ready`, `wait`); one that no nodes could ever hold is reported once.
    Raises ValueError for bad arguments, CoreError (RaySystemError) if the name is taken; nothing was made then.
    """
    if strategy is not None and topology_strategy is not None:
        raise ValueError(
            f"`strategy` and `topology_strategy` cannot both be specified; topology_strategy['{labels.NODE_ID}'] is "
            "the same as `strategy`."
        )
    if topology_strategy is not None:
        strategy = _strategy_of_topology(topology_strategy)
    chosen = "PACK" if strategy is None else strategy
    if chosen not in STRATEGIES:
        raise ValueError(f"Invalid placement group strategy {strategy}. Supported strategies are: {set(STRATEGIES)}.")
    if _soft_target_node_id and chosen != "STRICT_PACK":
        raise ValueError(f"_soft_target_node_id currently only works with STRICT_PACK but got {chosen}")
    _check_bundles(bundles)
    _check_selectors(bundles, bundle_label_selector)
    if lifetime not in (None, "detached"):
        raise ValueError(f"Placement group `lifetime` argument must be either `None` or 'detached'. Got {lifetime}.")
    session.ensure()
    specs = [{resource: float(amount) for resource, amount in bundle.items()} for bundle in bundles]
    try:
        group = _core.create_group(
            specs,
            [labels.rules_of(selector) for selector in bundle_label_selector or ()],
            STRATEGIES.index(chosen),
            _core.node_of_id(_soft_target_node_id) if _soft_target_node_id else _core.NO_NODE,
            name,
            session.current.namespace,
            lifetime == "detached",
        )
    except ValueError as error:
        raise CoreError(f"Failed to create placement group: {error}") from None  # as Ray
    return PlacementGroup(PlacementGroupID(group), specs)


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Removes a group: its tasks and actors are killed, its resources are free as they end. Twice is not an error."""
    assert placement_group is not None
    session.ensure()
    if not placement_group.is_empty:
        _core.remove_group(placement_group.id)


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The living group of that name in the session's namespace. Raises ValueError if there is none."""
    if not placement_group_name:
        raise ValueError("Please supply a non-empty value to get_placement_group")
    session.ensure()
    rows = _core.groups(0, placement_group_name, session.current.namespace)
    if not rows:
        raise ValueError(f"Failed to look up placement group with name: {placement_group_name}")
    return PlacementGroup(PlacementGroupID(rows[0]["group"]), rows[0]["bundles"])


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What there is to know of a group, {} if it is not known; without one, of all, by id.

    Groups that were removed are there too (the last 1000). Beyond Ray's keys, "bundles_to_accelerators": the numbers of
    each bundle's GPUs on its node, as {0: {"GPU": [1]}}; the order of bundles is not that of GPUs.
    """
    session.ensure()
    if placement_group is not None:
        rows = [] if placement_group.is_empty else _core.groups(placement_group.id, "", "")
        return _description(rows[0]) if rows else {}
    return {PlacementGroupID(row["group"]).hex(): _description(row) for row in _core.groups(0, "", "")}


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the running task or actor is in; None where it is in none, as in the driver."""
    session.ensure()
    return PlacementGroup(PlacementGroupID(session.current.group)) if session.current.group else None


def scheduling_state(row: Mapping[str, Any]) -> str:
    """How far a group of the daemon's listing is with its bundles, by Ray's names for it."""
    waiting = "INFEASIBLE" if row["lacks"] else "NO_RESOURCES"
    return {"CREATED": "FINISHED", "REMOVED": "REMOVED"}.get(STATES[row["state"]], waiting)


def _description(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "placement_group_id": PlacementGroupID(row["group"]).hex(),
        "name": row["name"],
        "bundles": dict(enumerate(row["bundles"])),
        "bundles_to_node_id": {
            index: "" if node == _core.NO_NODE else _core.node_id(node) for index, node in enumerate(row["nodes"])
        },
        "bundles_to_accelerators": dict(enumerate(row["accelerators"])),
        "strategy": STRATEGIES[row["strategy"]],
        "state": STATES[row["state"]],
        "stats": {"scheduling_state": scheduling_state(row)},
    }


def _strategy_of_topology(topology: Mapping[str, str]) -> str:
    if not isinstance(topology, dict):
        raise ValueError(f"`topology_strategy` must be a dict, got {type(topology).__name__}.")
    for key in topology:
        if key != labels.NODE_ID:
            raise ValueError(f"topology_strategy: {key!r} is not in this version; '{labels.NODE_ID}' is")
    return topology.get(labels.NODE_ID, "PACK")


def _check_bundles(bundles: Any) -> None:
    if not isinstance(bundles, list):
        raise ValueError(f"Placement group bundles must be a list, got {type(bundles)}.")
    example = 'Bundles must be a non-empty list of resource dictionaries, as [{"CPU": 1.0}, {"GPU": 1.0}].'
    if not bundles:
        raise ValueError(f"{example} Got empty list instead.")
    for bundle in bundles:
        if not isinstance(bundle, dict) or not all(
            isinstance(name, str) and isinstance(amount, int | float) for name, amount in bundle.items()
        ):
            raise ValueError(f"{example} Got {bundle!r} among them.")
        if not any(bundle.values()):
            raise ValueError(
                f"Bundles cannot be an empty dictionary or resources with only 0 values. Bundles: {bundles}"
            )
        for name, amount in bundle.items():
            if error := option_table.quantity_error(name, amount):
                raise ValueError(error)


def _check_selectors(bundles: Sequence[Any], selectors: Any) -> None:
    if selectors is None:
        return
    if not hasattr(selectors, "__len__") or len(selectors) != len(bundles):
        raise ValueError(
            f"Invalid bundle label selector {selectors}. The length of `bundle_label_selector` should equal the length "
            "of `bundles`."
        )
    for selector in selectors if isinstance(selectors, list) else [None]:
        if not isinstance(selector, dict) or not all(isinstance(value, str) for value in selector.values()):
            raise ValueError('Bundle label selector must be a list of string dictionaries, as [{"zone": "a"}].')
        if error := labels.selector_error(selector):
            raise ValueError(f"Invalid label selector provided in bundle_label_selector list: {error}")
