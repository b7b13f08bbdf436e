"""A session that several drivers are in: joined by address, left by one without harm to the others; sessions that wait
for drivers (`beeline start`).
"""

import json
import re

import processes

FIRST = """
    ray.init(num_cpus=4, resources={"robot": 1}, labels={"team": "a"}, namespace="first")

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1
            return self.n

    counter = Counter.options(name="counter", lifetime="detached").remote()
    own = Counter.options(name="own").remote()
    say("address", [ray.get_runtime_context().gcs_address, ray.get(counter.add.remote()), ray.get(own.add.remote())])
    while (order := hear()) != "end":
        say("counted", ray.get(own.add.remote()))
    ray.shutdown()
    say("down")
    hear()
"""
SECOND = """
    context = ray.init(os.environ["ADDRESS"], namespace="first")
    say("joined", [ray.cluster_resources()["robot"], ray.get_runtime_context().get_job_id(), context["address"]])

    @ray.remote
    class Own:
        def facts(self):
            context = ray.get_runtime_context()
            labels = context.get_node_labels()
            return [context.get_job_id(), context.namespace, labels["team"], os.getcwd() == os.environ["CWD"]]

        def pid(self):
            return os.getpid()

    os.environ["CWD"] = os.getcwd()
    own = Own.options(runtime_env={"env_vars": {"CWD": os.getcwd()}}).remote()
    say("facts", ray.get(own.facts.remote()))
    say("found", ray.get(ray.get_actor("counter").add.remote()))
    kept = Own.options(name="kept", lifetime="detached").remote()
    block = ray.remote(lambda: time.sleep(1000)).remote()
    say("pids", [ray.get(own.pid.remote()), ray.get(kept.pid.remote())])
    if hear() == "shutdown":
        ray.shutdown()
        say("down")
    hear()
"""


def test_another_driver_joins_sees_named_actors_and_leaves(start_driver):
    first = start_driver(FIRST)
    address, _, _ = first.expect("address")
    second = start_driver(SECOND, environment={"ADDRESS": address})
    assert second.expect("joined") == [1, "02000000", address]
    assert second.expect("facts") == ["02000000", "first", "a", True]
    assert second.expect("found") == 2
    second.expect("pids")
    second.tell("shutdown")
    second.expect("down")
    first.tell("count")
    assert first.expect("counted") == 2


def test_a_driver_that_is_killed_takes_its_own_with_it_alone(start_driver):
    first = start_driver(FIRST)
    address, _, _ = first.expect("address")
    second = start_driver(SECOND, environment={"ADDRESS": address})
    second.expect("joined")
    second.expect("facts")
    second.expect("found")
    own, kept = second.expect("pids")
    workers = {process.pid: process for process in first.processes()}
    second.kill()
    assert processes.still_alive([workers[own]]) == []
    first.tell("count")
    assert first.expect("counted") == 2
    assert workers[kept].alive()
    third = start_driver(
        """
    ray.init(os.environ["ADDRESS"], namespace="first")
    say("kept", ray.get(ray.get_actor("kept").pid.remote()))
    say("own", tried(lambda: ray.get_actor("own")))
    say("again", ray.get(ray.get_actor("counter").add.remote()))
    """,
        environment={"ADDRESS": address},
    )
    assert third.expect("kept") == kept
    assert third.expect("own")[0] == "returned"  # of the first driver, which lives
    assert third.expect("again") == 3


def test_the_session_outlives_its_first_driver_while_another_one_is_in_it(start_driver):
    first = start_driver(
        """
    ray.init(num_cpus=2)
    say("address", ray.get_runtime_context().gcs_address)
    hear()
    """
    )
    second = start_driver(
        """
    ray.init(os.environ["ADDRESS"])
    say("joined")
    hear()
    say("still", ray.get(ray.remote(lambda: 5).remote()))
    ray.shutdown()
    say("down")
    hear()
    """,
        environment={"ADDRESS": (address := first.expect("address"))},
    )
    second.expect("joined")
    servants = first.servants()
    first.tell()
    assert first.wait() == 0
    second.tell()
    assert second.expect("still") == 5
    second.expect("down")
    assert processes.still_alive(servants) == []
    assert processes.still_there([address]) == []


