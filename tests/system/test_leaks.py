"""Nothing is left after any exit, nothing grows with use, and nothing runs when nothing is asked for."""

import time

import processes
import pytest

WORK = """
    import numpy as np

    @ray.remote
    class A:
        def echo(self, x):
            return x

        def make(self, n):
            return np.ones(n)

        def sleep(self, s):
            time.sleep(s)

    def work():
        actors = [A.remote() for _ in range(2)]
        refs = [a.make.remote(1 << 18) for a in actors]
        refs += [ray.put(np.ones(1 << 18)), ray.remote(lambda: 1).remote()]
        return len(ray.get(refs + [actors[0].echo.remote(refs[1])]))
"""


def start_working_driver(start_driver, script):
    """A driver with a session in which `work` and actors of class A can be used."""
    return start_driver(WORK + "    ray.init(num_cpus=2)\n" + script)


ENDINGS = {
    "shutdown": "ray.shutdown()",
    "end of script": "pass",
    "exit with a status": "sys.exit(3)",
    "uncaught exception": "raise ValueError('on purpose')",
    "exit without handlers": "os._exit(0)",
    "shutdown during a call": "pending = A.remote().sleep.remote(600); ray.shutdown()",
    "end during a call": "pending = A.remote().sleep.remote(600)",
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_nothing_is_left_after(start_driver, session_folder, ending):
    driver = start_working_driver(
        start_driver,
        f"""
    say("worked", work())
    say("ready")
    hear()
    {ending}
    """,
    )
    assert driver.expect("worked") == 5
    driver.expect("ready")
    servants, files = driver.servants(), processes.files_of(driver.processes())
    assert servants
    driver.tell()
    driver.wait()
    assert processes.still_alive(servants) == []
    assert processes.still_there(files) == []
    assert driver.processes() == []
    assert [str(path) for path in session_folder.rglob("*") if not path.is_dir()] == []


def test_driver_returns_its_descriptors_and_threads(start_driver):
    driver = start_driver(
        WORK
        + """
    def held():
        paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        paths = [os.readlink(path) for path in paths if os.path.islink(path)]
        # The pagemap is opened once for the life of the process, when memory is first cleaned.
        return [sum("pagemap" not in path for path in paths), len(os.listdir("/proc/self/task"))]

    for i in range(5):
        ray.init(num_cpus=2)
        work()
        ray.shutdown()
        if i == 0:
            first = held()
    say("held", [first, held()])
    hear()
    """
    )
    first, last = driver.expect("held")
    assert last == first
    assert processes.still_alive(driver.servants()) == []


def _settled_memory(driver):
    """Shared memory of the session once it has stopped shrinking."""
    smallest = processes.shared_memory_bytes(driver.processes())

    def settled():
        nonlocal smallest
        before = smallest
        time.sleep(0.3)
        smallest = min(smallest, processes.shared_memory_bytes(driver.processes()))
        return smallest == before

    processes.until(settled, 20)
    return smallest


LOOPS = {
    "put": "ray.get(ray.put(np.full(1 << 18, i)))",
    "arguments": "ray.get(a.echo.remote(np.full(1 << 18, i)))",
    "results": "ray.get(a.make.remote(1 << 18))",
    "direct results": "ray.get(a.make.options(tensor_transport='auto').remote(1 << 18))",
    "handoff": "ray.get(b.echo.remote(a.make.options(tensor_transport='auto').remote(1 << 18)))",
    "nested": "ray.get(ray.get(ray.put([ray.put(np.full(1 << 18, i))]))[0])",
    "dropped unread": "a.make.remote(1 << 18)",
    "small": "ray.get(a.echo.remote(i))",
}


@pytest.mark.parametrize("call", LOOPS.values(), ids=LOOPS.keys())
def test_memory_does_not_grow(start_driver, call):
    driver = start_working_driver(
        start_driver,
        f"""
    a, b = A.remote(), A.remote()
    while True:
        for i in range(150):
            {call}
        ray.get([a.echo.remote(0), b.echo.remote(0)])
        say("round")
        hear()
    """,
    )
    sizes = []
    for _ in range(3):
        driver.expect("round")
        sizes.append(_settled_memory(driver))
        driver.tell()
    # 150 calls of 2 MiB each are 300 MiB a round: growth would show at once.
    assert sizes[2] - sizes[0] < 64 << 20, sizes


def test_descriptors_of_workers_do_not_grow(start_driver):
    driver = start_working_driver(
        start_driver,
        """

    @ray.remote
    class Counter:
        def use(self, x):
            return len(os.listdir("/proc/self/fd"))

    counter, a = Counter.remote(), A.remote()
    ray.get(counter.use.remote(a.make.options(tensor_transport="auto").remote(1 << 18)))
    counts = [ray.get(counter.use.remote(a.make.options(tensor_transport="auto").remote(1 << 18))) for _ in range(200)]
    say("counts", [counts[0], counts[-1]])
    """,
    )
    first, last = driver.expect("counts")
    assert last <= first + 2


def test_processes_of_dropped_actors_end(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    class A:
        def pid(self):
            return os.getpid()

    for _ in range(5):
        actors = [A.remote() for _ in range(4)]
        say("pids", ray.get([a.pid.remote() for a in actors]))
        hear()
        del actors
        say("dropped")
    hear()
    """
    )
    for _ in range(5):
        pids = driver.expect("pids")
        actors = [p for p in driver.processes() if p.pid in pids]
        assert len(actors) == 4
        driver.tell()
        driver.expect("dropped")
        assert processes.still_alive(actors, 10) == []


IDLE = {
    "idle": "hear()",
    "a thread in get": "threading.Thread(target=lambda: ray.get(pending), daemon=True).start(); hear()",
    "main thread in get": "ray.get(pending)",
    "main thread in wait": "ray.wait([pending], timeout=600)",
    "a future pending": "future = pending.future(); hear()",
}
PUSHED = ("main thread in get",)  # the rest is for `./dev test --full`


@pytest.mark.parametrize(
    "state", [pytest.param(IDLE[name], id=name, marks=[pytest.mark.full] * (name not in PUSHED)) for name in IDLE]
)
def test_no_cpu_is_used_when_nothing_runs(start_driver, state):
    driver = start_working_driver(
        start_driver,
        f"""
    work()
    sleeper = A.remote()
    ray.get(sleeper.echo.remote(1))
    pending = sleeper.sleep.remote(600)
    say("idle")
    {state}
    """,
    )
    driver.expect("idle")
    everyone = driver.processes()
    assert len(everyone) >= 3
    used = []

    def quiet():
        before = processes.cpu_time_s(everyone)
        time.sleep(2)  # the window that is measured
        used.append(processes.cpu_time_s(everyone) - before)
        return used[-1] < 0.01

    # The first windows may still hold work in the background (the zygote imports torch).
    assert processes.until(quiet), used
