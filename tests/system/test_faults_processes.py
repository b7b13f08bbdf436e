"""kill -9 of any party: waiting calls end with the right error, nothing is left, the rest goes on."""

import signal

import processes
import pytest

# A daemon that is killed is not followed by another one (test_daemon_restart.py is about those that are).
NO_OTHER_DAEMON = {"BEELINE_DAEMON_WAIT_S": "0"}
ACTOR_WITH_MEMORY = """
    @ray.remote
    class Holder:
        def __init__(self):
            import numpy as np
            self.refs = [ray.put(np.ones(64 << 20, np.uint8)) for _ in range(4)]

        def pid(self):
            return os.getpid()

        def sleep(self):
            time.sleep(600)

    @ray.remote
    class Other:
        def add(self, a, b):
            return a + b

    def proof():
        other = Other.remote()
        return ray.get(other.add.remote(1, 2))
"""


def test_killed_actor(start_driver):
    driver = start_driver(
        ACTOR_WITH_MEMORY
        + """
    ray.init(num_cpus=2)
    holder, other = Holder.remote(), Other.remote()
    ray.get(other.add.remote(0, 0))
    say("pid", ray.get(holder.pid.remote()))
    pending = holder.sleep.remote()
    dependent = other.add.remote(pending, 1)
    say("waiting")
    say("pending", tried(lambda: ray.get(pending)))
    say("dependent", tried(lambda: ray.get(dependent)))
    say("later", tried(lambda: ray.get(holder.pid.remote())))
    say("others", [ray.get(other.add.remote(3, 4)), proof()])
    hear()
    """
    )
    pid = driver.expect("pid")
    driver.expect("waiting")
    (holder,) = [p for p in driver.processes() if p.pid == pid]
    assert processes.shared_memory_bytes(driver.processes()) >= 256 << 20
    holder.kill()
    for event in ("pending", "dependent", "later"):
        kinds, message = driver.expect(event, 10)
        assert "RayActorError" in kinds or "ActorDiedError" in kinds, (event, kinds)
        assert "Holder" in message
    assert driver.expect("others") == [7, 3]
    released = processes.until(
        lambda: processes.shared_memory_bytes(driver.processes()) < 128 << 20, processes.GONE_WITHIN_S
    )
    assert released, processes.shared_memory_bytes(driver.processes())


