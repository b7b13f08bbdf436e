"""cuda_ipc on real GPUs: between two processes that have torch with CUDA. Not run where there is none."""

import signal
import time

import pytest
import torch

from tests.conformance.conftest import Pair

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: torch sees no GPU here"),
    pytest.mark.timeout(300),
]

# A kernel that takes a while is in front of what is written: who does not wait sees what was there before.
BUSY = """
def busy(tensor, value):
    a = torch.randn(4096, 4096, device=tensor.device)
    for _ in range(50):
        a = a @ a
        a = a / a.norm()
    tensor.fill_(value)
"""


@pytest.fixture
def pair(start_owner, monkeypatch):
    monkeypatch.delenv("BEELINE_CUDA_LIBRARY", raising=False)  # of the emulator's tests
    both = Pair(start_owner(preload=False), start_owner(preload=False))
    both.owner.run(BUSY)
    return both


TENSORS = {
    "flat": "torch.arange(1 << 20, device='cuda')",
    "large": "torch.arange(1 << 26, device='cuda', dtype=torch.float32)",
    "transposed": "torch.arange(600 * 700, device='cuda').reshape(600, 700).t()",
    "strided": "torch.arange(1 << 20, device='cuda').reshape(1024, 1024)[1::2, 3:-5:7]",
    "expanded": "torch.arange(1000, device='cuda').reshape(1, 1000).expand(400, 1000)",
    "bfloat16": "torch.arange(1000, device='cuda').to(torch.bfloat16)",
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_arrive_on_the_gpu_and_on_the_host(pair, kind):
    pair.register(f"[{TENSORS[kind]}]")
    code = (
        f"expected = {TENSORS[kind]}; fresh = agent.fetch(kept['refs'], path='cuda_ipc')[0];"
        "out = torch.empty_like(expected.contiguous()).fill_(1); agent.fetch(kept['refs'], [out], path='cuda_ipc');"
        "host = agent.fetch(kept['refs'], device='cpu', path='cuda_ipc')[0];"
        "answer = [str(fresh.device), torch.equal(fresh, expected), torch.equal(out, expected),"
        " torch.equal(host, expected.cpu()), agent.explain(kept['refs'][0])['chosen']]"
    )
    assert pair.reader.run(code) == ["cuda:0", True, True, True, "cuda_ipc"]


def test_a_mapped_tensor_is_the_owners_memory(pair):
    pair.register("[torch.zeros(1 << 20, device='cuda')]")
    pair.reader.run("kept['view'] = agent.map(kept['refs'])[0]; answer = 1")
    pair.owner.run("kept['t'][0].fill_(3); torch.cuda.synchronize()")
    seen = "answer = [str(kept['view'].device), float(kept['view'].sum())]"
    assert pair.reader.run(seen) == ["cuda:0", 3.0 * (1 << 20)]
    pair.owner.run("kept.clear(); torch.cuda.empty_cache()")
    assert pair.owner.run("answer = agent.stats()['registrations_waiting']") == 1
    assert pair.reader.run("answer = float(kept['view'].sum())") == 3.0 * (1 << 20)
    pair.reader.run("del kept['view']")
    deadline = time.monotonic() + 20
    while pair.owner.run("agent.register(torch.zeros(1)); answer = agent.stats()['registrations_waiting']"):
        assert time.monotonic() < deadline


def test_a_fetch_comes_after_the_owners_kernels(pair):
    pair.register("[torch.zeros(1 << 20, device='cuda')]")
    for value in range(1, 4):
        pair.owner.run(f"busy(kept['t'][0], {value})")  # which returns before it is done
        fetched = "agent.fetch(kept['refs'])[0]"
        assert pair.reader.run(f"t = {fetched}; answer = [float(t.min()), float(t.max())]") == [value, value]


def test_work_of_a_side_stream_comes_first_where_its_owner_says_so(pair):
    pair.register("[torch.zeros(1 << 20, device='cuda')]")
    pair.owner.run(
        """
kept['s'] = torch.cuda.Stream()
with agent.writing(kept['r'], stream=kept['s']), torch.cuda.stream(kept['s']):
    busy(kept['t'][0], 5)
"""
    )
    assert pair.reader.run("t = agent.fetch(kept['refs'])[0]; answer = [float(t.min()), float(t.max())]") == [5, 5]


def test_push_and_batches(pair):
    pair.register("[torch.zeros(1 << 20, device='cuda')]")
    address = pair.reader.address
    pair.owner.run(f"agent.grant(kept['r'], {address!r})")
    pair.reader.run("agent.push(kept['refs'], [torch.full((1 << 20,), 2.0, device='cuda')])")
    assert pair.owner.run("answer = float(kept['t'][0].sum())") == 2.0 * (1 << 20)
    pair.reader.run(
        "kept['out'] = torch.zeros(1 << 20, device='cuda'); kept['batch'] = agent.prepare(kept['refs'], [kept['out']])"
    )
    for value in range(3):
        pair.owner.run(f"kept['t'][0].fill_({value})")
        assert pair.reader.run("kept['batch'].run(); answer = float(kept['out'].max())") == value


def test_a_segment_that_was_freed_and_taken_again(pair):
    for value in range(4):
        pair.register(f"[torch.full((1 << 22,), {value}.0, device='cuda')]")
        assert pair.reader.run("answer = float(agent.fetch(kept['refs'])[0].sum())") == value * float(1 << 22)
        pair.reader.run("kept.clear()")
        pair.owner.run("kept.clear(); torch.cuda.empty_cache()")


def test_ends_are_told(pair):
    pair.register("[torch.ones(1 << 20, device='cuda')]")
    pair.reader.run("agent.fetch(kept['refs'])")
    pair.owner.signal(signal.SIGKILL)
    pair.owner.process.wait()
    pair.reader.tell("[agent.fetch(kept['refs']) for _ in range(1000)]")
    assert "PeerLostError" in pair.reader._hear()["error"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="not run: it needs two GPUs")
def test_between_two_gpus(pair):
    pair.register("[torch.arange(1 << 22, device='cuda:0').reshape(2048, 2048).t()]")
    code = (
        "out = agent.fetch(kept['refs'], device='cuda:1')[0];"
        "expected = torch.arange(1 << 22, device='cuda:1').reshape(2048, 2048).t(); answer = torch.equal(out, expected)"
    )
    assert pair.reader.run(code)
