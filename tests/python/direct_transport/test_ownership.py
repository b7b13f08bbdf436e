"""Direct transport: whose bytes they are, when they may be written, where they go, and names honoured strictly."""

import tracemalloc

import numpy as np
import pytest
import torch

import beeline as ray
from beeline import _core
from tests.python.direct_transport.nodes import LARGE, SMALL, call, ones, total

# ----- whose bytes ------------------------------------------------------------------------------------------------


def write(node, x):
    x[:] = 99
    node.got = x
    return float(x.sum())


@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_a_consumers_writes_are_its_own(a, make_actor, n):
    b, c = make_actor(), make_actor()

    def kept_total(node):
        return float(node.kept.sum())

    def got_total(node):
        return float(node.got.sum())

    ref = call(a, ones, n, transport="auto")
    mine = ray.get(ref)
    assert ray.get(call(b, write, ref)) == 99.0 * n
    assert ray.get(call(c, total, ref)) == n
    assert ray.get(call(a, kept_total)) == n
    assert float(mine.sum()) == n
    assert ray.get(call(b, total, ref)) == n  # a second fetch while the written one lives
    assert ray.get(call(b, got_total)) == 99.0 * n
    mine += 1
    assert ray.get(call(c, total, ref)) == n
    assert float(mine.sum()) == 2.0 * n


def test_a_written_copy_leaves_no_trace_after_release(a, b):
    def forget(node):
        node.got = None

    for value in (1.0, 2.0, 3.0):
        ref = call(a, ones, LARGE, value, transport="auto")
        assert ray.get(call(b, write, ref)) == 99.0 * LARGE
        ray.get(call(b, forget))
        assert ray.get(call(b, total, ref)) == value * LARGE
        del ref


def test_snapshot_keeps_the_bytes_as_published(a, b):
    def overwrite(node):
        node.kept.fill_(7.0)

    for n in (SMALL, LARGE):
        ref = call(a, ones, n, transport="auto", isolation="snapshot")
        early = ray.get(ref)
        ray.get(call(a, overwrite))
        assert ray.get(call(b, total, ref)) == n
        assert float(early.sum()) == n
        assert float(ray.get(ref).sum()) == n


def test_snapshot_of_a_put(b):
    array = np.ones(LARGE)
    ref = ray.put(array, _tensor_transport="auto", isolation="snapshot")
    array[:] = 5
    assert ray.get(call(b, total, ref)) == LARGE


def test_live_write_under_a_reader_is_told_and_later_fetches_fail(a, b):
    def hold(node, x):
        node.got = x

    def overwrite(node):
        node.kept.add_(1)

    ref = call(a, ones, LARGE, transport="auto", isolation="live")
    ray.get(call(b, hold, ref))
    ray.get(call(a, overwrite))
    with pytest.raises(ray.exceptions.TensorMutatedError):
        ray.get(call(b, total, ref))


def test_live_write_after_the_readers_are_done_is_fine(a, b):
    def overwrite(node):
        node.kept.fill_(2.0)
        return float(node.kept.sum())

    ref = call(a, ones, LARGE, transport="auto", isolation="live")
    assert ray.get(call(b, total, ref)) == LARGE
    del ref
    assert ray.get(call(a, overwrite)) == 2.0 * LARGE
    assert ray.get(call(b, total, call(a, ones, LARGE, 3.0, transport="auto"))) == 3.0 * LARGE


def test_a_recycled_block_never_shows_through(a, b):
    def keep(node, x):
        node.got = x

    def kept_total(node):
        return float(node.got.sum())

    def drop(node):
        node.kept = None

    ray.get(call(b, keep, call(a, ones, LARGE, 1.0, transport="auto")))
    ray.get(call(a, drop))
    for value in range(5):
        assert ray.get(call(b, total, call(a, ones, LARGE, float(value), transport="auto"))) == value * LARGE
    assert ray.get(call(b, kept_total)) == LARGE


def test_object_store_results_do_not_follow_the_producer(a):
    def overwrite(node):
        node.kept.fill_(7.0)

    ref = call(a, ones, LARGE, transport="object_store")
    ray.wait([ref])
    ray.get(call(a, overwrite))
    assert float(ray.get(ref).sum()) == LARGE


# ----- wait_tensor_freed and targets ------------------------------------------------------------------------------


def freed(node, timeout):
    try:
        ray.experimental.wait_tensor_freed(node.kept, timeout=timeout)
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("n", [SMALL, LARGE])
def test_wait_tensor_freed(a, b, n):
    def hold(node, x):
        node.got = x

    def release(node):
        node.got = None

    ref = call(a, ones, n, transport="auto")
    ray.get(call(b, hold, ref))
    assert ray.get(call(a, freed, 0.1)) is False
    del ref
    if n == LARGE:  # a small one travelled inside a message: nobody reads the producer's memory
        assert ray.get(call(a, freed, 0.1)) is False
        ray.get(call(b, release))
    assert ray.get(call(a, freed, 30)) is True


def test_wait_tensor_freed_of_a_tensor_that_was_never_sent(a):
    def never_sent(node):
        node.kept = torch.ones(LARGE)
        return freed(node, 30)

    assert ray.get(call(a, never_sent)) is True


