"""A program that ends while daemon threads are in calls of the runtime ends as if they were not there."""

import json
import os
import signal
from pathlib import Path

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
    expect_no_abort(driver)


def expect_no_abort(driver):
    output = driver.output()
    for word in ("terminate called", "Fatal Python error", "core dumped", "exception not rethrown"):
        assert word not in output, output


OWNER = """
    import torch
    from beeline.transfer import Agent

    agent = Agent("owner", token="of both")
    kept = agent.register([torch.ones(1 << 18)])
    say("refs", kept.to_json())
    hear()
"""

# Paths that fail, and one that needs the owner, which is stopped: the warning comes when it goes on. {moment} says when
# that is: before the interpreter ends, while it ends, or while it begins to, by calls that keep the GIL until then; or
# while it waits for transfers that were started, which run on threads of the core.
WARNED = """
    import atexit, ctypes

    moment = {moment!r}
    owner, text = json.loads(hear())

    output = os.open(os.path.splitext(__file__)[0] + ".output", os.O_RDONLY)

    def is_there(word, read=os.pread, output=output):
        return word in read(output, 1 << 20, 0)

    def go_on_until(
        word, is_there=is_there, pid=owner, kill=os.kill, number=signal.SIGCONT, clock=time.monotonic, sleep=time.sleep
    ):
        kill(pid, number)
        until = clock() + 20
        while not is_there(word) and clock() < until:
            sleep(0.01)

    class Last:  # deleted with the module, when no other thread may take the GIL any more
        def __del__(self, moment=moment, go_on_until=go_on_until, sleep=time.sleep):
            go_on_until(b"beeline: fetch of") if moment == "while it ends" else sleep(0.3)

    if moment == "before it ends":
        atexit.register(go_on_until, b"failed")
    if moment == "while it begins to end":  # what is registered first is called last
        calls = ctypes.PyDLL(None)
        atexit.register(calls.usleep, 1_000_000)
        atexit.register(calls.kill, owner, int(signal.SIGCONT))

    import torch
    from beeline.transfer import Agent, Fault, TensorRefs

    faults = [Fault("fail", path, at="connect", times=0) for path in ("cma", "ucx", "nixl")]
    agent, refs, out = Agent("reader", token="of both", faults=faults), TensorRefs.from_json(text), torch.zeros(1 << 18)
    agent.connect(refs.owner)
    say("connected")
    hear()  # the owner is stopped
    if moment == "while it waits":
        transfer = agent.fetch_async(refs, [out], timeout_s=60)
    else:
        threading.Thread(target=agent.fetch, args=[refs, [out]], kwargs=dict(timeout_s=60), daemon=True).start()
    while agent.stats()["faults"] == 0:
        time.sleep(0.001)
    last = Last()
    say("ends")
"""


LOGGED = '\nfetch of 1048576 bytes, agent "owner", failed'
MOMENTS = {
    "while it waits": LOGGED,
    "before it ends": LOGGED,
    "while it begins to end": "",
    "while it ends": "\nbeeline: fetch of 1048576 bytes",
}


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=[pytest.mark.full] * (name != "while it ends")) for name in MOMENTS]
)
def test_a_warning_while_the_program_ends_does_not_abort_it(start_driver, moment):
    owner = start_driver(OWNER, imports=False)
    refs = owner.expect("refs")
    driver = start_driver(WARNED.format(moment=moment), imports=False)
    driver.tell(json.dumps([owner.pid, refs]))
    driver.expect("connected")
    os.kill(owner.pid, signal.SIGSTOP)
    assert processes.until(lambda: "State:\tT" in Path(f"/proc/{owner.pid}/status").read_text())
    driver.tell()
    driver.expect("ends")
    if moment == "while it waits":
        os.kill(owner.pid, signal.SIGCONT)
    assert driver.wait() == 0, driver.output()
    expect_no_abort(driver)
    assert MOMENTS[moment] in "\n" + driver.output()


WARNED_AGAIN_AND_AGAIN = """
    import torch
    from beeline.transfer import Agent, Fault, TensorRefs

    faults = [Fault("fail", path, at="connect", times=0) for path in ("cma", "ucx", "nixl")]
    owner = Agent("owner", token="of both")
    kept = owner.register([torch.ones(1 << 18)])
    refs = TensorRefs.from_json(kept.to_json())
    warned = threading.Semaphore(0)

    def fetch_for_ever():
        out = torch.zeros(1 << 18)
        while True:
            with Agent("reader", token="of both", faults=faults) as agent:
                agent.fetch(refs, [out])
            warned.release()

    for _ in range(4):
        threading.Thread(target=fetch_for_ever, daemon=True).start()
    for _ in range(20):
        warned.acquire()
    say("ends")
"""


def test_warnings_of_daemon_threads_at_any_moment_do_not_abort_the_program(start_driver):
    driver = start_driver(WARNED_AGAIN_AND_AGAIN, imports=False)
    driver.expect("ends")
    assert driver.wait() == 0, driver.output()
    expect_no_abort(driver)
    assert driver.output().count('agent "owner", failed') >= 20
