"""Values that are lost with the processes that held them are made again by the calls that made them, when asked for."""

import pytest
from lineage_script import SCRIPT


def test_a_lost_value_is_made_again_when_it_is_asked_for(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=2)
    refs = [make.remote(i) for i in range(3)]
    lose(*refs)
    say("lazily", [stat("remade_calls"), sorted(runs())])
    say("value", first(ray.get(refs[1])))
    say("runs", [stat("remade_calls"), sorted(runs())])
    say("again", first(ray.get(refs[1])))
    del refs
    say("left", settles(lambda: stat("publications"), 0))
    """
    )
    assert driver.expect("lazily") == [0, ["make0", "make1", "make2"]]
    assert driver.expect("value") == [1.0, 100_000]
    assert driver.expect("runs") == [1, ["make0", "make1", "make1", "make2"]]
    assert driver.expect("again") == [1.0, 100_000]
    assert driver.expect("left") == 0
    assert driver.wait() == 0
    assert "make runs again" in driver.output()


@pytest.mark.full
def test_what_it_was_made_from_is_made_again_too(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)
    made = make.remote(3)
    doubled = double.remote(double.remote(made))
    ray.wait([doubled])
    del made
    lose(doubled)
    say("value", first(ray.get(doubled)))
    say("runs", sorted(runs()))
    """
    )
    assert driver.expect("value") == [12.0, 100_000]
    assert driver.expect("runs") == ["double"] * 4 + ["make3"] * 2


@pytest.mark.full
def test_whoever_asks_has_it_made_again(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    import asyncio

    ray.init(num_cpus=2)

    @ray.remote(num_cpus=0)
    class Holder:
        def keep(self, refs):
            self.ref = refs[0]

        def first(self):
            return float(ray.get(self.ref)[0])

    @ray.remote(num_cpus=2)
    def total(value):
        return float(value.sum())

    async def awaited(ref):
        return first(await ref)

    holder = Holder.remote()
    ref = make.remote(2)
    ray.get(holder.keep.remote([ref]))
    lose(ref)
    say("a borrower", ray.get(holder.first.remote()))
    ref = make.remote(4)
    lose(ref)
    say("wait", [len(ready) for ready in ray.wait([ref], timeout=60)])
    lose(ref)
    say("await", asyncio.run(awaited(ref)))
    ref = make.remote(1)
    lose(ref)
    say("an argument, which needs the producer's CPU", ray.get(total.remote(ref)))
    say("future", first(ref.future().result(60)))
    """
    )
    assert driver.expect("a borrower") == 2.0
    assert driver.expect("wait") == [1, 0]
    assert driver.expect("await") == [4.0, 100_000]
    assert driver.expect("an argument, which needs the producer's CPU") == 100_000.0
    assert driver.expect("future") == [1.0, 100_000]


def test_it_runs_no_oftener_than_its_retries_allow(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)
    never = make.options(max_retries=0).remote(0)
    lose(never)
    say("never", outcome(lambda: ray.get(never)))
    once = make.options(max_retries=1).remote(1)
    lose(once)
    say("once", first(ray.get(once)))
    lose(once)
    say("not twice", outcome(lambda: ray.get(once)))
    depends = double.remote(once)
    say("nor for others", outcome(lambda: ray.get(depends)))
    """
    )
    kind, message = driver.expect("never")
    assert kind == "ObjectReconstructionFailedError"
    assert "make" in message and "max_retries" in message
    assert driver.expect("once") == [1.0, 100_000]
    kind, message = driver.expect("not twice")
    assert kind == "ObjectReconstructionFailedError"
    assert "as often as max_retries" in message
    kind, _ = driver.expect("nor for others")
    assert "ObjectReconstructionFailedError" in kind


@pytest.mark.full
def test_a_large_argument_by_value_is_not_kept_for_it(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)
    by_value = double.remote(torch.ones(SIZE))
    lose(by_value)
    say("by value", outcome(lambda: ray.get(by_value)))
    stored = ray.put(torch.ones(SIZE))
    by_reference = double.remote(stored)
    lose(by_reference)
    say("by reference", first(ray.get(by_reference)))
    del stored
    lose(by_reference)
    say("let go of", outcome(lambda: ray.get(by_reference)))
    say("left", settles(lambda: stat("publications"), 0))
    """
    )
    kind, message = driver.expect("by value")
    assert kind == "ObjectReconstructionFailedError"
    assert "put()" in message
    assert driver.expect("by reference") == [2.0, 100_000]
    kind, message = driver.expect("let go of")
    assert "ObjectReconstructionFailedError" in kind
    assert "keep a reference" in message
    assert driver.expect("left") == 0


def test_methods_run_again_on_the_restarted_actor(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)

    @ray.remote(max_restarts=-1)
    class Producer:
        def __init__(self):
            ran("init")

        @ray.method(tensor_transport="shm")
        def make(self, i):
            ran(f"method{i}")
            return torch.full((SIZE,), float(i))

    producer = Producer.options(max_task_retries=2).remote()
    ref = producer.make.remote(7)
    lose(ref)
    say("value", first(ray.get(ref)))
    say("runs", runs())
    once = Producer.remote()
    lost = once.make.remote(8)
    lose(lost)
    say("at most once", outcome(lambda: ray.get(lost)))
    """
    )
    assert driver.expect("value") == [7.0, 100_000]
    assert driver.expect("runs") == ["init", "method7", "init", "method7"]
    kind, message = driver.expect("at most once")
    assert kind == "ObjectReconstructionFailedError"
    assert "lives as long as its producer" in message and "max_task_retries" in message


