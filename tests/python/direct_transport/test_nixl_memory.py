"""Memory that is kept registered for NIXL, and the pool that tensors are copied into."""

import pytest
import torch

import beeline as ray
from beeline import exceptions
from beeline.experimental import (
    deregister_nixl_memory,
    register_nixl_memory,
    register_nixl_memory_pool,
    set_nixl_cuda_stream,
    set_target_for_ref,
)
from beeline.tensors import nixl_memory
from tests.conformance.paths import MISSING
from tests.python.direct_transport.nodes import call

N = 1 << 16

pytestmark = pytest.mark.timeout(120)
needs_nixl = pytest.mark.skipif("nixl" in MISSING, reason=MISSING.get("nixl", ""))


class Range:
    """Stands for a reference to bytes."""

    def __init__(self, start, stop):
        self.start, self.stop = start, stop

    def __getitem__(self, item):
        return Range(self.start + item.start, self.start + item.stop)


@pytest.fixture
def memory():
    registered = []

    def register(tensor):
        registered.append(tensor)
        return Range(0, tensor.numel())

    made = nixl_memory.Memory(register)
    made.registered = registered
    return made


def test_views_of_kept_memory_are_parts_of_one_registration(memory):
    matrix = torch.ones(100, 10)
    memory.keep(matrix)
    memory.keep(matrix[3])  # of the same storage
    parts = memory.parts("object", [matrix[2], matrix[5:7], matrix])
    assert [(part.start, part.stop) for part in parts] == [(80, 120), (200, 280), (0, 4000)]
    assert len(memory.registered) == 1
    assert memory.parts("object", [matrix.t()]) is None, "it has gaps"
    assert memory.parts("object", [matrix, torch.ones(3)]) is None, "one lies elsewhere"
    memory.let_go(matrix)
    assert memory.parts("object", [matrix]) is not None
    memory.let_go(matrix)
    memory.let_go(matrix)
    assert memory.parts("object", [matrix]) is None


def test_the_pool_gives_out_what_came_back_and_says_what_is_missing(memory):
    memory.make_pool(4 * nixl_memory.ALIGNMENT, torch.device("cpu"))
    block = torch.arange(nixl_memory.ALIGNMENT, dtype=torch.uint8)
    assert [(p.start, p.stop) for p in memory.parts("a", [block, block[:10]])] == [(0, 64), (64, 74)]
    assert [(p.start, p.stop) for p in memory.parts("b", [block])] == [(128, 192)]
    with pytest.raises(nixl_memory.NixlOutOfMemoryError, match="256 bytes has no room for 2 tensors of 128 bytes"):
        memory.parts("c", [block, block])
    memory.ended("a")
    assert [(p.start, p.stop) for p in memory.parts("c", [block, block])] == [(0, 64), (64, 128)]
    for each in ("b", "c", "unknown"):
        memory.ended(each)
    assert [(p.start, p.stop) for p in memory.parts("d", [torch.ones(64)])] == [(0, 256)]
    with pytest.raises(ValueError, match="already registered"):
        memory.make_pool(10, torch.device("cpu"))


def test_the_pool_holds_what_tensors_were(memory):
    memory.make_pool(1 << 12, torch.device("cpu"))
    matrix = torch.arange(12.0).reshape(3, 4)
    (part,) = memory.parts("a", [matrix.t()])
    matrix.fill_(0)
    (pool,) = memory.registered
    assert (
        pool[part.start : part.stop].view(torch.float32).tolist()
        == torch.arange(12.0).reshape(3, 4).t().flatten().tolist()
    )


@needs_nixl
def test_objects_in_kept_memory_arrive(a, b):
    def keep(node, n):
        node.kept = torch.arange(float(n)).reshape(-1, 16)
        register_nixl_memory(node.kept)

    ray.get(call(a, keep, N))
    rows = call(a, lambda node: [node.kept[1], node.kept[4:6], node.kept], transport="nixl")
    looked = ray.get(
        call(b, lambda node, value: [list(x.shape) for x in value] + [x.sum().item() for x in value], rows)
    )
    whole = torch.arange(float(N)).reshape(-1, 16)
    assert looked[:3] == [[16], [2, 16], [N // 16, 16]]
    assert looked[3:] == [whole[1].sum().item(), whole[4:6].sum().item(), whole.sum().item()]
    targets = [torch.zeros(16), torch.zeros(16, 2).t(), torch.zeros(N // 16, 16)]
    set_target_for_ref(rows, targets)
    value = ray.get(rows)
    assert all(x is target for x, target in zip(value, targets, strict=True)) and torch.equal(targets[1], whole[4:6])
    ray.get(call(a, lambda node: deregister_nixl_memory(node.kept)))
    assert ray.get(rows)[0].sum() == whole[1].sum(), "objects keep it for themselves"
    again = call(a, lambda node: node.kept, transport="nixl")
    assert torch.equal(ray.get(again), whole)


@needs_nixl
def test_objects_in_the_pool_are_as_they_were_and_make_room(make_actor, b):
    producer = make_actor()
    ray.get(call(producer, lambda node: register_nixl_memory_pool(8 * N, torch.device("cpu"))))

    def make(node, n, value):
        node.kept = torch.full((n,), value)
        return [node.kept, torch.tensor(value, dtype=torch.bfloat16), torch.ones(2, 3, dtype=torch.bool)]

    def write(node):
        node.kept.fill_(-1.0)

    ref = call(producer, make, N, 3.0, transport="nixl")
    ray.wait([ref])
    ray.get(call(producer, write))
    looked = ray.get(call(b, lambda node, v: [v[0].sum().item(), v[1].item(), v[2].sum().item()], ref))
    assert looked == [3.0 * N, 3.0, 6]
    with pytest.raises(nixl_memory.NixlOutOfMemoryError):
        ray.get(call(producer, make, 2 * N, 4.0, transport="nixl"))
    del ref
    for value in (5.0, 6.0, 7.0):
        # The producer is told of the end of an object a little later.
        assert made_at_last(producer, make, value)[0].sum() == value * N


def made_at_last(producer, make, value):
    for _ in range(1000):
        try:
            return ray.get(call(producer, make, N, value, transport="nixl"))
        except nixl_memory.NixlOutOfMemoryError:
            ray.wait([call(producer, lambda node: None)])
    raise AssertionError("the pool has no room again")


@needs_nixl
def test_what_is_refused():
    with pytest.raises(TypeError, match="takes a torch.Tensor, got list"):
        register_nixl_memory([1, 2])
    with pytest.raises(ValueError, match="at least one byte"):
        register_nixl_memory_pool(0, torch.device("cpu"))
    with pytest.raises(exceptions.TransportUnavailableError, match="memory of the CPU"):
        register_nixl_memory(torch.ones(3, device="meta"))
    deregister_nixl_memory(torch.ones(3))  # nothing was registered
    set_nixl_cuda_stream(None)
