"""Each transport with every kind of call: several returns, streams, await, retries, restarts; and containers."""

import asyncio
import os
import signal
from collections import namedtuple
from dataclasses import dataclass, field

import pytest
import torch

import beeline as ray
from tests.conformance.paths import MISSING
from tests.python.direct_transport.nodes import LARGE, SMALL, call, ones

# One of each kind on every push.
DEFAULT = ("auto", "cma", "gloo")
TRANSPORTS = [
    pytest.param(
        name,
        marks=[
            pytest.mark.skipif(name in MISSING, reason=MISSING.get(name, "")),
            *([] if name in DEFAULT else [pytest.mark.full]),
        ],
    )
    for name in (*DEFAULT, "shm", "object_store", "tcp", "ucx", "nixl")
]

pytestmark = pytest.mark.timeout(120)

Named = namedtuple("Named", ["x", "rest"])


@dataclass
class Batch:
    x: torch.Tensor
    parts: list = field(default_factory=list)


class Source:
    """Streams and fails as it is told."""

    def stream(self, n):
        for i in range(3):
            yield {"x": torch.full((n,), float(i))}

    async def pid(self):
        return os.getpid()


class Restarted:
    def __init__(self):
        self.calls = 0

    def pid(self):
        return os.getpid()

    def make(self, n):
        self.calls += 1
        return torch.full((n,), float(self.calls))

    def make_unless(self, n, path):
        """Ends its process when it is called first."""
        if not os.path.exists(path):
            with open(path, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((n,), 5.0)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_several_returns(a, b, transport, n):
    def pair(node, n):
        return torch.ones(n), {"x": torch.full((n,), 2.0)}

    first, second = call(a, pair, n, transport=transport, num_returns=2)
    assert ray.get(call(b, lambda node, x, y: [x.sum().item(), y["x"].sum().item()], first, second)) == [n, 2 * n]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_items_of_a_stream(b, transport, n):
    source = ray.remote(num_cpus=0)(Source).remote()
    refs = list(source.stream.options(tensor_transport=transport).remote(n))
    assert [ray.get(ref)["x"].sum().item() for ref in refs] == [0, n, 2 * n]
    assert ray.get([call(b, lambda node, value: value["x"].sum().item(), ref) for ref in refs]) == [0, n, 2 * n]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_references_that_are_awaited_inside_an_actor(a, transport):
    @ray.remote(num_cpus=0)
    class Waiting:
        async def totals(self, refs):
            return [value.sum().item() for value in await asyncio.gather(*refs)]

    refs = [call(a, ones, n, transport=transport) for n in (SMALL, LARGE)]
    assert ray.get(Waiting.remote().totals.remote(refs), timeout=100) == [SMALL, LARGE]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_call_that_is_retried_after_its_process_died(b, transport, tmp_path):
    actor = ray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)(Restarted).remote()
    ref = actor.make_unless.options(tensor_transport=transport).remote(LARGE, str(tmp_path / "died"))
    assert ray.get(call(b, lambda node, x: x.sum().item(), ref), timeout=100) == 5 * LARGE


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_actor_that_was_restarted_produces_again(b, transport):
    actor = ray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)(Restarted).remote()
    before = actor.make.options(tensor_transport=transport).remote(LARGE)
    assert ray.get(call(b, lambda node, x: x.sum().item(), before)) == LARGE
    pid = ray.get(actor.pid.remote())
    ray.kill(actor, no_restart=False)
    while ray.get(actor.pid.remote(), timeout=100) == pid:  # the watchdog bounds it
        pass
    after = actor.make.options(tensor_transport=transport).remote(LARGE)
    assert ray.get(call(b, lambda node, x: x.sum().item(), after), timeout=100) == LARGE


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_containers_of_the_programs_own(a, b, transport):
    def make(node, n):
        return Batch(torch.ones(n), [Named(torch.ones(n)[::2], "rest"), (torch.zeros(3), {"k": torch.ones(2, 2)})])

    def look(node, batch):
        named, (zeros, rest) = batch.parts
        return [
            type(batch).__name__,
            batch.x.sum().item(),
            [type(named).__name__, named.x.sum().item(), named.rest],
            [zeros.sum().item(), list(rest["k"].shape)],
        ]

    ref = call(a, make, LARGE, transport=transport)
    expected = ["Batch", LARGE, ["Named", LARGE / 2, "rest"], [0, [2, 2]]]
    assert ray.get(call(b, look, ref)) == look(None, ray.get(ref)) == expected


@pytest.mark.full
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_tensordict(a, b, transport):
    import tensordict

    def make(node, n):
        return tensordict.TensorDict({"x": torch.ones(n), "in": {"y": torch.zeros(n, 2)}}, batch_size=[n])

    ref = call(a, make, LARGE, transport=transport)
    looked = ray.get(call(b, lambda node, value: [value["x"].sum().item(), list(value["in", "y"].shape)], ref))
    assert looked == [LARGE, [LARGE, 2]]


@pytest.mark.full
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_arrays_of_jax(a, b, transport):
    def make(node, n):
        import jax.numpy as jnp

        node.kept = jnp.arange(float(n))
        return {"x": node.kept, "small": jnp.ones(3), "bf16": jnp.ones(n, dtype=jnp.bfloat16), "t": torch.ones(n)}

    def look(node, value):
        import jax

        x, small, bf16, t = value.values()
        kinds = [isinstance(each, jax.Array) for each in (x, small, bf16, t)]
        return [kinds, float(x.max()), float(small.sum()), str(bf16.dtype), float(bf16[-1]), t.sum().item()]

    ref = call(a, make, LARGE, transport=transport)
    expected = [[True, True, True, False], LARGE - 1, 3, "bfloat16", 1, LARGE]
    assert ray.get(call(b, look, ref)) == look(None, ray.get(ref)) == expected
    assert ray.get(call(a, lambda node, value: value["x"] is node.kept, ref)) == (transport != "object_store")


@pytest.mark.full
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_local_shard_of_a_distributed_tensor(a, b, transport):
    def make(node, n):
        import torch.distributed as dist
        from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor

        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        mesh = DeviceMesh("cpu", [0])
        node.kept = distribute_tensor(torch.ones(n), mesh, [Shard(0)])
        return {"shard": node.kept.to_local(), "whole": node.kept}

    def look(node, value):
        return [value["shard"].sum().item(), value["whole"].to_local().sum().item(), list(value["whole"].shape)]

    ref = call(a, make, LARGE, transport=transport)
    assert ray.get(call(b, look, ref)) == [LARGE, LARGE, [LARGE]]