def test_what_the_second_run_raises_is_the_value(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)

    @ray.remote(tensor_transport="shm")
    def fickle():
        ran("fickle")
        if len(runs()) > 1:
            raise KeyError("not again")
        return torch.ones(SIZE)

    ref = fickle.remote()
    lose(ref)
    say("raised", outcome(lambda: ray.get(ref)))
    say("goes on", first(ray.get(make.remote(1))))
    """
    )
    kind, message = driver.expect("raised")
    assert "KeyError" in kind and "not again" in message
    assert driver.expect("goes on") == [1.0, 100_000]


def test_of_several_returns_those_that_are_there_stay(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)

    @ray.remote(tensor_transport="shm", num_returns=3)
    def several():
        ran("several")
        n = len(runs())
        return torch.full((SIZE,), float(n)), n, torch.full((SIZE,), -float(n))

    dropped, small, large = several.remote()
    say("small", ray.get(small))
    lose(dropped, large)
    del dropped
    say("large", first(ray.get(large)))
    say("small again", ray.get(small))
    """
    )
    assert driver.expect("small") == 1
    assert driver.expect("large") == [-2.0, 100_000]
    assert driver.expect("small again") == 1


def test_the_worker_dies_while_it_makes_the_value_again(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)

    @ray.remote(tensor_transport="shm", max_retries=3)
    def dies():
        ran("dies")
        if len(runs()) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((SIZE,), 5.0)

    ref = dies.remote()
    lose(ref)
    say("value", first(ray.get(ref)))
    say("runs", len(runs()))
    """
    )
    assert driver.expect("value") == [5.0, 100_000]
    assert driver.expect("runs") == 3


def test_a_wait_for_it_ends_in_time_and_can_be_cancelled(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)

    @ray.remote(tensor_transport="shm")
    def slow():
        ran("slow")
        if len(runs()) == 2:
            time.sleep(600)
        return torch.ones(SIZE)

    ref = slow.remote()
    lose(ref)
    say("in time", outcome(lambda: ray.get(ref, timeout=0.5))[0])
    say("runs", settles(lambda: len(runs()), 2))
    ray.cancel(ref)
    say("cancelled", outcome(lambda: ray.get(ref, timeout=60))[0])
    """
    )
    assert driver.expect("in time") == "GetTimeoutError"
    assert driver.expect("runs") == 2
    assert "TaskCancelledError" in driver.expect("cancelled")


def test_old_calls_are_forgotten_when_they_take_too_much(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)
    refs = [make.remote(i) for i in range(12)]
    lose(*refs)
    got = [outcome(lambda: first(ray.get(ref))) for ref in refs]
    say("oldest", got[0])
    say("newest", got[-1])
    """,
        environment={"RAY_max_lineage_bytes": "3000"},
    )
    kind, message = driver.expect("oldest")
    assert kind == "ObjectReconstructionFailedError"
    assert "RAY_max_lineage_bytes" in message
    assert driver.expect("newest") == [11.0, 100_000]


def test_an_owner_that_ends_takes_its_calls_along(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=2)

    @ray.remote(num_cpus=0)
    class Owner:
        def make(self):
            self.ref = make.remote(6)
            ray.wait([self.ref])
            return [self.ref]

        def pid(self):
            return os.getpid()

    owner = Owner.remote()
    [ref] = ray.get(owner.make.remote())
    os.kill(ray.get(owner.pid.remote()), signal.SIGKILL)
    say("lost", outcome(lambda: ray.get(ref, timeout=60))[0])
    """
    )
    assert driver.expect("lost") == "OwnerDiedError"
    assert driver.wait() == 0


@pytest.mark.full
def test_ctrl_c_leaves_a_value_that_is_being_made_again(start_driver):
    driver = start_driver(
        SCRIPT
        + """
    ray.init(num_cpus=1)

    @ray.remote(tensor_transport="shm")
    def gated():
        ran("gated")
        while len(runs()) > 1 and not os.path.exists(journal + ".go"):
            time.sleep(0.05)
        return torch.full((SIZE,), 9.0)

    ref = gated.remote()
    lose(ref)
    try:
        say("blocking")  # inside: the signal may come before say() returns
        ray.get(ref)
    except KeyboardInterrupt:
        say("interrupted")
    open(journal + ".go", "w").close()
    say("value", first(ray.get(ref)))
    """
    )
    driver.expect("blocking")
    driver.interrupt()
    driver.expect("interrupted", 30)
    assert driver.expect("value") == [9.0, 100_000]
    assert driver.wait() == 0
