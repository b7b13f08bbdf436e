"""Tensors from actor to actor without the object store: NIXL on Ray, the automatic choice on Beeline."""

import functools

from outcome import full, raised

# By engine; Beeline's by other names as well, see nixl_transport.
TRANSPORTS = {"ray": "nixl", "beeline": "auto"}


def _transport(ray):
    return TRANSPORTS[ray.__name__]


def _pair(ray):
    return _pair_by(ray, _transport(ray))


@functools.cache
def _pair_by(ray, transport):
    """A producer whose methods send directly, and a consumer declared as Ray needs it; one pair serves all cases,
    because NIXL takes seconds to start in each process."""
    import torch

    @ray.remote(num_cpus=0)
    class Producer:
        @ray.method(tensor_transport=transport)
        def make(self, n):
            return torch.arange(float(n))

        @ray.method(tensor_transport=transport)
        def tree(self, n):
            return {"weights": [torch.ones(n), torch.zeros(3, 2)], "step": 7, "name": ("w", None)}

        @ray.method(tensor_transport=transport)
        def nothing_inside(self):
            return "no tensor"

        @ray.method(tensor_transport=transport.upper())
        def loudly(self, n):
            return torch.full((n,), 2.0)

        @ray.method(tensor_transport=transport)
        def remember(self, n):
            self.kept = torch.ones(n)
            return self.kept

        @ray.method(tensor_transport=transport)
        def fail(self):
            raise ValueError("no tensor today")

        def plain(self, n):
            return torch.full((n,), 3.0)

        def is_mine(self, tensor):
            return tensor is self.kept

        def put(self, n):
            return [ray.put(torch.full((n,), 4.0), _tensor_transport=transport)]

    @ray.remote(num_cpus=0, enable_tensor_transport=True)
    class Consumer:
        def total(self, tensor):
            return [float(tensor.sum()), str(tensor.dtype), list(tensor.shape)]

        def tree(self, value):
            return [float(value["weights"][0].sum()), list(value["weights"][1].shape), value["step"], value["name"]]

        def two(self, a, b):
            return float((a + b).sum())

        def of_box(self, box):
            return float(ray.get(box[0]).sum())

        def echo(self, value):
            return value

    return Producer.remote(), Consumer.remote(), transport


def case_values_and_trees(ray):
    producer, consumer, _ = _pair(ray)
    return [
        ray.get(consumer.total.remote(producer.make.remote(1000))),
        ray.get(consumer.tree.remote(producer.tree.remote(500))),
        ray.get(consumer.echo.remote(producer.nothing_inside.remote())),
        ray.get(consumer.total.remote(producer.loudly.remote(10))),
        ray.get(consumer.total.remote(producer.plain.options(tensor_transport=_transport(ray)).remote(10))),
    ]


def case_driver_gets(ray):
    producer, _, _ = _pair(ray)
    tensor = ray.get(producer.make.remote(1000))
    tree = ray.get(producer.tree.remote(5))
    return [float(tensor.sum()), type(tensor).__name__, tree["step"], float(tree["weights"][0].sum())]


def case_driver_puts(ray):
    import torch

    _, consumer, transport = _pair(ray)
    ref = ray.put(torch.ones(2000), _tensor_transport=transport)
    return ray.get(consumer.total.remote(ref))


@full
def case_actor_puts(ray):
    producer, consumer, _ = _pair(ray)
    return ray.get(consumer.of_box.remote(ray.get(producer.put.remote(100))))


def case_several_arguments_and_one_twice(ray):
    producer, consumer, _ = _pair(ray)
    a, b = producer.make.remote(100), producer.loudly.remote(100)
    return [ray.get(consumer.two.remote(a, b)), ray.get(consumer.two.remote(a, a)), ray.get(consumer.two.remote(a, b))]


def case_back_to_the_producer_is_the_same_object(ray):
    producer, _, _ = _pair(ray)
    return ray.get(producer.is_mine.remote(producer.remember.remote(1 << 20)))


def case_small_tensor_back_to_the_producer_is_the_same_object(ray):
    producer, _, _ = _pair(ray)
    return ray.get(producer.is_mine.remote(producer.remember.remote(100)))


def case_ref_in_a_container(ray):
    import torch

    # Ray 2.60 can nest what was put, not yet what an actor returns (tests/python covers that).
    _, consumer, transport = _pair(ray)
    return ray.get(consumer.of_box.remote([ray.put(torch.ones(100), _tensor_transport=transport)]))


@full
def case_large_tensor(ray):
    producer, consumer, _ = _pair(ray)
    n = 4 << 20
    return ray.get(consumer.total.remote(producer.make.remote(n)))[1:]


def case_unknown_transport(ray):
    import torch

    producer, consumer, _ = _pair(ray)

    def refused(call):
        # Beeline's error is one of direct transport as well, Ray's only a ValueError.
        error = raised(ray, call, "warp")
        return ["ValueError" in error["caught_as"], error["mentions"]]

    return [
        refused(lambda: ray.put(torch.ones(3), _tensor_transport="warp")),
        refused(lambda: producer.plain.options(tensor_transport="warp").remote(3)),
        ray.get(consumer.total.remote(producer.make.remote(3))),
    ]


@full
def case_set_target(ray):
    from importlib import import_module

    import torch

    producer, _, _ = _pair(ray)
    ref = producer.make.remote(1000)
    target = torch.zeros(1000)
    import_module(f"{ray.__name__}.experimental").set_target_for_ref(ref, [target])
    got = ray.get(ref)
    return [float(target.sum()), got.data_ptr() == target.data_ptr()]


@full
def case_wait_tensor_freed(ray):
    producer, consumer, _ = _pair(ray)
    experimental = f"{ray.__name__}.experimental"

    def wait_freed(self):
        from importlib import import_module

        import_module(experimental).wait_tensor_freed(self.kept, timeout=30)
        return "freed"

    def wait_in_vain(self):
        from importlib import import_module

        try:
            import_module(experimental).wait_tensor_freed(self.kept, timeout=0.2)
        except TimeoutError:
            return "still held"

    out = []
    for n in (10, 1000, 1 << 20):
        ref = producer.remember.remote(n)
        total = ray.get(consumer.total.remote(ref))[0]
        held = ray.get(producer.__ray_call__.remote(wait_in_vain))
        del ref
        out.append([total, held, ray.get(producer.__ray_call__.remote(wait_freed))])
    return out


def case_error_of_the_producer(ray):
    producer, consumer, _ = _pair(ray)
    ref = producer.fail.remote()
    return [
        raised(ray, lambda: ray.get(consumer.total.remote(ref)), "no tensor today"),
        ray.get(consumer.total.remote(producer.make.remote(3))),
    ]
