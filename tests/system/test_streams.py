"""Streams when threads share them, when nobody takes them, and when a side dies; nothing of them is left."""

import processes

COUNTING = """
    import gc
    import numpy as np

    @ray.remote
    class Made:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1

        def get(self):
            return self.n

    @ray.remote
    class A:
        def count(self, n):
            yield from range(n)

        def arrays(self, n):
            for i in range(n):
                yield np.full(1 << 17, i)

        def endless(self, made):
            while True:
                ray.get(made.add.remote())
                yield 0

        def alive(self):
            return True

    @ray.remote
    class Async:
        async def paced(self, n):
            for i in range(n):
                yield i

        async def hold(self):
            while True:
                yield 0

        async def alive(self):
            return True

    def mine():
        from beeline import _core
        rows = _core.session_state(ray.api.session.current.info["session_dir"])["processes"]
        return [row["usage"] for row in rows if row["kind"] != "tool" and row["usage"]]

    def objects():
        gc.collect()
        return sum(usage["objects_owned"] for usage in mine()), sum(usage["publications"] for usage in mine())

    def settles(call, wanted, patience_s=20):
        deadline = time.monotonic() + patience_s
        while (got := call()) != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        return got
"""


def test_threads_that_share_a_stream_get_each_item_once(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    stream = A.remote().count.remote(2000)
    got = [[] for _ in range(4)]

    def take(mine):
        for ref in stream:
            mine.append(ray.get(ref))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in got]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    say("each once", sorted(sum(got, [])) == list(range(2000)))
    say("in order", all(mine == sorted(mine) for mine in got))
    """
    )
    assert driver.expect("each once") is True
    assert driver.expect("in order") is True


def test_nothing_of_a_stream_is_left(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    a = A.remote()
    ray.get(a.alive.remote())
    before = objects()

    taken = a.arrays.remote(3)
    say("values", [int(ray.get(ref)[0]) for ref in taken])
    del taken
    say("taken", settles(objects, before) == before)

    dropped = a.arrays.remote(5)
    ray.get(next(dropped))
    del dropped
    ray.get(a.alive.remote())
    say("dropped", settles(objects, before) == before)

    refs = list(a.arrays.remote(4))
    del refs[0]
    say("kept", settles(lambda: objects()[1] - before[1], 3))
    del refs
    say("freed", settles(objects, before) == before)

    collected = ray.get(a.arrays.options(num_returns="dynamic").remote(3))
    say("collected", len(collected))
    del collected
    say("uncollected", settles(objects, before) == before)
    """
    )
    assert driver.expect("values") == [0, 1, 2]
    assert driver.expect("taken") is True
    assert driver.expect("dropped") is True
    assert driver.expect("kept") == 3
    assert driver.expect("freed") is True
    assert driver.expect("collected") == 3
    assert driver.expect("uncollected") is True


def test_a_generator_ends_with_its_caller(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    a, made = A.remote(), Made.remote()

    @ray.remote(max_retries=0)
    def caller(a, made):
        stream = a.endless.remote(made)
        for _ in range(3):
            next(stream)
        os._exit(1)

    say("caller", tried(lambda: ray.get(caller.remote(a, made)))[0])
    say("alive", ray.get(a.alive.remote(), timeout=30))
    at = ray.get(made.get.remote())
    time.sleep(0.2)
    say("ended", ray.get(made.get.remote()) == at)
    """
    )
    assert "WorkerCrashedError" in driver.expect("caller")
    assert driver.expect("alive") is True
    assert driver.expect("ended") is True


def test_a_stream_that_pauses_lends_its_cpu(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=1)

    @ray.remote(_generator_backpressure_num_objects=1)
    def paced():
        yield from range(3)

    stream = paced.remote()
    first = next(stream)
    say("another", ray.get(ray.remote(lambda: 5).remote(), timeout=30))
    say("rest", ray.get([first, *stream]))
    """
    )
    assert driver.expect("another") == 5
    assert driver.expect("rest") == [0, 1, 2]


