"""Published versions: each reader gets one whole version, the publisher never waits."""

import threading

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, TensorRef


def test_versions_reach_subscribers(start_owner, agent):
    owner = start_owner()  # one that has published nothing
    subscription = agent.subscribe(owner.address, "weights-a")
    assert subscription.latest() is None
    with pytest.raises(exceptions.TransferTimeoutError, match="weights-a"):
        subscription.wait(timeout_s=0.05)
    assert owner.run("answer = agent.publish('weights-a', {'w': torch.full((1000, 1000), 1.0)})") == 1
    number, weights = subscription.map()
    assert (number, float(weights["w"].mean())) == (1, 1.0)
    assert owner.run("answer = agent.publish('weights-a', {'w': torch.full((1000, 1000), 5.0)}, version=5)") == 5
    out = {"w": torch.zeros(1000, 1000)}
    number, fetched = subscription.fetch(out, newer_than=1)
    assert (number, fetched is out, float(out["w"].mean())) == (5, True, 5.0)
    assert float(weights["w"].mean()) == 1.0  # as it was mapped
    heard = owner.run(
        """
try:
    agent.publish('weights-a', [torch.ones(1)], version=5)
except ValueError as error:
    answer = str(error)
"""
    )
    assert "not newer than version 5" in heard


def test_views_are_published_as_they_are(owner, agent):
    owner.run("kept['views'] = [torch.arange(12).reshape(3, 4).t(), torch.arange(5).flip(0), torch.zeros(0, 3)]")
    owner.run("agent.publish('views', kept['views'])")
    _, (transposed, flipped, empty) = agent.subscribe(owner.address, "views").fetch()
    assert torch.equal(transposed, torch.arange(12).reshape(3, 4).t())
    assert flipped.tolist() == [4, 3, 2, 1, 0]
    assert empty.shape == (0, 3)


def test_a_fast_publisher_never_tears_a_version(folder):
    with Agent("publisher", folder=folder) as publisher, Agent("subscriber", folder=folder) as subscriber:
        tensors = [torch.zeros(300_000), torch.zeros(1000), torch.zeros(7)]
        publisher.publish("fast", tensors)
        stop = threading.Event()

        def publish():
            for value in range(1, 100_000):
                if stop.is_set():
                    return
                for tensor in tensors:
                    tensor.fill_(value)
                publisher.publish("fast", tensors)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            subscription = subscriber.subscribe(publisher.address, "fast")
            seen, reads = 0, [subscription.fetch, subscription.map]
            for round_ in range(300):
                seen, values = reads[round_ % 2](newer_than=seen)
                assert {float(value) for tensor in values for value in (tensor.min(), tensor.max())} == {seen - 1.0}
        finally:
            stop.set()
            thread.join()


def test_withdrawn_and_gone(start_owner, agent):
    owner = start_owner()
    owner.run("agent.publish('w', [torch.ones(1 << 20)])")
    subscription = agent.subscribe(owner.address, "w")
    number, refs = subscription.wait()
    (mapped,) = agent.map(refs)
    owner.run("agent.withdraw('w')")
    with pytest.raises(exceptions.StaleReferenceError):
        agent.fetch(refs)
    assert bool((mapped == 1).all())
    owner.end()
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        subscription.wait(number)


def test_after_withdrawal_there_is_no_latest_version_until_the_next_one(start_owner, agent):
    owner = start_owner()
    owner.run("agent.publish('w', [torch.ones(4)])")
    subscription = agent.subscribe(owner.address, "w")
    assert subscription.wait()[0] == 1
    owner.run("agent.withdraw('w'); agent.withdraw('w'); agent.withdraw('never published')")
    # What the publisher says arrives in order: the other name's version after the withdrawal.
    other = agent.subscribe(owner.address, "other")
    owner.run("agent.publish('other', [torch.ones(4)])")
    other.wait()
    assert subscription.latest() is None
    assert agent.subscribe(owner.address, "w").latest() is None
    with pytest.raises(exceptions.TransferTimeoutError, match="after 0"):
        subscription.wait(timeout_s=0.05)
    assert owner.run("answer = agent.publish('w', [torch.full((4,), 2.0)])") == 2
    number, (tensor,) = subscription.fetch()
    assert (number, tensor.tolist()) == (2, [2.0] * 4)
    assert subscription.latest()[0] == 2


@pytest.mark.parametrize(
    ("published", "check"),
    [
        ("torch.arange(3)", lambda got: got.tolist() == [0, 1, 2]),
        ("np.arange(3)", lambda got: got.tolist() == [0, 1, 2]),
        ("[torch.arange(3)]", lambda got: [each.tolist() for each in got] == [[0, 1, 2]]),
        ("(torch.arange(3), torch.ones(1))", lambda got: len(got) == 2 and isinstance(got, list)),
        ("{'w': torch.arange(3)}", lambda got: list(got) == ["w"] and got["w"].tolist() == [0, 1, 2]),
        ("[]", lambda got: got == []),
    ],
)
def test_a_version_has_the_structure_that_was_published(owner, agent, published, check):
    name = f"structure of {published}"
    owner.run(f"agent.publish({name!r}, {published})")
    subscription = agent.subscribe(owner.address, name)
    number, refs = subscription.wait()
    assert isinstance(refs, TensorRef) == published.endswith("arange(3)")
    assert check(agent.fetch(refs)) and check(subscription.fetch()[1]) and check(subscription.map()[1])
    assert type(subscription.latest()[1]) is type(refs)
    out = torch.full((3,), -1)
    if isinstance(refs, TensorRef):
        assert subscription.fetch(out)[1] is out and out.tolist() == [0, 1, 2]