ADDRESSES = """
    import pathlib
    say("auto", tried(lambda: ray.init("auto")))
    say("named", tried(lambda: ray.init("10.0.0.1:6379")))
    os.environ["RAY_ADDRESS"] = "session-1-none"
    say("variable", tried(lambda: ray.init()))
    del os.environ["RAY_ADDRESS"]
    say("initialized", ray.is_initialized())
    address = hear()
    say("only", ray.init("auto")["session_name"])
    ray.shutdown()
    os.environ["RAY_ADDRESS"] = address.rpartition("/")[2]
    say("variable", ray.init()["session_name"])
    say("twice", tried(lambda: ray.init("auto"))[0])
    ray.shutdown()
    given = {"num_cpus": 1, "resources": {"a": 1}, "labels": {"a": "b"}, "object_store_memory": 1 << 30}
    for name, value in given.items():
        say("refused", tried(lambda: ray.init("auto", **{name: value})))
    with ray.init("local", num_cpus=1):
        say("local", ray.cluster_resources()["CPU"])
"""


def test_addresses(start_driver, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    second = start_driver(ADDRESSES)
    for event in ("auto", "named", "variable"):
        names, message = second.expect(event)
        assert "ConnectionError" in names
        assert "beeline" in message
    assert second.expect("initialized") is False
    first = start_driver(FIRST)
    address, _, _ = first.expect("address")
    second.tell(address)
    name = address.rpartition("/")[2]
    assert second.expect("only") == name
    assert second.expect("variable") == name
    assert "RuntimeError" in second.expect("twice")
    for _ in range(4):
        names, message = second.expect("refused")
        assert "ValueError" in names and "running session" in message
    assert second.expect("local") == 1


def test_a_started_session_waits_for_drivers_until_it_is_stopped(start_driver):
    code, output = processes.beeline_command(
        "start", "--num-cpus", "3", "--resources", '{"robot": 2}', "--labels", '{"team": "b"}'
    )
    assert code == 0, output
    address = re.search(r"session in (\S+)", output)[1]
    script = """
    context = ray.init(log_to_driver=False)  # without an address: the session that waits
    say("joined", [context["session_name"], ray.cluster_resources()["robot"], ray.cluster_resources()["CPU"]])
    say("labels", ray.get_runtime_context().get_node_labels()["team"])
    say("task", ray.get(ray.remote(lambda: 7).remote()))
    """
    for _ in range(2):
        driver = start_driver(script)
        assert driver.expect("joined") == [address.rpartition("/")[2], 2, 3]
        assert driver.expect("labels") == "b"
        assert driver.expect("task") == 7
        assert driver.wait() == 0
    (state,) = json.loads(processes.beeline_command("status", "--json")[1])
    assert state["session_dir"] == address
    assert state["total"]["robot"] == 2
    code, output = processes.beeline_command("stop")
    assert code == 0 and "Stopped 1 session" in output
    assert processes.still_there([address]) == []


def test_bad_arguments_of_start_start_nothing():
    for arguments, mentioned in (
        (["--resources", "robot"], "JSON"),
        (["--resources", "[1]"], "JSON object"),
        (["--num-cpus", "-1"], "num_cpus"),
        (["--labels", '{"ray.io/x": "y"}'], "ray.io/"),
    ):
        code, output = processes.beeline_command("start", *arguments)
        assert code != 0
        assert mentioned in output
    assert json.loads(processes.beeline_command("status", "--json")[1]) == []


def test_a_worker_prints_at_its_own_driver_alone(start_driver):
    first = start_driver(FIRST)
    address, _, _ = first.expect("address")
    second = start_driver(
        """
    ray.init(os.environ["ADDRESS"])
    ray.get(ray.remote(lambda: print("of the second")).remote())
    say("printed")
    hear()
    """,
        environment={"ADDRESS": address},
    )
    second.expect("printed")
    assert processes.until(lambda: "of the second" in second.output())
    first.tell("count")
    first.expect("counted")
    assert "of the second" not in first.output()
