"""Two-sided tensor transports of the program's own, by Ray's interface."""

import contextlib
import os
import pickle
import signal
import socket
import threading
from multiprocessing.connection import Connection

import pytest
import torch

import beeline as ray
from beeline import exceptions
from beeline.experimental import register_tensor_transport
from beeline.experimental.rdt.util import get_tensor_transport_manager
from beeline.tensors import two_sided
from tests.compat import two_sided_classes
from tests.python.direct_transport.nodes import call, ones, total

MeetingTransport = two_sided_classes.by_sockets(ray)


@pytest.fixture(scope="module", autouse=True)
def registered(session):
    register_tensor_transport("meeting", ["cpu"], MeetingTransport, torch.Tensor)


def make(node, n):
    shared = torch.arange(float(n))
    return {"a": shared, "again": [shared], "b": torch.full((n,), 2), "empty": torch.zeros(0, 3), "text": "x"}


def look(node, value):
    same = value["a"] is value["again"][0]
    return [float(value["a"].sum()), int(value["b"].sum()), list(value["empty"].shape), value["text"], same]


@pytest.mark.parametrize("n", [10, 1 << 18])
def test_from_actor_to_actor(a, b, n):
    ref = call(a, make, n, transport="meeting")
    expected = [n * (n - 1) // 2, 2 * n, [0, 3], "x", True]
    assert ray.get(call(b, look, ref)) == expected
    assert ray.get(call(b, lambda node, refs: look(node, ray.get(refs[0])), [ref])) == expected
    assert ray.get(call(a, look, ref)) == expected


def test_the_producer_sends_beside_its_running_call(a, b, tmp_path):
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    ref = call(a, make, 10, transport="meeting")
    running = call(a, lambda node: open(gate).read())  # until somebody writes
    assert ray.get(call(b, look, ref))[0] == 45
    with open(gate, "w") as file:
        file.write("over")
    assert ray.get(running) == "over"


def test_actors_that_all_read_of_each_other_at_once(make_actor):
    # The class fails where two threads use it, or where two of its transfers meet at one place.
    actors = [make_actor(max_concurrency=3) for _ in range(4)]
    refs = [call(actor, ones, 1000 + place, transport="meeting") for place, actor in enumerate(actors)]
    sums = [call(reader, total, ref) for _ in range(4) for ref in refs for reader in actors]
    expected = [1000 + place for _ in range(4) for place in range(4) for _ in actors]
    assert ray.get(sums, timeout=100) == expected


def test_a_driver_and_a_task_neither_receive_nor_send(a):
    ref = call(a, ones, 10, transport="meeting")
    with pytest.raises(ValueError, match="get is not allowed on objects of the two-sided tensor transport 'meeting'"):
        ray.get(ref)
    assert ray.get(ref, _use_object_store=True).sum() == 10
    with pytest.raises(ValueError, match="put is not supported for the two-sided tensor transport 'meeting'"):
        ray.put(torch.ones(3), _tensor_transport="meeting")

    @ray.remote
    def task(value):
        return float(value.sum())

    with pytest.raises(ValueError, match="actors receive by it"):
        ray.get(task.remote(ref))


def test_an_actor_puts_and_fills_targets(a, b):
    ref = ray.get(call(a, lambda node: [ray.put(torch.full((5,), 3.0), _tensor_transport="meeting")]))[0]

    def into(node, refs):
        from beeline.experimental import set_target_for_ref

        target = torch.zeros(5)
        set_target_for_ref(refs[0], [target])
        return ray.get(refs[0]) is target and float(target.sum())

    assert ray.get(call(b, into, [ref])) == 15


def set_fault(node, fault):
    get_tensor_transport_manager("meeting").fault = fault


def fail():
    raise KeyError("no such wire")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    threading.Event().wait()


def error_of(node, refs, timeout=None):
    """What getting the first of them raises here, as text with its class."""
    try:
        ray.get(refs[0], timeout=timeout)
    except exceptions.BeelineError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_an_error_of_the_sender_reaches_the_receiver(a, b):
    ray.get(call(a, set_fault, fail))
    ref = call(a, ones, 10, transport="meeting")
    with pytest.raises(exceptions.DirectTransportError, match="1 tensors .40 bytes. by the .* 'meeting'") as raised:
        ray.get(call(b, total, ref))
    for word in ("Actor(Node", "in process", "send_multiple_tensors raised KeyError: 'no such wire'"):
        assert word in str(raised.value)
    ray.get(call(a, set_fault, None))
    assert ray.get(call(b, total, ref)) == 10


def test_a_producer_that_is_killed_while_it_sends(make_actor, b):
    a = make_actor(max_restarts=1, max_task_retries=-1)
    ray.get(call(a, set_fault, die))
    ref = call(a, ones, 10, transport="meeting")
    # It is there again, in another process, and so is its transport; what it had made is made again.
    assert ray.get(call(b, total, ref)) == 10
    assert ray.get(call(b, total, call(a, ones, 11, transport="meeting"))) == 11


def test_a_producer_that_is_killed_while_it_sends_and_whose_child_lives(make_actor, b, tmp_path):
    a = make_actor()
    place = tmp_path / "child"

    def leave_a_child():
        told, tells = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()  # else it is ended with its parent
            os.write(tells, b"x")
            signal.pause()
        os.read(told, 1)
        place.write_text(str(child))
        die()

    ray.get(call(a, set_fault, leave_a_child))
    ref = call(a, ones, 10, transport="meeting")
    try:
        told = ray.get(call(b, error_of, [ref], 50))
        # As the runtime says it, or the transport: the child has the runtime's connections as well.
        assert "its value lay in a process that is gone" in told or "the producer's process has ended" in told
    finally:
        os.kill(int(place.read_text()), signal.SIGKILL)


def test_a_receiver_that_is_killed_while_it_receives(a, make_actor, b):
    reader = make_actor(max_restarts=1)
    pid = ray.get(call(reader, lambda node: os.getpid()))
    ray.get(call(a, set_fault, lambda: os.kill(pid, signal.SIGKILL)))
    ref = call(a, lambda node: torch.ones(1 << 20), transport="meeting")
    with pytest.raises(exceptions.ActorError):
        ray.get(call(reader, total, ref))
    ray.get(call(a, set_fault, None))
    assert ray.get(call(b, total, ref)) == 1 << 20
    assert ray.get(call(reader, total, ref)) == 1 << 20


def test_a_sender_that_hangs(a, b, make_actor):
    ray.get(call(a, set_fault, stop))
    ref = call(a, ones, 10, transport="meeting")
    assert ray.get(call(b, error_of, [ref], 1)).startswith("GetTimeoutError: get timed out while it fetched a value")
    ray.get(call(a, set_fault, None))
    # What hangs would take the bytes of the next between the two; between others nothing is in the way.
    told = ray.get(call(b, error_of, [ref], 1))
    assert "has not ended" in told and "Restart the actor" in told
    assert ray.get(call(make_actor(), total, ref)) == 10
    assert ray.get(call(b, total, call(make_actor(), ones, 12, transport="meeting"))) == 12


def test_a_receiver_that_hangs_after_an_error_of_the_sender(a, b, make_actor):
    ray.get(call(a, lambda node: setattr(get_tensor_transport_manager("meeting"), "fault_before", fail)))
    ref = call(a, ones, 10, transport="meeting")
    for word in ("at the producer send_multiple_tensors raised KeyError", "recv_multiple_tensors has not ended"):
        assert word in ray.get(call(b, error_of, [ref], 30))
    ray.get(call(a, lambda node: setattr(get_tensor_transport_manager("meeting"), "fault_before", None)))
    assert ray.get(call(make_actor(), total, ref)) == 10


class AbortableTransport(MeetingTransport):
    """What it waits for ends when it is aborted."""

    def __init__(self):
        super().__init__()
        self.aborted = threading.Event()

    @staticmethod
    def can_abort_transport():
        return True

    def send_multiple_tensors(self, tensors, tensor_transport_metadata, communicator_metadata):
        if self.fault:
            self.aborted.wait()
            raise InterruptedError("aborted")
        super().send_multiple_tensors(tensors, tensor_transport_metadata, communicator_metadata)

    def recv_multiple_tensors(self, obj_id, tensor_transport_metadata, communicator_metadata, target_buffers=None):
        if self.fault:
            self.aborted.wait()
            raise InterruptedError("aborted")
        return super().recv_multiple_tensors(obj_id, tensor_transport_metadata, communicator_metadata)

    def abort_transport(self, obj_id, communicator_metadata):
        self.aborted.set()


def test_a_transfer_that_runs_out_of_time_is_aborted_on_both_sides(a, b):
    register_tensor_transport("interrupted", ["cpu"], AbortableTransport, torch.Tensor)

    def set_hang(node, hang):
        get_tensor_transport_manager("interrupted").fault = hang

    ray.get([call(each, set_hang, True) for each in (a, b)])
    ref = call(a, ones, 10, transport="interrupted")
    assert ray.get(call(b, error_of, [ref], 1)).startswith("GetTimeoutError")
    ray.get([call(each, set_hang, False) for each in (a, b)])
    assert ray.get(call(b, total, ref)) == 10


class Strange:
    def __reduce__(self):
        raise TypeError("it stays here")


class StrangeTransport(MeetingTransport):
    """Errs before anything moves."""

    def get_communicator_metadata(self, src_actor, dst_actor, backend=None):
        return Strange() if self.fault else 1 / 0


def test_a_class_that_cannot_say_how_the_two_meet(a, b):
    register_tensor_transport("strange", ["cpu"], StrangeTransport, torch.Tensor)
    ref = call(a, ones, 10, transport="strange")
    assert "get_communicator_metadata raised ZeroDivisionError" in ray.get(call(b, error_of, [ref]))
    ray.get(call(b, lambda node: setattr(get_tensor_transport_manager("strange"), "fault", True)))
    assert "cannot be pickled: TypeError: it stays here" in ray.get(call(b, error_of, [ref]))


def test_an_actor_that_gets_what_it_has_made(a):
    ref = call(a, ones, 10, transport="meeting")
    assert ray.get(call(a, lambda node, refs: ray.get(refs[0]) is node.kept, [ref]))


def test_who_has_not_the_secret_is_not_answered():
    contact = two_sided.contact(lambda obj_id: None)
    request = pickle.dumps(two_sided.Request("meeting", "object", "key", None, 10.0))
    for secret, expected in ((contact.secret, two_sided.FAILED), (b"x" * 32, None), (b"", None), (b"x" * 99, None)):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(contact.address)
            with Connection(stranger.detach()) as connection:
                connection.send_bytes(secret)
                with contextlib.suppress(BrokenPipeError):
                    connection.send_bytes(request)
                if expected is None:
                    with pytest.raises((EOFError, ConnectionResetError)):
                        connection.recv_bytes()
                else:
                    assert connection.recv_bytes().startswith(expected)


def test_one_that_is_registered_after_the_actors(a, b):
    ray.get([call(each, lambda node: 1) for each in (a, b)])
    register_tensor_transport("later_meeting", ["cpu"], two_sided_classes.by_sockets(ray), torch.Tensor)
    ref = call(a, ones, 10, transport="later_meeting")
    assert ray.get(call(b, total, ref)) == 10
