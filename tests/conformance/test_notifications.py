"""Notifications: by themselves, and after a push, when what was pushed is there; in order, bounded, nothing silent."""

import asyncio
import signal
import threading
import time

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, Notification
from tests.conformance.conftest import TOKEN
from tests.conformance.paths import WRITING

COUNT = 3 << 18  # of float32: 3 MiB


def listen(owner, topic, **options):
    owner.run(f"kept[{topic!r}] = agent.notifications({topic!r}, **{options!r})")


@pytest.mark.parametrize("path", WRITING)
def test_what_was_pushed_is_there_when_the_notification_is(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register(f"[torch.zeros({COUNT})]")
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    listen(owner, "filled")
    for number in range(1, 11):
        owner.tell(
            "note = kept['filled'].wait(); seen = kept['tensors'][0].unique().tolist()\n"
            "answer = [note.payload.decode(), seen]"
        )
        agent.push(refs, [torch.full((COUNT,), float(number))], path=path, notify=("filled", b"%d" % number))
        assert owner._hear() == {"answer": [str(number), [float(number)]]}


@pytest.mark.parametrize("path", WRITING)
def test_a_push_that_fails_notifies_nobody(start_owner, agent, path):
    owner = start_owner()
    refs = owner.register(f"[torch.zeros({COUNT})]")
    listen(owner, "filled")
    with pytest.raises(ValueError, match="not granted"):
        agent.push(refs, [torch.ones(COUNT)], path=path, notify=("filled", b""))
    assert owner.run("answer = kept['filled'].poll() is None")
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    with pytest.raises(exceptions.NotificationRefusedError, match="takes no notifications"):
        agent.push(refs, [torch.ones(COUNT)], path=path, notify=("other", b""))
    assert owner.run("answer = kept['tensors'][0].unique().tolist()") == [1.0]  # the push itself was made


def test_a_push_that_is_awaited_notifies(start_owner, agent):
    owner = start_owner()
    refs = owner.register(f"[torch.zeros({COUNT})]")
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    listen(owner, "filled")
    transfers = [agent.push_async(refs, [torch.ones(COUNT)], notify=("filled", b"%d" % i)) for i in range(4)]
    for transfer in transfers:
        transfer.result(20)
    assert sorted(owner.run("answer = [kept['filled'].wait().payload.decode() for _ in range(4)]")) == list("0123")
    with pytest.raises(ValueError, match="nothing is pushed"):
        agent.push([], [], notify=("filled", b""))


@pytest.mark.parametrize("share_memory", [True, False])
def test_notifications_arrive_in_order_with_their_sender(start_owner, folder, share_memory):
    owner = start_owner(share_memory=share_memory)
    with Agent("receiver", folder=folder, token=TOKEN, share_memory=share_memory, tcp="127.0.0.1:0") as receiver:
        notifications = receiver.notifications("t")
        owner.run(f"for i in range(200): agent.notify({receiver.address!r}, 't', b'%d' % i)")
        taken = [notifications.wait(timeout_s=20) for _ in range(200)]
        assert [notification.payload for notification in taken] == [b"%d" % i for i in range(200)]
        identity = owner.address.partition("?id=")[2].partition("&")[0]
        assert taken[0] == Notification(identity, "owner", b"0")
        assert notifications.poll() is None
        with pytest.raises(exceptions.TransferTimeoutError, match='topic "t"'):
            notifications.wait(timeout_s=0.01)


def test_one_more_than_the_limit_is_refused_or_drops_the_oldest(start_owner, agent):
    owner = start_owner()
    listen(owner, "refusing", limit=3)
    listen(owner, "dropping", limit=3, when_full="drop_oldest")
    for number in range(5):
        agent.notify(owner.address, "dropping", b"%d" % number)
        if number < 3:
            agent.notify(owner.address, "refusing", b"%d" % number)
            continue
        with pytest.raises(exceptions.NotificationRefusedError, match="3 notifications"):
            agent.notify(owner.address, "refusing", b"%d" % number)
    take = "answer = [kept[{0!r}].wait().payload.decode() for _ in range(3)], kept[{0!r}].stats()"
    assert owner.run(take.format("refusing")) == [list("012"), {"waiting": 0, "refused": 2, "dropped": 0}]
    assert owner.run(take.format("dropping")) == [list("234"), {"waiting": 0, "refused": 0, "dropped": 2}]
    agent.notify(owner.address, "refusing", b"again")


def test_a_receiver_that_is_stopped_or_gone_is_an_error_in_time(start_owner, agent):
    owner = start_owner()
    listen(owner, "t")
    agent.notify(owner.address, "t", b"1")
    owner.signal(signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(exceptions.TransferTimeoutError, match="owner"):
        agent.notify(owner.address, "t", b"2", timeout_s=1)
    assert 0.9 < time.monotonic() - begin < 5
    owner.signal(signal.SIGCONT)
    agent.notify(owner.address, "t", b"3")
    taken = owner.run("answer = [kept['t'].wait().payload.decode() for _ in range(3)]")
    assert taken == ["1", "2", "3"]  # it may arrive later, as the error says
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        agent.notify(owner.address, "t", b"4", timeout_s=20)


async def test_notifications_are_iterated_over_and_cancelling_loses_none(start_owner, folder):
    owner = start_owner()
    with Agent("receiver", folder=folder, token=TOKEN) as receiver:
        notifications = receiver.notifications("t")
        for round_ in range(20):
            waiting = asyncio.ensure_future(anext(notifications))
            await asyncio.sleep(0)
            if round_ % 2 == 0:
                waiting.cancel()
            owner.tell(f"agent.notify({receiver.address!r}, 't', b'{round_}')")
            if round_ % 2 == 0:
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                waiting = asyncio.ensure_future(anext(notifications))
            assert (await asyncio.wait_for(waiting, 20)).payload == b"%d" % round_
            owner._hear()
        owner.run(f"for i in range(50): agent.notify({receiver.address!r}, 't', b'%d' % i)")
        seen = []
        async for notification in notifications:
            seen.append(int(notification.payload))
            if len(seen) == 50:
                break
        assert seen == list(range(50))
        tasks = [asyncio.ensure_future(anext(notifications)) for _ in range(3)]
        await asyncio.sleep(0)
        owner.run(f"for i in range(3): agent.notify({receiver.address!r}, 't', b'%d' % i)")
        assert [(await task).payload for task in tasks] == [b"0", b"1", b"2"]


def test_closing_ends_those_who_wait(folder):
    agent = Agent("receiver", folder=folder, token=TOKEN)
    notifications = agent.notifications("t")
    heard = []

    def wait():
        try:
            notifications.wait(timeout_s=None)
        except exceptions.PeerLostError as error:
            heard.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    agent.close()
    thread.join(20)
    assert len(heard) == 1 and "closed" in heard[0]


def test_arguments_are_checked(start_owner, agent):
    owner = start_owner()
    listen(owner, "t")
    with pytest.raises(ValueError, match="65537 bytes"):
        agent.notify(owner.address, "t", bytes((64 << 10) + 1))
    agent.notify(owner.address, "t", bytes(64 << 10))
    with pytest.raises(ValueError, match="1025"):
        agent.notify(owner.address, "t" * 1025)
    with pytest.raises(TypeError):
        agent.notify(owner.address, "t", "text")
    with pytest.raises(ValueError, match="limit"):
        agent.notifications("t", limit=0)
    with pytest.raises(ValueError, match="when_full"):
        agent.notifications("t", when_full="explode")
    own = agent.notifications("mine", limit=5)
    with pytest.raises(ValueError, match="limit of 5"):
        agent.notifications("mine", limit=6)
    agent.notify(agent.address, "mine", b"to myself")
    assert own.wait(timeout_s=20).payload == b"to myself"
