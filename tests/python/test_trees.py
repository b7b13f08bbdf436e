"""Trees of tensors, arrays and plain values, which the core pickles itself: which they are, and what a reader refuses.

That they arrive as they were is tested in test_serialization.py, together with all other values.
"""

import pickle
import random

import numpy
import pytest
import torch

from beeline import _core
from beeline.tensors.transports import DIRECT_LIVE


def test_which_values_the_core_pickles_itself():
    tensor, array = torch.ones(3000), numpy.ones(3000)
    taken = [
        tensor,
        {"a": tensor, 1: [array, None, True, -(2**40), 0.5, "text", b"bytes", (), [], {}]},
        {f"w{i}": torch.ones(2) for i in range(2000)},
        torch.tensor(1.0),
        numpy.array(1),
    ]
    left = [
        1,
        [1, "x"],
        tensor.clone().requires_grad_(),
        torch.nn.Parameter(tensor),
        tensor.reshape(60, 50).T,
        torch.empty(0),
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3, dtype=torch.complex64).conj().imag,
        torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        [tensor, tensor],
        [tensor, tensor[10:]],
        [array, array],
        numpy.asfortranarray(numpy.ones((3, 4))),
        numpy.array([1, "x"], dtype=object),
        numpy.ones(3, dtype=">f4"),
        numpy.ones(3, dtype=[("a", "f4"), ("b", "i8")]),
        numpy.array(["2020-01-01"], dtype="M8[D]"),
        numpy.ones(3, dtype=numpy.dtype("f4", metadata={"unit": "m"})),
        numpy.array(["a", "bc"], dtype=numpy.dtypes.StringDType()),
        torch.empty(8, dtype=torch.uint4),
        [tensor, {1, 2}],
        [tensor, 2**70],
        [tensor, "\ud800"],
        [tensor, numpy.float32(1)],
        [tensor, *range(5000)],
    ]
    same = [tensor]
    left.append([same, same])
    left.append([[tensor] * 1000] * 1000)
    doubled = [tensor]
    for _ in range(15):
        doubled = [doubled] * 10
    left.append(doubled)
    nested = tensor
    for _ in range(100):
        nested = [nested]
    left.append(nested)
    tagged = torch.ones(3)
    tagged.tag = "attribute"
    left.append(tagged)
    assert [_core.pickle_tree(value, DIRECT_LIVE) is not None for value in taken] == [True] * len(taken)
    for index, value in enumerate(left):
        assert _core.pickle_tree(value, DIRECT_LIVE) is None, index


def test_descriptions_that_do_not_fit_are_refused():
    seed = random.randrange(2**32)
    print("seed", seed)
    source = random.Random(seed)
    for value, restore in ((torch.ones(600), _core.restore_tensor), (numpy.ones((20, 30)), _core.restore_array)):
        skeleton, ((data, writable),) = _core.pickle_tree(value, DIRECT_LIVE)
        start = skeleton.index(b"C") + 2
        header = skeleton[start : start + skeleton[start - 1]]
        view = memoryview(_core.copied_view(data, writable))
        assert restore(header, view).shape == value.shape
        for _ in range(2000):
            changed = bytearray(header)
            for _ in range(source.randint(1, 4)):
                changed[source.randrange(len(changed))] = source.randrange(256)
            changed = bytes(changed[: source.randint(0, len(changed))]) + bytes(source.randint(0, 3))
            try:
                got = restore(changed, view)
            except Exception:
                continue
            assert got.nbytes <= len(data)
        for buffer in (b"", bytes(7), memoryview(b"abc"), 3, None):
            with pytest.raises((ValueError, TypeError)):
                restore(header, buffer)


def test_skeletons_that_were_changed_are_read_as_pickle_reads_them_or_left_to_it():
    seed = random.randrange(2**32)
    print("seed", seed)
    source = random.Random(seed)
    value = {
        "t": torch.ones(600),
        "small": torch.ones(3),
        "a": [numpy.ones(5), 1, -(2**40), 0.5, "x" * 300, b"y", (), {}],
    }
    skeleton, buffers = _core.pickle_tree(value, DIRECT_LIVE)
    (read,) = _core.unpickle_tree(skeleton, buffers)
    assert list(read) == list(value) and read["t"].sum() == 600
    assert _core.unpickle_tree(skeleton, buffers[:1]) is None
    assert _core.unpickle_tree(skeleton + b".", buffers) is None
    taken = 0
    for _ in range(5000):
        changed = bytearray(skeleton)
        for _ in range(source.randint(1, 3)):
            changed[source.randrange(len(changed))] = source.randrange(256)
        try:
            taken += _core.unpickle_tree(bytes(changed[: source.randint(0, len(changed))]), buffers) is not None
            taken += _core.unpickle_tree(bytes(changed), buffers) is not None
        except Exception:
            continue
    assert taken > 0  # what is changed inside text or numbers is another value
    for text in (
        b"",
        b"\x80\x05",
        b"\x80\x05.",
        b"\x80\x05N",
        b"\x80\x05e.",
        b"\x80\x05(e.",
        b"\x80\x05Nu.",
        b"\x80\x05N(u.",
    ):
        assert _core.unpickle_tree(text, []) is None
    assert _core.unpickle_tree(pickle.dumps([1, 2, {"a": (3,)}], protocol=5), []) is None
