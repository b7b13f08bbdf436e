"""Programs in C++ as drivers and workers of a session, beside Python: built against what the wheel has."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from beeline.cross_language import cmake_prefix_path
from tools import cpp_package

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = pathlib.Path(__file__).with_name("cpp_programs")


def built(source, folder):
    """A folder with the programs of a CMake project, which sees no header of the checkout."""
    copied = shutil.copytree(source, folder / "source")
    cpp_package.build(copied, pathlib.Path(cmake_prefix_path), folder / "build")
    return folder / "build"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return built(SOURCES, tmp_path_factory.mktemp("cpp-programs"))


def run(*command, **environment):
    """The lines that a program has printed; it must end well."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.full  # builds for a quarter of a minute
def test_the_example(tmp_path):
    trainer = built(ROOT / "examples" / "cpp", tmp_path) / "trainer"
    assert run(trainer, BEELINE_PYTHON=sys.executable) == ["after step 1 the weights sum up to 131072"]
    lines = run(sys.executable, ROOT / "examples" / "cpp" / "trainer.py", trainer)
    assert lines == [
        "a tensor of (1024, 256) torch.float32",
        "step 1 mean 0.5",
        "step 2 mean 1.0",
        "total 262144.0 of ones 10.0",
    ]


def test_a_driver_in_cpp_calls_python(programs):
    lines = run(programs / "caller", sys.executable, PYTHONPATH=str(SOURCES))
    said = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith("("))
    assert said["sqrt"] == "1.500000"
    assert said["raised"].startswith("raised: operator.truediv raised:")
    assert any("ZeroDivisionError" in line for line in lines)
    assert said["no module"].startswith("raised: ")
    assert any("No module named 'no_such_module'" in line for line in lines)
    assert said["nested"] == "2"
    assert said["unsupported"].startswith("unsupported: ") and "pathlib" in said["unsupported"]
    assert said["sum"] == "4999950000.000000"
    assert said["doubled"] == "199998.000000"
    assert said["started"] == "None"
    assert said["greeting"] == "hello C++"
    assert said["state"] == "1"
    assert any("no_such_method" in line for line in lines)
    assert said["killed"] == "peer lost"
    assert lines[-1] == "done"


SERVED = """
    import numpy as np
    import torch
    from beeline.cross_language import cpp_actor_class, cpp_function
    from beeline.exceptions import CrossLanguageError, RayTaskError

    program = {program!r}
    ray.init(num_cpus=2)

    def function(name):
        return cpp_function(name, program=program)

    def outcome(call):
        try:
            return call()
        except Exception as error:
            return [[kind.__name__ for kind in type(error).__mro__], str(error)]
"""


@pytest.fixture
def start(start_driver, programs):
    return lambda script: start_driver(SERVED.format(program=str(programs / "served")) + script)


def test_functions_are_called_from_python(start):
    driver = start(
        """
    add = function("add")
    say("sum", ray.get(add.remote(ray.put(1), add.remote(2, 3))))
    value = {"a": [1, -2.5, None, True, "text", b"bytes"], "b": (2**40, {}), "c": []}
    say("echo", ray.get(function("echo").remote(value)) == value)
    say("tensor", ray.get(function("describe").remote(torch.ones(3, 4, dtype=torch.bfloat16))))
    say("array", ray.get(function("describe").remote(np.ones((100, 200)))))
    number, text = function("two").options(num_returns=2).remote(7)
    say("two", ray.get([number, text]))
    say("many", sum(ray.get([add.remote(i, i) for i in range(300)])))
    ramp = ray.get(function("ramp").remote(100_000))
    say("ramp", [ramp.dtype == torch.float32, float(ramp.double().sum())])
    direct = function("ramp").options(tensor_transport="shm").remote(100_000)
    say("direct", float(ray.get(ray.remote(lambda tensor: tensor.double().sum()).remote(direct))))
    """
    )
    assert driver.expect("sum") == 6
    assert driver.expect("echo") is True
    assert driver.expect("tensor") == "4/16 3 4"
    assert driver.expect("array") == "2/64 100 200"
    assert driver.expect("two") == [7, "7"]
    assert driver.expect("many") == 300 * 299
    assert driver.expect("ramp") == [True, 4999950000.0]
    assert driver.expect("direct") == 4999950000.0
    assert driver.wait() == 0


