"""How ranks of a group find each other, and what is left when they do not."""

import os
import re
import signal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import beeline as ray  # noqa: E402
from beeline.api import session as sessions  # noqa: E402
from beeline.experimental.collective import (  # noqa: E402
    create_collective_group,
    destroy_all_collective_groups,
    destroy_collective_group,
    get_collective_groups,
)
from beeline.util import collective  # noqa: E402
from beeline.util.collective.collective_group.base_collective_group import BaseGroup  # noqa: E402
from tests.python.util import ranks as rank_helpers  # noqa: E402
from tests.python.util.waiting import until  # noqa: E402

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    destroy_all_collective_groups()


def files():
    """What lies in the session's folder of groups."""
    folder = Path(sessions.current.info["session_dir"]) / "collective"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def told(call):
    try:
        call()
    except (RuntimeError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def joining(rank, size, name, timeout_ms):
    return told(lambda: rank_helpers.join(rank, size, name, timeout_ms))


def test_a_group_leaves_no_file_once_it_is_made():
    before = files()
    ranks = rank_helpers.group(3, "made")
    assert files() == before
    assert rank_helpers.run(ranks, lambda rank: collective.get_rank("made")) == [0, 1, 2]


def test_a_rank_that_does_not_come_is_named():
    before = files()
    # The other one may come when rank 0 has given up already.
    first, other = rank_helpers.run(rank_helpers.made(2), joining, 3, "lacking", 500)
    assert re.search(r"TimeoutError: .* 3 ranks .* rank\(s\) (1, )?2 did not come", first)
    assert "'lacking'" in other
    assert files() == before


def test_without_rank_0_the_others_say_so():
    (actor,) = rank_helpers.made(1)
    text = ray.get(actor.run.remote(joining, 1, 2, "headless", 300), timeout=100)
    assert "Rank 0 of the collective group 'headless' did not come within 0.3 s" in text


def test_a_rank_0_that_was_killed_is_not_waited_for():
    first, *others = rank_helpers.made(3)
    before = files()
    pid = ray.get(first.run.remote(os.getpid))
    first.run.remote(joining, 0, 2, "killed", 60_000)
    until(lambda: files() != before)
    os.kill(pid, signal.SIGKILL)
    assert rank_helpers.run(others, joining, 2, "killed", 60_000) == ["nothing", "nothing"]


def test_ranks_that_differ_in_size_or_are_taken_are_told():
    one, other, third = rank_helpers.made(3)
    before = files()
    waiting = one.run.remote(joining, 0, 2, "sizes", 60_000)
    until(lambda: files() != before)
    assert "has 2 ranks at rank 0, but 3 at rank 1" in ray.get(other.run.remote(joining, 1, 3, "sizes", 60_000))
    assert "is another process" in ray.get(other.run.remote(joining, 0, 2, "sizes", 60_000))
    assert ray.get(third.run.remote(joining, 1, 2, "sizes", 60_000), timeout=100) == "nothing"
    assert ray.get(waiting, timeout=100) == "nothing"


@pytest.mark.full
def test_a_failed_group_is_in_no_actor_and_can_be_made_again():
    ranks = rank_helpers.made(2)
    ray.get(ranks[1].run.remote(rank_helpers.join, 0, 1, "again"))  # the name is taken there
    with pytest.raises(RuntimeError, match="second time"):
        create_collective_group(ranks, backend="gloo", name="again")
    # Rank 0 waits for the other one as long as ranks have to come.
    assert rank_helpers.run(ranks, lambda rank: collective.is_group_initialized("again")) == [False, True]
    ray.get(ranks[1].run.remote(collective.destroy_collective_group, "again"))
    group = create_collective_group(ranks, backend="gloo", name="again")
    assert get_collective_groups([ranks[0]]) == [group]


def test_a_group_whose_actor_has_died_is_destroyed():
    ranks = rank_helpers.made(2)
    group = create_collective_group(ranks, backend="gloo")
    ray.kill(ranks[0])
    destroy_collective_group(group)
    assert get_collective_groups(ranks) == []
    assert not ray.get(ranks[1].run.remote(collective.is_group_initialized, group.name))


def test_a_declared_group_is_joined_at_the_first_operation_and_ends_with_the_first_that_leaves():
    ranks = rank_helpers.made(2)
    collective.create_collective_group(ranks, 2, [1, 0], "gloo", "declared")

    def rank_of(rank):
        collective.barrier("declared")
        return collective.get_rank("declared")

    assert rank_helpers.run(ranks, rank_of) == [1, 0]
    ray.get(ranks[0].run.remote(collective.destroy_collective_group, "declared"))
    collective.declare_collective_group(ranks, 2, [0, 1], "gloo", "declared")
    ray.get(ranks[1].run.remote(collective.destroy_collective_group, "declared"))


def test_a_process_that_was_not_declared_is_in_no_group():
    ranks = rank_helpers.made(2)
    collective.create_collective_group(ranks[:1], 1, [0], "gloo", "others")
    text = ray.get(ranks[1].run.remote(lambda: told(lambda: collective.barrier("others"))))
    assert text == "RuntimeError: The collective group 'others' is not initialized in the process."


def test_a_group_by_environment():
    environment = {
        "collective_group_name": "env",
        "collective_rank": "0",
        "collective_world_size": "1",
        "collective_backend": "gloo",
    }
    actor = rank_helpers.Rank.options(runtime_env={"env_vars": environment}).remote()

    def sums():
        tensor = torch.ones(1)
        collective.allreduce(tensor, "env")
        return [tensor.item(), collective.get_collective_group_size("env")]

    assert ray.get(actor.run.remote(sums), timeout=100) == [1, 1]


class Recording(BaseGroup):
    """A backend of the program's own: notes what it is asked for."""

    def __init__(self, world_size, rank, group_name):
        super().__init__(world_size, rank, group_name)
        self.seen = []

    @classmethod
    def check_backend_availability(cls):
        return True

    def allreduce(self, tensor, options):
        self.seen.append(("allreduce", len(tensor), options.reduceOp.name))

    def barrier(self, options=None):
        self.seen.append(("barrier",))

    reduce = allgather = broadcast = reducescatter = send = recv = None


def test_a_backend_of_the_programs_own():
    def use():
        collective.register_collective_backend("recording", Recording)
        collective.init_collective_group(1, 0, "Recording", "own")
        collective.allreduce(torch.ones(1), "own")
        collective.allreduce_multigpu([torch.ones(1), torch.ones(1)], "own")
        collective.barrier("own")
        return collective.get_group_handle("own").seen

    (actor,) = rank_helpers.made(1)
    assert ray.get(actor.run.remote(use)) == [("allreduce", 1, "SUM"), ("allreduce", 2, "SUM"), ("barrier",)]
    with pytest.raises(TypeError, match="not a subclass of BaseGroup"):
        collective.register_collective_backend("other", int)
    with pytest.raises(ValueError, match="already registered"):
        collective.register_collective_backend("gloo", Recording)


def test_nccl_is_missing_where_torch_has_none():
    if torch.cuda.is_available():
        pytest.skip("torch has CUDA here")
    assert not collective.nccl_available() and collective.gloo_available()
    with pytest.raises(RuntimeError, match="NCCL"):
        collective.create_collective_group(rank_helpers.made(1), 1, [0], "nccl", "gpus")
    (actor,) = rank_helpers.made(1)
    with pytest.raises(ValueError, match="torch was built without NCCL"):
        ray.get(actor.run.remote(collective.init_collective_group, 1, 0, "nccl", "gpus"))
