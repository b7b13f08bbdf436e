"""Writes to published tensors are found by torch's version counters; who reads is the core's knowledge."""

import gc
import logging

import pytest
import torch

from beeline.tensors import mutation, values
from beeline.tensors.transports import DIRECT_LIVE, DIRECT_SNAPSHOT

PUBLICATION = 1 << 32


class FakeCore:
    def __init__(self):
        self.readers = 1
        self.marked = set()

    def publication_readers(self, publication):
        return self.readers

    def mark_mutated(self, publication):
        self.marked.add(publication)

    def current_task(self):
        return None


@pytest.fixture
def core(monkeypatch):
    fake = FakeCore()
    monkeypatch.setattr(mutation, "_core", fake)
    monkeypatch.setattr(mutation, "_live", {})
    return fake


def publish(value, mode=DIRECT_LIVE, where="Learner.weights"):
    """The buffers, which the core keeps as long as the object lives."""
    _, buffers, *_ = values.dumps(value, mode)
    mutation.published(PUBLICATION, where)
    return buffers


def test_a_write_under_a_reader_is_reported_once(core, caplog):
    tensor = torch.ones(5000)
    buffers = publish({"w": [tensor]})
    mutation.check()
    assert not core.marked
    tensor.add_(1)
    with caplog.at_level(logging.WARNING, "beeline"):
        mutation.check()
    assert core.marked == {PUBLICATION}
    assert all(text in caplog.text for text in ("Learner.weights", "float32 [5000]", "1 consumer"))
    core.marked.clear()
    mutation.check()
    assert not core.marked
    del buffers


def test_a_write_through_a_view_is_seen(core):
    parameter = torch.nn.Parameter(torch.ones(5000))
    buffers = publish(parameter.detach())
    with torch.no_grad():
        parameter[3] = 7
    mutation.check()
    assert core.marked == {PUBLICATION}
    del buffers


def test_a_write_to_a_published_parameter_is_seen(core, caplog):
    module = torch.nn.Linear(100, 100)
    buffers = publish([module, torch.ones(3)])
    module.weight.grad = torch.ones(100, 100)
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    with caplog.at_level(logging.WARNING, "beeline"):
        mutation.check()
    assert "float32 [100, 100]" in caplog.text
    del buffers


def test_a_write_without_readers_is_fine(core):
    tensor = torch.ones(5000)
    buffers = publish(tensor)
    core.readers = 0
    tensor.add_(1)
    mutation.check()
    core.readers = 1
    mutation.check()
    assert not core.marked
    del buffers


def test_snapshots_and_small_tensors_are_not_watched(core):
    large, small = torch.ones(5000), torch.ones(5)
    buffers = publish(large, DIRECT_SNAPSHOT), publish(small)
    large.add_(1)
    small.add_(1)
    mutation.check()
    assert not core.marked
    del buffers


def test_what_is_gone_is_forgotten(core):
    buffers = publish(torch.ones(5000))
    assert mutation._live
    del buffers
    gc.collect()
    mutation.check()
    assert not mutation._live


def test_publications_that_are_over_are_forgotten(core):
    tensor = torch.ones(5000)
    buffers = publish(tensor)
    core.readers = -1
    tensor.add_(1)
    mutation.check()
    assert not core.marked and not mutation._live
    del buffers


def test_what_is_put_is_named_by_its_line(core, caplog):
    tensor = torch.ones(5000)
    with mutation.origin("put at train.py:12"):
        buffers = publish(tensor, where=None)
    tensor.add_(1)
    with caplog.at_level(logging.WARNING, "beeline"):
        mutation.check()
    assert "published by put at train.py:12" in caplog.text
    del buffers


def test_inference_tensors_are_left_alone(core):
    with torch.inference_mode():
        tensor = torch.ones(5000)
    buffers = publish(tensor)
    mutation.check()
    assert not core.marked
    del buffers
