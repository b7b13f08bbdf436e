"""A full disk under the agents' folder costs counters and spans, which is said, and nothing else."""

import os
import signal

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, counters
from tests.conformance.conftest import TOKEN
from tests.conformance.paths import PATHS, WRITING
from tests.conformance.small_disk import fill, mounted
from tests.conformance.test_relay import Subscriber, publish, wait_for_relays

COUNT = 1 << 20  # of float32


@pytest.fixture
def disk(place):
    """The agents' folder, without room. Agents that are closed have left nothing there."""
    with mounted(place, "64k"):
        fill(place)
        yield place
        assert os.listdir(place) == ["filler"]


@pytest.fixture
def uncounted(disk):
    """An agent of this process that has said what it does without."""
    with pytest.warns(UserWarning, match="keeps no counters.*No space left on device"):
        agent = Agent("reader", folder=disk, token=TOKEN)
    with agent:
        assert agent.counters_path == ""
        yield agent
    assert counters.scan(disk) == ([], {})


def close(*owners):
    for owner in owners:
        assert owner.run("answer = agent.counters_path; agent.close()") == ""


@pytest.mark.parametrize("path", PATHS)
def test_transfers_by_every_path_go_on(start_owner, disk, uncounted, path):
    owner = start_owner(folder=disk)
    refs = owner.register(f"[torch.ones({COUNT})]")
    assert float(uncounted.fetch(refs, path=path)[0].sum()) == COUNT
    if path in WRITING:
        owner.run(f"agent.grant(kept['refs'], {uncounted.address!r})")
        uncounted.push(refs, [torch.full((COUNT,), 2.0)], path=path)
        assert owner.run("answer = float(kept['tensors'][0].sum())") == 2 * COUNT
    close(owner)


def test_notifications_arrive_and_refusals_are_told_and_counted(start_owner, disk, uncounted):
    owner = start_owner(folder=disk)
    refs = owner.register(f"[torch.zeros({COUNT})]")
    owner.run(f"agent.grant(kept['refs'], {uncounted.address!r}); kept['t'] = agent.notifications('t', limit=2)")
    uncounted.push(refs, [torch.ones(COUNT)], notify=("t", b"pushed"))
    uncounted.notify(owner.address, "t", b"sent")
    with pytest.raises(exceptions.NotificationRefusedError, match="2 notifications"):
        uncounted.notify(owner.address, "t", b"one more")
    with pytest.raises(exceptions.NotificationRefusedError, match="takes no notifications"):
        uncounted.notify(owner.address, "other", b"")
    assert owner.run("answer = [kept['t'].wait(timeout_s=20).payload.decode() for _ in range(2)]") == ["pushed", "sent"]
    assert owner.run("answer = [kept['t'].stats()['refused'], agent.stats()['refused']]") == [1, 1]
    close(owner)


def test_relays_give_versions_on_and_make_up_for_each_other(start_owner, disk):
    publisher = start_owner(folder=disk, share_memory=False)
    first, second = (Subscriber(start_owner, publisher, folder=disk) for _ in range(2))
    publish(publisher, 1, fan_out=1, checksum=True)
    assert [first.fetch(), second.fetch()] == [[1, True], [1, True]]
    wait_for_relays(publisher, 2)
    first.owner.signal(signal.SIGKILL)
    first.owner.process.wait()
    publish(publisher, 2, fan_out=1, checksum=True)
    assert second.fetch(newer_than=1) == [2, True]
    close(second.owner, publisher)


# Elements of float32: one of each class of sizes.
SIZES = [1 << 8, 1 << 12, 1 << 16, 1 << 20, 1 << 23]
MOVING = ("cma", "object_store", "tcp")


def test_a_disk_that_becomes_full_costs_rows_of_counters(start_owner, place):
    with mounted(place, "2m"):
        owner = start_owner(folder=place)
        refs = owner.register(f"[torch.ones({max(SIZES)})]")
        with Agent("reader", folder=place, token=TOKEN) as reader:
            owner.run(f"agent.grant(kept['refs'], {reader.address!r})")
            fill(place)
            for size in SIZES:
                part = refs[0][:size]
                for path in ("shm", *MOVING):
                    assert float(reader.fetch(part, path=path).sum()) == size
                for path in MOVING:
                    reader.push(part, torch.ones(size), path=path)
                assert float(reader.map(part).sum()) == size
            seen = counters.read(reader.counters_path)
            kinds = len(SIZES) * (1 + 2 * len(MOVING) + 1)
            assert seen.rows_lost > 0 and len(seen.rows) + seen.rows_lost == kinds
            assert sum(row.transfers for row in (*seen.rows, seen.rest)) == kinds
            assert seen.rest.transfers == seen.rows_lost
        owner.run("agent.close()")
        assert os.listdir(place) == ["filler"]
