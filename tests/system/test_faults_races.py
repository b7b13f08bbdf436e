"""Messages that overtake each other, parties that end or pause in the middle: nothing hangs, nothing is mistaken."""

import processes


def test_new_actors_are_called_as_soon_as_they_are_known(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=64)

    @ray.remote
    class A:
        def pid(self):
            return os.getpid()

    for _ in range(5):
        actors = [A.remote() for _ in range(16)]
        say("pids", len(set(ray.get([a.pid.remote() for a in actors], timeout=40))))
        del actors
    """
    )
    for _ in range(5):
        assert driver.expect("pids") == 16


def test_value_that_comes_before_the_call_that_names_it(start_driver):
    # The consumer hears of the producer first and of the caller last, and reads their rings in that order.
    driver = start_driver(
        """
    ray.init(num_cpus=8)

    @ray.remote
    class Producer:
        def make(self, i):
            return i

    @ray.remote
    class Consumer:
        def meet(self, producer):
            return ray.get(producer.make.remote(0))

        def add(self, x, y):
            return x + y

    @ray.remote
    class Caller:
        def run(self, producer, consumer, n):
            total = 0
            for i in range(n):
                refs = [consumer.add.remote(producer.make.remote(i), 1) for _ in range(4)]
                total += sum(ray.get(refs, timeout=20))
            return total

    producer, consumer = Producer.remote(), Consumer.remote()
    ray.get(consumer.meet.remote(producer))
    callers = [Caller.remote() for _ in range(3)]
    say("totals", ray.get([c.run.remote(producer, consumer, 500) for c in callers], timeout=50))
    """
    )
    expected = sum(4 * (i + 1) for i in range(500))
    assert driver.expect("totals") == [expected] * 3


def test_only_reference_to_an_object_in_a_result(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    class Owner:
        def make(self, i):
            return [ray.put(i), ray.put([i] * 100000)]

    owner = Owner.remote()
    for i in range(200):
        small, large = ray.get(owner.make.remote(i))
        assert ray.get(small) == i and ray.get(large)[-1] == i
    say("done")
    """
    )
    driver.expect("done")


def test_last_results_of_a_dropped_actor_arrive(start_driver):
    # More than a ring holds, while the driver does not look.
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    class A:
        def f(self, i):
            return bytes([i]) * 60000

    a = A.remote()
    refs = [a.f.remote(i) for i in range(100)]
    del a
    say("results", [ray.get(ref)[0] for ref in refs] == list(range(100)))
    """
    )
    assert driver.expect("results") is True


def test_caller_killed_while_its_calls_run_and_wait(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=8)

    @ray.remote
    class Worker:
        def work(self, x):
            time.sleep(0.02)
            return [ray.put(x)]

        def f(self):
            return "f"

    @ray.remote
    class Caller:
        def start(self, worker):
            self.refs = [worker.work.remote(i) for i in range(100)]
            self.more = [ray.remote(lambda x: time.sleep(0.1)).remote(self.refs[-1]) for _ in range(4)]
            return os.getpid()

    worker = Worker.remote()
    for _ in range(3):
        caller = Caller.remote()
        os.kill(ray.get(caller.start.remote(worker)), signal.SIGKILL)
        say("worker", ray.get(worker.f.remote(), timeout=20))
        say("task", ray.get(ray.remote(lambda: 1).remote(), timeout=20))
    """
    )
    for _ in range(3):
        assert driver.expect("worker") == "f"
        assert driver.expect("task") == 1


def test_reader_of_the_output_that_pauses_holds_up_nothing(start_driver):
    driver = start_driver(
        """
    import subprocess

    read_end, write_end = os.pipe()
    os.dup2(write_end, 1)
    os.close(write_end)
    ray.init(num_cpus=2)

    @ray.remote
    class Speaker:
        def speak(self, n):
            for i in range(n):
                print("x" * 99)
            return n

    speaker = Speaker.remote()
    say("spoken", [ray.get(speaker.speak.remote(3000), timeout=20) for _ in range(3)])
    time.sleep(0.5)  # the lines are under way: nobody reads them
    say("usable", ray.get(speaker.speak.remote(1), timeout=20))
    ray.shutdown()
    say("down")
    """
    )
    assert driver.expect("spoken") == [3000] * 3
    assert driver.expect("usable") == 1
    driver.expect("down", 20)


