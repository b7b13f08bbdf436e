"""Items of streams that are lost with the process that held them are made again by the generator that gave them."""

import pytest
from lineage_script import SCRIPT

pytestmark = pytest.mark.full  # tests/cpp/runtime/lineage_streams_test.cc is quicker

STREAMS = (
    SCRIPT
    + """
    @ray.remote(tensor_transport="shm", num_cpus=1)
    def stream(n, second=None):
        ran("stream")
        for i in range(n if second is None or len(runs()) == 1 else second):
            yield torch.full((SIZE,), float(i))

    def usage(name, here=True):
        "Of this process, or of all others."
        rows = _core.session_state(ray.api.session.current.info["session_dir"])["processes"]
        return sum(row["usage"][name] for row in rows if row["usage"] and (row["pid"] == os.getpid()) == here)

    def values(refs):
        return [first(ray.get(ref, timeout=60))[0] for ref in refs]
"""
)


def test_lost_items_of_a_stream_are_made_again_by_one_more_run(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=1)
    refs = list(stream.remote(4))
    del refs[2]
    lose(*refs)
    say("lazily", [stat("remade_calls"), runs()])
    say("values", values(refs))
    say("runs", [stat("remade_calls"), runs()])
    say("kept", settles(lambda: usage("publications", here=False), 3))
    lose(*refs)
    del refs[:2]
    say("the last", values(refs))
    say("alone", settles(lambda: usage("publications", here=False), 1))
    del refs
    say("left", settles(lambda: usage("publications", here=False), 0))
    say("records", settles(lambda: usage("lineage_records"), 0))
    """
    )
    assert driver.expect("lazily") == [0, ["stream"]]
    assert driver.expect("values") == [0.0, 1.0, 3.0]
    assert driver.expect("runs") == [1, ["stream"] * 2]
    assert driver.expect("kept") == 3, "what was dropped is not"
    assert driver.expect("the last") == [3.0]
    assert driver.expect("alone") == 1
    assert driver.expect("left") == 0
    assert driver.expect("records") == 0
    assert driver.wait() == 0
    assert "stream runs again" in driver.output()


def test_whoever_asks_for_an_item_has_it_made_again(start_driver):
    driver = start_driver(
        STREAMS
        + """
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

    holder = Holder.remote()
    refs = list(stream.remote(2))
    ray.get(holder.keep.remote(refs[1:]))
    lose(*refs)
    say("a borrower", ray.get(holder.first.remote()))
    lose(*refs)
    say("an argument, which needs the producer's CPU", ray.get(total.remote(refs[1])))
    doubled = double.remote(refs[1])
    ray.wait([doubled])
    del refs
    ray.get(holder.keep.remote([None]))
    say("let go of", settles(lambda: usage("publications", here=False), 1))
    lose(doubled)
    say("what was made from it", values([doubled]))
    """
    )
    assert driver.expect("a borrower") == 1.0
    assert driver.expect("an argument, which needs the producer's CPU") == 100_000.0
    assert driver.expect("let go of") == 1
    assert driver.expect("what was made from it") == [2.0]


def test_a_stream_that_paused_does_not_stall_when_it_runs_again(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=1)
    paced = stream.options(_generator_backpressure_num_objects=2)
    midway = paced.remote(6)
    taken = [next(midway), next(midway), next(midway)]
    lose(*taken)
    say("midway", values(taken))
    say("goes on", values(midway))
    say("attempts", [runs(), stat("remade_calls")])
    open(journal, "w").close()
    ended = paced.remote(3)
    taken = [next(ended), next(ended)]
    ray.get(ended.completed())
    lose(*taken)
    say("ended", values(taken))
    say("untaken", values(ended))
    say("runs", [runs(), stat("remade_calls")])
    dropped = paced.remote(6)
    taken = [next(dropped)]
    del dropped
    lose(*taken)
    say("dropped", values(taken))
    """
    )
    assert driver.expect("midway") == [0.0, 1.0, 2.0]
    assert driver.expect("goes on") == [3.0, 4.0, 5.0]
    assert driver.expect("attempts") == [["stream"] * 2, 0]
    assert driver.expect("ended") == [0.0, 1.0]
    assert driver.expect("untaken") == [2.0]
    assert driver.expect("runs") == [["stream"] * 2, 1]
    assert driver.expect("dropped") == [0.0]


