"""What a session offers and what a worker may see, as far as no session is needed."""

import os

import pytest

from beeline import _core
from beeline.api import this_worker
from beeline.engines import embedded


def test_given_numbers_override_what_is_found():
    found = embedded.detected_resources(3, 2, {"slot": 0.5})
    assert (found["CPU"], found["GPU"], found["slot"]) == (3.0, 2.0, 0.5)
    assert 0 < found["memory"] < _core.usable_memory()
    assert "GPU" not in embedded.detected_resources(1, 0, {})


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("0,1,2", 3), ("GPU-abc", 1)])
def test_gpus_are_those_that_are_visible(monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert embedded.detected_resources(1, None, {}).get("GPU", 0) == count


@pytest.mark.parametrize(
    ("inherited", "indexes", "visible"),
    [(None, [0, 2], "0,2"), ("4,5,6", [2], "6"), ("GPU-a,GPU-b", [1], "GPU-b"), ("4,5", [], "4,5"), (None, [], None)],
)
def test_a_worker_sees_its_gpus_by_the_drivers_names(monkeypatch, inherited, indexes, visible):
    monkeypatch.setattr(this_worker, "state", this_worker.State())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as before")  # restored after the test
    this_worker.state.visible_devices = inherited
    this_worker.use_gpus(indexes)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert len(this_worker.state.gpus) == len(indexes)


def test_the_next_task_without_gpus_sees_what_the_driver_saw(monkeypatch):
    monkeypatch.setattr(this_worker, "state", this_worker.State())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    this_worker.state.visible_devices = "7"
    this_worker.use_gpus([0])
    this_worker.use_gpus([])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7" and this_worker.state.gpus == []


def test_a_representation_that_raises_does_no_harm(monkeypatch):
    class Broken:
        def __repr__(self):
            raise ValueError

    monkeypatch.setattr(this_worker.state, "instance", Broken())
    assert "ValueError" in this_worker.actor_repr()
    monkeypatch.setattr(this_worker.state, "instance", object())
    assert this_worker.actor_repr() == ""
