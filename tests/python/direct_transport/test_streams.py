"""Streams of tensors by direct transport: each item where it was made, or as it was when it was made."""

import pytest
import torch

import beeline as ray
from beeline import _core

N = 1 << 18


@ray.remote
class Source:
    @ray.method(tensor_transport="shm")
    def tensors(self, n):
        for i in range(n):
            yield {"x": torch.full((N,), float(i)), "i": i}

    @ray.method(tensor_transport="shm", isolation="snapshot")
    def rewritten(self, n):
        x = torch.zeros(N)
        for i in range(n):
            x.fill_(i)
            yield x

    def plain(self, n):
        for i in range(n):
            yield torch.full((N,), float(i))


@ray.remote
class Sink:
    def total(self, x):
        return float((x["x"] if isinstance(x, dict) else x).sum())


@pytest.fixture(scope="module")
def source(session):
    return Source.remote()


def test_items_are_mapped_not_copied(source):
    before = _core.transfer_stats()["fetched_objects"]
    values = [ray.get(ref) for ref in source.tensors.remote(3)]
    assert [float(value["x"][0]) for value in values] == [0.0, 1.0, 2.0]
    assert _core.transfer_stats()["fetched_objects"] - before == 3


def test_items_go_to_another_actor(source):
    sink = Sink.remote()
    refs = list(source.tensors.remote(3))
    assert ray.get([sink.total.remote(ref) for ref in refs]) == [0.0, float(N), 2.0 * N]


def test_a_snapshot_is_as_it_was_when_it_was_yielded(source):
    refs = list(source.rewritten.remote(4))
    assert [float(ray.get(ref)[-1]) for ref in refs] == [0.0, 1.0, 2.0, 3.0]


def test_a_transport_chosen_for_one_call(source):
    stream = source.plain.options(tensor_transport="shm", _generator_backpressure_num_objects=1).remote(3)
    assert [float(ray.get(ref).mean()) for ref in stream] == [0.0, 1.0, 2.0]