def test_an_item_that_was_let_go_of_comes_again_when_its_stream_has_ended(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=2)

    @ray.remote(tensor_transport="shm", num_cpus=1)
    def gated():
        ran("gated")
        yield torch.ones(SIZE)
        while not os.path.exists(journal + ".go"):
            time.sleep(0.05)

    goes_on = gated.remote()
    doubled = double.remote(next(goes_on))
    ray.wait([doubled])
    say("let go of", settles(lambda: usage("publications", here=False), 1))
    [pid] = [int(line.split()[1]) for line in open(journal) if line.startswith("double")]
    os.kill(pid, signal.SIGKILL)
    settles(lambda: stat("lost_objects"), 1)
    say("while it goes on", outcome(lambda: ray.get(doubled, timeout=1))[0])
    say("runs", sorted(runs()))
    open(journal + ".go", "w").close()
    say("when it has ended", values([doubled]))
    say("runs again", sorted(runs()))
    say("its end", len(list(goes_on)))
    """
    )
    assert driver.expect("let go of") == 1
    assert driver.expect("while it goes on") == "GetTimeoutError"
    assert driver.expect("runs") == ["double", "gated"]
    assert driver.expect("when it has ended") == [2.0]
    assert driver.expect("runs again") == ["double"] * 2 + ["gated"] * 2
    assert driver.expect("its end") == 0


def test_a_generator_that_does_otherwise_the_second_time(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=1)
    fewer = list(stream.remote(3, second=1))
    lose(*fewer)
    say("fewer", outcome(lambda: ray.get(fewer[2])))
    say("the others", values(fewer[:1]))
    del fewer
    open(journal, "w").close()
    more = list(stream.remote(2, second=5))
    lose(*more)
    say("more", values(more))
    say("kept", settles(lambda: usage("publications", here=False), 2))

    @ray.remote(tensor_transport="shm")
    def fickle():
        ran("fickle")
        yield torch.ones(SIZE)
        if len(runs()) > 1:
            raise KeyError("not again")
        yield torch.ones(SIZE)
        yield torch.ones(SIZE)

    open(journal, "w").close()
    refs = list(fickle.remote())
    lose(*refs)
    say("there", values(refs[:1]))
    say("raised", [outcome(lambda: ray.get(ref)) for ref in refs[1:]])
    """
    )
    kind, message = driver.expect("fewer")
    assert kind == "ObjectReconstructionFailedError"
    assert "stream" in message and "item 2" in message and "only 1 items" in message
    assert driver.expect("the others") == [0.0]
    assert driver.expect("more") == [0.0, 1.0]
    assert driver.expect("kept") == 2
    assert driver.expect("there") == [1.0]
    for kind, message in driver.expect("raised"):
        assert "KeyError" in kind and "not again" in message


