"""Actors that are ranks of collective groups."""

import torch

import beeline as ray
from beeline.util import collective


@ray.remote(num_cpus=0)
class Rank:
    def __init__(self):
        torch.set_num_threads(1)

    def run(self, function, *args):
        return function(*args)


def made(count):
    return [Rank.remote() for _ in range(count)]


def start(ranks, function, *args):
    """References to what `function(rank, *args)` gives in each rank."""
    return [actor.run.remote(function, rank, *args) for rank, actor in enumerate(ranks)]


def run(ranks, function, *args):
    return ray.get(start(ranks, function, *args), timeout=100)


def join(rank, size, name="default", timeout_ms=None):
    collective.init_collective_group(size, rank, "gloo", name, timeout_ms)


def group(count, name="default", timeout_ms=None):
    """Ranks of a new group."""
    ranks = made(count)
    run(ranks, join, count, name, timeout_ms)
    return ranks