def test_references_and_handles_of_an_ended_session(start_driver):
    driver = start_driver(
        """
    import numpy as np

    @ray.remote
    class A:
        def make(self):
            return np.full(1 << 18, 1.0)

        def take(self, x):
            return x

    ray.init(num_cpus=2)
    a = A.remote()
    old = [ray.put(np.full(1 << 18, 2.0)), a.make.remote(), ray.put(3)]
    kept = ray.get(old[:2])
    ray.shutdown()
    ray.init(num_cpus=2)
    new = [ray.put(np.full(1 << 18, 5.0 + i)) for i in range(3)]
    for name, call in (
        ("get", lambda: ray.get(old[0])),
        ("wait", lambda: ray.wait(old)),
        ("argument", lambda: A.remote().take.remote(old[0])),
        ("call", lambda: a.make.remote()),
    ):
        say(name, tried(call))
    del old, a
    say("kept", [float(array.sum()) for array in kept])
    say("new", [float(ray.get(ref)[0]) for ref in new])
    """
    )
    for event in ("get", "wait", "argument", "call"):
        kinds, message = driver.expect(event)
        assert "RayError" in kinds, (event, kinds, message)
        assert "session" in message
    assert driver.expect("kept") == [1.0 * 2 * (1 << 18), 1.0 * (1 << 18)]
    assert driver.expect("new") == [5.0, 6.0, 7.0]


def test_a_cancel_that_comes_late_meets_no_other_call(start_driver):
    # A call that has ended is gone from its worker's memory, and the next may lie where it lay.
    driver = start_driver(
        """
    import asyncio
    ray.init(num_cpus=2)

    @ray.remote
    class A:
        async def echo(self, i):
            await asyncio.sleep(0)
            return i

    a = A.remote()
    ray.get(a.echo.remote(0))
    ends = {"returned": 0, "cancelled": 0}
    for i in range(400):
        ending = [a.echo.remote(i) for _ in range(4)]
        if i % 2:
            ray.wait(ending, num_returns=1 + i % 4)
        for ref in ending:
            ray.cancel(ref)
        others = [a.echo.remote(j) for j in range(8)]
        assert ray.get(others, timeout=40) == list(range(8))
        for ref in ending:
            try:
                assert ray.get(ref, timeout=40) == i
                ends["returned"] += 1
            except ray.exceptions.TaskCancelledError:
                ends["cancelled"] += 1
    say("ends", ends)
    """
    )
    ends = driver.expect("ends")
    assert ends["returned"] > 0 and ends["cancelled"] > 0, ends


def test_twenty_sessions_in_one_process(start_driver):
    driver = start_driver(
        """
    import numpy as np

    @ray.remote
    class A:
        def make(self, n):
            return np.ones(n)

        def total(self, x):
            return float(x.sum())

    @ray.remote
    def task(x):
        return x

    def held():
        with open("/proc/self/maps") as maps:
            shared = sum("memfd:" in line for line in maps)
        paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        paths = [os.readlink(path) for path in paths if os.path.islink(path)]
        # The pagemap is opened once for the life of the process, when memory is first cleaned.
        return [sum("pagemap" not in path for path in paths), len(os.listdir("/proc/self/task")), shared]

    for i in range(20):
        ray.init(num_cpus=2)
        a, b = A.remote(), A.remote()
        made = a.make.options(tensor_transport="auto").remote(1 << 18)
        assert ray.get(b.total.remote(made)) == 1 << 18
        array = ray.get(ray.put(np.ones(1 << 18)))
        assert ray.get(made).sum() == array.sum()
        assert ray.get(task.remote(3)) == 3
        del array
        ray.shutdown()
        if i in (1, 19):
            say("held", held())
    hear()
    """
    )
    first, last = driver.expect("held"), driver.expect("held")
    assert last == first
    assert last[2] == 0, "memfds are still mapped"
    assert processes.still_alive(driver.servants()) == []
