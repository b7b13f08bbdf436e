"""kill -9 of the node daemon: another one goes on with its session, and nobody notices but for a line in the output."""

import contextlib
import signal
import time

import processes
import pytest

from tests.conformance.small_disk import fill, mounted

PROGRAM = """
    @ray.remote
    class Counter:
        def __init__(self, start=0):
            self.count = start

        def add(self, n=1):
            self.count += n
            return self.count

        def slow(self, seconds):
            time.sleep(seconds)
            return self.add()

        def pid(self):
            return os.getpid()

        def print(self, text):
            print(text)

    @ray.remote
    def echo(value, seconds=0):
        time.sleep(seconds)
        return value
"""


def another_daemon(driver, before):
    """The daemon that follows `before`, and how long it took to appear."""
    started = time.monotonic()

    def look():
        with contextlib.suppress(AssertionError):
            found = driver.daemon()
            return found if found.pid != before.pid else None
        return None

    found = processes.until(look, 10)
    assert found, driver.output()
    return found, time.monotonic() - started


def kill_daemon(driver):
    before = driver.daemon()
    before.kill()
    return another_daemon(driver, before)[0]


def test_calls_in_flight_finish_and_actors_keep_their_state(start_driver):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=4)
    named = Counter.options(name="named", namespace="n").remote(100)
    actor = Counter.remote()
    say("pids", ray.get([named.pid.remote(), actor.pid.remote()]))
    assert ray.get(echo.remote(0)) == 0
    in_flight = [actor.slow.remote(1), echo.remote("task", 1)] + [echo.remote(i, 0.2) for i in range(20)]
    stored = ray.put(b"x" * 1_000_000)
    time.sleep(0.2)
    say("under way")
    say("finished", ray.get(in_flight, timeout=30))
    say("stored", len(ray.get(stored)))
    hear()
    say("kept", ray.get([named.add.remote(), actor.add.remote()]))
    say("pids", ray.get([named.pid.remote(), actor.pid.remote()]))
    say("found", ray.get(ray.get_actor("named", namespace="n").add.remote()))
    say("taken", tried(lambda: Counter.options(name="named", namespace="n").remote()))
    say("new", ray.get([Counter.remote(7).add.remote(), echo.remote(8)]))
    del actor
    say("resources", ray.cluster_resources()["CPU"])
    hear()
    """
    )
    pids = driver.expect("pids")
    driver.expect("under way")
    before, zygote = driver.daemon(), driver.zygote()
    before.kill()
    after, took_s = another_daemon(driver, before)
    assert took_s < 1
    assert driver.expect("finished") == [1, "task", *range(20)]
    assert driver.expect("stored") == 1_000_000
    driver.tell()
    assert driver.expect("kept") == [101, 2]
    assert driver.expect("pids") == pids
    assert driver.expect("found") == 102
    kinds, _ = driver.expect("taken")
    assert "ValueError" in kinds
    assert driver.expect("new") == [8, 8]
    assert driver.expect("resources") == 4
    assert driver.zygote() == zygote, "the zygote that was there is used on"
    assert after.alive()
    assert "has been started again" in driver.output()
    driver.tell()
    assert driver.wait() == 0
    assert driver.processes() == []


def test_what_ends_while_there_is_no_daemon(start_driver):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=4)
    lasting = Counter.options(max_restarts=1, max_task_retries=-1).remote(10)
    fragile = Counter.remote()
    say("pids", ray.get([lasting.pid.remote(), fragile.pid.remote()]))
    pending = fragile.slow.remote(600)
    say("pending", tried(lambda: ray.get(pending)))
    say("restarted", ray.get(lasting.add.remote()))
    hear()
    """
    )
    pids = driver.expect("pids")
    workers = [p for p in driver.processes() if p.pid in pids]
    driver.daemon().kill()
    for worker in workers:
        worker.kill()
    kinds, message = driver.expect("pending", 15)
    assert "ActorDiedError" in kinds, (kinds, message)
    assert "killed by signal 9" in message, message
    assert driver.expect("restarted", 15) == 11


