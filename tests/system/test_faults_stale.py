"""All killed at once: the next `init`, or `beeline stop`, removes what is stale; detached actors outlive a driver."""

import time

import processes

SESSION = """
    ray.init(num_cpus=2)

    @ray.remote
    class A:
        def f(self):
            return 1

    actors = [A.remote() for _ in range(2)]
    say("ready", ray.get([a.f.remote() for a in actors]))
    hear()
"""


def _kill_all_at_once(driver):
    """Kills every process of the session; returns the files it leaves behind."""
    everyone = driver.processes()
    files = processes.files_of(everyone)
    for process in everyone:
        process.kill()
    driver.kill()
    assert processes.still_alive(everyone) == []
    return files


def test_next_init_removes_what_is_stale(start_driver):
    first = start_driver(SESSION)
    first.expect("ready")
    files = _kill_all_at_once(first)
    second = start_driver(SESSION)
    assert second.expect("ready") == [1, 1]
    assert processes.still_there(files) == []


def test_stop_removes_what_is_stale(start_driver):
    driver = start_driver(SESSION)
    driver.expect("ready")
    files = _kill_all_at_once(driver)
    status, output = processes.beeline_command("stop")
    assert status == 0, output
    assert processes.still_there(files) == []


def test_stop_with_nothing_running_is_fine():
    status, output = processes.beeline_command("stop")
    assert status == 0, output


def test_detached_actor_outlives_a_killed_driver_until_stop(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    class A:
        def pid(self):
            return os.getpid()

    kept = A.options(name="kept", lifetime="detached").remote()
    dropped = A.remote()
    say("pids", ray.get([kept.pid.remote(), dropped.pid.remote()]))
    hear()
    """
    )
    kept_pid, dropped_pid = driver.expect("pids")
    everyone = {p.pid: p for p in driver.processes()}
    driver.kill()
    assert processes.still_alive([everyone[dropped_pid]]) == []
    time.sleep(processes.GONE_WITHIN_S)  # nothing happens in this time: there is no event to wait for
    assert everyone[kept_pid].alive()
    status, output = processes.beeline_command("stop")
    assert status == 0, output
    assert processes.still_alive(everyone.values()) == []
    assert driver.processes() == []