def test_what_cpp_throws_is_raised(start):
    driver = start(
        """
    say("thrown", outcome(lambda: ray.get(function("throws").remote("on purpose"))))
    say("wrong", outcome(lambda: ray.get(function("add").remote(1, "2"))))
    say("count", outcome(lambda: ray.get(function("add").remote(1))))
    say("unknown", outcome(lambda: ray.get(function("no_such_function").remote())))
    say("died", outcome(lambda: ray.get(function("dies").options(max_retries=0).remote()))[0][0])
    say("no program", outcome(lambda: cpp_function("add", program="/no/such/program")))
    say("goes on", ray.get(function("add").remote(1, 2)))
    """
    )
    kinds, message = driver.expect("thrown")
    assert "CrossLanguageError" in kinds and "TaskError" in kinds
    assert "on purpose" in message and "throws" in message
    assert "argument 1: expected an integer, got a string" in driver.expect("wrong")[1]
    assert "it takes 2 arguments, and got 1" in driver.expect("count")[1]
    assert "no function named 'no_such_function'" in driver.expect("unknown")[1]
    assert driver.expect("died") == "WorkerCrashedError"
    kinds, message = driver.expect("no program")
    assert kinds[0] == "ValueError" and "/no/such/program" in message
    assert driver.expect("goes on") == 3


def test_actors_are_called_from_python(start):
    driver = start(
        """
    Store = cpp_actor_class("make_store", program=program)
    store = Store.options(name="shared").remote("first")
    ray.get(store.set.remote("weights", torch.arange(4.0)))
    say("weights", ray.get(store.get.remote("weights")).tolist())
    say("missing", outcome(lambda: ray.get(store.get.remote("x"))))
    say("no method", outcome(lambda: ray.get(store.no_such_method.remote())))
    say("by name", ray.get(ray.get_actor("shared").get.remote("weights")).tolist())

    @ray.remote
    def from_a_task(store):
        return ray.get(store.get.remote("weights")).sum().item()

    say("from a task", ray.get(from_a_task.remote(store)))
    say("named twice", outcome(lambda: Store.options(name="shared").remote("second"))[0][0])
    failed = Store.remote("")
    say("constructor", outcome(lambda: ray.get(failed.get.remote("x"))))
    store.say.remote("printed by C++")
    pid = ray.get(store.pid.remote())
    os.kill(pid, signal.SIGKILL)
    say("killed", outcome(lambda: ray.get(store.pid.remote()))[0][0])
    again = Store.options(max_restarts=1, max_task_retries=2).remote("again")
    os.kill(ray.get(again.pid.remote()), signal.SIGKILL)
    say("restarted", isinstance(ray.get(again.pid.remote()), int))
    """
    )
    assert driver.expect("weights") == [0, 1, 2, 3]
    assert "first has no x" in driver.expect("missing")[1]
    assert "no registered method named 'no_such_method'" in driver.expect("no method")[1]
    assert driver.expect("by name") == [0, 1, 2, 3]
    assert driver.expect("from a task") == 6.0
    assert driver.expect("named twice") == "ActorAlreadyExistsError"
    kinds, message = driver.expect("constructor")
    assert kinds[0] == "ActorDiedError" and "a store without a name" in message
    assert driver.expect("killed") == "ActorDiedError"
    assert driver.expect("restarted") is True
    assert driver.wait() == 0
    assert "printed by C++" in driver.output()


def test_nobody_gets_what_a_method_returns_after_it_was_cancelled(start):
    driver = start(
        """
    store = cpp_actor_class("make_store", program=program).remote("cancelled")
    started, enough = __file__ + ".started", __file__ + ".enough"
    running, queued = store.work.remote(started, enough), store.pid.remote()
    while not os.path.exists(started):
        time.sleep(0.01)
    ray.cancel(running)
    ray.cancel(queued)  # the actor has heard of the former once this one is over
    say("queued", outcome(lambda: ray.get(queued))[0][0])
    open(enough, "w").close()
    say("running", outcome(lambda: ray.get(running)))
    say("goes on", isinstance(ray.get(store.pid.remote()), int))
    """
    )
    assert driver.expect("queued") == "TaskCancelledError"
    kinds, message = driver.expect("running")
    assert kinds[0] == "TaskCancelledError" and "work was cancelled while it ran" in message
    assert driver.expect("goes on") is True
