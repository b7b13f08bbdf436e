"""The driver's arena under `beeline run` over several sessions, and memory that goes back to the system when idle."""

import processes
import pytest

RUN_PRELOADED = """
    from beeline.engines import preload

    if "again" not in sys.argv:  # as `beeline run` does
        os.environ["BEELINE_TEST_EVENTS"] = str(_events.fileno())
        os.set_inheritable(_events.fileno(), True)
        os.execve(sys.executable, [sys.executable, "-u", sys.argv[0], "again"], {**os.environ, **preload.environment()})
"""
SESSIONS = """
    import numpy as np
    from beeline import _core

    @ray.remote
    class A:
        def keep(self, array):
            self.array = array  # read from the driver's memory for as long as the actor lives
            return float(array[-1])

    def held():
        paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        # The pagemap is opened once for the life of the process, when memory is first cleaned.
        paths = [p for p in paths if os.path.islink(p) and "pagemap" not in os.readlink(p)]
        return [len(paths), len(os.listdir("/proc/self/task"))]

    def backed():
        paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        arenas = [p for p in paths if os.path.islink(p) and "memfd:beeline-arena" in os.readlink(p)]
        return {os.stat(p).st_ino: os.stat(p).st_blocks * 512 for p in arenas}

    survivor = None
    for i in range(4):
        ray.init(num_cpus=2, object_store_memory=(400 + i) << 20)
        array = np.full(4 << 20, i, dtype=np.float64)
        ref = ray.put(array)
        mine = ray.get(ref)
        say("in place", _core.is_shareable(array.ctypes.data, array.nbytes))
        say("value", ray.get(A.remote().keep.remote(ref)))
        a = A.remote()
        ray.get(a.keep.remote(ref))
        if survivor is None:
            survivor = mine
        del ref, mine
        ray.shutdown()
        say("after", [float(array[5]), float(survivor[5])])
        del array
        if i == 1:
            first = [held(), backed()]
    say("held", [first, [held(), backed()]])
    ray.init(num_cpus=2, object_store_memory=100 << 20)
    say("over the new quota", tried(lambda: ray.put(np.ones(32 << 20))))
    say("within it", ray.get(ray.put(np.ones(4)))[0])
"""


def test_a_preloaded_driver_starts_again_and_again(start_driver):
    driver = start_driver(RUN_PRELOADED + SESSIONS)
    for i in range(4):
        assert driver.expect("in place") is True
        assert driver.expect("value") == i
        assert driver.expect("after") == [i, 0.0]
    first, last = driver.expect("held")
    assert last[0] == first[0]  # descriptors, threads
    assert last[1] == first[1]  # what a session published is free for the next one
    kinds, message = driver.expect("over the new quota")
    assert "ObjectStoreFullError" in kinds and str(100 << 20) in message, (kinds, message)
    assert driver.expect("within it") == 1.0


IDLE = """
    import numpy as np

    ray.init(num_cpus=2)

    @ray.remote
    class A:
        def make(self, n):
            return np.ones(n)

        async def make_async(self, n):
            return np.ones(n)

    a = A.remote()
    while (order := hear()) != "end":
        say("made", [float(ray.get(a.make.remote(1 << 25))[-1]), float(ray.get(ray.put(np.ones(1 << 25)))[-1])])
"""


RESERVES = (2 * 64 << 20) + (1 << 20)  # and what the control tables and mailboxes take


@pytest.mark.full
def test_an_idle_session_gives_memory_back_but_for_a_reserve(start_driver):
    driver = start_driver(IDLE, environment={"BEELINE_TRIM_AFTER_S": "1"})
    for _ in range(2):  # the second time after a pause that has trimmed
        driver.tell("make")
        assert driver.expect("made") == [1.0, 1.0]
        # A reserve stays warm in the driver and in the actor.
        assert processes.until(lambda: processes.shared_memory_bytes(driver.processes()) <= RESERVES)


def test_memory_in_use_stays_warm(start_driver):
    driver = start_driver(IDLE, environment={"BEELINE_TRIM_AFTER_S": "600"})
    driver.tell("make")
    driver.expect("made")
    assert processes.shared_memory_bytes(driver.processes()) >= 512 << 20
