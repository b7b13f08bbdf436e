"""Memory that a program keeps registered for NIXL, pools, and where a fetch goes: by NIXL on both engines."""

import functools
import importlib

from outcome import full, raised


@functools.cache
def _nodes(ray):
    """A producer that keeps memory registered, one with a pool, and a consumer."""
    import torch

    engine = ray.__name__

    @ray.remote(num_cpus=0, enable_tensor_transport=True)
    class Node:
        def __init__(self):
            self.api = importlib.import_module(f"{engine}.experimental")

        def keep(self, n):
            self.matrix = torch.arange(float(n)).reshape(-1, 4)
            self.api.register_nixl_memory(self.matrix)

        def let_go(self):
            self.api.deregister_nixl_memory(self.matrix)
            self.api.deregister_nixl_memory(torch.ones(3))

        def make_pool(self, size):
            self.api.register_nixl_memory_pool(size, torch.device("cpu"))

        @ray.method(tensor_transport="nixl")
        def rows(self):
            return [self.matrix[1], self.matrix[2:4], self.matrix]

        @ray.method(tensor_transport="nixl")
        def fresh(self, n):
            return [torch.full((n,), 2.0), torch.tensor(3.0, dtype=torch.bfloat16), torch.ones(2, 3, dtype=torch.bool)]

        def total(self, values):
            return [[list(value.shape), float(value.sum())] for value in values]

    return Node.remote(), Node.remote(), Node.remote(), importlib.import_module(f"{engine}.experimental")


@full
def case_views_of_kept_memory(ray):
    keeper, _, consumer, _ = _nodes(ray)
    ray.get(keeper.keep.remote(64))
    kept = keeper.rows.remote()
    out = [ray.get(consumer.total.remote(kept)), [float(value.sum()) for value in ray.get(kept)]]
    ray.get(keeper.let_go.remote())
    return [*out, ray.get(consumer.total.remote(kept)), ray.get(consumer.total.remote(keeper.rows.remote()))]


@full
def case_a_pool(ray):
    _, pooled, consumer, _ = _nodes(ray)
    ray.get(pooled.make_pool.remote(1 << 16))
    fitting = pooled.fresh.remote(1000)
    return [
        ray.get(consumer.total.remote(fitting)),
        [float(value.sum()) for value in ray.get(fitting)],
        raised(ray, lambda: ray.get(pooled.fresh.remote(1 << 20)), "pool", "register_nixl_memory_pool"),
        raised(ray, lambda: ray.get(pooled.make_pool.remote(1)), "already registered"),
        ray.get(consumer.total.remote(pooled.fresh.remote(10))),
    ]


@full
def case_onto_a_device(ray):
    import torch

    keeper, _, _, api = _nodes(ray)
    ref = keeper.fresh.remote(10)
    api.set_target_device_for_ref(ref, "cpu")
    value = ray.get(ref)
    target = [torch.zeros(10), torch.zeros((), dtype=torch.bfloat16), torch.zeros(2, 3, dtype=torch.bool)]
    api.set_target_for_ref(ref, target)
    into = ray.get(ref)
    return [
        [value[0].device.type, float(value[0].sum())],
        [into[0].data_ptr() == target[0].data_ptr(), float(target[0].sum())],
        raised(ray, lambda: api.set_target_device_for_ref(ref, "meta"), "meta"),
        raised(ray, lambda: api.set_target_device_for_ref(ref, "warp")),
    ]


@full
def case_through_the_object_store(ray):
    import torch

    keeper, _, _, _ = _nodes(ray)
    own = ray.put(torch.ones(5), _tensor_transport="nixl")

    def by_store(self, refs):
        try:
            return float(ray.get(refs[0], _use_object_store=True).sum())
        except ValueError:
            return "refused"

    return [
        [float(value.sum()) for value in ray.get(keeper.fresh.remote(10), _use_object_store=True)],
        ray.get(keeper.__ray_call__.remote(by_store, [own])),
    ]
