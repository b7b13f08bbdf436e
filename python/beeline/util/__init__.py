"""What Ray has under `ray.util`, as far as it is here."""

from beeline.api.cluster import available_resources_per_node
from beeline.util import scheduling_strategies
from beeline.util.named_actors import list_named_actors
from beeline.util.placement_group import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

__all__ = [
    "available_resources_per_node",
    "get_current_placement_group",
    "get_placement_group",
    "list_named_actors",
    "placement_group",
    "placement_group_table",
    "remove_placement_group",
    "scheduling_strategies",
]
