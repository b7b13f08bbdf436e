"""What changes its dtype on the way arrives on every path as torch makes it; destinations are poisoned first."""

import signal

import numpy as np
import pytest
import torch

from beeline import exceptions
from tests.conformance import paths

PATHS = [path for path in paths.PATHS if path != "hixl"]
# Every upper half of 32 bits, with lower halves at and beside the ties of each target.
BITS = (
    "(torch.arange(1 << 16).reshape(-1, 1) * 65536 + torch.tensor([0, 1, 0xFFF, 0x1000, 0x1001, 0x3000, 0x5555, "
    "0x7FFF, 0x8000, 0x8001, 0xAAAA, 0xFFFF])).flatten().to(torch.int32)"
)
SOURCES = {
    "float32": f"{BITS}.view(torch.float32)",
    "float64": f"torch.cat([{BITS}.view(torch.float32).double() * (1 + k * 2**-40) for k in (-1, 0, 1)])",
    "float16": "torch.arange(1 << 16).repeat(32).to(torch.int16).view(torch.float16)",
    "bfloat16": "torch.arange(1 << 16).repeat(32).to(torch.int16).view(torch.bfloat16)",
}
PAIRS = [
    ("float32", "bfloat16"), ("float32", "float16"), ("float32", "float64"), ("float32", "float8_e4m3fn"),
    ("float32", "float8_e5m2"), ("float64", "float32"), ("bfloat16", "float32"), ("bfloat16", "float16"),
    ("bfloat16", "float8_e4m3fn"), ("bfloat16", "float8_e5m2"), ("float16", "float32"), ("float16", "bfloat16"),
    ("float16", "float8_e4m3fn"), ("float16", "float8_e5m2"),
]  # fmt: skip


def poisoned(shape, dtype):
    size = torch.empty(0, dtype=dtype).element_size()
    return torch.full((*shape[:-1], shape[-1] * size), 0xEE, dtype=torch.uint8).view(dtype)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def is_poison(tensor):
    return bool((bits(tensor) == 0xEE).all())


def same(got, expected):
    return got.dtype == expected.dtype and got.shape == expected.shape and torch.equal(bits(got), bits(expected))


def same_numbers(got, expected):
    """As `same`, but that what is not a number may be so in another way."""
    is_none = expected.isnan()
    return torch.equal(got.isnan(), is_none) and same(got.where(~is_none, 0), expected.where(~is_none, 0))


# torch itself makes two things of what is not a number: from float16 by the element's position, from float32 by the
# instructions that it was built for.
TORCH_DIFFERS = {("float16", "float32")}
if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
    TORCH_DIFFERS.add(("float32", "bfloat16"))


