"""Stored values beyond the quota lie on disk until their references go, and are read there by whoever may read them."""

import pathlib

import processes
import pytest

from tests.conformance.small_disk import mounted

STORE = """
    import gc
    import numpy as np
    from beeline import _core

    MIB = 1 << 20
    ray.init(num_cpus=2, object_store_memory=64 * MIB)
    folder = os.path.join(ray.api.session.current.info["session_dir"], "spill")

    def files():
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []

    def array(i, mib=8):
        return np.full(mib * MIB // 8, i)

    def settles(call, wanted, patience_s=20):
        deadline = time.monotonic() + patience_s
        while (got := call()) != wanted and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.05)
        return got

    @ray.remote
    class Reader:
        def total(self, refs):
            return [int(ray.get(ref)[-1]) for ref in refs]

        def store(self, n):
            self.refs = [ray.put(array(i)) for i in range(n)]
            return self.refs

        def pid(self):
            return os.getpid()

        def stats(self):
            return _core.transfer_stats()
"""


def test_more_than_the_quota_is_stored_and_read(start_driver):
    driver = start_driver(
        STORE
        + """
    refs = [ray.put(array(i)) for i in range(30)]
    stats = _core.transfer_stats()
    say("spilled", [stats["spilled_objects"], stats["spilled_bytes"] >= stats["spilled_objects"] * 8 * MIB])
    say("stalled", stats["spill_stalled_s"] > 0)
    say("files", len(files()))
    say("values", [int(ray.get(ref)[0]) for ref in refs])
    say("again", [int(ray.get(ref)[-1]) for ref in reversed(refs)])
    restored = _core.transfer_stats()
    say("restored", [restored["restored_objects"] >= 2 * len(files()), restored["restored_objects"] * 8 * MIB])
    say("restored bytes", restored["restored_bytes"])
    say("to a worker", ray.get(Reader.remote().total.remote(refs)))
    kept = ray.get(refs[0])
    del refs
    say("freed", settles(files, []))
    say("kept", int(kept.sum()) == 0 and not kept.flags.writeable)
    hear()
    """
    )
    spilled, is_whole = driver.expect("spilled")
    assert spilled >= 22
    assert is_whole
    assert driver.expect("stalled") is True
    assert driver.expect("files") == spilled
    assert driver.expect("values") == list(range(30))
    assert driver.expect("again") == list(range(29, -1, -1))
    is_each_twice, restored_bytes = driver.expect("restored")
    assert is_each_twice
    assert driver.expect("restored bytes") == restored_bytes
    assert driver.expect("to a worker") == list(range(30))
    assert driver.expect("freed") == []
    assert driver.expect("kept") is True
    assert driver.output().count("stored values are being moved to disk") == 1


def test_values_that_are_read_stay(start_driver):
    driver = start_driver(
        STORE
        + """
    kept = [ray.put(array(i)) for i in range(6)]
    read = [ray.get(ref) for ref in kept]
    refs = [ray.put(array(10 + i)) for i in range(10)]
    say("read", [int(value[-1]) for value in read])
    say("values", [int(ray.get(ref)[-1]) for ref in refs])
    say("full", tried(lambda: ray.put(array(1, 32)))[0])
    del read
    say("room", settles(lambda: tried(lambda: ray.put(array(1, 32)) and None)[0], "returned"))
    say("kept", [int(ray.get(ref)[0]) for ref in kept])
    """
    )
    assert driver.expect("read") == list(range(6))
    assert driver.expect("values") == list(range(10, 20))
    assert "ObjectStoreFullError" in driver.expect("full")
    assert driver.expect("room") == "returned"
    assert driver.expect("kept") == list(range(6))


def test_a_worker_stores_more_than_its_quota(start_driver):
    driver = start_driver(
        STORE
        + """
    a, b = Reader.remote(), Reader.remote()
    refs = ray.get(a.store.remote(20))
    say("values", [int(ray.get(ref)[-1]) for ref in refs])
    say("elsewhere", ray.get(b.total.remote(refs)))
    say("spilled", ray.get(a.stats.remote())["spilled_objects"] > 0)
    """
    )
    assert driver.expect("values") == list(range(20))
    assert driver.expect("elsewhere") == list(range(20))
    assert driver.expect("spilled") is True


def test_results_of_a_worker_that_dies_are_copied_from_disk(start_driver):
    driver = start_driver(
        STORE
        + """
    @ray.remote
    class Maker:
        def make(self, i):
            return array(i, 4)

        def pid(self):
            return os.getpid()

    a = Maker.remote()
    refs = [a.make.remote(i) for i in range(24)]
    pid = ray.get(a.pid.remote())
    ray.wait(refs, num_returns=len(refs))
    say("files", len(files()) > 0)
    os.kill(pid, signal.SIGKILL)
    say("values", [int(ray.get(ref, timeout=60)[-1]) for ref in refs])
    del refs
    say("freed", settles(files, []))
    """
    )
    assert driver.expect("files") is True
    assert driver.expect("values") == list(range(24))
    assert driver.expect("freed") == []


