"""Every path brings every tensor as its owner has it; destinations are poisoned first."""

import numpy as np
import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent
from tests.conformance.conftest import TOKEN
from tests.conformance.paths import OF_DEVICES, PATHS, WRITING, on_push

DTYPES = [
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "complex64",
    "complex128", "float8_e4m3fn", "float8_e5m2",
]  # fmt: skip
# As the owner writes them; 1.5 MiB so that they lie in its arena.
LAYOUTS = {
    "large": "torch.arange(3 << 18).remainder(251)",
    "small": "torch.arange(7)",
    "scalar": "torch.tensor(3)",
    "empty": "torch.zeros(3, 0, 2)",
    "transposed": "torch.arange(600 * 700).remainder(251).reshape(600, 700).t()",
    "strided": "torch.arange(1 << 20).remainder(251).reshape(1024, 1024)[1::2, 3:-5:7]",
    "expanded": "torch.arange(1000).remainder(251).reshape(1, 1000).expand(400, 1000)",
    "permuted": "torch.arange(64 * 32 * 96).remainder(251).reshape(64, 32, 96).permute(2, 0, 1)",
}


def poisoned(like):
    memory = torch.full((like.numel() * like.element_size(),), 0xEE, dtype=torch.uint8)
    return memory.view(like.dtype).reshape(like.shape) if like.numel() else torch.empty_like(like)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bytes_of(a) == bytes_of(b)


def bytes_of(tensor):
    tensor = tensor.contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def requirements(path, refs):
    """shm reaches only what lies in the arena: there the best path is taken."""
    return {"path": path} if path != "shm" or all(region[4] >= 0 for region in refs._refs.regions()) else {}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_arrives(owner, agent, layout, path):
    refs = owner.register(f"[{LAYOUTS[layout]}]")
    expected = eval(LAYOUTS[layout], {"torch": torch})
    out = [poisoned(expected)]
    require = requirements(path, refs)
    assert agent.fetch(refs, out, **require) is out
    assert same(out[0], expected)
    (fresh,) = agent.fetch(refs, **require)
    assert same(fresh, expected) and fresh.stride() == expected.clone().stride()


@pytest.mark.parametrize("path", PATHS)
def test_every_dtype_arrives(owner, agent, path):
    names = [f"torch.{name}" for name in DTYPES]
    expression = f"{{str(d): torch.arange(1 << 20).remainder(2).to(d) for d in [{', '.join(names)}]}}"
    refs = owner.register(expression)
    expected = eval(expression, {"torch": torch})
    assert refs.names == list(expected)
    assert [ref.dtype for ref in refs] == DTYPES
    fetched = agent.fetch(refs, **requirements(path, refs))
    assert list(fetched) == list(expected)
    for name in expected:
        assert same(fetched[name], expected[name]), name


@pytest.mark.parametrize("path", PATHS)
def test_parts_arrive_and_nothing_else_is_touched(owner, agent, path):
    refs = owner.register("[torch.arange(1 << 20, dtype=torch.int32).reshape(64, 128, 128)]")
    whole = torch.arange(1 << 20, dtype=torch.int32).reshape(64, 128, 128)
    for index in [
        (3,), (slice(2, 5),), (slice(None), 7), (..., slice(5, 9)), (slice(None, None, 9), slice(3, 100, 7), -1),
        (-1, -1, -1), (slice(10, 10),), (slice(None), slice(None), slice(0, 1)),
    ]:  # fmt: skip
        expected = whole[index]
        assert refs[0][index].shape == tuple(expected.shape)
        field = torch.full((*expected.shape, 3), -7, dtype=torch.int32)
        agent.fetch(refs[0][index], field[..., 1], path=path)
        assert torch.equal(field[..., 1], expected), index
        assert bool((field[..., 0] == -7).all()) and bool((field[..., 2] == -7).all())
    backwards = agent.fetch(refs[0][::-3, 4, ::-1], path=path)
    assert torch.equal(backwards, whole.flip(0)[::3, 4].flip(1))


@pytest.mark.parametrize("path", PATHS)
def test_arrays_of_numpy_on_either_side(owner, agent, path):
    refs = owner.register("[np.arange(1 << 18, dtype=np.float64).reshape(512, 512)[:, ::3]]")
    expected = np.arange(1 << 18, dtype=np.float64).reshape(512, 512)[:, ::3]
    out = np.full(expected.shape, np.nan)
    agent.fetch(refs[0], out, **requirements(path, refs))
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("path", WRITING)
def test_push_fills_what_was_granted(owner, agent, path):
    refs = owner.register("[torch.zeros(1 << 20), torch.zeros(64, 64)]")
    with pytest.raises(ValueError, match="granted"):
        agent.push(refs, [torch.ones(1 << 20), torch.ones(64, 64)], path=path)
    assert owner.run("answer = float(kept['tensors'][0].sum())") == 0
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    agent.push(refs, [torch.ones(1 << 20), torch.ones(64, 64)], path=path)
    assert owner.run("answer = [float(t.sum()) for t in kept['tensors']]") == [1 << 20, 4096]


@pytest.mark.parametrize("path", on_push("shm", "cma", "tcp"))
def test_a_batch_is_run_again_and_again(owner, agent, path):
    refs = owner.register("[torch.zeros(1 << 20), torch.zeros(512, 1024).t()]")
    out = [torch.full((1 << 20,), -1.0), torch.full((1024, 512), -1.0)]
    batch = agent.prepare(refs, out, path=path)
    assert batch.nbytes == 6 << 20
    for value in range(3):
        owner.run(f"[tensor.fill_({value}) for tensor in kept['tensors']]")
        batch.run()
        assert all(bool((tensor == value).all()) for tensor in out)
    owner.run("kept.clear()")
    with pytest.raises(exceptions.StaleReferenceError):
        batch.run()