def test_a_worker_that_is_killed_while_it_pauses(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    made = Made.remote()

    @ray.remote(_generator_backpressure_num_objects=2, max_retries=1)
    def paced(made):
        for i in range(6):
            ray.get(made.add.remote())
            yield [i, os.getpid()]

    stream = paced.remote(made)
    first = ray.get(next(stream))
    say("paused", settles(lambda: ray.get(made.get.remote()), 3))
    os.kill(first[1], signal.SIGKILL)
    rest = ray.get(list(stream))
    say("items", [i for i, _ in [first, *rest]])
    say("of two", len({pid for _, pid in rest}))
    """
    )
    assert driver.expect("paused") == 3
    assert driver.expect("items") == [0, 1, 2, 3, 4, 5]
    assert driver.expect("of two") == 2


def test_a_stream_of_a_session_that_has_ended(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    a, made = A.remote(), Made.remote()
    stream = a.endless.remote(made)
    next(stream)
    ray.shutdown()
    say("next", tried(lambda: next(stream)))
    say("finished", tried(stream.is_finished))
    del stream
    ray.init(num_cpus=1)
    say("anew", ray.get(list(A.remote().count.remote(2))))
    """
    )
    names, message = driver.expect("next")
    assert "SessionLostError" in names
    assert "init()" in message
    assert "SessionLostError" in driver.expect("finished")[0]
    assert driver.expect("anew") == [0, 1]


def test_ctrl_c_leaves_next(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)

    @ray.remote
    def silent(path):
        yield 1
        while not os.path.exists(path):
            time.sleep(0.05)
        yield 2

    stream = silent.remote(__file__ + ".go")
    next(stream)
    try:
        say("waiting")  # inside: the signal may come before say() returns
        next(stream)
    except KeyboardInterrupt:
        say("interrupted")
    open(__file__ + ".go", "w").close()
    say("goes on", ray.get(next(stream)))
    """
    )
    driver.expect("waiting")
    driver.interrupt()
    driver.expect("interrupted")
    assert driver.expect("goes on") == 2


def test_a_paused_stream_of_an_async_actor_ends_with_its_caller(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    a = Async.options(max_concurrency=2).remote()

    @ray.remote(max_retries=0)
    def caller(a):
        stream = a.paced.options(_generator_backpressure_num_objects=1).remote(10)
        next(stream)
        os._exit(1)

    for _ in range(4):  # each would keep a place
        say("caller", tried(lambda: ray.get(caller.remote(a)))[0])
        say("alive", ray.get(a.alive.remote(), timeout=30))
    """
    )
    for _ in range(4):
        assert "WorkerCrashedError" in driver.expect("caller")
        assert driver.expect("alive") is True


def test_an_endless_async_stream_lets_others_run(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    a = Async.remote()
    stream = a.hold.remote()
    next(stream)
    say("alive", ray.get(a.alive.remote(), timeout=30))
    ray.cancel(stream)
    say("end", tried(lambda: ray.get(stream.completed(), timeout=30))[0])
    """
    )
    assert driver.expect("alive") is True
    assert "TaskCancelledError" in driver.expect("end")


def test_a_paused_method_that_is_cancelled_goes_no_further(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    a, made = A.remote(), Made.remote()
    stream = a.endless.options(_generator_backpressure_num_objects=2).remote(made)
    next(stream)
    say("paused", settles(lambda: ray.get(made.get.remote()), 3))
    ray.cancel(stream)
    say("end", tried(lambda: ray.get(stream.completed(), timeout=30))[0])
    say("alive", ray.get(a.alive.remote(), timeout=30))
    say("made", ray.get(made.get.remote()))
    """
    )
    assert driver.expect("paused") == 3
    assert "TaskCancelledError" in driver.expect("end")
    assert driver.expect("alive") is True
    assert driver.expect("made") == 3


def test_who_waits_for_an_item_of_a_dropped_stream_is_told(start_driver):
    driver = start_driver(
        COUNTING
        + """
    ray.init(num_cpus=2)
    made = Made.remote()
    stream = A.remote().endless.options(_generator_backpressure_num_objects=1).remote(made)
    next(stream)
    next(stream)
    item = stream.peek()
    del stream
    say("told", tried(lambda: ray.get(item, timeout=30))[0])
    """
    )
    told = driver.expect("told")
    assert told == "returned" or "ObjectRefStreamEndOfStreamError" in told


def test_what_is_raised_behind_the_last_return_is_said(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=1)

    @ray.remote(num_returns=2)
    def count():
        yield 1
        yield 2
        raise ValueError("behind the last one")

    say("values", ray.get(count.remote()))
    hear()
    """
    )
    assert driver.expect("values") == [1, 2]
    assert processes.until(lambda: "behind the last one" in driver.output())