def test_ends_afterwards_are_told_with_their_status(start_driver):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=4)
    actors = [Counter.options(max_restarts=1, max_task_retries=-1).remote(5), Counter.remote()]
    fresh = Counter.options(runtime_env={"env_vars": {"PYTHONHASHSEED": "1"}}).remote()
    say("pids", ray.get([actor.pid.remote() for actor in [*actors, fresh]]))
    hear()
    for actor in [*actors, fresh]:
        say("alive", ray.get(actor.add.remote()))
    hear()
    say("dead", tried(lambda: ray.get(actors[1].add.remote(), timeout=30)))
    say("restarted", ray.get(actors[0].add.remote(), timeout=30))
    say("fresh", ray.get(fresh.add.remote()))
    ray.kill(fresh)
    say("killed", tried(lambda: ray.get(fresh.add.remote(), timeout=30)))
    hear()
    """
    )
    pids = driver.expect("pids")
    kill_daemon(driver)
    driver.tell()
    assert [driver.expect("alive") for _ in range(3)] == [6, 1, 1]
    for process in driver.processes():
        if process.pid in pids[:2]:
            process.kill()
    driver.tell()
    kinds, message = driver.expect("dead")
    assert "ActorDiedError" in kinds
    assert "killed by signal 9" in message
    assert driver.expect("restarted") == 6
    assert driver.expect("fresh") == 2
    kinds, _ = driver.expect("killed")
    assert "ActorDiedError" in kinds
    driver.tell()
    assert driver.wait() == 0
    assert driver.processes() == []


def test_the_driver_is_killed_as_well(start_driver):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=2)
    actors = [Counter.remote() for _ in range(2)]
    ray.get([actor.add.remote() for actor in actors])
    say("ready")
    hear()
    """
    )
    driver.expect("ready")
    servants = driver.servants()
    driver.daemon().kill()
    driver.kill()
    assert processes.still_alive(servants) == []
    assert processes.until(lambda: driver.processes() == [], processes.GONE_WITHIN_S)


def test_workers_start_another_daemon_for_a_detached_actor(start_driver, session_folder):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=2, namespace="n")
    kept = Counter.options(name="kept", lifetime="detached").remote(41)
    ray.get(kept.add.remote())
    say("ready")
    hear()
    """
    )
    driver.expect("ready")
    before = driver.daemon()
    driver.kill()
    before.kill()
    after, took_s = another_daemon(driver, before)
    assert took_s < 1
    (session,) = session_folder.glob("*/session-*")
    other = start_driver(
        f"""
    ray.init(address={str(session)!r}, namespace="n")
    kept = ray.get_actor("kept")
    say("kept", ray.get(kept.add.remote()))
    ray.kill(kept)
    ray.shutdown()
    say("done")
    """
    )
    assert other.expect("kept") == 43
    other.expect("done")
    assert other.wait() == 0
    assert processes.still_alive([after]) == []
    assert processes.until(lambda: driver.processes() == [], 3)
    assert list(session_folder.glob("*/session-*")) == []


def test_output_of_workers_goes_on(start_driver):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=2)
    actor = Counter.remote()

    @ray.remote
    def chatter():
        for i in range(150):
            print("line", i)
            time.sleep(0.01)
        return "told all"

    ray.get(actor.print.remote("before"))
    ref = chatter.remote()
    time.sleep(0.5)
    say("ready")
    say("chatter", ray.get(ref))
    hear()
    ray.get(actor.print.remote("after"))
    time.sleep(0.5)
    say("done")
    """
    )
    driver.expect("ready")
    kill_daemon(driver)
    assert driver.expect("chatter") == "told all"
    driver.tell()
    driver.expect("done")
    assert driver.wait() == 0
    output = driver.output()
    assert "before" in output
    assert "after" in output
    assert "(Counter pid=" in output.split("after")[0].splitlines()[-1]
    missing = [i for i in range(150) if f"line {i}\n" not in output]
    assert len(missing) <= 1, missing  # what the daemon had read of a line, and not handed on


