"""The actor of the direct transport tests, and how they call it."""

import torch

TRANSPORTS = ["auto", "shm", "object_store"]
SMALL, LARGE = 1000, 1 << 20  # elements: below and above the threshold of the arenas


class Node:
    """Produces, consumes and remembers; every actor of these tests is one."""

    def __init__(self):
        self.kept = self.got = None

    def sums(self, batch, *, again):
        """An ordinary method, called by value."""
        parts = batch["x"] if isinstance(batch, dict) else [batch]
        return [sum(float(part.sum()) for part in parts), again]

    def apply(self, function, *args, **kwargs):
        """Runs `function(self, *args, **kwargs)`: what a test needs stands in the test."""
        return function(self, *args, **kwargs)


def call(actor, function, *args, transport=None, isolation=None, num_returns=1, **kwargs):
    """Calls `function(node, ...)` in the actor, its result sent by `transport`."""
    options = {"num_returns": num_returns}
    if transport:
        options["tensor_transport"] = transport
    if isolation:
        options["isolation"] = isolation
    return actor.apply.options(**options).remote(function, *args, **kwargs)


def ones(node, n, value=1.0):
    node.kept = torch.full((n,), value)
    return node.kept


def total(node, x):
    return float(x.sum())
