"""A program that ends while daemon threads are in calls of the runtime ends as if they were not there."""

import processes
import pytest

SCRIPT = """
    import numpy as np

    ray.init(num_cpus=1)

    @ray.remote(num_cpus=0)
    class A:
        def echo(self, x):
            return x

        def sleep(self, seconds):
            time.sleep(seconds)

    a, busy = A.remote(), A.remote()
    ray.get([a.echo.remote(1), busy.echo.remote(1)])
    pending = busy.sleep.remote(600)
    begun = threading.Semaphore(0)

    def for_ever(call):
        begun.release()
        while True:
            call()

    for _ in range(4):
        threading.Thread(target=for_ever, args=[lambda: {call}], daemon=True).start()
    for _ in range(4):
        begun.acquire()
    ray.get([a.echo.remote(i) for i in range(20)])
    say("ends")
"""

CALLS = {
    "get": "ray.get(pending)",
    "wait": "ray.wait([pending], timeout=600)",
    "future": "pending.future().result()",
    "calls": "ray.get(a.echo.remote(1))",
    "values": "ray.get(ray.put(np.zeros(1 << 18)))",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_daemon_threads_in_calls_do_not_keep_or_abort_the_program(start_driver, call):
    driver = start_driver(SCRIPT.format(call=call))
    driver.expect("ends")
    servants = driver.servants()
    assert driver.wait() == 0, driver.output()
    assert processes.still_alive(servants) == []
    output = driver.output()
    for word in ("terminate called", "Fatal Python error", "core dumped"):
        assert word not in output, output
