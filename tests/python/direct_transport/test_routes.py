"""Direct transport between drivers, actors and tasks: every kind of value, by every route.

What Ray can do too is compared with Ray in tests/compat; here stands what Beeline promises beyond.
"""

import dataclasses
import os
import typing

import numpy as np
import pytest
import torch

import beeline as ray
from tests.python.direct_transport.nodes import (
    LARGE,
    SMALL,
    TRANSPORTS,
    bits_of,
    call,
    ones,
    tensors_of_every_kind,
    total,
)

# ----- values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", tensors_of_every_kind())
def test_tensors_of_every_kind(a, b, name, transport):
    def make(node):
        return node.tensors[name]

    def setup(node, tensors):
        node.tensors = tensors

    def echo(node, x):
        return [x.dtype, x.shape, x]

    tensor = tensors_of_every_kind()[name]
    ray.get(call(a, setup, {name: tensor}))
    ref = call(a, make, transport=transport)
    for dtype, shape, back in (ray.get(call(b, echo, ref)), [*_like(ray.get(ref))]):
        assert (dtype, shape) == (tensor.dtype, tensor.shape)
        assert back.dtype == tensor.dtype
        assert bits_of(back) == bits_of(tensor)


def _like(tensor):
    return tensor.dtype, tensor.shape, tensor


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_numpy_arrays_of_every_layout(a, b, transport):
    base = np.arange(4096 * 300, dtype=np.float32).reshape(4096, 300)
    arrays = {
        "dense": base,
        "transposed": base.T,
        "strided": base[::3, ::-2],
        "broadcast": np.broadcast_to(base[0], (4096, 300)),
        "scalar": np.array(2.5),
        "empty": np.empty((0, 4)),
        "structured": np.array([(1, 2.0)] * 100000, dtype=[("a", "i4"), ("b", "f8")]),
        "objects": np.array([None, {"k": 1}], dtype=object),
        "bool": base > 5,
        "complex": base.astype(np.complex64) * 1j,
    }
    ref = call(a, lambda node, arrays: arrays, arrays, transport=transport)
    for back in (ray.get(ref), ray.get(call(b, lambda node, x: x, ref))):
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype, name
            assert back[name].shape == array.shape, name
            assert np.array_equal(back[name], array), name


class Pair(typing.NamedTuple):
    left: object
    right: object


@dataclasses.dataclass
class Batch:
    tokens: object
    masks: list
    meta: dict


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_tensors_anywhere_in_a_value(a, b, n, transport):
    def make(node, n):
        shared = torch.ones(n)
        return Batch(
            tokens=Pair(shared, np.full(n, 2.0)),
            masks=[shared, (torch.zeros(n, dtype=torch.bool), "text"), None],
            meta={"step": 3, ("a", 1): {"deep": [torch.full((n,), 5.0)]}},
        )

    def look(node, batch):
        return [
            type(batch).__name__,
            float(batch.tokens.left.sum()),
            float(batch.tokens.right.sum()),
            batch.masks[0] is batch.tokens.left,
            int(batch.masks[1][0].sum()),
            batch.masks[1][1],
            batch.meta["step"],
            float(batch.meta["a", 1]["deep"][0].sum()),
        ]

    ref = call(a, make, n, transport=transport)
    expected = ["Batch", 1.0 * n, 2.0 * n, True, 0, "text", 3, 5.0 * n]
    assert ray.get(call(b, look, ref)) == expected
    assert look(None, ray.get(ref)) == expected


def test_parameters_and_gradients(a, b):
    def make(node, n):
        torch.manual_seed(0)
        node.layer = torch.nn.Linear(n, n)
        return [node.layer.weight, node.layer.state_dict()]

    def look(node, value):
        weight, state = value
        return [weight.requires_grad, state["bias"].requires_grad, torch.equal(weight, state["weight"])]

    assert ray.get(call(b, look, call(a, make, 600, transport="auto"))) == [True, False, True]