def test_groups_resources_and_what_waits(start_driver):
    driver = start_driver(
        PROGRAM
        + """
    from beeline.util.placement_group import placement_group, remove_placement_group

    ray.init(num_cpus=6, num_gpus=2)
    group = placement_group([{"CPU": 1, "GPU": 1}, {"CPU": 1}], name="group")
    ray.get(group.ready())
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, 0)
    inside = Counter.options(num_gpus=0.5, scheduling_strategy=strategy).remote()
    half = Counter.options(num_gpus=0.5).remote()
    ray.get([inside.add.remote(), half.add.remote()])
    holder = Counter.options(num_cpus=3).remote()
    ray.get(holder.add.remote())
    waiting = Counter.options(num_cpus=3).remote(70)
    later = waiting.add.remote()
    large = placement_group([{"CPU": 5}])
    before = ray.available_resources()
    time.sleep(0.2)
    say("ready")
    hear()
    say("same", before == ray.available_resources())
    say("still waits", ray.wait([later], timeout=0.3)[1] == [later])
    ray.kill(holder)
    say("placed", ray.get(later, timeout=30))
    say("inside", ray.get(inside.add.remote()))
    ray.kill(inside)
    ray.kill(waiting)
    remove_placement_group(group)
    say("group", ray.get(large.ready(), timeout=30) is not None)
    remove_placement_group(large)
    ray.kill(half)
    deadline = time.monotonic() + 10
    while ray.available_resources() != ray.cluster_resources() and time.monotonic() < deadline:
        time.sleep(0.02)
    say("free", [ray.available_resources()[name] for name in ("CPU", "GPU")])
    hear()
    """
    )
    driver.expect("ready")
    kill_daemon(driver)
    driver.tell()
    assert driver.expect("same") is True
    assert driver.expect("still waits") is True
    assert driver.expect("placed") == 71
    assert driver.expect("inside") == 2
    assert driver.expect("group") is True
    assert driver.expect("free") == [6, 2]


def test_a_worker_that_was_to_exit_is_nobodys(start_driver):
    """It stays while its result is needed, and must not be given anything else."""
    driver = start_driver(
        PROGRAM
        + """
    import numpy as np

    ray.init(num_cpus=2)

    @ray.remote(max_calls=1)
    def make():
        return np.full(1_000_000, os.getpid())

    value = ray.get(make.remote())
    ref = make.remote()
    maker = int(ray.get(ref)[0])
    del value
    time.sleep(0.2)
    say("ready")
    hear()
    actors = [Counter.remote() for _ in range(3)]
    say("others", maker not in ray.get([actor.pid.remote() for actor in actors]))
    del ref
    time.sleep(0.5)
    say("alive", ray.get([actor.add.remote() for actor in actors]))
    hear()
    """
    )
    driver.expect("ready")
    kill_daemon(driver)
    driver.tell()
    assert driver.expect("others") is True
    assert driver.expect("alive") == [1, 1, 1]


def test_killed_again_and_again_it_gives_up(start_driver):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=2)
    actor = Counter.remote()
    while True:
        outcome = tried(lambda: [ray.get(actor.add.remote(), timeout=20), ray.get(echo.remote(1), timeout=20)])
        say("round", outcome)
        if outcome[0] != "returned":
            break
        hear()
    ray.shutdown()
    ray.init(num_cpus=1)
    say("usable", ray.get(echo.remote(5)))
    ray.shutdown()
    """
    )
    assert driver.expect("round") == ["returned", "[1, 1]"]
    for round_ in range(5):
        kill_daemon(driver)
        driver.tell()
        assert driver.expect("round") == ["returned", f"[{round_ + 2}, 1]"]
    servants = driver.servants()
    driver.daemon().kill()
    time.sleep(0.5)
    driver.tell()
    kinds, message = driver.expect("round", 20)
    assert "RayError" in kinds
    assert "beelined" in message
    assert driver.expect("usable") == 5
    assert driver.wait() == 0
    assert processes.still_alive(servants) == []


def test_nobody_starts_another_one(start_driver, session_folder):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=2)
    actors = [Counter.remote() for _ in range(2)]
    ray.get([actor.add.remote() for actor in actors])
    say("ready")
    say("call", tried(lambda: ray.get(actors[0].slow.remote(600))))
    """,
        environment={"BEELINE_DAEMON_WAIT_S": "1"},
    )
    driver.expect("ready")
    servants = driver.servants()
    zygotes = [p for p in servants if "zygote" in p.command]
    stopped = [p for p in driver.processes() if p not in zygotes and "beelined" not in p.command]
    for process in stopped:
        process.kill(signal.SIGSTOP)
    driver.daemon().kill()
    assert processes.until(lambda: processes.still_alive(servants) == [], 6)
    driver.processes()[0].kill(signal.SIGCONT)
    kinds, message = driver.expect("call", 20)
    assert "RayError" in kinds
    assert "beelined" in message
    assert list(session_folder.glob("*/session-*")) == []