def quantized(tensor, rows, columns):
    """The definition of `block=`, in torch: values and scales."""
    *outer, high, wide = tensor.shape
    padded = torch.nn.functional.pad(tensor.float(), (0, -wide % columns, 0, -high % rows))
    blocks = padded.reshape(*outer, padded.shape[-2] // rows, rows, padded.shape[-1] // columns, columns)
    scales = blocks.abs().amax(dim=(-3, -1)) / 448
    scales = torch.where(scales == 0, 1.0, scales)
    values = (blocks / scales[..., :, None, :, None]).to(torch.float8_e4m3fn)
    return values.reshape(padded.shape)[..., :high, :wide].contiguous(), scales


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_number_arrives_as_torch_makes_it(owner, agent, source, target, path):
    refs = owner.register(f"[{SOURCES[source]}]")
    dtype = getattr(torch, target)
    expected = eval(SOURCES[source], {"torch": torch}).to(dtype)
    out = poisoned(expected.shape, dtype)
    assert agent.fetch(refs[0], out, dtype=dtype, path=path) is out
    compare = same_numbers if (source, target) in TORCH_DIFFERS else same
    assert compare(out, expected)
    assert same(agent.fetch(refs[0], dtype=target, path=path), out)


@pytest.mark.parametrize("path", paths.on_push("shm", "cma", "tcp", "gloo", of=PATHS))
def test_parts_and_strides_on_both_sides(owner, agent, path):
    source = "torch.linspace(-1000, 1000, 1 << 20).reshape(64, 128, 128)"
    refs = owner.register(f"[{source}, {source}.permute(2, 0, 1)]")
    whole = eval(source, {"torch": torch})
    for ref, tensor in ((refs[0], whole), (refs[1], whole.permute(2, 0, 1))):
        for index in [
            (3,), (slice(2, 5),), (slice(None), 7), (..., slice(5, 9)), (slice(None, None, 9), slice(3, 100, 7), -1),
            (-1, -1, -1), (slice(10, 10),), (slice(None), slice(None), slice(0, 1)), (),
        ]:  # fmt: skip
            expected = tensor[index].to(torch.bfloat16)
            field = torch.full((*expected.shape, 3), -7, dtype=torch.bfloat16)
            agent.fetch(ref[index], field[..., 1], dtype=torch.bfloat16, path=path)
            assert torch.equal(field[..., 1], expected), index
            assert bool((field[..., 0] == -7).all()) and bool((field[..., 2] == -7).all())
    backwards = agent.fetch(refs[0][::-3, 4, ::-1], dtype=torch.float16, path=path)
    assert torch.equal(backwards, whole.flip(0)[::3, 4].flip(1).half())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("block", [(128, 128), (1, 128), (7, 33)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_arrive_as_torch_quantises_them(owner, agent, path, block, dtype):
    source = f"(torch.randn(3, 300, 700, generator=torch.Generator().manual_seed(7)) * 50).to(torch.{dtype})"
    # An empty block, one of tiny numbers, and what is not a number.
    source = (
        f"(lambda t: (t[0, :128, :128].zero_(), t[0, 0, 128:256].fill_(1e-38), t[1, 5, 5].fill_(float('nan')), "
        f"t[1, 290, 5].fill_(float('-inf')), t)[-1])({source})"
    )
    refs = owner.register(f"[{source}]")
    tensor = eval(source, {"torch": torch})
    values, scales = quantized(tensor, *block)
    out = (poisoned(values.shape, values.dtype), poisoned(scales.shape, scales.dtype))
    assert agent.fetch(refs[0], out, dtype=torch.float8_e4m3fn, block=block, path=path) is out
    assert same(out[0], values)
    assert same(out[1], scales)
    fresh = agent.fetch(refs[0], dtype="float8_e4m3fn", block=block, path=path)
    assert same(fresh[0], values) and same(fresh[1], scales)
    # A part of a transposed one that runs backwards, between elements of something else.
    part = tensor[2].t()[4:651, 10:200:3].flip(0)
    ref = owner.register(f"[{source}[2].t()]")[0][650:3:-1, 10:200:3]
    values, scales = quantized(part, *block)
    field = torch.full((*part.shape, 2), 0x55, dtype=torch.uint8)
    assert ref.shape == tuple(part.shape)
    more = torch.full((scales.shape[1], scales.shape[0]), -1.0).t()
    agent.fetch(ref, (field[..., 1].view(torch.float8_e4m3fn), more), dtype=torch.float8_e4m3fn, block=block, path=path)
    assert same(field[..., 1].contiguous().view(torch.float8_e4m3fn), values)
    assert bool((field[..., 0] == 0x55).all())
    assert same(more.contiguous(), scales)


@pytest.mark.parametrize("path", PATHS)
def test_some_of_several_are_converted(owner, agent, path):
    refs = owner.register(
        "{'w': torch.randn(300, 200), 'norm': torch.ones(1 << 19), 'steps': torch.arange(1 << 18), "
        "'bias': torch.full((1 << 20,), 0.1, dtype=torch.bfloat16)}"
    )
    plain = agent.fetch(refs)
    require = {"path": path} if path != "shm" else {}
    dtype = {"w": torch.float8_e4m3fn, "norm": torch.bfloat16, "bias": "float32"}
    got = agent.fetch(refs, dtype=dtype, block=(128, 128), **require)
    values, scales = quantized(plain["w"], 128, 128)
    assert same(got["w"][0], values) and same(got["w"][1], scales)
    assert same(got["norm"], plain["norm"].bfloat16())
    assert same(got["bias"], plain["bias"].float())
    assert same(got["steps"], plain["steps"])
    got = agent.fetch([refs["norm"], refs["steps"]], dtype=[torch.float16, None], **require)
    assert same(got[0], plain["norm"].half()) and same(got[1], plain["steps"])
    # What has the dtype already is copied as it is.
    assert same(agent.fetch(refs["bias"], dtype=torch.bfloat16, **require), plain["bias"])


@pytest.mark.parametrize("path", paths.on_push("shm", "cma", "tcp", of=PATHS))
def test_a_batch_converts_again_and_again(owner, agent, path):
    refs = owner.register("[torch.zeros(1 << 20), torch.zeros(512, 1024).t(), torch.zeros(1024, 512)]")
    out = [torch.full((1 << 20,), -1.0).bfloat16(), torch.full((1024, 512), -1.0).half()]
    pair = (poisoned((1024, 512), torch.float8_e4m3fn), torch.full((8, 4), -1.0))
    batch = agent.prepare(
        refs, [*out, pair], dtype=[torch.bfloat16, torch.float16, torch.float8_e4m3fn], block=(128, 128), path=path
    )
    assert batch.nbytes == 8 << 20
    for value in range(3):
        owner.run(f"[tensor.fill_({value}) for tensor in kept['tensors']]")
        batch.run()
        assert all(bool((tensor == value).all()) for tensor in out)
        assert bool((pair[0].float() == (448 if value else 0)).all())
        assert bool((pair[1] == torch.tensor(value / 448 if value else 1.0)).all())
    owner.run("kept.clear()")
    with pytest.raises(exceptions.StaleReferenceError):
        batch.run()


def test_neighbours_of_a_batch_are_converted_as_one(owner, agent):
    refs = owner.register("[*torch.arange(1 << 20).float().reshape(1024, 1024)]")
    out = torch.zeros(1024, 1024, dtype=torch.bfloat16)
    agent.prepare(refs, [*out], dtype=torch.bfloat16).run()
    assert torch.equal(out, torch.arange(1 << 20).float().reshape(1024, 1024).bfloat16())


def test_arrays_of_numpy(owner, agent):
    refs = owner.register("[np.linspace(0, 1, 1 << 18)]")
    out = np.full(1 << 18, np.nan, np.float32)
    agent.fetch(refs[0], out, dtype="float32")
    assert np.array_equal(out, np.linspace(0, 1, 1 << 18).astype(np.float32))


async def test_transfers_and_versions_are_converted(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.full((1 << 20,), 1.5)]")
    (got,) = await agent.fetch_async(refs, dtype=torch.bfloat16)
    assert same(got, torch.full((1 << 20,), 1.5, dtype=torch.bfloat16))
    owner.run("agent.publish('w', {'a': torch.full((256, 256), 1.5), 'b': torch.full((1000,), 2.5)})")
    updates = agent.subscribe(owner.address, "w")
    number, versions = updates.fetch(dtype={"b": torch.float16})
    assert number == 1 and same(versions["a"], torch.full((256, 256), 1.5))
    assert same(versions["b"], torch.full((1000,), 2.5, dtype=torch.float16))
    _, versions = updates.fetch(dtype={"a": torch.float8_e4m3fn}, block=(128, 128))
    assert bool((versions["a"][0].float() == 448).all()) and bool((versions["a"][1] == 1.5 / 448).all())


def test_tensors_without_elements(owner, agent):
    refs = owner.register("{'none': torch.zeros(0, 3), 'scalar': torch.tensor(1.5)}")
    got = agent.fetch(refs, dtype=torch.bfloat16)
    assert got["none"].shape == (0, 3) and got["none"].dtype == torch.bfloat16
    assert got["scalar"].shape == () and float(got["scalar"]) == 1.5
    values, scales = agent.fetch(refs["none"], dtype=torch.float8_e4m3fn, block=(128, 128))
    assert values.shape == (0, 3) and scales.shape == (0, 1)


def test_what_is_not_converted_is_refused_before_a_byte_moves(owner, agent):
    refs = owner.register("{'i': torch.ones(5, dtype=torch.int64), 'f': torch.ones(4, 4)}")
    out = {"i": poisoned((5,), torch.bfloat16), "f": poisoned((4, 4), torch.bfloat16)}
    with pytest.raises(ValueError, match=r"int64 is not converted to bfloat16; there are float32 to bfloat16, float16"):
        agent.fetch(refs, out, dtype=torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"the local tensor is bfloat16\[4, 4\].* float32\[4, 4\]; .*converts if it is told to"
    ):
        agent.fetch(refs["f"], out["f"])
    with pytest.raises(ValueError, match=r"dtype= asks for float16\[4, 4\]"):
        agent.fetch(refs["f"], out["f"], dtype=torch.float16)
    with pytest.raises(ValueError, match="not among the references"):
        agent.fetch(refs, dtype={"g": torch.bfloat16})
    with pytest.raises(ValueError, match="2 references, but 1 dtypes"):
        agent.fetch([refs["i"], refs["f"]], dtype=[torch.bfloat16])
    with pytest.raises(ValueError, match="no dtype"):
        agent.fetch(refs["f"], dtype="smoke")
    with pytest.raises(ValueError, match="block= needs"):
        agent.fetch(refs["f"], block=(128, 128))
    with pytest.raises(ValueError, match="block= needs"):
        agent.fetch(refs["f"], dtype=torch.bfloat16, block=(128, 128))
    e4m3 = {"dtype": torch.float8_e4m3fn, "block": (128, 128)}
    with pytest.raises(ValueError, match="int64 is not quantised in blocks; these are: float32, bfloat16, float16"):
        agent.fetch(refs["i"], **e4m3)
    with pytest.raises(ValueError, match="from matrices, not from a tensor of 1 dimensions"):
        agent.fetch(refs["f"][0], **e4m3)
    with pytest.raises(ValueError, match="blocks of 0 x 128"):
        agent.fetch(refs["f"], dtype=torch.float8_e4m3fn, block=(0, 128))
    values = poisoned((4, 4), torch.float8_e4m3fn)
    for wrong in (values, (values,), (values, torch.zeros(2, 1)), (values, torch.zeros(1, 1).double())):
        with pytest.raises(ValueError, match="nothing was written"):
            agent.fetch(refs["f"], wrong, **e4m3)
    assert is_poison(values) and is_poison(out["i"]) and is_poison(out["f"])


@pytest.mark.parametrize("path", PATHS)
def test_a_stale_reference_and_a_passed_deadline_write_nothing(owner, agent, path):
    refs = owner.register("[torch.ones(1024, 1024)]")
    out = poisoned((1024, 1024), torch.bfloat16)
    pair = (poisoned((1024, 1024), torch.float8_e4m3fn), poisoned((8, 8), torch.float32))
    fetches = [
        lambda **how: agent.fetch(refs[0], out, dtype=torch.bfloat16, path=path, **how),
        lambda **how: agent.fetch(refs[0], pair, dtype=torch.float8_e4m3fn, block=(128, 128), path=path, **how),
    ]
    agent.fetch(refs, path=path)
    for fetch in fetches:
        with pytest.raises(exceptions.TransferTimeoutError):
            fetch(timeout_s=0)
    owner.run("kept.clear()")
    for fetch in fetches:
        with pytest.raises(exceptions.StaleReferenceError):
            fetch()
    assert all(is_poison(tensor) for tensor in (out, *pair))


def test_an_owner_that_stalls_ends_a_conversion_in_time(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 22)]")
    agent.fetch(refs, path="tcp")
    owner.signal(signal.SIGSTOP)
    out = [torch.full((1 << 22,), 7.0).bfloat16()]
    with pytest.raises(exceptions.TransferTimeoutError):
        agent.fetch(refs, out, dtype=torch.bfloat16, path="tcp", timeout_s=1.0)
    transfer = agent.fetch_async(refs, out, dtype=torch.bfloat16, path="tcp")
    with pytest.raises(TimeoutError):
        transfer.result(0.2)
    transfer.cancel()
    with pytest.raises(exceptions.TransferCancelledError):
        transfer.result(20)
    owner.signal(signal.SIGCONT)
    owner.run("answer = 1")
    assert bool((out[0] == 7).all())
    assert bool((agent.fetch(refs, dtype=torch.bfloat16, path="tcp")[0] == 1).all())


def test_conversions_say_nothing_of_a_paths_speed(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    for _ in range(6):
        agent.fetch(refs, dtype=torch.bfloat16)
    assert not any(candidate["measured"] for candidate in agent.explain(refs[0])["candidates"])
    for _ in range(6):
        agent.fetch(refs)
    assert any(candidate["measured"] for candidate in agent.explain(refs[0])["candidates"])
