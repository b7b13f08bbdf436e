"""Collective groups by gloo: made by the driver, by the actors, or declared; and tensors that travel by them."""

import importlib

from outcome import raised


def _collective(ray, place="util"):
    return importlib.import_module(f"{ray.__name__}.{place}.collective")


def _ranks(ray, count):
    @ray.remote(num_cpus=0, enable_tensor_transport=True)
    class Rank:
        def __init__(self):
            import torch

            torch.set_num_threads(1)

        def run(self, function, *args):
            return function(importlib.import_module(f"{engine}.util.collective"), *args)

    engine = ray.__name__
    return [Rank.remote() for _ in range(count)]


def _run(ray, ranks, function, *args):
    """What `function(collective, rank, *args)` gives in each rank, all at the same time."""
    return ray.get([actor.run.remote(function, rank, *args) for rank, actor in enumerate(ranks)])


def _reductions(collective, rank, name, number):
    import torch

    ops = importlib.import_module(f"{collective.__name__}.types").ReduceOp
    out = []
    for op in (ops.SUM, ops.PRODUCT, ops.MIN, ops.MAX):
        tensor = torch.arange(4.0) + rank + 1
        collective.allreduce(tensor, name, op)
        out.append(tensor.tolist())
    tensor = torch.full((3,), float(rank + 1))
    collective.reduce(tensor, number, name)
    return [*out, tensor.tolist()]


def _exchanges(collective, rank, name):
    import numpy as np
    import torch

    tensor = torch.full((2, 2), rank, dtype=torch.int64)
    collective.broadcast(tensor, 1, name)
    gathered = [torch.zeros(2) for _ in range(2)]
    collective.allgather(gathered, torch.full((2,), 5.0 + rank), name)
    scattered = torch.zeros(2)
    collective.reducescatter(scattered, [torch.full((2,), float(rank + place)) for place in range(2)], name)
    array = np.full(3, rank + 1.0)
    collective.allreduce(array, name)
    collective.barrier(name)
    return [tensor.tolist(), [each.tolist() for each in gathered], scattered.tolist(), array.tolist()]


def _ping_pong(collective, rank, name):
    import torch

    tensor = torch.full((5,), float(rank))
    if rank == 0:
        collective.send(tensor, 1, name)
        collective.recv(tensor, 1, name)
    else:
        received = torch.zeros(5)
        collective.recv(received, 0, name)
        collective.send(received + 10, 0, name)
        tensor = received
    return tensor.tolist()


def _where(collective, rank, name):
    return [
        collective.get_rank(name),
        collective.get_collective_group_size(name),
        collective.is_group_initialized(name),
    ]


def case_operations_of_a_drivers_group(ray):
    ranks = _ranks(ray, 2)
    experimental = _collective(ray, "experimental")
    group = experimental.create_collective_group(ranks, backend="gloo", name="operations")
    out = [
        _run(ray, ranks, _reductions, "operations", 1),
        _run(ray, ranks, _exchanges, "operations"),
        _run(ray, ranks, _ping_pong, "operations"),
        _run(ray, ranks, _where, "operations"),
    ]
    experimental.destroy_collective_group(group)
    return [*out, _run(ray, ranks, _where, "operations")]


def case_what_a_driver_knows_of_its_groups(ray):
    experimental = _collective(ray, "experimental")
    a, b, c = _ranks(ray, 3)
    group = experimental.create_collective_group([a, b], backend="torch_gloo", name="known")
    found = experimental.get_collective_groups([b])
    out = [
        [group.name, group.backend, group.get_rank(a), group.get_rank(b), group.get_rank(c), group.actors == [a, b]],
        [each.name for each in found],
        len(experimental.get_collective_groups([b, c])),
        len(experimental.get_collective_groups([a], backend="nccl")),
        raised(ray, lambda: experimental.create_collective_group([b, c], backend="gloo"), "already in group"),
        raised(ray, lambda: experimental.create_collective_group([c, c], backend="gloo"), "unique"),
        raised(ray, lambda: experimental.create_collective_group([c], backend="pigeons"), "backend", "pigeons"),
        raised(ray, lambda: experimental.get_collective_groups([c], backend="pigeons"), "pigeons"),
        raised(ray, lambda: experimental.destroy_collective_group("nobody's"), "nobody's"),
        raised(ray, lambda: experimental.destroy_collective_group(7)),
    ]
    experimental.destroy_all_collective_groups()
    return [*out, len(experimental.get_collective_groups([a]))]