def test_other_sessions_do_not_take_it_for_stale(start_driver, session_folder):
    """Between the end of one daemon and the start of another nobody holds the session's lock."""
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=2)
    actor = Counter.remote()
    ray.get(actor.add.remote())
    say("ready")
    hear()
    say("kept", ray.get(actor.add.remote(), timeout=30))
    """
    )
    driver.expect("ready")
    driver.processes()[0].kill(signal.SIGSTOP)  # workers leave the start to it for a while
    driver.daemon().kill()
    other = start_driver(
        """
    ray.init(num_cpus=1)
    say("usable", ray.get(ray.remote(lambda: 1).remote()))
    """
    )
    assert other.expect("usable") == 1
    driver.processes()[0].kill(signal.SIGCONT)
    driver.tell()
    assert driver.expect("kept") == 2


def test_a_journal_on_a_full_disk_is_given_up(start_driver, session_folder):
    with mounted(session_folder, "4m"):
        driver = start_driver(
            PROGRAM
            + """
    ray.init(num_cpus=2)
    actor = Counter.remote()
    ray.get(actor.add.remote())
    say("ready")
    hear()
    more = [Counter.remote(b"x" * 60_000) for _ in range(2)]
    say("usable", ray.get([actor.add.remote(), *[counter.pid.remote() for counter in more[:1]]])[0])
    hear()
    say("over", tried(lambda: ray.get(actor.slow.remote(600))))
    """
        )
        driver.expect("ready")
        (session,) = session_folder.glob("*/session-*")
        fill(session)
        servants = driver.servants()
        driver.tell()
        assert driver.expect("usable") == 2
        assert processes.until(lambda: "the journal of the node daemon cannot be written" in driver.output(), 5)
        assert "No space left on device" in driver.output()
        assert not (session / "journal").exists()
        driver.tell()
        time.sleep(0.3)
        started = time.monotonic()
        driver.daemon().kill()
        kinds, message = driver.expect("over", 10)
        assert time.monotonic() - started < 2
        assert "RayError" in kinds
        assert "there is no journal" in message
        assert processes.still_alive(servants) == []
        driver.end()


@pytest.mark.full
def test_many_actors_and_tasks_through_many_deaths(start_driver):
    driver = start_driver(
        PROGRAM
        + """
    ray.init(num_cpus=8)
    actors = [Counter.options(num_cpus=0.1, max_restarts=-1, max_task_retries=-1).remote() for _ in range(30)]
    ray.get([actor.add.remote() for actor in actors])
    say("ready")
    for round in range(4):
        refs = [actor.add.remote() for actor in actors for _ in range(20)] + [echo.remote(i, 0.005) for i in range(100)]
        more = [Counter.options(num_cpus=0.1).remote(i) for i in range(5)]
        values = ray.get(refs, timeout=60)
        assert values[600:] == list(range(100)), values[600:]
        assert [values[20 * i + 19] for i in range(30)] == [1 + 20 * (round + 1)] * 30
        assert ray.get([actor.add.remote() for actor in more], timeout=60) == [1, 2, 3, 4, 5]
        del more
        say("round", round)
        hear()
    hear()
    """
    )
    driver.expect("ready")
    for round_ in range(4):
        time.sleep(0.05 * round_)
        kill_daemon(driver)
        assert driver.expect("round", 90) == round_
        driver.tell()
    defunct = [p for p in driver.processes() if "defunct" in p.command]
    assert defunct == []