def test_memory_that_a_tensor_has_left_stays_with_the_batch(owner, agent):
    refs = owner.register("[torch.ones(1 << 16)]")
    tensor = torch.zeros(1 << 16)
    memory = tensor.detach()
    batch = agent.prepare(refs, [tensor])
    tensor.data = torch.zeros(4)
    batch.run()
    assert bool((memory == 1).all())


def test_tensors_without_elements(owner, agent):
    refs = owner.register("{'none': torch.zeros(0, 3), 'some': torch.arange(1 << 20)}")
    out = {"none": torch.zeros(0, 3), "some": torch.zeros(1 << 20, dtype=torch.int64)}
    agent.prepare(refs, out).run()
    assert int(out["some"][-1]) == (1 << 20) - 1
    agent.prepare(refs["some"][0:0], torch.zeros(0, dtype=torch.int64)).run()
    mapped = agent.map(refs)
    assert mapped["none"].shape == (0, 3) and int(mapped["some"][5]) == 5


def test_map_costs_no_copy_and_writes_stay_here(owner, agent):
    refs = owner.register("[torch.arange(1 << 20).reshape(1024, 1024).t()]")
    mapped = agent.map(refs[0])
    assert torch.equal(mapped, torch.arange(1 << 20).reshape(1024, 1024).t())
    mapped[0, 0] = -1
    assert owner.run("answer = int(kept['tensors'][0][0, 0])") == 0
    owner.run("kept['tensors'][0][1023, 1023] = 77")
    assert int(agent.map(refs[0])[1023, 1023]) == 77


def test_references_travel_as_values(owner, agent):
    import pickle

    from beeline.transfer import TensorRef, TensorRefs

    refs = owner.register("{'a': torch.arange(5), 'b': torch.ones(2, 2)}")
    for copy in (TensorRefs.from_bytes(refs.to_bytes()), pickle.loads(pickle.dumps(refs))):
        assert torch.equal(agent.fetch(copy)["a"], torch.arange(5))
    part = refs["a"][1:4:2]
    by_bytes, by_json = TensorRef.from_bytes(part.to_bytes()), TensorRef.from_json(part.to_json())
    for copy in (by_bytes, by_json, pickle.loads(pickle.dumps(part))):
        assert agent.fetch(copy).tolist() == [1, 3]


def test_references_with_names_are_used_as_a_mapping_is(owner, agent):
    refs = owner.register("{'w': torch.ones(2, 3), 'b': torch.zeros(3)}")
    assert refs.keys() == ["w", "b"] and [ref.shape for ref in refs.values()] == [(2, 3), (3,)]
    assert [(name, ref.shape) for name, ref in refs.items()] == [("w", (2, 3)), ("b", (3,))]
    fetched = agent.fetch(dict(refs))
    assert list(fetched) == ["w", "b"] and float(fetched["w"].sum()) == 6.0
    unnamed = owner.register("[torch.ones(1), torch.ones(2)]")
    for read in (unnamed.keys, unnamed.values, unnamed.items):
        with pytest.raises(TypeError, match="2 references have no names"):
            read()
    assert owner.register("{}").items() == []


def test_bad_targets_are_refused_before_anything_is_written(owner, agent):
    refs = owner.register("{'a': torch.ones(5), 'b': torch.ones(2, 2)}")
    a, b = torch.full((5,), 7.0), torch.full((2, 2), 7.0)
    for out in ({"a": a}, [a], {"a": a, "b": b.int()}, {"a": a, "b": b[0]}, {"a": a, "b": None}):
        with pytest.raises((ValueError, TypeError)):
            agent.fetch(refs, out)
    with pytest.raises(ValueError, match="expanded"):
        agent.fetch(refs["b"], torch.zeros(2).expand(2, 2))
    with pytest.raises(ValueError, match="one name"):
        agent.register({1: a, "1": b})
    array = np.full(5, 7.0, np.float32)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        agent.fetch(refs["a"], array)
    assert bool((a == 7).all()) and bool((b == 7).all())


def test_requirements_refuse_with_reasons(owner, agent, folder):
    refs = owner.register("[torch.ones(5)]")
    with pytest.raises(exceptions.TransportUnavailableError, match="shm: .*arena"):
        agent.fetch(refs, path="shm")
    with pytest.raises(exceptions.TransportUnavailableError, match="too slow"):
        agent.fetch(refs, min_gbps=1e6)
    with pytest.raises(
        exceptions.TransportUnavailableError,
        match="no path .smoke.; this agent has shm, cma, cuda_ipc, nccl, ucx, nixl, object_store, tcp, hixl, gloo",
    ):
        agent.fetch(refs, path="smoke")
    with Agent("fresh", folder=folder, token=TOKEN) as fresh:  # which has measured nothing
        explanation = fresh.explain(refs[0])
    assert explanation["chosen"] == "cma"
    candidates = [candidate["path"] for candidate in explanation["candidates"]]
    assert [path for path in candidates if path not in OF_DEVICES] == PATHS


def test_a_path_that_reaches_some_of_the_tensors_moves_none(owner, agent):
    refs = owner.register("[torch.ones(1 << 20), torch.ones(7)]")
    out = [torch.zeros(1 << 20), torch.zeros(7)]
    with pytest.raises(exceptions.TransportUnavailableError, match="arena"):
        agent.fetch(refs, out, path="shm")
    assert not out[0].any() and not out[1].any()
    agent.fetch(refs, out)
    assert out[0].all() and out[1].all()
