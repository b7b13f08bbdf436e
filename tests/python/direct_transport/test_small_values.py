"""Small direct values travel inside messages, and yet come back to their producer as the same object."""

import os
import threading
import time
import weakref

import numpy as np
import pytest
import torch

import beeline as ray
from beeline import _core
from tests.python.direct_transport.nodes import LARGE, SMALL, call, ones, total

TINY = 10  # elements: inside the skeleton


def make(node, kind):
    base = torch.arange(float(SMALL))
    node.kept = {
        "tiny tensor": lambda: torch.ones(TINY),
        "tensor": lambda: base,
        "scalar": lambda: torch.tensor(2.5),
        "view": lambda: base[::3],
        "conjugate": lambda: torch.complex(base, base).conj(),
        "tiny conjugate": lambda: torch.complex(base, base)[:3].conj(),
        "parameter": lambda: torch.nn.Parameter(torch.ones(20, 20)),
        "array": lambda: np.ones(3),
        "strided array": lambda: np.arange(300.0).reshape(10, 30)[::2, ::3],
    }[kind]()
    return {"x": [node.kept]}


KINDS = ["tiny tensor", "tensor", "scalar", "view", "conjugate", "tiny conjugate", "parameter", "array"]
KINDS.append("strided array")


def is_mine(node, value):
    return value["x"][0] is node.kept


def pid(node):
    return os.getpid()


def freed(node, timeout):
    try:
        ray.experimental.wait_tensor_freed(node.kept, timeout=timeout)
    except TimeoutError:
        return False
    return True


def publications(node=None):
    return _core.transfer_stats()["publications"]


