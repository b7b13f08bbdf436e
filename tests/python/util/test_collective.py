"""Collective operations where Ray's go wrong: tensors with gaps, ranks that do not agree, ranks that die."""

import os
import signal
from datetime import timedelta

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import beeline as ray  # noqa: E402
from beeline import exceptions  # noqa: E402
from beeline.util import collective  # noqa: E402
from beeline.util.collective.types import ReduceOp  # noqa: E402
from tests.python.util import ranks as rank_helpers  # noqa: E402

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def two(session):
    return rank_helpers.group(2, "two")


@pytest.fixture(scope="module")
def three(session):
    return rank_helpers.group(3, "three")


def strided(n):
    """Every other column of a matrix, transposed."""
    return torch.zeros(n, 2 * n)[:, ::2].t()


def test_tensors_with_gaps(two):
    def exchange(rank):
        out = []
        tensor = strided(4).fill_(rank + 1)
        collective.allreduce(tensor, "two")
        out.append(tensor.sum().item())
        tensor.fill_(rank)
        collective.broadcast(tensor, 1, "two")
        out.append(tensor.sum().item())
        parts = [strided(4) for _ in range(2)]
        collective.allgather(parts, strided(4).fill_(rank + 5), "two")
        out += [part.sum().item() for part in parts]
        if rank == 0:
            collective.send(strided(4).fill_(7), 1, "two")
        else:
            collective.recv(tensor, 0, "two")
            out.append(tensor.sum().item())
        return out

    assert rank_helpers.run(two, exchange) == [[48, 16, 80, 96], [48, 16, 80, 96, 112]]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "bfloat16", "complex64", "float8_e4m3fn", "float64"])
def test_what_is_not_reduced_is_of_any_dtype(two, dtype):
    def exchange(rank, name):
        dtype = getattr(torch, name)
        own = torch.full((3,), rank).to(dtype)
        other = torch.zeros(3).to(dtype)
        collective.broadcast(own, 1, "two")
        parts = [torch.zeros(3).to(dtype) for _ in range(2)]
        collective.allgather(parts, torch.full((3,), rank).to(dtype), "two")
        if rank == 0:
            collective.send(torch.ones(3).to(dtype), 1, "two")
        else:
            collective.recv(other, 0, "two")
        return [
            each.float().sum().item() if not each.is_complex() else each.real.sum().item()
            for each in (own, *parts, other)
        ]

    assert rank_helpers.run(two, exchange, dtype) == [[3, 0, 3, 0], [3, 0, 3, 3]]


def test_empty_tensors_and_scalars(two):
    def exchange(rank):
        scalar = torch.tensor(rank + 1.0)
        collective.allreduce(scalar, "two")
        for empty in (torch.empty(0), torch.empty(2, 0)):
            collective.allreduce(empty, "two")
            collective.broadcast(empty, 0, "two")
            if rank == 0:
                collective.send(empty, 1, "two")
            else:
                collective.recv(empty, 0, "two")
        return scalar.item()

    assert rank_helpers.run(two, exchange) == [3, 3]


def test_inputs_stay_as_they_are(three):
    def exchange(rank):
        parts = [torch.full((2,), float(rank + place)) for place in range(3)]
        result = torch.zeros(2)
        collective.reducescatter(result, parts, "three", ReduceOp.MAX)
        own = torch.full((2,), float(rank))
        collective.reduce(own, 2, "three")
        return [result.tolist(), [part.tolist() for part in parts], own.tolist()]

    for rank, (result, parts, own) in enumerate(rank_helpers.run(three, exchange)):
        assert result == [2.0 + rank] * 2
        assert parts == [[float(rank + place)] * 2 for place in range(3)]
        assert own == ([3.0, 3.0] if rank == 2 else [float(rank)] * 2)


def test_arrays_that_are_read_only(two):
    def exchange(rank):
        array = np.ones(3)
        array.flags.writeable = False
        result = np.zeros(3)
        collective.allgather([result, np.zeros(3)], array, "two")
        with pytest.raises(ValueError, match="read-only"):
            collective.allreduce(array, "two")
        return result.sum()

    assert rank_helpers.run(two, exchange) == [3, 3]


def told(call):
    """What an operation says when it fails."""
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("what", ["shape", "dtype", "operation", "root", "reduction"])
def test_ranks_that_do_not_agree_are_all_told(two, what):
    def disagree(rank, what):
        size = 3 + rank if what == "shape" else 3
        tensor = torch.ones(size, dtype=torch.int32 if what == "dtype" and rank else torch.float32)
        if what == "operation" and rank:
            return told(lambda: collective.barrier("two"))
        if what == "root":
            return told(lambda: collective.broadcast(tensor, rank, "two"))
        op = ReduceOp.MAX if what == "reduction" and rank else ReduceOp.SUM
        return told(lambda: collective.allreduce(tensor, "two", op))

    for text in rank_helpers.run(two, disagree, what):
        assert "do not agree: rank 0 is in" in text and "; rank 1 is in" in text and "'two'" in text

    def again(rank):
        tensor = torch.ones(2)
        collective.allreduce(tensor, "two")
        return tensor.tolist()

    assert rank_helpers.run(two, again) == [[2, 2], [2, 2]]


