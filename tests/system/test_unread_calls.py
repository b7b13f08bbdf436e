"""Calls that wait, unread or for their arguments, hold up nothing else."""

THREADED = """
    ray.init(num_cpus=4)

    @ray.remote(max_concurrency=2)
    class Slow:
        def pid(self):
            return os.getpid()

        def slow(self):
            time.sleep(0.5)
            return 1

    @ray.remote
    class Consumer:
        def consume(self, x):
            return x + 1

    def ends(pid):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.01)
        return False

    consumer = Consumer.remote()
    ray.get(consumer.consume.remote(0))
    for _ in range(5):
        actor = Slow.remote()
        pid = ray.get(actor.pid.remote())
        result = actor.slow.remote()
        del actor
        time.sleep(0.1)  # its end is asked for, and read, before the next message comes
        say("consumed", ray.get(consumer.consume.remote(result)))
        del result
        say("ends", ends(pid))
"""


def test_a_threaded_actor_that_nobody_holds_ends(start_driver):
    driver = start_driver(THREADED)
    for _ in range(5):
        assert driver.expect("consumed") == 2
        assert driver.expect("ends") is True


CHURN = """
    import numpy as np

    ray.init(num_cpus=4, object_store_memory=256 << 20)

    @ray.remote
    class Gate:
        def ready(self):
            return True

        def make(self, path):
            while not os.path.exists(path):
                time.sleep(0.01)
            return "made"

    @ray.remote
    class Busy:
        def ready(self):
            return True

        def churn(self, path):
            while not os.path.exists(path):
                time.sleep(0.01)
            time.sleep(0.2)
            for _ in range(200):
                ray.put(np.ones(8 << 20, np.uint8))
            return "churned"

        def take(self, value):
            return value

    gate, busy = Gate.remote(), Busy.remote()
    ray.get([gate.ready.remote(), busy.ready.remote()])
    sent, churned = __file__ + ".sent", __file__ + ".churned"
    made = gate.make.remote(churned)
    churn = busy.churn.remote(sent)
    taken = busy.take.remote(made)  # lies unread in the ring of an actor that is busy
    open(sent, "w").close()
    say("churn", tried(lambda: ray.get(churn)))
    open(churned, "w").close()
    say("taken", ray.get(taken))
"""


def test_what_nobody_holds_is_freed_while_a_call_waits_to_be_read(start_driver):
    driver = start_driver(CHURN)
    assert driver.expect("churn") == ["returned", "'churned'"]
    assert driver.expect("taken") == "made"