def test_set_target(a):
    ref = call(a, lambda node, n: {"w": torch.ones(n), "b": [torch.full((n,), 2.0)]}, LARGE, transport="auto")
    targets = [torch.zeros(LARGE), torch.zeros(LARGE)]
    addresses = [t.data_ptr() for t in targets]
    ray.experimental.set_target_for_ref(ref, targets)
    value = ray.get(ref)
    assert [float(t.sum()) for t in targets] == [1.0 * LARGE, 2.0 * LARGE]
    assert [value["w"].data_ptr(), value["b"][0].data_ptr()] == addresses


def test_set_target_in_an_actor(a, b):
    def fetch(node, box):
        model = torch.nn.Linear(1000, 1100, bias=False)
        target = model.weight.data
        ray.experimental.set_target_for_ref(box[0], [target])
        ray.get(box[0])
        return float(model.weight.detach().sum())

    ref = call(a, lambda node: torch.ones(1100, 1000), transport="auto")
    assert ray.get(call(b, fetch, [ref])) == 1100 * 1000


@pytest.mark.parametrize(
    "targets",
    [[], [torch.zeros(5)], [torch.zeros(SMALL, dtype=torch.float64)], [torch.zeros(SMALL), torch.zeros(SMALL)]],
    ids=["none", "shape", "dtype", "too many"],
)
def test_a_target_that_does_not_fit(a, targets):
    ref = call(a, ones, SMALL, transport="auto")
    with pytest.raises(ValueError):
        ray.experimental.set_target_for_ref(ref, targets)
        ray.get(ref)
    assert float(ray.get(call(a, ones, SMALL, transport="auto")).sum()) == SMALL


# ----- names and arguments by value -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["auto", "AUTO", "Shm", "OBJECT_store"])
def test_names_in_any_case(a, b, name):
    assert ray.get(call(b, total, call(a, ones, SMALL, transport=name))) == SMALL
    assert float(ray.get(ray.put(torch.ones(SMALL), _tensor_transport=name)).sum()) == SMALL


@pytest.mark.parametrize("name", ["warp", "shm ", "infiniband", ""])
def test_a_name_that_cannot_be_used_is_refused_with_reasons(a, name):
    uses = [
        lambda: ray.put(torch.ones(3), _tensor_transport=name),
        lambda: call(a, ones, 3, transport=name) if name else a.apply.options(tensor_transport=name),
        lambda: ray.method(tensor_transport=name)(lambda self: None),
        lambda: ray.remote(tensor_transport=name)(lambda: None),
    ]
    for use in uses:
        with pytest.raises(ValueError) as raised:
            use()
        assert "shm" in str(raised.value)
        assert name in str(raised.value)


def test_unknown_isolation(a):
    with pytest.raises(ValueError, match="snapshot"):
        call(a, ones, 3, transport="auto", isolation="frozen")


def test_a_tensor_that_no_transport_serves_is_a_typed_error_and_nothing_else_suffers(a, b):
    def on_meta(node):
        return {"fine": torch.ones(LARGE), "not": torch.empty(LARGE, device="meta")}

    with pytest.raises(ray.exceptions.RayTaskError, match="on meta.*no data") as raised:
        ray.get(call(a, on_meta, transport="auto"))
    assert isinstance(raised.value, ray.exceptions.TransportUnavailableError)
    with pytest.raises(ray.exceptions.TransportUnavailableError, match="on meta"):
        ray.put(torch.empty(3, device="meta"), _tensor_transport="shm")
    assert ray.get(call(b, total, call(a, ones, LARGE, transport="auto"))) == LARGE


@pytest.mark.parametrize("kind", ["numpy", "torch", "nested"])
def test_large_arguments_by_value_are_not_pickled(b, kind):
    n = 8 << 20
    batch = {
        "numpy": lambda: np.ones(n, np.float32),
        "torch": lambda: torch.ones(n),
        "nested": lambda: {"x": [torch.ones(n // 2), np.ones(n // 2, np.float32)]},
    }[kind]()

    ray.get(b.sums.remote(batch, again=0))
    before = _core.transfer_stats()
    tracemalloc.start()
    try:
        # Beside a function, which the core leaves to Python's pickler, and as it is.
        refs = [call(b, lambda node, batch, again: node.sums(batch, again=again), batch, again=1)]
        refs.append(b.sums.remote(batch, again=2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ray.get(refs) == [[float(n), 1], [float(n), 2]]
    assert peak < 4 << 20, peak  # a pickle of the bytes would be 32 MiB in Python's memory
    after = _core.transfer_stats()
    assert after["copied_bytes"] - before["copied_bytes"] == 2 * 4 * n  # by way of the arena
    assert after["inline_bytes"] - before["inline_bytes"] < 1 << 16


def test_arguments_by_value_are_taken_at_the_call(b):
    array, tensor = np.ones(LARGE), torch.ones(LARGE)
    gate = ray.remote(lambda: __import__("time").sleep(0.3)).remote()

    def look(node, gate, array, tensor):
        return [float(array.sum()), float(tensor.sum())]

    ref = call(b, look, gate, array, tensor)
    array[:] = 5
    tensor.fill_(5)
    assert ray.get(ref) == [LARGE, LARGE]


def test_arguments_by_value_are_the_receivers_own(b):
    tensor = torch.ones(LARGE)
    assert ray.get(call(b, write, tensor)) == 99.0 * LARGE
    assert float(tensor.sum()) == LARGE