def test_a_stream_runs_no_oftener_than_its_retries_allow(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=1)
    never = list(stream.options(max_retries=0).remote(2))
    lose(*never)
    say("never", [outcome(lambda: ray.get(ref)) for ref in never])
    once = list(stream.options(max_retries=1).remote(2))
    lose(*once)
    say("once", values(once))
    lose(*once)
    say("not twice", outcome(lambda: ray.get(once[0])))
    say("records", usage("lineage_records"))
    """
    )
    for kind, message in driver.expect("never"):
        assert kind == "ObjectReconstructionFailedError"
        assert "max_retries" in message
    assert driver.expect("once") == [0.0, 1.0]
    kind, message = driver.expect("not twice")
    assert kind == "ObjectReconstructionFailedError"
    assert "as often as max_retries" in message
    assert driver.expect("records") == 0


def test_streams_of_methods_run_again_on_the_restarted_actor(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=1)

    @ray.remote(max_restarts=-1)
    class Producer:
        @ray.method(tensor_transport="shm")
        def count(self, n):
            ran("count")
            for i in range(n):
                yield torch.full((SIZE,), float(i))

    producer = Producer.options(max_task_retries=2).remote()
    refs = list(producer.count.remote(3))
    lose(*refs)
    say("values", values(refs))
    say("runs", runs())
    midway = producer.count.options(_generator_backpressure_num_objects=1).remote(4)
    taken = [next(midway), next(midway)]
    lose(*taken)
    say("midway", values(taken))
    say("goes on", values(midway))
    once = list(Producer.remote().count.remote(2))
    lose(*once)
    say("at most once", outcome(lambda: ray.get(once[0])))
    """
    )
    assert driver.expect("values") == [0.0, 1.0, 2.0]
    assert driver.expect("runs") == ["count"] * 2
    assert driver.expect("midway") == [0.0, 1.0]
    assert driver.expect("goes on") == [2.0, 3.0]
    kind, message = driver.expect("at most once")
    assert kind == "ObjectReconstructionFailedError"
    assert "lives as long as its producer" in message and "max_task_retries" in message


def test_items_of_a_collection_are_made_again(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=1)
    collection = stream.options(num_returns="dynamic").remote(3)
    refs = list(ray.get(collection))
    lose(*refs)
    say("item", values(refs[1:2]))
    lose(refs[1])
    del refs[0], collection
    say("without it", values(refs))

    @ray.remote(tensor_transport="shm", num_cpus=1)
    def total(collection):
        ran("total")
        return sum(ray.get(ref) for ref in collection)

    made = total.remote(stream.options(num_returns="dynamic").remote(3))
    ray.wait([made])
    del refs
    say("let go of", settles(lambda: usage("publications", here=False), 1))
    lose(made)
    say("what was made from all", values([made]))
    """
    )
    assert driver.expect("item") == [1.0]
    assert driver.expect("without it") == [1.0, 2.0]
    assert driver.expect("let go of") == 1
    assert driver.expect("what was made from all") == [3.0]


def test_an_item_that_is_being_made_again_can_be_cancelled(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=1)

    @ray.remote(tensor_transport="shm")
    def slow():
        ran("slow")
        yield torch.ones(SIZE)
        if len(runs()) == 2:
            time.sleep(600)
        yield torch.ones(SIZE)

    refs = list(slow.remote())
    lose(*refs)
    say("the first", values(refs[:1]))
    say("in time", outcome(lambda: ray.get(refs[1], timeout=0.5))[0])
    ray.cancel(refs[1])
    say("cancelled", outcome(lambda: ray.get(refs[1], timeout=60))[0])
    """
    )
    assert driver.expect("the first") == [1.0]
    assert driver.expect("in time") == "GetTimeoutError"
    assert "TaskCancelledError" in driver.expect("cancelled")


def test_what_a_task_has_made_again_is_cancelled_with_it(start_driver):
    driver = start_driver(
        STREAMS
        + """
    ray.init(num_cpus=1)

    @ray.remote(tensor_transport="shm", num_cpus=1)
    def slow():
        ran("slow")
        if len(runs()) == 2:
            try:
                time.sleep(600)
            finally:
                ran("ended")
        yield torch.ones(SIZE)

    @ray.remote(num_cpus=0)
    def parent():
        collection = slow.options(num_returns="dynamic").remote()
        [ref] = ray.get(collection)
        lose(ref)
        ray.get(ref)

    running = parent.remote()
    say("runs", settles(runs, ["slow"] * 2))
    ray.cancel(running)
    say("cancelled", outcome(lambda: ray.get(running, timeout=60))[0])
    say("ended", settles(runs, ["slow"] * 2 + ["ended"]))
    """
    )
    assert driver.expect("runs") == ["slow"] * 2
    assert "TaskCancelledError" in driver.expect("cancelled")
    assert driver.expect("ended") == ["slow", "slow", "ended"]
