"""Values of named transports that are lost with their producers, as tests/system/test_lineage.py has it for shm."""

import pytest
from lineage_script import SCRIPT

ACTORS = """
    @ray.remote(max_restarts=-1, num_cpus=0)
    class Producer:
        @ray.method(tensor_transport=TRANSPORT)
        def make(self, i):
            ran(f"method{i}")
            return {"tensor": torch.full((SIZE,), float(i))}

        def pid(self):
            return os.getpid()

    @ray.remote(num_cpus=0)
    class Holder:
        def keep(self, refs):
            self.ref = refs[0]

        def first(self):
            return first(ray.get(self.ref)["tensor"])

        def first_of(self, value):
            return first(value["tensor"])
"""


def program(transport, body):
    """A driver's script with the actors, whose producer gives its values by the transport."""
    return SCRIPT + f"\n    TRANSPORT = {transport!r}\n" + ACTORS + body


FULL = [pytest.param(name, marks=pytest.mark.full) for name in ("nixl", "tcp")]
TRANSPORTS = ["cma", "gloo", *FULL]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_value_of_a_named_transport_is_made_again(start_driver, transport):
    driver = start_driver(
        program(
            transport,
            """
    ray.init(num_cpus=1)
    producer = Producer.options(max_task_retries=-1).remote()
    holder = Holder.remote()
    ref = producer.make.remote(7)
    lose(ref)
    say("lazily", stat("remade_calls"))
    say("value", first(ray.get(ref)["tensor"]))
    say("runs", [stat("remade_calls"), runs()])
    lose(ref)
    say("argument", ray.get(holder.first_of.remote(ref), timeout=60))
    del ref
    say("left", settles(lambda: stat("publications"), 0))
    """,
        )
    )
    assert driver.expect("lazily") == 0
    assert driver.expect("value") == [7.0, 100_000]
    assert driver.expect("runs") == [1, ["method7", "method7"]]
    assert driver.expect("argument") == [7.0, 100_000]
    assert driver.expect("left") == 0
    assert driver.wait() == 0


@pytest.mark.full
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_borrower_whose_fetch_fails_has_it_made_again(start_driver, transport):
    driver = start_driver(
        program(
            transport,
            """
    ray.init(num_cpus=1)
    producer = Producer.options(max_task_retries=-1).remote()
    holder = Holder.remote()
    ref = producer.make.remote(4)
    ray.get(holder.keep.remote([ref]))
    say("first", ray.get(holder.first.remote(), timeout=60))
    for _ in range(3):  # at once: who fetches sees the end before it has been told, or after
        os.kill(ray.get(producer.pid.remote()), signal.SIGKILL)
        say("again", ray.get(holder.first.remote(), timeout=60))
    """,
        )
    )
    assert driver.expect("first") == [4.0, 100_000]
    for _ in range(3):
        assert driver.expect("again", 90) == [4.0, 100_000]
    assert driver.wait() == 0


@pytest.mark.parametrize("transport", ["cma", pytest.param("gloo", marks=pytest.mark.full), *FULL])
def test_without_retries_it_is_lost(start_driver, transport):
    driver = start_driver(
        program(
            transport,
            """
    ray.init(num_cpus=1)
    producer = Producer.remote()
    holder = Holder.remote()
    ref = producer.make.remote(4)
    ray.get(holder.keep.remote([ref]))
    os.kill(ray.get(producer.pid.remote()), signal.SIGKILL)
    start = time.monotonic()
    say("owner", outcome(lambda: ray.get(ref, timeout=60)))
    say("borrower", outcome(lambda: ray.get(holder.first.remote(), timeout=60)))
    say("argument", outcome(lambda: ray.get(holder.first_of.remote(ref), timeout=60)))
    say("seconds", time.monotonic() - start)
    say("runs", runs())
    other = Producer.remote()
    say("goes on", ray.get(holder.first_of.remote(other.make.remote(5)), timeout=60))
    """,
        )
    )
    for who in ("owner", "borrower", "argument"):
        kind, message = driver.expect(who, 90)
        assert "ObjectReconstructionFailedError" in kind
        assert "lives as long as its producer" in message and "max_task_retries" in message
    assert driver.expect("seconds") < 30
    assert driver.expect("runs") == ["method4"]
    assert driver.expect("goes on", 90) == [5.0, 100_000]
    assert driver.wait() == 0


