"""Processes that stop (SIGSTOP) without ending: what does not need them goes on, what does has a deadline."""

import pathlib
import signal

import processes
import pytest

STOPPED_WORKER = """
    ray.init(num_cpus=4)

    @ray.remote
    class A:
        def pid(self):
            return os.getpid()

        def echo(self, x):
            return x

    def timed_out(ref):
        kinds, message = tried(lambda: ray.get(ref, timeout=0.2))
        return "GetTimeoutError" in kinds and "A.echo" in message

    a, b, waiter = A.remote(), A.remote(), A.remote()  # what waits for an argument holds back what follows it
    pid, _ = ray.get([a.pid.remote(), b.pid.remote()])
    os.kill(pid, signal.SIGSTOP)
    ref = a.echo.remote(1)
    say("timed out", [timed_out(ref), timed_out(waiter.echo.remote(ref)), ray.wait([ref], timeout=0.2)[0] == []])
    say("others", [ray.get(b.pid.remote()) != pid, ray.get(A.remote().echo.remote(3))])
    os.kill(pid, signal.SIGCONT)
    say("goes on", ray.get(ref))
    os.kill(pid, signal.SIGSTOP)
    ref = a.echo.remote(1)
    say("pid", pid)
    hear()
    ray.kill(a)
    say("killed", tried(lambda: ray.get(ref)))
    say("usable", ray.get(A.remote().echo.remote(4)))
"""


def test_a_stopped_worker(start_driver):
    driver = start_driver(STOPPED_WORKER)
    assert driver.expect("timed out") == [True, True, True]
    assert driver.expect("others") == [True, 3]
    assert driver.expect("goes on") == 1
    pid = driver.expect("pid")
    worker = [process for process in driver.servants() if process.pid == pid]
    assert len(worker) == 1
    driver.tell()
    assert "ActorDiedError" in driver.expect("killed")[0]
    assert processes.still_alive(worker) == []
    assert driver.expect("usable") == 4


STOPPED_DRIVER = """
    import numpy as np
    ray.init(num_cpus=4)

    @ray.remote
    class Stage:
        def ready(self):
            return True

        def make(self, n, go):
            while not os.path.exists(go):
                time.sleep(0.01)
            return np.ones(n)

        def add(self, x):
            return x + 1

        def finish(self, x, proof):
            with open(proof + ".part", "w") as file:
                file.write(str(float(x.sum())))
            os.rename(proof + ".part", proof)
            return float(x.sum())

    go, proof = __file__ + ".go", __file__ + ".proof"
    stages = [Stage.remote() for _ in range(4)]
    ray.get([stage.ready.remote() for stage in stages])
    x = stages[0].make.options(tensor_transport="auto").remote({size}, go)
    for stage in stages[1:3]:
        x = stage.add.options(tensor_transport="auto").remote(x)
    done = stages[3].finish.remote(x, proof)
    say("submitted", [go, proof])
    say("done", ray.get(done))
"""


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_stopped_driver_is_not_in_the_path(start_driver, size):
    driver = start_driver(STOPPED_DRIVER.replace("{size}", str(size)))
    go, proof = (pathlib.Path(path) for path in driver.expect("submitted"))
    (own,) = [process for process in driver.processes() if process.pid == driver.pid]
    own.kill(signal.SIGSTOP)
    assert processes.until(own.stopped)
    go.touch()  # nothing has been made before
    assert processes.until(proof.exists), "the last consumer waits for the driver"
    assert own.stopped()
    assert float(proof.read_text()) == 3.0 * size
    own.kill(signal.SIGCONT)
    assert driver.expect("done") == 3.0 * size


STOPPED_DAEMON = """
    ray.init(num_cpus=4)

    @ray.remote
    class A:
        def echo(self, x):
            return x

    a, b = A.remote(), A.remote()
    ray.get([a.echo.remote(0), b.echo.remote(0)])
    say("ready")
    hear()
    say("established calls", ray.get([b.echo.remote(a.echo.remote(i)) for i in range(100)]) == list(range(100)))
    late = A.remote()
    ref = late.echo.remote(5)
    say("new actor", tried(lambda: ray.get(ref, timeout=0.2)))
    try:
        say("blocking")
        A.options(name="zero").remote()
    except KeyboardInterrupt:
        say("interrupted")
    say("named actor", tried(lambda: A.options(name="one").remote()))
    hear()
    say("goes on", [ray.get(ref), ray.get(A.options(name="one").remote().echo.remote(6))])
    hear()
    ray.shutdown()
    say("down")
"""


@pytest.mark.full  # half a minute
def test_a_stopped_daemon(start_driver):
    driver = start_driver(STOPPED_DAEMON)
    driver.expect("ready")
    daemon = driver.daemon()
    daemon.kill(signal.SIGSTOP)
    driver.tell()
    assert driver.expect("established calls") is True
    assert "GetTimeoutError" in driver.expect("new actor")[0]
    driver.expect("blocking")
    driver.interrupt()
    driver.expect("interrupted", 10)
    kinds, message = driver.expect("named actor")
    assert "RaySystemError" in kinds and "create actor" in message, (kinds, message)
    assert f"pid {daemon.pid}" in message and "30 s" in message
    daemon.kill(signal.SIGCONT)
    driver.tell()
    assert driver.expect("goes on") == [5, 6]  # what had no answer has not taken the name
    daemon.kill(signal.SIGSTOP)
    driver.tell()
    driver.expect("down")
    driver.wait()
