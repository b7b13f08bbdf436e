"""What caller.cc calls."""

import beeline as ray


def total(tensor):
    """The sum of a tensor."""
    return float(tensor.sum())


def doubled(tensor):
    """Twice a tensor."""
    return tensor * 2


class Greeter:
    """An actor for those who know its name."""

    def __init__(self):
        self.greeted = 0

    def greet(self, name):
        """Hello."""
        self.greeted += 1
        return f"hello {name}"

    def count(self):
        """How often it has greeted."""
        return self.greeted


def start_actor(name):
    """Starts one that outlives this task."""
    actor = ray.remote(Greeter).options(name=name, lifetime="detached").remote()
    ray.get(actor.__ray_ready__.remote())