FILES = """
    from beeline.experimental import (
        CommunicatorMetadata, TensorTransportManager, TensorTransportMetadata, register_tensor_transport,
        set_target_for_ref,
    )

    class Files(TensorTransportManager):
        "Keeps tensors in files, which stay when their maker has ended, unless they are removed."

        def tensor_transport_backend(self):
            return "FILES"

        @staticmethod
        def is_one_sided():
            return True

        @staticmethod
        def can_abort_transport():
            return False

        def actor_has_tensor_transport(self, actor):
            return True

        def extract_tensor_transport_metadata(self, obj_id, rdt_object):
            torch.save(rdt_object, journal + "." + obj_id)
            return TensorTransportMetadata([(t.shape, t.dtype) for t in rdt_object], "cpu")

        def get_communicator_metadata(self, src_actor, dst_actor, backend=None):
            return CommunicatorMetadata()

        def recv_multiple_tensors(self, obj_id, metadata, communicator_metadata, target_buffers=None):
            return torch.load(journal + "." + obj_id)

        def send_multiple_tensors(self, tensors, metadata, communicator_metadata):
            raise NotImplementedError

        def garbage_collect(self, obj_id, metadata, tensors):
            os.unlink(journal + "." + obj_id)

        def abort_transport(self, obj_id, communicator_metadata):
            raise NotImplementedError

    register_tensor_transport("files", ["cpu"], Files, torch.Tensor)
    TRANSPORT = "files"

    def kill_producer():
        os.kill(ray.get(producer.pid.remote()), signal.SIGKILL)
        assert "Error" in outcome(lambda: ray.get(producer.pid.remote()))[0] or ray.get(producer.pid.remote())
"""


def test_a_transport_of_the_program_may_find_it_all_the_same(start_driver):
    driver = start_driver(
        SCRIPT
        + FILES
        + ACTORS
        + """
    ray.init(num_cpus=1)
    producer = Producer.remote()
    holder = Holder.remote()
    ref = producer.make.remote(4)
    ray.get(holder.keep.remote([ref]))
    kill_producer()
    say("owner", first(ray.get(ref)["tensor"]))
    say("borrower", ray.get(holder.first.remote()))
    say("argument", ray.get(holder.first_of.remote(ref)))
    say("runs", runs())
    for name in os.listdir(os.path.dirname(journal)):
        if name.startswith(os.path.basename(journal) + "."):
            os.unlink(os.path.join(os.path.dirname(journal), name))
    say("removed", outcome(lambda: ray.get(ref)))
    own = ray.put({"tensor": torch.ones(SIZE)}, _tensor_transport="files")
    for name in os.listdir(os.path.dirname(journal)):
        if name.startswith(os.path.basename(journal) + "."):
            os.unlink(os.path.join(os.path.dirname(journal), name))
    set_target_for_ref(own, [torch.empty(SIZE)])  # else it is the same object
    start = time.monotonic()
    say("own", [*outcome(lambda: ray.get(own)), time.monotonic() - start])
    say("removed for a borrower", outcome(lambda: ray.get(holder.first.remote())))
    """
    )
    for who in ("owner", "borrower", "argument"):
        assert driver.expect(who) == [4.0, 100_000]
    assert driver.expect("runs") == ["method4"]
    for who in ("removed", "own", "removed for a borrower"):
        kind, message, *seconds = driver.expect(who)
        assert "DirectTransportError" in kind and "FileNotFoundError" in message
        assert all(each < 0.4 for each in seconds)  # nobody's end is waited for: the holder is who asks
    assert driver.wait() == 0


def test_what_a_transport_of_the_program_brought_is_made_again(start_driver):
    driver = start_driver(
        SCRIPT
        + FILES
        + ACTORS
        + """
    ray.init(num_cpus=1)
    producer = Producer.options(max_task_retries=-1).remote()
    holder = Holder.remote()
    ref = producer.make.remote(4)
    lose(ref)
    say("owner", first(ray.get(ref)["tensor"]))
    ray.get(holder.keep.remote([ref]))
    lose(ref)
    say("argument", ray.get(holder.first_of.remote(ref), timeout=60))
    say("runs", runs())
    """
    )
    assert driver.expect("owner") == [4.0, 100_000]
    assert driver.expect("argument") == [4.0, 100_000]
    assert driver.expect("runs") == ["method4"] * 3
    assert driver.wait() == 0
