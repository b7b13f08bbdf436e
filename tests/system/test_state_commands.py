"""`beeline list`, `get`, `summary`, `memory`, `transfers` and `logs`, beside a program that runs."""

import json
import os
import signal

import processes
import pytest

pytestmark = pytest.mark.skipif(processes.ENGINE != "beeline", reason="the commands of Beeline")

SCRIPT = """
    import numpy as np

    ray.init(num_cpus=2)

    @ray.remote
    class Producer:
        def weights(self):
            print("weights are made", flush=True)
            return np.ones(4 << 20, np.uint8)

        def pid(self):
            return os.getpid()

        def fail(self):
            raise ValueError("on purpose")

    @ray.remote
    class Consumer:
        def keep(self, weights):
            self.weights = weights
            return os.getpid()

    @ray.remote
    def task():
        return 1

    producer, consumer = Producer.options(name="the one").remote(), Consumer.remote()
    weights = producer.weights.options(tensor_transport="auto").remote()
    consumer_pid = ray.get(consumer.keep.remote(weights))
    stored = ray.put(np.zeros(2 << 20, np.uint8))
    ray.get([task.remote(), task.remote()])
    tried(lambda: ray.get(producer.fail.remote()))
    say("ready", [os.getpid(), ray.get(producer.pid.remote()), consumer_pid, weights.hex()])
    hear()
    say("killed", tried(lambda: ray.get(producer.pid.remote()))[0])
    hear()
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")


def beeline(*arguments):
    code, output = processes.beeline_command(*arguments)
    assert code == 0, output
    return output


def rows_of(*arguments):
    return json.loads(beeline(*arguments, "--json"))


@pytest.fixture
def program(start_driver):
    """The driver, the pids of itself, the producer and the consumer, and the id of what the producer has made."""
    driver = start_driver(SCRIPT)
    return driver, *driver.expect("ready")


def test_every_kind_is_listed_while_the_program_runs(program):
    driver, pid, producer, consumer, _ = program
    (actor,) = rows_of("list", "actors", "-f", "name=the one")
    assert (actor["class_name"], actor["state"], actor["pid"]) == ("Producer", "ALIVE", producer)
    failed = rows_of("list", "tasks", "--filter", "state=FAILED", "--detail")
    assert [(row["name"], row["worker_pid"]) for row in failed] == [("Producer.fail", producer)]
    assert "on purpose" in failed[0]["error_message"]
    assert len(rows_of("list", "tasks", "-f", "name=task")) == 2
    workers = {row["pid"]: row["worker_type"] for row in rows_of("list", "workers", "-f", "is_alive=true")}
    assert workers[pid] == "DRIVER" and workers[consumer] == "WORKER"
    (node,) = rows_of("list", "nodes")
    assert node["is_head_node"] is True
    (job,) = rows_of("list", "jobs")
    assert driver.path.name in job["entrypoint"]
    assert rows_of("list", "placement-groups") == []
    assert rows_of("list", "objects", "-f", f"pid={pid}")
    for resource in ("actors", "tasks", "objects", "nodes", "workers", "jobs"):
        assert str(pid) in beeline("list", resource) or resource in ("actors", "nodes", "tasks")
    assert "No placement groups." in beeline("list", "placement-groups")
    assert "not shown" in beeline("list", "tasks", "--limit", "1")
    text = beeline("get", "actors", actor["actor_id"])
    assert "num_restarts" in text and "the one" in text
    yaml = beeline("list", "actors", "--format", "yaml") if _has_yaml() else "class_name: Producer"
    assert "class_name: Producer" in yaml


def _has_yaml():
    import importlib.util

    return importlib.util.find_spec("yaml") is not None


def test_memory_says_where_objects_lie_and_who_reads_them(program):
    _, pid, producer, consumer, weights = program
    told = rows_of("memory")
    largest, second = told["objects"][:2]
    assert (largest["object_id"], largest["size_bytes"] >= 4 << 20) == (weights, True)
    assert (largest["transport"], largest["holder_pid"], largest["owner_pid"]) == ("direct", producer, pid)
    assert (largest["readers"], largest["task"]) == (1, "Producer.weights")
    assert (second["transport"], second["holder_pid"]) == ("object_store", pid)
    assert told["totals"]["direct_objects"] == 1 and told["incomplete"] is None
    for group in ("holder", "owner", "call-site", "none"):
        text = beeline("memory", "--group-by", group)
        assert weights in text and "direct: 1" in text, group
    assert f"actor Producer (pid {producer}): 1 objects" in beeline("memory")
    published = rows_of("transfers")["publications"]
    assert [(row["object_id"], row["kind"], row["readers"]) for row in published][0] == (weights, "direct", [consumer])
    assert published[0]["age_s"] > 0
    text = beeline("transfers")
    assert f"actor Producer (pid {producer})" in text and "1 are being read" in text


def test_summaries(program):
    tasks = rows_of("summary", "tasks")
    assert tasks["summary"]["task"]["state_counts"] == {"FINISHED": 2}
    assert "Producer.fail" in beeline("summary", "tasks")
    assert rows_of("summary", "actors")["total_actors"] == 2
    assert "total objects" in beeline("summary", "objects")


def test_logs(program):
    _, _, producer, _, _ = program
    name = f"worker-{producer}.out"
    listed = processes.until(lambda: name in (text := beeline("logs")) and text)
    assert "beelined.err" in listed
    assert processes.until(lambda: "weights are made" in beeline("logs", name))
    assert beeline("logs", "--pid", str(producer), "--tail", "1") == "weights are made\n"
    code, output = processes.beeline_command("logs", "no-such-*")
    assert code == 1 and "no-such-*" in output


def test_after_a_worker_was_killed(program):
    driver, _, producer, _, weights = program
    os.kill(producer, signal.SIGKILL)
    driver.tell()
    assert "ActorDiedError" in driver.expect("killed")
    (worker,) = processes.until(lambda: rows_of("list", "workers", "-f", f"pid={producer}", "-f", "is_alive=0"))
    assert worker["exit_type"] == "SYSTEM_ERROR"
    (actor,) = rows_of("list", "actors", "-f", "class_name=Producer", "--detail")
    assert actor["state"] == "DEAD" and "signal 9" in str(actor["death_cause"])
    lost = processes.until(
        lambda: [row for row in rows_of("memory")["objects"] if row["object_id"] == weights and row["error"]]
    )
    assert lost[0]["error"] == "OBJECT_UNRECONSTRUCTABLE"
    assert producer not in {row["holder_pid"] for row in rows_of("transfers")["publications"]}


@pytest.mark.full
def test_a_process_that_is_stopped_is_named_and_the_others_are_shown(program):
    _, pid, producer, _, _ = program
    os.kill(producer, signal.SIGSTOP)
    try:
        code, output = processes.beeline_command("list", "tasks", "--timeout", "3")
        told = rows_of("memory", "--timeout", "3")
    finally:
        os.kill(producer, signal.SIGCONT)
    assert code == 0 and "Producer.weights" in output
    assert f"actor Producer (pid {producer})" in output and "incomplete" in output
    assert str(producer) in told["incomplete"]
    assert pid in {row["owner_pid"] for row in told["objects"]}


def test_call_sites_are_shown_where_they_are_recorded(start_driver):
    driver = start_driver(SCRIPT, environment={"RAY_record_ref_creation_sites": "1"})
    weights = driver.expect("ready")[3]
    (row,) = [row for row in rows_of("memory")["objects"] if row["object_id"] == weights]
    assert row["call_site"].startswith(f"(actor call) | {driver.path}:<module>:")
    sites = rows_of("summary", "objects")["summary"]
    assert any(site.startswith(f"(put object) | {driver.path}") for site in sites)


def test_which_session_is_meant(start_driver):
    for command in (("list", "actors"), ("memory",), ("transfers",), ("summary", "tasks"), ("logs",)):
        code, output = processes.beeline_command(*command)
        assert code == 1 and "No session of this user is running" in output, command
    first, second = start_driver(SCRIPT), start_driver(SCRIPT)
    pids = [driver.expect("ready")[0] for driver in (first, second)]
    code, output = processes.beeline_command("list", "jobs")
    assert code == 1 and "2 sessions run" in output and all(f"session-{pid}-" in output for pid in pids)
    for pid in pids:
        (job,) = rows_of("list", "jobs", "--session", str(pid))
        assert job["driver_info"]["pid"] == str(pid)
    code, output = processes.beeline_command("list", "jobs", "--session", "nonsense")
    assert code == 1 and "'nonsense'" in output


def test_mistakes_are_explained(program):
    code, output = processes.beeline_command("list", "actors", "-f", "color=red")
    assert code == 1 and "color is not supported" in output and "class_name" in output
    code, output = processes.beeline_command("list", "actors", "-f", "red")
    assert code == 2 and "KEY=VALUE" in output
    code, output = processes.beeline_command("get", "actors", "0" * 32)
    assert code == 1 and "beeline list actors" in output
    code, output = processes.beeline_command("list", "pets")
    assert code == 2 and "actors" in output


def test_the_timeline_of_a_sessions_tasks(program, tmp_path):
    _, pid, producer, consumer, _ = program
    target = tmp_path / "trace.json"
    told = beeline("timeline", "--tasks", "--json", str(target))
    trace = json.loads(target.read_text())
    names = {event["pid"]: event["args"]["name"] for event in trace if event["ph"] == "M"}
    assert {pid, producer, consumer} <= names.keys() and "Producer" in names[producer]
    runs = [event for event in trace if event["ph"] == "X"]
    assert {("Producer.weights", producer), ("Consumer.keep", consumer)} <= {(run["name"], run["pid"]) for run in runs}
    assert [run["name"] for run in runs].count("task") == 2
    assert all(run["dur"] > 0 for run in runs)
    assert f"{len(runs)} tasks of " in told
    text = beeline("timeline", "--session", str(pid))  # as `ray timeline --address`
    (failed,) = [line for line in text.splitlines() if "Producer.fail" in line]
    assert f"pid {producer}" in failed and "TASK_EXECUTION_EXCEPTION" in failed
    assert f"{len(runs)} tasks of " in text
    assert "0 tasks of 0 processes." in beeline("timeline", "--tasks", "--last", "1ms")
    assert "Producer.weights" not in beeline("timeline")  # transfers, as ever
    code, output = processes.beeline_command("timeline", "--tasks", "--session", "no such")
    assert code == 1 and "No session is called" in output
    assert processes.beeline_command("timeline", "--tasks", "--folder", "x")[0] == 2
