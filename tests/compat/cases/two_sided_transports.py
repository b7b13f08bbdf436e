"""Two-sided tensor transports of the program's own: the same classes on both engines."""

import functools
import importlib

import two_sided_classes
from outcome import raised


@functools.cache
def _registered(ray):
    """Actors that were made after it was registered."""
    import torch

    api = importlib.import_module(f"{ray.__name__}.experimental")
    api.register_tensor_transport("meeting", ["cpu"], two_sided_classes.by_sockets(ray), torch.Tensor)

    @ray.remote(num_cpus=0, enable_tensor_transport=True)
    class Node:
        @ray.method(tensor_transport="meeting")
        def make(self, n):
            self.kept = torch.arange(float(n))
            return {"a": self.kept, "list": [torch.ones(3), 7], "text": "x"}

        @ray.method(tensor_transport="MEETING")
        def double(self, value):
            return value["a"] * 2

        def total(self, value):
            return [float(value["a"].sum()), float(value["list"][0].sum()), value["list"][1], value["text"]]

        def sum(self, tensor):
            return float(tensor.sum())

        def is_mine(self, value):
            return value["a"] is self.kept

    return [Node.remote() for _ in range(3)]


def case_between_actors(ray):
    a, b, c = _registered(ray)
    value = a.make.remote(1000)
    return [ray.get(each) for each in (b.total.remote(value), c.total.remote(value), a.is_mine.remote(value))]


def case_on_and_back(ray):
    a, b, c = _registered(ray)
    doubled = b.double.remote(a.make.remote(1000))
    return ray.get([c.sum.remote(doubled), a.sum.remote(doubled)])


def case_of_each_other_at_once(ray):
    actors = _registered(ray)
    values = [actor.make.remote(10 + place) for place, actor in enumerate(actors)]
    return ray.get([reader.total.remote(value) for value in values for reader in actors])


def case_the_driver(ray):
    import torch

    a, _, _ = _registered(ray)
    value = a.make.remote(10)
    got = raised(ray, lambda: ray.get(value))
    put = raised(ray, lambda: ray.put(torch.ones(3), _tensor_transport="meeting"))
    return [
        "ValueError" in got["caught_as"],  # here a direct transport's error as well
        "ValueError" in put["caught_as"],
        float(ray.get(value, _use_object_store=True)["a"].sum()),
    ]


def case_by_ranks_of_a_group(ray):
    import torch

    api = importlib.import_module(f"{ray.__name__}.experimental")
    groups = importlib.import_module(f"{ray.__name__}.experimental.collective")
    api.register_tensor_transport("ranks", ["cpu"], two_sided_classes.by_ranks(ray), torch.Tensor)

    @ray.remote(num_cpus=0, enable_tensor_transport=True)
    class Rank:
        @ray.method(tensor_transport="ranks")
        def make(self, n):
            return [torch.arange(float(n)), torch.ones(3)]

        def total(self, value):
            return [float(each.sum()) for each in value]

    ranks = [Rank.remote() for _ in range(3)]
    group = groups.create_collective_group(ranks, backend="gloo")
    values = [rank.make.remote(100 + place) for place, rank in enumerate(ranks)]
    totals = ray.get([reader.total.remote(value) for value in values for reader in ranks])
    groups.destroy_collective_group(group)
    return totals
