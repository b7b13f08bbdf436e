"""Direct transport between drivers, actors and tasks: values, routes, ownership of bytes and names.

What Ray can do too is compared with Ray in tests/compat; here stands what Beeline promises beyond.
"""

import dataclasses
import os
import tracemalloc
import typing

import numpy as np
import pytest

ray = pytest.importorskip("beeline")
torch = pytest.importorskip("torch")

DIRECT = ["auto", "shm"]
TRANSPORTS = [*DIRECT, "object_store"]
SMALL, LARGE = 1000, 1 << 20  # elements: below and above the threshold of the arenas


class Node:
    """Produces, consumes and remembers; every actor of these tests is one."""

    def __init__(self):
        self.kept = self.got = None

    def apply(self, function, *args, **kwargs):
        """Runs `function(self, *args, **kwargs)`: what a test needs stands in the test."""
        return function(self, *args, **kwargs)


@pytest.fixture(scope="module", autouse=True)
def session():
    ray.init(num_cpus=4, ignore_reinit_error=True)
    yield
    ray.shutdown()


@pytest.fixture
def make_actor():
    """Actors that die with the test."""
    actors = []

    def make(**options):
        actors.append(ray.remote(num_cpus=0, **options)(Node).remote())
        return actors[-1]

    yield make
    for actor in actors:
        ray.kill(actor)


@pytest.fixture
def a(make_actor):
    return make_actor()


@pytest.fixture
def b(make_actor):
    return make_actor()


def call(actor, function, *args, transport=None, isolation=None, num_returns=1, **kwargs):
    """Calls `function(node, ...)` in the actor, its result sent by `transport`."""
    options = {"num_returns": num_returns}
    if transport:
        options["tensor_transport"] = transport
    if isolation:
        options["isolation"] = isolation
    return actor.apply.options(**options).remote(function, *args, **kwargs)


def ones(node, n, value=1.0):
    node.kept = torch.full((n,), value)
    return node.kept


def total(node, x):
    return float(x.sum())


# ----- values -----------------------------------------------------------------------------------------------------


def _tensors():
    base = torch.arange(4096 * 300, dtype=torch.float32).reshape(4096, 300)
    floats = torch.linspace(-4, 4, LARGE)
    return {
        "float32": base,
        "small": torch.arange(7.0),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0),
        "empty with a shape": torch.empty(3, 0, 5, dtype=torch.int16),
        "transposed": base.t(),
        "strided": base[::3, ::2],
        "offset": base[17:, 5:],
        "expanded": torch.arange(300.0).expand(4096, 300),
        "overlapping": torch.arange(2000.0).as_strided((1500, 400), (1, 1)),
        "channels last": torch.randn(8, 3, 64, 200).to(memory_format=torch.channels_last),
        "bool": floats > 0,
        "uint8": torch.arange(LARGE).to(torch.uint8),
        "int64": torch.arange(LARGE),
        "float16": floats.half(),
        "float64": floats.double(),
        "bfloat16": floats.bfloat16(),
        "bfloat16 scalar": torch.tensor(1.5, dtype=torch.bfloat16),
        "float8_e4m3fn": floats.to(torch.float8_e4m3fn),
        "float8_e5m2": floats.to(torch.float8_e5m2),
        "complex64": torch.complex(floats, -floats),
        "complex128 conjugate": torch.complex(floats, floats).to(torch.complex128).conj(),
        "negative view": torch.complex(floats, floats).conj().imag,
    }


def _bits(tensor):
    """The tensor's elements as bytes, in order: compares NaNs and every dtype."""
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", _tensors())
def test_tensors_of_every_kind(a, b, name, transport):
    def make(node):
        return node.tensors[name]

    def setup(node, tensors):
        node.tensors = tensors

    def echo(node, x):
        return [x.dtype, x.shape, x]

    tensor = _tensors()[name]
    ray.get(call(a, setup, {name: tensor}))
    ref = call(a, make, transport=transport)
    for dtype, shape, back in (ray.get(call(b, echo, ref)), [*_like(ray.get(ref))]):
        assert (dtype, shape) == (tensor.dtype, tensor.shape)
        assert back.dtype == tensor.dtype
        assert _bits(back) == _bits(tensor)


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
    ref = declared.make.remote(SMALL)
    assert ray.get(declared.is_mine.remote(ref)) is True


def test_back_to_the_producer_is_the_same_object(a):
    def make(node, n):
        node.kept = {"w": torch.ones(n), "v": [np.ones(n)]}
        return node.kept

    def same(node, value):
        return [value["w"] is node.kept["w"], value["v"][0] is node.kept["v"][0]]

    for n in (SMALL, LARGE):
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
    if n == LARGE:  # smaller ones were copied: nobody reads the producer's memory any more
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


@pytest.mark.parametrize("name", ["warp", "shm ", "nixl", "gloo", "nccl", "cuda_ipc", ""])
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


@pytest.mark.parametrize("kind", ["numpy", "torch", "nested"])
def test_large_arguments_by_value_are_not_pickled(b, kind):
    n = 8 << 20
    batch = {
        "numpy": lambda: np.ones(n, np.float32),
        "torch": lambda: torch.ones(n),
        "nested": lambda: {"x": [torch.ones(n // 2), np.ones(n // 2, np.float32)]},
    }[kind]()

    def look(node, batch, *, again):
        parts = batch["x"] if isinstance(batch, dict) else [batch]
        return [sum(float(part.sum()) for part in parts), again]

    ray.get(call(b, look, batch, again=0))
    tracemalloc.start()
    try:
        ref = call(b, look, batch, again=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ray.get(ref) == [float(n), 1]
    assert peak < 4 << 20, peak  # a pickle of the bytes would be 32 MiB in Python's memory


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
