"""Values to skeleton and buffers and back, as one process would send them to another."""

import math
import pickle
import random

import numpy
import pytest
import torch

from beeline import _core
from beeline.exceptions import TargetMismatchError, TransportUnavailableError
from beeline.tensors import values
from beeline.tensors.transports import DIRECT_LIVE, DIRECT_SNAPSHOT, OBJECT_STORE

MODES = [OBJECT_STORE, DIRECT_LIVE, DIRECT_SNAPSHOT]
DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int64,
    torch.uint16,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
]


@pytest.fixture(autouse=True, params=["core", "core, read by pickle", "pickler"])
def pickled_by(request, monkeypatch):
    """Every test thrice: trees pickled and read by the core, as in a session; pickled by it, and read by pickle; and
    pickled by the pickler, as other values are.
    """
    if request.param == "pickler":
        monkeypatch.setattr(_core, "pickle_tree", lambda value, mode: None)
    elif request.param != "core":
        monkeypatch.setattr(_core, "unpickle_tree", lambda skeleton, buffers: None)


def dump(value, mode):
    """Skeleton and buffers of a value without references; the buffers with whether they may be written."""
    tree = _core.pickle_tree(value, mode)
    if tree is not None:
        return tree
    skeleton, buffers, flags, refs, _ = values.dumps(value, mode)
    assert len(flags) == len(buffers) and refs == []
    return skeleton, [(bytes(b), bool(flag & values.WRITABLE)) for b, flag in zip(buffers, flags, strict=True)]


def carry(value, mode=DIRECT_LIVE, targets=None):
    """What a consumer gets: buffers are copies, writable where flagged."""
    skeleton, buffers = dump(value, mode)
    received = [memoryview(_core.copied_view(buffer, writable)) for buffer, writable in buffers]
    if targets is None:
        read = _core.unpickle_tree(skeleton, buffers)
        return read[0] if read is not None else pickle.loads(skeleton, buffers=received)
    return values.loads_into(skeleton, received, targets)


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 700])
def test_a_tensor_of_any_dtype_and_size_arrives(mode, dtype, rows):
    tensor = torch.arange(rows * 4).reshape(rows, 4).to(torch.float32).to(dtype)
    for sent in (tensor, tensor.T, tensor[:, 1:3], tensor[0]):
        got = carry(sent, mode)
        assert got.dtype == dtype and got.shape == sent.shape
        assert torch.equal(bits(got), bits(sent))
        got.zero_()  # writable in every mode
        assert not bits(got).any()


def test_strides_of_a_direct_tensor_are_kept():
    tensor = torch.arange(20000.0).reshape(100, 200)
    for sent in (tensor.T, tensor[::2, ::3], torch.ones(3000).expand(4, 3000), tensor.as_strided((50, 150), (100, 1))):
        got = carry(sent)
        assert got.stride() == sent.stride() and torch.equal(got, sent)


@pytest.mark.parametrize("mode", [OBJECT_STORE, DIRECT_SNAPSHOT])
def test_gaps_are_not_copied_where_a_copy_is_made(mode):
    column = torch.arange(1_000_000.0).reshape(1000, 1000)[:, 3]
    _, buffers, *_ = values.dumps(column, mode)
    assert sum(len(buffer) for buffer in buffers) == 4000
    assert torch.equal(carry(column, mode), column)


def test_random_views_arrive():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    base = torch.randn(60, 70)
    for _ in range(200):
        size = (rng.randrange(5), rng.randrange(60))
        strides = (rng.randrange(50), rng.randrange(60))
        view = base.as_strided(size, strides, rng.randrange(100))
        for mode in MODES:
            assert torch.equal(carry(view, mode), view)


@pytest.mark.parametrize("mode", MODES)
def test_zero_dimensions_and_zero_elements(mode):
    assert carry(torch.tensor(3.5), mode).item() == 3.5
    empty = carry(torch.empty(0, 7, dtype=torch.bfloat16), mode)
    assert empty.shape == (0, 7) and empty.dtype == torch.bfloat16


def test_large_tensors_leave_the_skeleton_without_a_copy():
    tensor = torch.arange(100000.0)
    skeleton, buffers, flags, *_ = values.dumps({"x": tensor}, DIRECT_LIVE)
    assert len(skeleton) < 1000 and flags == bytes([values.WRITABLE | values.REFERRED])
    numpy.asarray(buffers[0]).view(numpy.float32)[5] = -1.0
    assert tensor[5] == -1.0


def test_a_buffer_keeps_its_tensor_alive():
    _, buffers, *_ = values.dumps(torch.full((100000,), 7.0), DIRECT_LIVE)
    torch.full((100000,), 9.0)  # would reuse the memory
    assert (numpy.asarray(buffers[0]).view(numpy.float32) == 7.0).all()


def test_the_same_tensor_twice_is_one_tensor():
    for tensor in (torch.ones(3), torch.ones(5000)):
        a, b = carry([tensor, {"again": tensor}])
        assert b["again"] is a


def test_a_view_within_an_earlier_tensor_shares_its_memory():
    base = torch.arange(10000.0)
    _, buffers, *_ = values.dumps([base, base[500:5000]], DIRECT_LIVE)
    assert len(buffers) == 1
    got, view = carry([base, base[500:5000]])
    got[500] = -5.0
    assert view[0] == -5.0


def test_views_of_another_dtype_arrive():
    base = torch.arange(4096, dtype=torch.uint8)
    odd = base[3:2051].clone().view(torch.int16)
    got = carry([base, base[8:4088].view(torch.float64), odd])
    assert torch.equal(got[1].view(torch.uint8), base[8:4088]) and torch.equal(got[2], odd)