def test_a_message_of_another_size_is_dropped_and_the_next_one_comes(two):
    def exchange(rank):
        if rank == 0:
            collective.send(torch.ones(100), 1, "two")
            collective.send(torch.full((3,), 2.0), 1, "two")
            return None
        target = torch.zeros(3)
        text = told(lambda: collective.recv(target, 0, "two"))
        untouched = target.tolist()
        collective.recv(target, 0, "two")
        return [text, untouched, target.tolist()]

    text, untouched, received = rank_helpers.run(two, exchange)[1]
    assert "rank 0 has sent 400 bytes of float32, and 12 of float32" in text
    assert untouched == [0, 0, 0] and received == [2, 2, 2]


def test_several_tensors_of_each_process(two):
    def exchange(rank):
        own = [torch.full((2,), float(10 * rank + i)) for i in range(2)]
        summed = [tensor.clone() for tensor in own]
        collective.allreduce_multigpu(summed, "two")
        lists = [[torch.zeros(2) for _ in range(4)] for _ in range(2)]
        collective.allgather_multigpu(lists, own, "two")
        scattered = [torch.zeros(2) for _ in range(2)]
        inputs = [[torch.full((2,), float(place)) for place in range(4)] for _ in range(2)]
        collective.reducescatter_multigpu(scattered, inputs, "two")
        sent = [tensor.clone() for tensor in own]
        collective.broadcast_multigpu(sent, 1, 1, "two")
        reduced = [tensor.clone() for tensor in own]
        collective.reduce_multigpu(reduced, 0, 1, "two", ReduceOp.MAX)
        part = torch.zeros(4)
        if rank == 0:
            collective.send_multigpu(torch.arange(4.0), 1, 0, "two", n_elements=2)
        else:
            collective.recv_multigpu(part, 0, 0, "two", n_elements=2)
        first = lambda tensors: [tensor[0].item() for tensor in tensors]  # noqa: E731
        return [first(summed), first(lists[1]), first(scattered), first(sent), first(reduced), part.tolist()]

    zero, one = rank_helpers.run(two, exchange)
    assert zero == [[22, 22], [0, 1, 10, 11], [0, 4], [11, 11], [0, 11], [0, 0, 0, 0]]
    assert one == [[22, 22], [0, 1, 10, 11], [8, 12], [11, 11], [10, 11], [0, 1, 0, 0]]


def test_death_of_a_rank_fails_the_others_and_ends_none():
    ranks = rank_helpers.group(3, "mortal")
    pids = rank_helpers.run(ranks, lambda rank: os.getpid())
    waiting = rank_helpers.start(ranks[:2], lambda rank: told(lambda: collective.allreduce(torch.ones(5), "mortal")))
    os.kill(pids[2], signal.SIGKILL)
    for text in ray.get(waiting, timeout=100):
        assert "allreduce of torch.float32 [5] in the collective group 'mortal'" in text
    assert rank_helpers.run(ranks[:2], lambda rank: os.getpid()) == pids[:2]

    def anew(rank):
        collective.destroy_collective_group("mortal")
        rank_helpers.join(rank, 2, "mortal")
        tensor = torch.ones(2)
        collective.allreduce(tensor, "mortal")
        return tensor.tolist()

    assert rank_helpers.run(ranks[:2], anew) == [[2, 2], [2, 2]]


def test_a_rank_that_does_not_come_ends_the_wait(session):
    ranks = rank_helpers.group(2, "late")

    def wait_in_vain(rank):
        collective.get_group_handle("late")._timeout = timedelta(seconds=0.5)
        return [told(lambda: collective.recv(torch.ones(5), 1, "late")), collective.get_rank("late")]

    text, rank = ray.get(ranks[0].run.remote(wait_in_vain, 0), timeout=100)
    assert "recv from rank 1 of torch.float32 [5]" in text and "0.5 s" in text
    assert rank == 0


def test_two_groups_of_one_process_and_of_other_sizes(session):
    ranks = rank_helpers.group(3, "all")
    rank_helpers.run(ranks[:2], rank_helpers.join, 2, "some")

    def sums(rank):
        out = []
        for name in ["all", "some"] if rank < 2 else ["all"]:
            tensor = torch.ones(1)
            collective.allreduce(tensor, name)
            out.append(tensor.item())
        return out

    assert rank_helpers.run(ranks, sums) == [[3, 2], [3, 2], [3]]


def test_the_programs_own_process_group_is_not_touched(two):
    def default_group(rank):
        import torch.distributed as dist

        return dist.is_initialized()

    assert rank_helpers.run(two, default_group) == [False, False]


def test_errors_of_actors_arrive_as_what_they_are(two):
    with pytest.raises(exceptions.RayTaskError) as raised:
        ray.get(two[0].run.remote(lambda: collective.send(torch.ones(1), 0, "two")))
    assert isinstance(raised.value, RuntimeError) and "self" in str(raised.value)