def test_views_of_one_storage(a, b):
    def make(node):
        base = torch.arange(float(LARGE))
        return [base[:10], base[10:], base.view(2, -1)]

    def look(node, views):
        return [float(views[0].sum()), float(views[1][0]), list(views[2].shape)]

    assert ray.get(call(b, look, call(a, make, transport="auto"))) == [45.0, 10.0, [2, LARGE // 2]]


def test_several_results_go_directly(a, b):
    def make(node, n):
        return torch.ones(n), torch.full((n,), 2.0), "plain"

    first, second, third = call(a, make, LARGE, transport="auto", num_returns=3)
    assert ray.get([call(b, total, second), call(b, total, first)]) == [2.0 * LARGE, 1.0 * LARGE]
    assert ray.get(third) == "plain"


# ----- routes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [SMALL, LARGE])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_route(a, b, n, transport):
    make_task = ray.remote(tensor_transport=transport)(lambda n: torch.ones(n))
    total_task = ray.remote(lambda x: float(x.sum()))

    def put(node, n):
        return [ray.put(torch.ones(n), _tensor_transport=transport)]

    def total_of(node, box):
        return float(ray.get(box[0]).sum())

    def keyword(node, *, x):
        return float(x.sum())

    from_actor, from_task = call(a, ones, n, transport=transport), make_task.remote(n)
    put_by_driver = ray.put(torch.ones(n), _tensor_transport=transport)
    (put_by_actor,) = ray.get(call(a, put, n))
    refs = [from_actor, from_task, put_by_driver, put_by_actor]
    for ref in refs:
        assert ray.get(call(b, total, ref)) == n
        assert ray.get(call(b, keyword, x=ref)) == n
        assert ray.get(call(b, total_of, [ref])) == n
        assert ray.get(total_task.remote(ref)) == n
        assert float(ray.get(ref).sum()) == n
    assert [float(x.sum()) for x in ray.get(refs)] == [n] * 4


def test_consumers_are_sent_before_the_producer_is_done(a, b):
    def slow(node, n, path):
        while not os.path.exists(path):
            pass
        return torch.ones(n)

    path = f"/tmp/beeline-test-{os.getpid()}-{id(a)}"
    ref = call(a, slow, LARGE, path, transport="auto")
    waiting = [call(b, total, ref), ray.remote(lambda x: float(x.sum())).remote(ref)]
    assert ray.wait(waiting, num_returns=2, timeout=0.2)[0] == []
    with open(path, "w"):
        pass
    try:
        assert ray.get(waiting) == [LARGE, LARGE]
    finally:
        os.remove(path)


def test_refs_nested_before_they_are_ready(a, b):
    def total_of(node, box):
        return float(ray.get(box["ref"]).sum())

    assert ray.get(call(b, total_of, {"ref": call(a, ones, LARGE, transport="auto")})) == LARGE


def test_awaited(a):
    import asyncio

    async def main():
        return float((await call(a, ones, LARGE, transport="auto")).sum())

    assert asyncio.run(main()) == LARGE


def test_declared_on_the_method():
    @ray.remote
    class Declared:
        @ray.method(tensor_transport="SHM")
        def make(self, n):
            self.kept = torch.ones(n)
            return self.kept

        def is_mine(self, x):
            return x is self.kept

    declared = Declared.remote()
    ref = declared.make.remote(LARGE)
    assert ray.get(declared.is_mine.remote(ref)) is True


@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_back_to_the_producer_is_the_same_object(a, n):
    def make(node, n):
        node.kept = {"w": torch.ones(n), "v": [np.ones(n)]}
        return node.kept

    def same(node, value):
        return [value["w"] is node.kept["w"], value["v"][0] is node.kept["v"][0]]

    ref = call(a, make, n, transport="auto")
    assert ray.get(call(a, same, ref)) == [True, True]
    assert ray.get(call(a, same, ref)) == [True, True]


def test_the_drivers_own_put_comes_back_as_the_same_object():
    tensor = torch.ones(LARGE)
    assert ray.get(ray.put(tensor, _tensor_transport="auto")) is tensor


def test_many_consumers_at_once(a, make_actor):
    consumers = [make_actor() for _ in range(4)]
    ref = call(a, ones, LARGE, 2.0, transport="auto")
    assert ray.get([call(c, total, ref) for c in consumers for _ in range(5)]) == [2.0 * LARGE] * 20


@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_twice_to_the_same_consumer(a, b, n):
    def both(node, x, y, *, z):
        return [float((x + y + z).sum()), x is y]

    ref = call(a, ones, n, transport="auto")
    assert ray.get(call(b, both, ref, ref, z=ref))[0] == 3.0 * n
    assert ray.get([call(b, total, ref), call(b, total, ref)]) == [n, n]


def test_error_of_the_producer_reaches_the_consumer(a, b):
    def fail(node):
        raise KeyError("nothing to send")

    with pytest.raises(KeyError, match="nothing to send"):
        ray.get(call(b, total, call(a, fail, transport="auto")))


def test_death_of_the_producer_fails_the_consumer(make_actor, b):
    producer = make_actor()
    ref = call(producer, lambda node: os._exit(1), transport="auto")
    with pytest.raises(ray.exceptions.RayError):
        ray.get(call(b, total, ref), timeout=30)
    assert ray.get(call(b, total, torch.ones(3))) == 3