def _join(collective, rank, name):
    collective.init_collective_group(2, rank, "gloo", name)
    try:
        collective.init_collective_group(2, rank, "gloo", name)
    except RuntimeError:
        return [*_where(collective, rank, name), "once only"]


def case_actors_that_join_by_themselves(ray):
    ranks = _ranks(ray, 2)
    out = [_run(ray, ranks, _join, "joined"), _run(ray, ranks, _reductions, "joined", 0)]
    ray.get([actor.run.remote(lambda collective: collective.destroy_collective_group("joined")) for actor in ranks])
    return [*out, _run(ray, ranks, _where, "joined")]


def case_a_declared_group(ray):
    collective = _collective(ray)
    ranks = _ranks(ray, 2)
    before = _run(ray, ranks, _where, "declared")
    collective.create_collective_group(ranks[::-1], 2, [0, 1], "gloo", "declared")
    again = raised(ray, lambda: collective.create_collective_group(ranks, 2, [0, 1], "gloo", "declared"), "twice")
    sums = _run(ray, ranks, _reductions, "declared", 0)
    return [before, again, sums, _run(ray, ranks, _where, "declared")]


def case_what_is_refused(ray):
    collective = _collective(ray)
    (actor,) = _ranks(ray, 1)

    def in_actor(function, *facts):
        return raised(ray, lambda: ray.get(actor.run.remote(function)), *facts)

    def of_nobodys_group(collective):
        import torch

        collective.allreduce(torch.ones(3), "nobody's")

    return [
        raised(ray, lambda: collective.init_collective_group(1, 0, "gloo"), "inside", "actor"),
        raised(ray, lambda: collective.get_rank(), "inside", "actor"),
        in_actor(of_nobodys_group, "nobody's", "not initialized"),
        in_actor(lambda collective: collective.allreduce([1, 2]), "list", "Supported types"),
        in_actor(lambda collective: collective.init_collective_group(1, 0, "gloo", ""), "group_name"),
        in_actor(lambda collective: collective.init_collective_group(2, 2, "gloo", "x")),
        in_actor(lambda collective: collective.init_collective_group(1, 0, "pigeons", "x"), "pigeons"),
        raised(ray, lambda: collective.create_collective_group([actor], 1, [1], "gloo", "x"), "permutation"),
        raised(ray, lambda: collective.create_collective_group([actor], 1, [0, 1], "gloo", "x"), "rank"),
        raised(ray, lambda: collective.create_collective_group([actor], 0, [0], "gloo", "x"), "world size"),
        raised(ray, lambda: collective.create_collective_group([actor], 1, [0], "pigeons", "x"), "pigeons"),
        collective.gloo_available(),
        collective.is_group_initialized("nobody's"),
    ]


def case_ranks_that_do_not_fit(ray):
    ranks = _ranks(ray, 2)
    _collective(ray, "experimental").create_collective_group(ranks, backend="gloo", name="fit")

    def misfits(collective, rank):
        import torch

        def told(call):
            try:
                call()
            except (RuntimeError, ValueError) as error:
                return type(error).__name__

        one = torch.ones(2)
        return [
            told(lambda: collective.send(one, rank, "fit")),
            told(lambda: collective.recv(one, rank, "fit")),
            told(lambda: collective.broadcast(one, 2, "fit")),
            told(lambda: collective.reduce(one, -1, "fit")),
            told(lambda: collective.allgather([one], one, "fit")),
            told(lambda: collective.reducescatter(one, [one, one, one], "fit")),
            told(lambda: collective.allgather([], one, "fit")),
        ]

    return _run(ray, ranks, misfits)


def _producer_and_consumer(ray):
    import torch

    @ray.remote(num_cpus=0, enable_tensor_transport=True)
    class Node:
        @ray.method(tensor_transport="gloo")
        def make(self, n):
            return {"x": torch.arange(float(n)), "y": [torch.ones(2, 3)], "text": "x"}

        def totals(self, *values):
            return [[float(value["x"].sum()), list(value["y"][0].shape), value["text"]] for value in values]

    return Node.remote(), Node.remote()


def case_tensors_by_gloo_in_a_group(ray):
    producer, consumer = _producer_and_consumer(ray)
    _collective(ray, "experimental").create_collective_group([producer, consumer], backend="gloo")
    small, large = producer.make.remote(10), producer.make.remote(1 << 20)
    return [
        ray.get(consumer.totals.remote(small)),
        ray.get(consumer.totals.remote(small, large)),
        ray.get(producer.totals.remote(small)),
        float(ray.get(small, _use_object_store=True)["x"].sum()),
        float(ray.get(large, _use_object_store=True)["x"].sum()),
    ]