def test_gradients_parameters_and_attributes():
    parameter = torch.nn.Parameter(torch.randn(400))
    got = carry(parameter)
    assert type(got) is torch.nn.Parameter and got.requires_grad and torch.equal(got, parameter)
    assert carry(torch.ones(2, requires_grad=True)).requires_grad
    assert carry(torch.ones(2000, requires_grad=True) * 2).requires_grad
    named = torch.ones(2000)
    named.tag = "weights"
    assert carry(named).tag == "weights"


def test_a_module_and_an_optimizer_state_arrive():
    module = torch.nn.Linear(64, 64)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(64)).sum().backward()
    optimizer.step()
    got, state = carry([module, optimizer.state_dict()])
    assert torch.equal(got.weight, module.weight)
    assert torch.equal(state["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_lazily_conjugated_and_negated_tensors():
    tensor = torch.randn(500, dtype=torch.complex64)
    for sent in (tensor.conj(), tensor.conj().imag):
        assert torch.equal(carry(sent), sent)


def test_a_sparse_tensor_is_refused_by_direct_transport_only():
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(TransportUnavailableError, match="sparse_coo float32.*object_store"):
        values.dumps({"a": sparse}, DIRECT_LIVE)
    assert torch.equal(carry(sparse, OBJECT_STORE).to_dense(), torch.eye(3))


def test_a_tensor_without_data_is_refused():
    with pytest.raises(TransportUnavailableError, match="on meta"):
        values.dumps(torch.empty(5000, device="meta"), DIRECT_SNAPSHOT)


def test_arrays_of_the_object_store_are_read_only_and_direct_ones_are_not():
    for array in (numpy.arange(3), numpy.arange(100000), numpy.ones((300, 200), order="F")):
        stored, direct = carry(array, OBJECT_STORE), carry(array, DIRECT_LIVE)
        assert (stored == array).all() and not stored.flags.writeable
        assert (direct == array).all() and direct.flags.writeable
        array.flags.writeable = False
        assert not carry(array, DIRECT_LIVE).flags.writeable  # as it was


def test_a_strided_array_leaves_the_skeleton_too():
    array = numpy.arange(100000)[::2]
    skeleton, buffers, *_ = values.dumps(array, OBJECT_STORE)
    assert len(buffers) == 1 and len(skeleton) < 1000
    assert (carry(array, OBJECT_STORE) == array).all()
    objects = numpy.array([{"a": 1}, None], dtype=object)
    assert carry(objects)[0] == {"a": 1}


def test_functions_and_local_classes_arrive():
    class Local:
        def __init__(self, x):
            self.x = x

    offset = 3
    function, instance = carry([lambda x: x + offset, Local(torch.ones(5000))])
    assert function(1) == 4 and instance.x.sum() == 5000


def test_what_cannot_be_pickled_names_itself():
    import threading

    with pytest.raises(TypeError, match="lock"):
        values.dumps([threading.Lock()], OBJECT_STORE)


def test_targets_are_written_in_place():
    value = {"w": torch.arange(5000.0), "b": torch.ones(3)}
    targets = [torch.zeros(5000), torch.nn.Parameter(torch.zeros(3))]
    got = carry(value, targets=targets)
    assert got["w"] is targets[0] and got["b"] is targets[1]
    assert torch.equal(targets[0], value["w"]) and torch.equal(targets[1].data, value["b"])


@pytest.mark.parametrize(
    "targets",
    [
        [torch.zeros(5000)],
        [torch.zeros(5000), torch.zeros(4)],
        [torch.zeros(5000), torch.zeros(3, dtype=torch.float64)],
        [torch.zeros(5000), torch.zeros(3), torch.zeros(1)],
    ],
    ids=["too few", "shape", "dtype", "too many"],
)
def test_targets_that_do_not_fit_are_not_written(targets):
    value = [torch.ones(5000), torch.ones(3)]
    with pytest.raises(TargetMismatchError):
        carry(value, targets=targets)
    assert all(not target.any() for target in targets)
    assert carry(value)[1].sum() == 3  # nothing of the failure stays


def test_arguments_of_a_call():
    skeleton, buffers, flags, refs, _, dependencies = values.dumps_call((1, torch.ones(5000)), {"k": "v"})
    args, kwargs, slots = pickle.loads(skeleton, buffers=[memoryview(bytearray(b)) for b in buffers])
    assert args[0] == 1 and args[1].sum() == 5000 and kwargs == {"k": "v"} and slots == ()
    assert refs == dependencies == [] and flags == b"\x01"


def test_too_deep_a_value_is_a_pickling_error():
    value = []
    for _ in range(100000):
        value = [value]
    with pytest.raises(pickle.PicklingError, match="deep"):
        values.dumps(value, OBJECT_STORE)


def test_scalars_and_containers_of_a_tree_arrive_as_they_were():
    value = {"t": torch.ones(2), 7: [1, -1, 2**31, -(2**63), 2**63 - 1, 0.1, float("inf"), True, False, None]}
    value |= {"text": ["", "x" * 300, "\N{SNOWMAN}"], "bytes": [b"", b"y" * 300], "empty": [(), [], {}]}
    value["tuples"] = [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), (1, (2,)))]
    got = carry(value, OBJECT_STORE)
    assert list(got) == list(value) and torch.equal(got.pop("t"), value.pop("t"))
    assert got == value
    assert [type(item) for item in got[7]] == [type(item) for item in value[7]]
    assert math.isnan(carry([torch.ones(1), float("nan")])[1])
