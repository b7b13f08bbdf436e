"""Two drivers at once on one machine do not disturb each other."""

import processes

SCRIPT = """
    import numpy as np

    ray.init(num_cpus=2, namespace="shared_name")

    @ray.remote
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self, array):
            self.n += 1
            return self.n + float(array[0])

    counter = Counter.options(name="counter").remote()
    say("ready", ray.cluster_resources()["CPU"])
    while (order := hear()) != "end":
        n = int(order)
        say("counted", [ray.get(counter.add.remote(np.zeros(1 << 18))) for _ in range(n)][-1])
        say("found", ray.get(ray.get_actor("counter").add.remote(np.zeros(1))))
    ray.shutdown()
    say("down")
    hear()
"""


def _count(driver, n, expected):
    driver.tell(str(n))
    assert driver.expect("counted") == expected
    assert driver.expect("found") == expected + 1


def test_side_by_side(start_driver):
    first, second = start_driver(SCRIPT), start_driver(SCRIPT)
    for driver in (first, second):
        assert driver.expect("ready") == 2  # the other's resources are not mixed in
    _count(first, 50, 50)
    _count(second, 7, 7)
    _count(first, 10, 61)
    _count(second, 1, 9)
    assert not {p.pid for p in first.processes()} & {p.pid for p in second.processes()}


def test_shutdown_of_one(start_driver):
    first, second = start_driver(SCRIPT), start_driver(SCRIPT)
    first.expect("ready")
    second.expect("ready")
    ended = first.servants()
    first.tell("end")
    first.expect("down")
    assert processes.still_alive(ended) == []
    _count(second, 20, 20)


def test_kill_of_one(start_driver):
    first, second = start_driver(SCRIPT), start_driver(SCRIPT)
    first.expect("ready")
    second.expect("ready")
    everyone, files = first.servants(), processes.files_of(first.processes())
    for process in everyone:
        process.kill()
    first.kill()
    assert processes.still_alive(everyone) == []
    _count(second, 20, 20)
    third = start_driver(SCRIPT)
    third.expect("ready")
    assert processes.still_there(files) == []
    _count(third, 3, 3)
    _count(second, 1, 22)


def test_kill_of_one_daemon(start_driver):
    first, second = start_driver(SCRIPT), start_driver(SCRIPT)
    first.expect("ready")
    second.expect("ready")
    first.daemon().kill()
    assert processes.still_alive(first.servants()) == []
    _count(second, 20, 20)


def test_driver_inside_a_driver(start_driver):
    driver = start_driver(
        """
    import subprocess

    ray.init(num_cpus=2)

    @ray.remote
    def run(source):
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
        return [done.returncode, done.stdout.strip(), done.stderr[-500:]]

    source = f"import {ENGINE} as ray; ray.init(num_cpus=1); print(ray.get(ray.remote(lambda: 5).remote()))"
    say("inner", ray.get(run.remote(source)))
    say("outer", ray.get(ray.remote(lambda: 6).remote()))
    """
    )
    status, printed, errors = driver.expect("inner")
    assert (status, printed.splitlines()[-1:]) == (0, ["5"]), errors
    assert driver.expect("outer") == 6
