"""Collective groups of one rank, for which one GPU is enough: by gloo, and by NCCL where torch sees a GPU."""

import pytest
import torch

import beeline as ray
from beeline.util import collective
from beeline.util.collective.types import ReduceOp
from tests.python.util import ranks as rank_helpers

pytestmark = pytest.mark.timeout(300)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="not run: torch sees no GPU here")


@pytest.mark.parametrize(
    ("backend", "device", "gpus"), [("gloo", "cpu", 0), pytest.param("nccl", "cuda", 1, marks=NO_GPU)]
)
@pytest.mark.usefixtures("session")
def test_every_operation_of_a_single_rank(backend, device, gpus):
    def operations(backend, device):
        collective.init_collective_group(1, 0, backend, "alone")
        assert collective.is_group_initialized("alone")
        given = torch.arange(6.0, device=device).reshape(2, 3)
        reduced, strided = given.clone(), torch.zeros(3, 4, device=device)[:, ::2].fill_(5)
        for op in ReduceOp:
            collective.allreduce(reduced, "alone", op)
        collective.reduce(reduced, 0, "alone")
        collective.broadcast(reduced, 0, "alone")
        collective.allreduce(strided, "alone")
        gathered = [torch.zeros_like(given)]
        collective.allgather(gathered, given, "alone")
        scattered = torch.zeros_like(given)
        collective.reducescatter(scattered, [given], "alone")
        collective.barrier("alone")
        place = [collective.get_rank("alone"), collective.get_collective_group_size("alone")]
        collective.destroy_collective_group("alone")
        same = [torch.equal(each, given) for each in (reduced, gathered[0], scattered)]
        return [*place, *same, float(strided.sum()), scattered.device.type, collective.is_group_initialized("alone")]

    rank = rank_helpers.Rank.options(num_gpus=gpus).remote()
    outcome = ray.get(rank.run.remote(operations, backend, device), timeout=200)
    assert outcome == [0, 1, True, True, True, 30.0, device, False]
