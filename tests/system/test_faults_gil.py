"""A long call that holds the GIL, in a producer, an owner or the driver, holds nobody else up.

`hold_gil` sleeps inside C without giving the GIL back, so that no Python thread of that process can run. Each test
shows that something else finished while that call was still running.
"""

import pytest

PRELUDE = """
    import ctypes
    import numpy as np

    HELD_S = 5

    def hold_gil(seconds=HELD_S):
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
        return "held"

    @ray.remote
    class Holder:
        def make(self, n):
            return np.full(n, 3.0)

        def put(self, n):
            self.mine = ray.put(np.full(n, 4.0))
            return [self.mine]

        def announce(self, path):
            open(path, "w").close()
            return hold_gil()

        def f(self):
            return "f"

    @ray.remote
    class Reader:
        def total(self, x):
            return float(x.sum())

        def total_of(self, box):
            return float(ray.get(box[0]).sum())

        def borrow(self, box):
            self.box = box

        def lend(self):
            return self.box

    ray.init(num_cpus=4)
    holder, reader, third = Holder.remote(), Reader.remote(), Reader.remote()
    ray.get([holder.f.remote(), reader.total.remote(np.ones(1)), third.total.remote(np.ones(1))])

    def start_holding():
        path = __file__ + ".holding"
        ref = holder.announce.remote(path)
        while not os.path.exists(path):
            time.sleep(0.01)
        return ref

    def still_held(ref):
        return ray.wait([ref], timeout=0)[0] == []
"""


@pytest.mark.parametrize("transport", [pytest.param("object_store", marks=pytest.mark.full), "auto"])
def test_finished_results_reach_consumers(start_driver, transport):
    driver = start_driver(
        PRELUDE
        + f"""
    make = holder.make.options(tensor_transport="{transport}")
    sizes = 100, 1 << 20
    refs = [[make.remote(size) for size in sizes] for _ in range(3)]
    ray.wait(sum(refs, []), num_returns=6)
    held = start_holding()
    say("reader", [ray.get([reader.total.remote(ref) for ref in refs[0]]), still_held(held)])
    say("driver", [[float(array.sum()) for array in ray.get(refs[1])], still_held(held)])
    say("borrower", [ray.get([reader.total_of.remote([ref]) for ref in refs[2]]), still_held(held)])
    say("held", ray.get(held))
    """
    )
    for event in ("reader", "driver", "borrower"):
        assert driver.expect(event) == [[3.0 * 100, 3.0 * (1 << 20)], True], event
    assert driver.expect("held") == "held"


def test_owner_serves_its_objects_and_references_are_passed_on(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    box = ray.get(holder.put.remote(1 << 18))
    held = start_holding()
    say("driver", [float(ray.get(box[0]).sum()), still_held(held)])
    ray.get(reader.borrow.remote(box))
    lent = ray.get(reader.lend.remote())
    say("third", [ray.get(third.total_of.remote(lent)), still_held(held)])
    """
    )
    assert driver.expect("driver") == [4.0 * (1 << 18), True]
    assert driver.expect("third") == [4.0 * (1 << 18), True]


@pytest.mark.full
def test_leases_return_while_their_reader_computes(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    from beeline import _core

    @ray.remote
    class Looker:
        def keep(self, array):
            self.kept = array
            return float(array.sum())

        def let_go(self, path):
            self.kept = None
            open(path, "w").close()
            return hold_gil()

    def used_mib():
        (session,) = _core.live_sessions()
        rows = _core.session_state(session)["processes"]
        return max(row["usage"]["arena_used_bytes"] for row in rows if row["what"] == "actor Holder") >> 20

    looker, path = Looker.remote(), __file__ + ".looking"
    shared = holder.make.options(tensor_transport="auto").remote(4 << 20)
    say("kept", [ray.get(looker.keep.remote(shared)), used_mib() >= 32])
    looking = looker.let_go.remote(path)
    while not os.path.exists(path):
        time.sleep(0.01)
    del shared
    while used_mib() >= 32 and still_held(looking):
        time.sleep(0.01)
    say("returned", [used_mib() < 32, still_held(looking)])
    say("looked", ray.get(looking))
    """
    )
    assert driver.expect("kept") == [3.0 * (4 << 20), True]
    assert driver.expect("returned") == [True, True]
    assert driver.expect("looked") == "held"


@pytest.mark.full
def test_cancel_of_a_queued_call_is_delivered(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    held = start_holding()
    queued = holder.f.remote()
    ray.cancel(queued)
    say("cancelled", tried(lambda: ray.get(queued, timeout=HELD_S)))
    say("still", still_held(held))
    say("after", [ray.get(held), ray.get(holder.f.remote())])
    """
    )
    kinds, _ = driver.expect("cancelled")
    assert "TaskCancelledError" in kinds
    assert driver.expect("still") is True
    assert driver.expect("after") == ["held", "f"]


@pytest.mark.full
def test_driver_that_holds_the_gil_is_not_in_the_path(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    @ray.remote
    class Stage:
        def work(self, x):
            time.sleep(0.2)
            return x + 1

        def finish(self, x):
            return [x, time.time()]

    stages = [Stage.remote() for _ in range(3)]
    ray.get([stage.work.remote(0) for stage in stages])
    x = 0
    for i in range(6):
        x = stages[i % 3].work.remote(x)
    done = stages[0].finish.remote(x)
    hold_gil(5)
    released = time.time()
    value, finished = ray.get(done)
    say("chain", [value, finished < released])
    """
    )
    assert driver.expect("chain") == [6, True]


def test_futures_complete_without_a_thread_in_get(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    import asyncio

    async def main():
        refs = [reader.total.remote(np.full(n, 2.0)) for n in (1, 10, 100000)]
        return [await ref for ref in refs]

    say("await", asyncio.run(main()))
    say("future", [reader.total.remote(np.ones(n)).future().result(20) for n in (1, 100000)])
    """
    )
    assert driver.expect("await") == [2.0, 20.0, 200000.0]
    assert driver.expect("future") == [1.0, 100000.0]
