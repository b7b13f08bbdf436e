"""Subscribers that give versions on: the publisher sends few copies, and nobody's end is anybody else's failure."""

import logging
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, Fault, counters
from tests.conformance.conftest import TOKEN

COUNT = 4 << 20  # of float32
SIZE = COUNT * 4


def publish(publisher, number, *, fan_out=1, keep=2, checksum=False):
    code = f"agent.publish('w', [torch.arange({COUNT}, dtype=torch.float32) + {number}], keep={keep}, "
    return publisher.run(f"answer = {code} fan_out={fan_out}, checksum={checksum})")


def is_version(number, tensors):
    return torch.equal(tensors[0], torch.arange(COUNT, dtype=torch.float32) + number)


class Subscriber:
    """A process that relays, and shares no memory with others."""

    def __init__(self, start_owner, publisher, **options):
        self.owner = start_owner(**{"share_memory": False, **options})
        self.owner.run(f"kept['s'] = agent.subscribe({publisher.address!r}, 'w', relay=True)")

    def begin(self, newer_than=0, timeout_s=60):
        """Starts to fetch; `end` gives (number, whether it is that version)."""
        self.owner.tell(
            f"""
number, (tensor,) = kept['s'].fetch(newer_than={newer_than}, timeout_s={timeout_s})
answer = [number, bool((tensor == torch.arange({COUNT}, dtype=torch.float32) + number).all())]
"""
        )

    def end(self):
        heard = self.owner._hear()
        assert "error" not in heard, heard["error"]
        return heard["answer"]

    def fetch(self, **options):
        self.begin(**options)
        return self.end()


def read_of(readers, owner):
    """Bytes that the processes have read of the other one."""
    identity = owner.address.partition("?id=")[2].partition("&")[0]
    total = 0
    for reader in readers:
        rows = counters.read(reader.run("answer = agent.counters_path")).rows
        total += sum(row.nbytes for row in rows if row.peer_id == identity and row.operation == "fetch")
    return total


def wait_for_relays(publisher, count):
    deadline = time.monotonic() + 20
    while publisher.run("answer = agent.stats()['relays']") != count:
        assert time.monotonic() < deadline


@pytest.fixture
def publisher(start_owner):
    return start_owner(share_memory=False)