def test_others_read_on_when_the_owner_has_taken_the_value_over(start_driver):
    driver = start_driver(
        STORE
        + """
    @ray.remote
    class Maker:
        def make(self, i):
            return array(i, 4)

        def pid(self):
            return os.getpid()

    @ray.remote
    class Keeper:
        def keep(self, refs):
            self.refs = refs[0]
            ray.wait(self.refs, num_returns=len(self.refs))

        def total(self):
            return [int(ray.get(ref)[-1]) for ref in self.refs]

    a, b = Maker.remote(), Keeper.remote()
    refs = [a.make.remote(i) for i in range(24)]
    pid = ray.get(a.pid.remote())
    ray.wait(refs, num_returns=len(refs))
    ray.get(b.keep.remote([refs]))
    os.kill(pid, signal.SIGKILL)
    say("copied", settles(lambda: _core.transfer_stats()["rehomed_objects"], 24))
    say("values", ray.get(b.total.remote(), timeout=60))
    say("mine", [int(ray.get(ref)[-1]) for ref in refs])
    ray.kill(b)
    del refs
    say("freed", settles(files, []))
    """
    )
    assert driver.expect("copied") == 24
    assert driver.expect("values") == list(range(24))
    assert driver.expect("mine") == list(range(24))
    assert driver.expect("freed") == []


def test_what_can_never_fit_moves_nothing(start_driver):
    driver = start_driver(
        STORE
        + """
    refs = [ray.put(array(i)) for i in range(6)]
    say("refused", tried(lambda: ray.put(array(1, 100)))[0])
    say("files", files())
    """
    )
    assert "ObjectStoreFullError" in driver.expect("refused")
    assert driver.expect("files") == []


def test_many_threads_store_and_read(start_driver):
    driver = start_driver(
        STORE
        + """
    wrong = []

    def work(number):
        for round in range(6):
            refs = [ray.put(array(100 * number + i, 4)) for i in range(8)]
            for i, ref in enumerate(refs):
                if int(ray.get(ref)[-1]) != 100 * number + i:
                    wrong.append((number, round, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    say("wrong", wrong)
    say("spilled", _core.transfer_stats()["spilled_objects"] > 0)
    say("freed", settles(files, []))
    """
    )
    assert driver.expect("wrong") == []
    assert driver.expect("spilled") is True
    assert driver.expect("freed") == []


def test_nothing_is_left_of_a_session_that_spilled(start_driver, session_folder):
    driver = start_driver(
        STORE
        + """
    refs = [ray.put(array(i)) for i in range(20)]
    say("files", len(files()))
    hear()
    os.kill(os.getpid(), signal.SIGKILL)
    """
    )
    assert driver.expect("files") > 0
    servants = driver.servants()
    driver.tell()
    driver.wait()
    assert processes.still_alive(servants) == []
    assert processes.until(lambda: not [path for path in session_folder.rglob("*") if path.is_file()])


def test_another_folder_is_spilled_to_and_left_empty(start_driver, tmp_path):
    driver = start_driver(
        f"""
    import numpy as np

    ray.init(num_cpus=1, object_store_memory=32 << 20, object_spilling_directory={str(tmp_path)!r})
    refs = [ray.put(np.full(1 << 20, i)) for i in range(10)]
    say("values", [int(ray.get(ref)[-1]) for ref in refs])
    hear()
    ray.shutdown()
    say("refused", tried(lambda: ray.init(object_spilling_directory="/no/such/folder")))
    """
    )
    assert driver.expect("values") == list(range(10))
    (folder,) = tmp_path.glob("beeline-spill-*")
    assert list(folder.iterdir())
    driver.tell()
    names, message = driver.expect("refused")
    assert "ValueError" in names
    assert "/no/such/folder" in message
    assert list(tmp_path.glob("beeline-spill-*")) == []


def test_another_folder_is_left_empty_when_the_daemon_is_killed(start_driver, tmp_path):
    driver = start_driver(
        f"""
    import numpy as np

    ray.init(num_cpus=1, object_store_memory=32 << 20, object_spilling_directory={str(tmp_path)!r})
    refs = [ray.put(np.full(1 << 20, i)) for i in range(10)]
    say("stored")
    hear()
    """,
        environment={"BEELINE_DAEMON_WAIT_S": "0"},
    )
    driver.expect("stored")
    assert list(tmp_path.glob("beeline-spill-*"))
    driver.daemon().kill()
    assert processes.until(lambda: not list(tmp_path.glob("beeline-spill-*")))
    driver.tell()


@pytest.fixture
def small_disk(session_folder):
    with mounted(session_folder, "24m"):
        yield pathlib.Path(session_folder)


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_is_full(start_driver):
    driver = start_driver(
        STORE
        + """
    refs = []

    def fill():
        for i in range(40):
            refs.append(ray.put(array(i)))

    say("full", tried(fill))
    say("values", [int(ray.get(ref)[-1]) for ref in refs] == list(range(len(refs))))
    say("files", len(files()))
    del refs[:]
    say("freed", settles(files, []))
    say("usable", int(ray.get(ray.put(array(7)))[0]))
    """
    )
    names, message = driver.expect("full")
    assert "ObjectStoreFullError" in names
    assert "No space left on device" in message
    assert driver.expect("values") is True
    assert driver.expect("files") in (1, 2)
    assert driver.expect("freed") == []
    assert driver.expect("usable") == 7
