"""Collective groups of actors, made by their driver; and what the actors call in them, as Ray exports it here."""

from beeline.experimental.collective.collective import (
    create_collective_group,
    destroy_all_collective_groups,
    destroy_collective_group,
    get_collective_groups,
)
from beeline.util.collective import allgather, allreduce, reducescatter

__all__ = [
    "allgather",
    "allreduce",
    "create_collective_group",
    "destroy_all_collective_groups",
    "destroy_collective_group",
    "get_collective_groups",
    "reducescatter",
]