def until(condition):
    """What another process does on its own has happened."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


# ----- the same object --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tensor_is_the_same_object_and_is_freed_with_its_reference(a, b, kind):
    ref = call(a, make, kind, transport="auto")
    assert ray.get(call(b, lambda node, value: len(value["x"]), ref)) == 1
    assert ray.get(call(a, is_mine, ref)) is True
    assert ray.get(call(a, freed, 0.01)) is False
    del ref
    assert ray.get(call(a, freed, 30)) is True


def test_by_every_way_back(a, b):
    def mine(node, *, x=None, box=None):
        return [(ray.get(box[0]) if box else x)["x"][0] is node.kept]

    def pass_on(node, box, a):
        return ray.get(call(a, mine, x=box[0]))

    ref = call(a, make, "tensor", transport="auto")
    assert ray.get(call(a, mine, x=ref)) == [True]
    assert ray.get(call(a, mine, box=[ref])) == [True]
    assert ray.get(call(b, pass_on, [ref], a)) == [True]
    # Before the value is there.
    assert ray.get(call(a, mine, x=call(a, make, "tensor", transport="auto"))) == [True]


@pytest.mark.parametrize(("n", "path"), [(TINY, "inline"), (SMALL, "inline"), (LARGE, "mapped")])
def test_their_bytes_are_counted_as_sent_by_the_path_that_they_took(a, n, path):
    def stats(node):
        return ray.experimental.transfer_stats()

    before = ray.get(call(a, stats))
    ray.get(call(a, ones, n, transport="auto"))
    after = ray.get(call(a, stats))
    more = {each: after[f"{each}_bytes"] - before[f"{each}_bytes"] for each in ("inline", "mapped", "copied")}
    inline = more.pop("inline") - (4 * n if path == "inline" else 0)
    assert 0 < inline < 4096  # the rest of it: the two answers' skeletons
    assert more == {"mapped": 4 * n if path == "mapped" else 0, "copied": 0}


@pytest.mark.parametrize("n", [TINY, SMALL, LARGE])
def test_puts_of_drivers_and_actors(a, b, n):
    def put(node, n):
        node.kept = torch.ones(n)
        return [ray.put(node.kept, _tensor_transport="auto")]

    def got_mine(node, box):
        return ray.get(box[0]) is node.kept

    (ref,) = ray.get(call(a, put, n))
    assert ray.get(call(a, got_mine, [ref])) is True
    assert ray.get(call(b, total, ref)) == n

    tensor = torch.ones(n)
    mine = ray.put(tensor, _tensor_transport="auto")
    assert ray.get(call(b, total, mine)) == n
    assert ray.get(mine) is tensor
    assert ray.get([mine, mine])[1] is tensor


def test_each_of_several_results(a):
    def several(node):
        node.kept = [torch.ones(TINY), np.ones(SMALL), "plain"]
        return tuple(node.kept)

    def are_mine(node, *values):
        return [value is own for value, own in zip(values, node.kept, strict=True)][:2]

    refs = call(a, several, transport="auto", num_returns=3)
    assert ray.get(call(a, are_mine, *refs)) == [True, True]
    assert ray.get(call(a, publications)) == 2


def test_async_actors():
    @ray.remote(num_cpus=0)
    class Async:
        @ray.method(tensor_transport="auto")
        async def make(self):
            self.kept = torch.ones(SMALL)
            return self.kept

        async def is_mine(self, x):
            return x is self.kept

    actor = Async.remote()
    assert ray.get(actor.is_mine.remote(actor.make.remote())) is True


def test_by_way_of_a_task_it_is_the_tasks_own(a):
    hand_on = ray.remote(tensor_transport="auto")(lambda value: value)
    ref = hand_on.remote(call(a, make, "tensor", transport="auto"))
    assert ray.get(call(a, is_mine, ref)) is False
    assert float(ray.get(ref)["x"][0].sum()) == SMALL * (SMALL - 1) / 2


@pytest.mark.parametrize("n", [TINY, SMALL, LARGE])
def test_a_task_never_gets_what_an_earlier_one_of_its_process_made(n):
    # One function for both: workers are chosen by what functions ask for.
    @ray.remote(num_cpus=4, tensor_transport="auto")
    def task(n, value):
        if value is None:
            return {"pid": os.getpid(), "x": torch.ones(n)}
        value["x"].fill_(99.0)
        return os.getpid() == value["pid"]

    same_process = False
    deadline = time.monotonic() + 30
    while not same_process and time.monotonic() < deadline:
        ref = task.remote(n, None)
        same_process = ray.get(task.remote(n, ref))
        assert float(ray.get(ref)["x"].sum()) == n
    assert same_process


@pytest.mark.parametrize("n", [TINY, SMALL, LARGE])
def test_a_snapshot_is_what_was_published_for_its_producer_too(a, n):
    def overwrite(node):
        node.kept.fill_(7.0)
        return freed(node, 30)  # nobody reads it

    def look(node, x):
        return [x is node.kept, float(x.sum())]

    ref = call(a, ones, n, transport="auto", isolation="snapshot")
    assert ray.get(call(a, overwrite)) is True
    assert ray.get(call(a, look, ref)) == [False, n]


def test_targets_are_filled_from_ones_own_value():
    tensor, target = torch.ones(SMALL), torch.zeros(SMALL)
    ref = ray.put(tensor, _tensor_transport="auto")
    ray.experimental.set_target_for_ref(ref, [target])
    assert ray.get(ref).data_ptr() == target.data_ptr()
    assert float(target.sum()) == SMALL


# ----- until the reference goes -----------------------------------------------------------------------------------


def test_the_producer_lets_go_with_the_last_reference(a, b):
    def forget(node):
        node.got, node.kept = weakref.ref(node.kept), None

    def is_gone(node):
        return node.got() is None

    for n in (TINY, SMALL):
        ref = call(a, ones, n, transport="auto")
        ray.get(call(b, total, ref))
        ray.get(call(a, forget))
        assert ray.get(call(a, is_gone)) is False
        del ref
        until(lambda: ray.get(call(a, is_gone)))


def test_a_consumers_copy_holds_nothing_back(a, b):
    def hold(node, x):
        node.got = x

    ref = call(a, ones, SMALL, transport="auto")
    ray.get(call(b, hold, ref))
    del ref
    assert ray.get(call(a, freed, 30)) is True
    assert ray.get(call(b, lambda node: float(node.got.sum()))) == SMALL


def test_many_references_leave_nothing(a):
    count = 3000
    before = publications()
    refs = [call(a, ones, TINY, float(i), transport="auto") for i in range(count)]
    assert [float(x[0]) for x in ray.get(refs)] == [float(i) for i in range(count)]
    assert ray.get(call(a, publications)) == count
    refs += [ray.put(torch.ones(TINY), _tensor_transport="auto") for _ in range(count)]
    assert publications() == before + count
    del refs
    until(lambda: ray.get(call(a, publications)) == 0)
    until(lambda: publications() == before)


def test_more_small_values_than_the_lease_table_has_slots():
    tensor = torch.ones(1)
    refs = [ray.put(tensor, _tensor_transport="auto") for _ in range(66_000)]
    assert ray.get(refs[-1]) is tensor
    del refs
    ray.experimental.wait_tensor_freed(tensor, timeout=30)


def test_values_without_tensors_are_not_kept(a):
    ref = call(a, lambda node: {1, 2}, transport="auto")
    assert ray.get(ref) == {1, 2}
    assert ray.get(call(a, publications)) == 0


@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_results_that_were_never_sent_are_not_kept(a, n):
    def fail(node, n):
        node.kept = torch.ones(n)
        return node.kept, threading.Lock()

    with pytest.raises(TypeError):
        ray.get(call(a, fail, n, transport="auto", num_returns=2)[0])
    assert ray.get(call(a, publications)) == 0
    assert ray.get(call(a, freed, 30)) is True


# ----- deaths -----------------------------------------------------------------------------------------------------


def test_a_small_value_outlives_its_producer(make_actor, b):
    producer = make_actor(max_restarts=1, max_task_retries=-1)
    ref = call(producer, make, "tensor", transport="auto")
    ray.wait([ref])
    first_life = ray.get(call(producer, pid))
    ray.kill(producer, no_restart=False)
    until(lambda: ray.get(call(producer, pid)) != first_life)  # a kill is no barrier for calls

    def look(node, value):
        return [node.kept is None, len(value["x"][0])]

    assert ray.get(call(b, look, ref)) == [True, SMALL]
    assert ray.get(call(producer, look, ref)) == [True, SMALL]  # its next life gets a copy
    ray.kill(producer)
    assert len(ray.get(ref)["x"][0]) == SMALL


@pytest.mark.parametrize("n", [TINY, SMALL, LARGE])
def test_what_was_published_for_an_owner_ends_with_it(a, make_actor, n):
    owner = make_actor()

    def own(node, a, n):
        node.got = call(a, ones, n, transport="auto")
        return float(ray.get(node.got).sum())

    assert ray.get(call(owner, own, a, n)) == n
    assert ray.get(call(a, freed, 0.01)) is False
    ray.kill(owner)
    assert ray.get(call(a, freed, 30)) is True
    until(lambda: ray.get(call(a, publications)) == 0)


INLINE_LIMIT = 100 << 10  # bytes, as in src/beeline/store/payload.h
OF_BYTES = {
    "bytes": lambda node, n: b"x" * n,
    "array": lambda node, n: np.ones(n, np.uint8),
    "tensor": lambda node, n: torch.ones(n, dtype=torch.uint8),
}


def given_away(node):
    """Bytes inside messages, and values by way of the arena; it takes the same room itself each time."""
    stats = _core.transfer_stats()
    return [float(stats["inline_bytes"]), float(stats["copied_objects"] + stats["mapped_objects"])]


@pytest.mark.parametrize("transport", [None, "auto"])
@pytest.mark.parametrize("kind", OF_BYTES)
def test_the_largest_value_that_travels_inside_a_message(a, kind, transport):
    def of_a_result(n):
        start, before = ray.get(call(a, given_away)), ray.get(call(a, given_away))
        assert len(ray.get(call(a, OF_BYTES[kind], n, transport=transport))) == n
        after = ray.get(call(a, given_away))
        return [after[0] - before[0] - (before[0] - start[0]), after[1] - before[1]]

    nearly = INLINE_LIMIT - 10_000
    around, in_arena = of_a_result(nearly)
    assert around >= nearly and in_arena == 0
    largest = INLINE_LIMIT - int(around - nearly)
    assert of_a_result(largest) == [INLINE_LIMIT, 0]
    assert of_a_result(largest + 1) == [0, 1]
