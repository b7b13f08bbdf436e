"""CUDA tensors between actors by the engine's paths. Not run where there is no GPU."""

import pytest
import torch

import beeline as ray
from tests.python.direct_transport.nodes import call, total

N = 1 << 22

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: torch sees no GPU here"),
    pytest.mark.timeout(300),
]


def on_gpu(node, n, device="cuda"):
    node.kept = torch.full((n,), 2.0, device=device)
    return {"x": node.kept}


def test_one_gpu_of_two_actors(make_actor):
    producer, consumer = make_actor(num_gpus=0.5), make_actor(num_gpus=0.5)
    ref = call(producer, on_gpu, N, transport="cuda_ipc")
    looked = ray.get(call(consumer, lambda node, value: [value["x"].device.type, float(value["x"].sum())], ref))
    assert looked == ["cuda", 2.0 * N]
    assert ray.get(call(producer, lambda node, value: value["x"] is node.kept, ref))


def test_the_producers_stream_comes_first(make_actor):
    producer, consumer = make_actor(num_gpus=0.5), make_actor(num_gpus=0.5)

    def slowly(node):
        a = torch.randn(4096, 4096, device="cuda")
        for _ in range(50):
            a = a @ a
            a = a / a.norm()
        node.kept = torch.zeros(N, device="cuda")
        node.kept += 1
        return node.kept

    assert ray.get(call(consumer, total, call(producer, slowly, transport="cuda_ipc"))) == N


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="not run: torch sees fewer than two GPUs")
def test_two_gpus_by_nccl(make_actor):
    producer, consumer = make_actor(num_gpus=1), make_actor(num_gpus=1)
    ref = call(producer, on_gpu, N, transport="nccl")
    assert ray.get(call(consumer, lambda node, value: float(value["x"].sum()), ref)) == 2.0 * N
