"""nccl on real GPUs: between two processes that have torch with CUDA, and one of two GPUs each. Not run where there are
none. By itself, that NCCL's variables (NCCL_P2P_DISABLE=1, NCCL_SHM_DISABLE=1) can choose by what it moves."""

import signal

import pytest
import torch

from tests.conformance.conftest import Pair
from tests.conformance.test_gpu import BUSY

pytestmark = [
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="not run: torch sees no two GPUs here"),
    pytest.mark.timeout(300),
]


@pytest.fixture(params=[True, False], ids=["one host", "as if on two"])
def pair(request, start_owner, monkeypatch):
    for name in ("BEELINE_CUDA_LIBRARY", "BEELINE_NCCL_LIBRARY"):  # of the emulators' tests
        monkeypatch.delenv(name, raising=False)
    both = Pair(start_owner(preload=False, share_memory=request.param), start_owner(preload=False))
    both.owner.run(BUSY)
    return both


TENSORS = {
    "flat": "torch.arange(1 << 20, device='cuda:{0}')",
    "large": "torch.arange(1 << 26, device='cuda:{0}', dtype=torch.float32)",
    "transposed": "torch.arange(600 * 700, device='cuda:{0}').reshape(600, 700).t()",
    "strided": "torch.arange(1 << 16, device='cuda:{0}').reshape(256, 256)[1::2, 3:-5]",
    "bfloat16": "torch.arange(1000, device='cuda:{0}').to(torch.bfloat16)",
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_arrive_on_another_gpu(pair, kind):
    pair.register(f"[{TENSORS[kind].format(0)}]")
    code = (
        f"expected = {TENSORS[kind].format(1)}; out = torch.empty_like(expected.contiguous()).fill_(1);"
        "agent.fetch(kept['refs'], [out], path='nccl'); answer = torch.equal(out, expected)"
    )
    assert pair.reader.run(code)


def test_a_fetch_comes_after_the_owners_kernels(pair):
    pair.register("[torch.zeros(1 << 20, device='cuda:0')]")
    for value in range(1, 4):
        pair.owner.run(f"busy(kept['t'][0], {value})")  # which returns before it is done
        fetched = "agent.fetch(kept['refs'], device='cuda:1', path='nccl')[0]"
        assert pair.reader.run(f"t = {fetched}; answer = [float(t.min()), float(t.max())]") == [value, value]


def test_push_and_batches(pair):
    pair.register("[torch.zeros(1 << 20, device='cuda:0')]")
    pair.owner.run(f"agent.grant(kept['r'], {pair.reader.address!r})")
    pair.reader.run("agent.push(kept['refs'], [torch.full((1 << 20,), 2.0, device='cuda:1')], path='nccl')")
    assert pair.owner.run("answer = float(kept['t'][0].sum())") == 2.0 * (1 << 20)
    pair.reader.run(
        "kept['out'] = torch.zeros(1 << 20, device='cuda:1');"
        "kept['batch'] = agent.prepare(kept['refs'], [kept['out']], path='nccl')"
    )
    for value in range(3):
        pair.owner.run(f"kept['t'][0].fill_({value})")
        assert pair.reader.run("kept['batch'].run(); answer = float(kept['out'].max())") == value


def test_one_gpu_is_no_pair(pair):
    pair.register("[torch.ones(10, device='cuda:0')]")
    pair.reader.tell("agent.fetch(kept['refs'], device='cuda:0', path='nccl')")
    assert "use cuda_ipc" in pair.reader._hear()["error"]


def test_fetches_from_each_other_at_once(pair):
    pair.register("[torch.full((1 << 24,), 1, dtype=torch.uint8, device='cuda:0')]")
    theirs = pair.reader.run(
        "kept['t'] = torch.full((1 << 24,), 2, dtype=torch.uint8, device='cuda:1');"
        "kept['r'] = agent.register([kept['t']]); answer = kept['r'].to_json()"
    )
    fetch = "t = [agent.fetch({}, device='{}', path='nccl', timeout_s=100)[0] for _ in range(20)][-1]; "
    pair.owner.run(f"kept['refs'] = TensorRefs.from_json({theirs!r})")
    pair.owner.tell(fetch.format("kept['refs']", "cuda:0") + "answer = int(t.min())")
    pair.reader.tell(fetch.format("kept['refs']", "cuda:1") + "answer = int(t.min())")
    assert pair.owner._hear() == {"answer": 2}
    assert pair.reader._hear() == {"answer": 1}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_owner_that_stops_or_dies_ends_no_reader(pair, number):
    pair.register("[torch.ones(1 << 26, device='cuda:0')]")
    pair.reader.run("agent.fetch(kept['refs'], device='cuda:1', path='nccl')")
    fetches = "[agent.fetch(kept['refs'], device='cuda:1', path='nccl', timeout_s=2) for _ in range(1000)]"
    pair.reader.tell(fetches)
    pair.owner.signal(number)
    error = pair.reader._hear()["error"]
    assert ("TransferTimeoutError" if number == signal.SIGSTOP else "PeerLostError") in error
    assert pair.reader.run("torch.cuda.synchronize(); answer = float(torch.ones(3, device='cuda:1').sum())") == 3