@pytest.fixture
def slow_child(publisher, folder):
    """A subscriber of this process that pauses in the middle of its first read, and the number and tensors it gets."""
    agents, threads = [], ThreadPoolExecutor(1)

    def start(*, pause_s=0.5, timeout_s=30):
        pause = Fault("delay", "tcp", after_bytes=SIZE // 2, delay_s=pause_s)
        agent = Agent("child", folder=folder, token=TOKEN, share_memory=False, tcp="127.0.0.1:0", faults=[pause])
        agents.append(agent)
        subscription = agent.subscribe(publisher.address, "w", relay=True)
        fetching = threads.submit(subscription.fetch, timeout_s=timeout_s)
        while agent.stats()["faults"] == 0:
            assert not fetching.done(), fetching.result()
        return agent, subscription, fetching

    yield start
    threads.shutdown()
    for agent in agents:
        agent.close()


@pytest.mark.parametrize("fan_out", [pytest.param(1, marks=pytest.mark.full), 3])
def test_eight_subscribers_cost_the_publisher_no_more_copies_than_its_fan_out(start_owner, publisher, fan_out):
    subscribers = [Subscriber(start_owner, publisher) for _ in range(8)]
    assert publish(publisher, 1, fan_out=fan_out, checksum=True) == 1
    for each in subscribers:
        each.begin()
    assert [each.end() for each in subscribers] == [[1, True]] * 8
    readers = [each.owner for each in subscribers]
    assert SIZE <= read_of(readers, publisher) <= fan_out * SIZE
    # Each has read it once, of somebody who sent it no more often than that either.
    sent = [read_of([reader for reader in readers if reader is not owner], owner) for owner in [publisher, *readers]]
    assert sum(sent) == 8 * SIZE
    assert max(sent) <= fan_out * SIZE
    wait_for_relays(publisher, 8)
    stats = publisher.run("answer = agent.stats()")
    assert (stats["reparented"], stats["overdue"]) == (0, 0)
    # The next version as well, in memory that is warm.
    assert publish(publisher, 2, fan_out=fan_out) == 2
    for each in subscribers:
        each.begin(newer_than=1)
    assert [each.end() for each in subscribers] == [[2, True]] * 8
    assert read_of(readers, publisher) <= 2 * fan_out * SIZE


def test_a_copy_that_was_brought_near_is_mapped_and_converted(start_owner, publisher):
    subscriber = Subscriber(start_owner, publisher)
    publish(publisher, 1)
    got = subscriber.owner.run(
        """
number, (mapped,) = kept['s'].map()
mapped += 1  # this process's own, in pages of its own
_, (halves,) = kept['s'].fetch(dtype=torch.bfloat16)
again = kept['s'].latest()
answer = [number, float(mapped[0]), str(halves.dtype), float(halves[0]), again[0], again[1].owner == agent.address]
"""
    )
    assert got == [1, 2.0, "torch.bfloat16", 1.0, 1, True]
    assert read_of([subscriber.owner], publisher) == SIZE


def test_a_subscriber_that_does_not_relay_reads_of_the_publisher(start_owner, publisher, agent):
    relay = Subscriber(start_owner, publisher)
    publish(publisher, 1)
    assert relay.fetch() == [1, True]
    number, tensors = agent.subscribe(publisher.address, "w").fetch()
    assert is_version(number, tensors)
    assert read_of([relay.owner], publisher) == SIZE


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_relay_that_ends_or_stalls_while_it_serves_is_given_up(start_owner, publisher, slow_child, end, caplog):
    relay = Subscriber(start_owner, publisher)
    publish(publisher, 1, checksum=True)
    assert relay.fetch() == [1, True]
    wait_for_relays(publisher, 1)
    with caplog.at_level(logging.WARNING, "beeline.transfer"):
        begin = time.monotonic()
        child, _, fetching = slow_child(timeout_s=12)
        relay.owner.signal(end)
        number, tensors = fetching.result(30)
        assert time.monotonic() - begin < 12
    assert number == 1
    assert is_version(1, tensors)
    assert child.stats()["parents_lost"] == 1
    assert publisher.run("answer = agent.stats()['reparented']") == 1
    assert ['relay "owner" failed' in record.message for record in caplog.records] == [True]
    if end == signal.SIGSTOP:
        relay.owner.signal(signal.SIGCONT)
        publish(publisher, 2)
        assert relay.fetch(newer_than=1) == [2, True]


def test_a_relay_that_withdraws_is_given_up(start_owner, publisher, slow_child):
    relay = Subscriber(start_owner, publisher)
    publish(publisher, 1)
    assert relay.fetch() == [1, True]
    wait_for_relays(publisher, 1)
    child, _, fetching = slow_child()
    relay.owner.run("kept.clear()")
    number, tensors = fetching.result(30)
    assert number == 1
    assert is_version(1, tensors)
    assert child.stats()["parents_lost"] == 1


@pytest.mark.full
def test_a_subscriber_that_stalls_holds_up_others_for_a_part_of_their_time(start_owner, publisher, slow_child):
    publish(publisher, 1)
    _, _, fetching = slow_child(pause_s=8, timeout_s=60)  # the publisher's one child, for a while
    late = Subscriber(start_owner, publisher)
    begin = time.monotonic()
    assert late.fetch(timeout_s=8) == [1, True]
    assert 1.5 < time.monotonic() - begin < 8
    assert publisher.run("answer = agent.stats()['overdue']") == 1
    assert not fetching.done()
    number, tensors = fetching.result(60)
    assert is_version(number, tensors)


def test_the_publishers_end_is_an_error_for_whom_it_serves(publisher, slow_child):
    publish(publisher, 1)
    _, subscription, fetching = slow_child()
    publisher.signal(signal.SIGKILL)
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        fetching.result(30)
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        subscription.fetch(timeout_s=10)


def test_the_publishers_end_is_none_for_whom_a_relay_serves(start_owner, publisher, slow_child):
    relay = Subscriber(start_owner, publisher)
    publish(publisher, 1)
    assert relay.fetch() == [1, True]
    wait_for_relays(publisher, 1)
    _, subscription, fetching = slow_child()
    publisher.signal(signal.SIGKILL)
    number, tensors = fetching.result(30)
    assert number == 1
    assert is_version(1, tensors)
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        subscription.fetch(newer_than=1, timeout_s=10)


@pytest.mark.parametrize(("keep", "expected"), [(1, 2), (2, 1)])
def test_a_new_version_in_the_middle_of_the_one_before(start_owner, publisher, slow_child, keep, expected):
    relay = Subscriber(start_owner, publisher)
    publish(publisher, 1, keep=keep)
    assert relay.fetch() == [1, True]
    wait_for_relays(publisher, 1)
    _, subscription, fetching = slow_child()
    publish(publisher, 2, keep=keep)
    number, tensors = fetching.result(30)
    assert number == expected
    assert is_version(expected, tensors)
    number, tensors = subscription.fetch(newer_than=1)
    assert is_version(2, tensors)


def test_a_version_that_is_garbled_on_the_way_is_read_anew(start_owner, publisher, folder):
    relay = Subscriber(start_owner, publisher)
    publish(publisher, 1, checksum=True)
    assert relay.fetch() == [1, True]
    wait_for_relays(publisher, 1)
    lie = Fault("corrupt", "tcp", after_bytes=SIZE // 3)
    with Agent("child", folder=folder, token=TOKEN, share_memory=False, tcp="127.0.0.1:0", faults=[lie]) as child:
        number, tensors = child.subscribe(publisher.address, "w", relay=True).fetch()
        assert number == 1
        assert is_version(1, tensors)
        assert child.stats()["parents_lost"] == 1
    # Where the publisher itself garbles it, there is nobody else to ask.
    with Agent("other", folder=folder, token=TOKEN, share_memory=False, tcp="127.0.0.1:0", faults=[lie]) as other:
        relay.owner.end()
        wait_for_relays(publisher, 0)
        subscription = other.subscribe(publisher.address, "w", relay=True)
        with pytest.raises(exceptions.TornReadError, match="checksum"):
            subscription.fetch()
        assert is_version(*subscription.fetch())


def test_subscribers_that_share_memory_with_the_publisher_map_its_bytes(start_owner, folder):
    publisher = start_owner()
    publish(publisher, 1)
    with Agent("near", folder=folder, token=TOKEN) as near:
        subscription = near.subscribe(publisher.address, "w", relay=True)
        number, tensors = subscription.map()
        assert is_version(number, tensors)
        assert subscription.latest()[1].owner == publisher.address
        assert publisher.run("answer = agent.stats()['relays']") == 0


def test_readers_on_one_host_read_what_one_of_them_has(start_owner, publisher):
    near = [Subscriber(start_owner, publisher, share_memory=True) for _ in range(3)]
    publish(publisher, 1, fan_out=4)
    for each in near:
        each.begin()
    assert [each.end() for each in near] == [[1, True]] * 3
    owners = [each.owner for each in near]
    assert read_of(owners, publisher) == SIZE
    wait_for_relays(publisher, 1)
    # The one that has it ends: the others have not lost what they have mapped, and get what comes.
    for owner in owners:
        owner.run("kept['mapped'] = kept['s'].map()[1][0]")
    (holder,) = [owner for owner in owners if owner.run("answer = kept['s'].latest()[1].owner == agent.address")]
    others = [each for each in near if each.owner is not holder]
    holder.signal(signal.SIGKILL)
    holder.process.wait()
    for each in others:
        assert each.owner.run("answer = float(kept['mapped'][0])") == 1.0
        assert each.fetch() == [1, True]  # from the publisher again, by one of them
    assert read_of([each.owner for each in others], publisher) <= SIZE
    publish(publisher, 2)
    assert [each.fetch(newer_than=1) for each in others] == [[2, True]] * 2


def test_who_is_reached_by_nobody_may_not_relay(publisher):
    with (
        Agent("mute", token=TOKEN, share_memory=False) as mute,
        pytest.raises(ValueError, match="no other agent reaches"),
    ):
        mute.subscribe(publisher.address, "w", relay=True)


def test_a_fan_out_of_none_is_refused(folder):
    with Agent("own", folder=folder) as own, pytest.raises(ValueError, match="fan_out"):
        own.publish("w", [torch.ones(1)], fan_out=0)
