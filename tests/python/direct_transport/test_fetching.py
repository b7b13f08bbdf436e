"""How a value is fetched: onto a device, through the object store all the same, and for how long at most."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import beeline as ray
from beeline import exceptions
from beeline.experimental import set_target_device_for_ref, set_target_for_ref
from beeline.tensors import fetch_time
from tests.conformance.paths import MISSING
from tests.python.direct_transport.nodes import LARGE, SMALL, call, ones, total

PATHS = [
    pytest.param(path, marks=pytest.mark.skipif(path in MISSING, reason=MISSING.get(path, "")))
    for path in ("auto", "shm", "cma", "tcp", "ucx", "nixl", "gloo")
]

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_onto_the_device_where_it_is(a, path, n):
    ref = call(a, lambda node, n: {"x": torch.ones(n).requires_grad_(), "text": "x"}, n, transport=path)
    set_target_device_for_ref(ref, "cpu")
    value = ray.get(ref)
    assert value["x"].device.type == "cpu" and value["x"].sum().item() == n and value["text"] == "x"
    assert ray.get(ref)["x"].sum().item() == n


def test_the_last_target_or_device_counts(a):
    ref = call(a, ones, LARGE, transport="shm")
    target = torch.zeros(LARGE)
    set_target_for_ref(ref, [target])
    set_target_device_for_ref(ref, torch.device("cpu"))
    assert ray.get(ref).sum() == LARGE and target.sum() == 0
    set_target_device_for_ref(ref, "cpu")
    set_target_for_ref(ref, [target])
    assert ray.get(ref) is target and target.sum() == LARGE


def test_devices_that_are_none(a):
    ref = call(a, ones, SMALL, transport="shm")
    with pytest.raises(TypeError, match="takes an ObjectRef"):
        set_target_device_for_ref(7, "cpu")
    with pytest.raises(RuntimeError, match="warp"):
        set_target_device_for_ref(ref, "warp")
    with pytest.raises(ValueError, match="target device meta"):
        set_target_device_for_ref(ref, "meta")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="target device cuda:0.*no CUDA device"):
            set_target_device_for_ref(ref, "cuda:0")
    assert ray.get(ref).sum() == SMALL


@pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: torch sees no GPU here")
@pytest.mark.parametrize("path", ["auto", "cma"])
def test_onto_a_gpu(a, path):
    ref = call(a, ones, LARGE, transport=path)
    set_target_device_for_ref(ref, "cuda:0")
    value = ray.get(ref)
    assert value.device == torch.device("cuda:0") and value.sum().item() == LARGE


@pytest.mark.parametrize("path", PATHS)
def test_through_the_object_store(a, b, path):
    ref = call(a, lambda node, n: {"x": torch.ones(n)[::2], "text": "x"}, LARGE, transport=path)

    def by_store(node, refs):
        value = ray.get(refs[0], _use_object_store=True)
        return [value["x"].sum().item(), value["text"]]

    value = ray.get(ref, _use_object_store=True)
    assert [value["x"].sum().item(), value["text"]] == [LARGE / 2, "x"]
    assert ray.get(call(b, by_store, [ref])) == ray.get(call(a, by_store, [ref])) == [LARGE / 2, "x"]
    target = torch.zeros(LARGE // 2)
    set_target_for_ref(ref, [target])
    assert ray.get(ref, _use_object_store=True)["x"] is target and target.sum() == LARGE / 2


def test_what_a_driver_has_put_does_not_come_through_the_object_store(b):
    ref = ray.put(torch.ones(LARGE), _tensor_transport="cma")

    def by_store(node, refs):
        try:
            ray.get(refs[0], _use_object_store=True)
        except ValueError as error:
            return str(error)

    assert "a driver" in ray.get(call(b, by_store, [ref]))
    assert ray.get(ref, _use_object_store=True).sum() == LARGE  # its own
    assert ray.get(call(b, total, ref)) == LARGE


def test_a_dead_producer_is_not_asked(make_actor):
    producer = make_actor()
    ref = call(producer, ones, LARGE, transport="cma")
    ray.wait([ref])
    ray.kill(producer)
    with pytest.raises(exceptions.BeelineError):
        ray.get(ref, _use_object_store=True, timeout=60)


def test_how_long_a_fetch_may_take(monkeypatch):
    assert fetch_time.left() == (60, False)
    monkeypatch.setenv(fetch_time.VARIABLE, "1500")
    assert fetch_time.left() == (1.5, False)
    assert isinstance(fetch_time.left().error("why"), exceptions.ObjectFetchTimedOutError)
    assert fetch_time.VARIABLE in str(fetch_time.left().error("why"))
    monkeypatch.setenv(fetch_time.VARIABLE, "soon")
    with pytest.raises(ValueError, match="a number of milliseconds, not 'soon'"):
        fetch_time.left()


def test_a_producer_that_is_stopped_ends_a_fetch_without_a_timeout(make_actor, monkeypatch):
    producer = make_actor()
    ref = call(producer, ones, LARGE, transport="tcp")
    ray.wait([ref])
    pid = ray.get(call(producer, lambda node: os.getpid()))
    monkeypatch.setenv(fetch_time.VARIABLE, "300")
    os.kill(pid, signal.SIGSTOP)
    try:
        while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.001)
        with pytest.raises(exceptions.ObjectFetchTimedOutError, match="within 0.3 s"):
            ray.get(ref)
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.delenv(fetch_time.VARIABLE)
    assert ray.get(ref, timeout=60).sum() == LARGE


def test_a_thread_of_its_own_is_not_changed_by_another_ones_get(a):
    # `_use_object_store` is the caller's alone.
    ref = call(a, ones, LARGE, transport="cma")
    seen = []

    def by_path():
        seen.append(ray.get(ref).sum().item())

    thread = threading.Thread(target=by_path)
    thread.start()
    assert ray.get(ref, _use_object_store=True).sum() == LARGE
    thread.join(60)
    assert seen == [LARGE]