def test_killed_task_worker(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote(max_retries=0)
    def sleep(path):
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        os.rename(path, path + ".pid")
        time.sleep(600)

    path = __file__ + ".worker"
    ref = sleep.remote(path)
    while not os.path.exists(path + ".pid"):
        time.sleep(0.01)
    say("pid", int(open(path + ".pid").read()))
    say("pending", tried(lambda: ray.get(ref)))
    say("usable", ray.get([ray.remote(lambda i=i: i).remote() for i in range(4)]))
    """
    )
    pid = driver.expect("pid")
    (worker,) = [p for p in driver.processes() if p.pid == pid]
    worker.kill()
    kinds, _ = driver.expect("pending", 10)
    assert "WorkerCrashedError" in kinds
    assert driver.expect("usable") == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_the_worker_that_waits_for_the_first_actor(start_driver, number):
    """The driver is linked to it ahead of use."""
    driver = start_driver(
        """
    ray.init(num_cpus=2)
    from beeline import _core

    def idle():
        (session,) = _core.live_sessions()
        rows = _core.session_state(session)["processes"]
        return [row["pid"] for row in rows if row["what"] == "idle"]

    while not idle():
        time.sleep(0.01)
    say("idle", idle())
    hear()

    @ray.remote(max_restarts=1, max_task_retries=1)
    class A:
        def pid(self):
            return os.getpid()

    actors = [A.remote() for _ in range(2)]
    refs = [actor.pid.remote() for actor in actors]
    say("one", len(ray.wait(refs, timeout=40)[0]))
    hear()
    say("pids", ray.get(refs, timeout=40))
    ray.shutdown()
    say("ended")
    hear()
    """
    )
    idle = driver.expect("idle")
    workers = [process for process in driver.servants() if process.pid in idle]
    assert workers
    for worker in workers:
        worker.kill(number)
    driver.tell()
    assert driver.expect("one") == 1
    for worker in workers:
        worker.kill(signal.SIGCONT)
    driver.tell()
    pids = driver.expect("pids")
    assert len(set(pids)) == 2
    assert number == signal.SIGSTOP or not set(idle) & set(pids)
    driver.expect("ended")
    assert processes.still_alive(workers) == []


BUSY_SESSION = (
    ACTOR_WITH_MEMORY
    + """
    ray.init(num_cpus=2)
    holders = [Holder.remote() for _ in range(2)]
    ray.get([holder.pid.remote() for holder in holders])
    refs = [holder.sleep.remote() for holder in holders]
    say("ready")
    say("pending", tried(lambda: ray.get(refs)))
    """
)


def test_killed_driver_leaves_nothing(start_driver, session_folder):
    driver = start_driver(BUSY_SESSION)
    driver.expect("ready")
    servants, files = driver.servants(), processes.files_of(driver.processes())
    assert len(servants) >= 3
    driver.kill()
    assert processes.still_alive(servants) == []
    assert processes.still_there(files) == []
    assert driver.processes() == []
    assert [str(path) for path in session_folder.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminated_driver_leaves_nothing(start_driver, number):
    driver = start_driver(BUSY_SESSION)
    driver.expect("ready")
    servants, files = driver.servants(), processes.files_of(driver.processes())
    driver.processes()[0].kill(number)
    assert driver.wait() != 0
    assert processes.still_alive(servants) == []
    assert processes.still_there(files) == []


def test_killed_daemon_ends_everything_with_an_error_that_says_so(start_driver):
    driver = start_driver(
        BUSY_SESSION
        + """
    say("call", tried(lambda: ray.get(holders[0].pid.remote(), timeout=20)))
    say("task", tried(lambda: ray.get(ray.remote(lambda: 1).remote(), timeout=20)))
    ray.shutdown()
    say("down", ray.is_initialized())
    ray.init(num_cpus=2)
    say("again", proof())
    """,
        environment=NO_OTHER_DAEMON,
    )
    driver.expect("ready")
    servants, files = driver.servants(), processes.files_of(driver.servants())
    driver.daemon().kill()
    kinds, message = driver.expect("pending", 10)
    assert "RayError" in kinds
    assert "beelined" in message
    for event in ("call", "task"):
        kinds, message = driver.expect(event)
        assert "RayError" in kinds, (event, kinds, message)
    assert driver.expect("down") is False
    assert driver.expect("again") == 3
    assert processes.still_alive(servants) == []
    assert processes.still_there(files) == []


def test_killed_daemon_of_an_idle_driver(start_driver):
    driver = start_driver(
        ACTOR_WITH_MEMORY
        + """
    ray.init(num_cpus=2)
    holder = Holder.remote()
    ray.get(holder.pid.remote())
    say("ready")
    hear()
    say("put", tried(lambda: ray.get(holder.pid.remote(), timeout=20)))
    """,
        environment=NO_OTHER_DAEMON,
    )
    driver.expect("ready")
    servants = driver.servants()
    driver.daemon().kill()
    assert processes.still_alive(servants) == []
    driver.tell()
    kinds, message = driver.expect("put")
    assert "RayError" in kinds
    assert "beelined" in message


def test_killed_zygote_is_replaced(start_driver):
    driver = start_driver(
        ACTOR_WITH_MEMORY
        + """
    ray.init(num_cpus=2)
    other = Other.remote()
    ray.get(other.add.remote(1, 1))
    say("ready")
    hear()
    say("old", ray.get(other.add.remote(1, 1)))
    say("new", tried(lambda: [ray.get(Other.remote().add.remote(1, 1), timeout=30) for _ in range(6)]))
    hear()
    """
    )
    driver.expect("ready")
    zygote = driver.zygote()
    zygote.kill()
    assert processes.still_alive([zygote]) == []
    driver.tell()
    assert driver.expect("old") == 2
    assert driver.expect("new") == ["returned", "[2, 2, 2, 2, 2, 2]"]
    assert driver.zygote() != zygote


def test_killed_actor_restarts_with_its_calls(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote(max_restarts=-1, max_task_retries=-1)
    class A:
        def pid(self):
            return os.getpid()

    a = A.remote()
    for _ in range(5):
        say("pid", ray.get(a.pid.remote()))
        hear()
    """
    )
    pids = []
    for _ in range(5):
        pids.append(driver.expect("pid"))
        for process in driver.processes():
            if process.pid == pids[-1]:
                process.kill()
                assert processes.still_alive([process]) == []
        driver.tell()
    assert len(set(pids)) == 5


def test_owner_killed_while_others_hold_its_refs(start_driver):
    driver = start_driver(
        """
    import numpy as np
    ray.init(num_cpus=2)

    @ray.remote
    class Owner:
        def make(self, n):
            return [ray.put(np.ones(n)) for _ in range(2)]

        def pid(self):
            return os.getpid()

    owner = Owner.remote()
    kept, asked_later = ray.get(owner.make.remote(1 << 20))
    array = ray.get(kept)
    say("pid", ray.get(owner.pid.remote()))
    hear()
    say("later", tried(lambda: ray.get(asked_later, timeout=20)))
    say("kept", float(array.sum()))
    """
    )
    pid = driver.expect("pid")
    (owner,) = [p for p in driver.processes() if p.pid == pid]
    owner.kill()
    assert processes.still_alive([owner]) == []
    driver.tell()
    kinds, _ = driver.expect("later")
    assert "ObjectLostError" in kinds, kinds
    assert driver.expect("kept") == float(1 << 20)
