"""The state API while a program runs: `ray.util.state` of actors, tasks, objects, workers, groups and jobs."""

import asyncio
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import beeline as ray
from beeline.util import state
from beeline.util.state.exception import RayStateApiException
from tests.python.util.waiting import is_gone, is_stopped, until


@ray.remote(num_cpus=0)
class Steady:
    def ping(self):
        return ray.get_runtime_context().get_actor_id(), os.getpid()

    def broken(self):
        raise KeyError("on purpose")

    def keep(self, boxed):
        self.boxed = boxed

    def array(self):
        return np.ones(1 << 20, np.uint8)

    def tensor(self):
        import torch

        return torch.ones(1 << 20, dtype=torch.uint8)


@ray.remote
def good(x=1):
    return x


@ray.remote(max_retries=0)
def bad():
    raise ValueError("on purpose")


def names_of(rows, *columns):
    return sorted(tuple(row[column] for column in columns) for row in rows)


def test_actors_are_listed_alive_and_dead():
    @ray.remote(num_cpus=0)
    class Listed:
        def __init__(self, fails=False):
            if fails:
                raise ValueError("on purpose")

        def ping(self):
            return ray.get_runtime_context().get_actor_id(), os.getpid()

    steady = Listed.options(name="steady one").remote()
    actor_id, pid = ray.get(steady.ping.remote())
    killed = Listed.options(name="killed one").remote()
    ray.get(killed.ping.remote())
    ray.kill(killed)
    failing = Listed.options(name="failing one").remote(fails=True)

    def listed(*filters, **options):
        return {
            row.name: row for row in state.list_actors(filters=[("class_name", "=", "Listed"), *filters], **options)
        }

    wanted = {"steady one": "ALIVE", "killed one": "DEAD", "failing one": "DEAD"}
    until(lambda: {name: row.state for name, row in listed().items()} == wanted)
    rows = listed()
    assert {row.job_id for row in rows.values()} == {ray.get_runtime_context().get_job_id()}
    one = state.get_actor(actor_id)
    assert (one.name, one.state, one.pid) == ("steady one", "ALIVE", pid)
    assert one.node_id == ray.get_runtime_context().get_node_id()
    assert one.ray_namespace == ray.get_runtime_context().namespace
    assert (one.is_detached, one.num_restarts, one.death_cause, one.required_resources) == (False, 0, None, {})
    dead = listed(("state", "=", "dead"), detail=True)
    context = dead["failing one"].death_cause["creation_task_failure_context"]
    text = context["formatted_exception_string"]
    assert "on purpose" in text and "Traceback" in text
    (creation,) = state.list_tasks(filters=[("actor_id", "=", dead["failing one"].actor_id)], detail=True)
    assert (creation.type, creation.state) == ("ACTOR_CREATION_TASK", "FAILED")
    assert (creation.name, creation.func_or_class_name) == ("failing one:Listed.__init__", "Listed.__init__")
    assert "on purpose" in creation.error_message
    context = dead["killed one"].death_cause["actor_died_error_context"]
    assert "killed" in context["error_message"] and context["reason"] == "RAY_KILL"
    assert dead["killed one"].node_id == one.node_id  # where it was
    assert listed(("name", "=", "STEADY one"))["steady one"].is_detached is None  # a detail
    assert len(state.list_actors(limit=1)) == 1
    assert state.get_actor("0" * 32) is None
    del failing


def test_tasks_are_listed_in_every_state(gate):
    steady = Steady.remote()
    ray.get([good.remote(), good.options(name="renamed").remote(), steady.ping.remote()])
    for ref in (bad.remote(), steady.broken.remote()):
        with pytest.raises((ValueError, KeyError)):
            ray.get(ref)
    held = gate.pass_through.options(name="held").remote()
    waiting = good.options(name="waits").remote(held)
    starved = good.options(name="starved", num_cpus=4).remote(good.options(name="waits too").remote(held))

    def states():
        return {row.name: row for row in state.list_tasks(limit=10_000)}

    rows = until(lambda: (found := states()) and found["held"].state == "RUNNING" and found)
    told = {name: (row.type, row.state, row.error_type) for name, row in rows.items()}
    assert told["good"] == ("NORMAL_TASK", "FINISHED", None)
    assert told["renamed"] == ("NORMAL_TASK", "FINISHED", None)
    assert rows["renamed"].func_or_class_name == "good"
    assert told["Steady.ping"] == ("ACTOR_TASK", "FINISHED", None)
    assert told["bad"] == ("NORMAL_TASK", "FAILED", "TASK_EXECUTION_EXCEPTION")
    assert told["Steady.broken"] == ("ACTOR_TASK", "FAILED", "TASK_EXECUTION_EXCEPTION")
    assert told["Gate.__init__"] == ("ACTOR_CREATION_TASK", "FINISHED", None)
    assert {told[name][1] for name in ("waits", "waits too", "starved")} == {"PENDING_ARGS_AVAIL"}
    running = rows["held"]
    assert running.actor_id == gate._actor_id.hex()
    assert running.parent_task_id == "f" * 40 + ray.get_runtime_context().get_job_id()
    failed = state.get_task(rows["bad"].task_id)
    assert "on purpose" in failed.error_message and "Traceback" in failed.error_message
    assert 0 < failed.start_time_ms <= failed.end_time_ms
    assert failed.node_id == ray.get_runtime_context().get_node_id()
    assert [row.name for row in state.list_tasks(filters=[("state", "=", "FAILED"), ("name", "=", "bad")])] == ["bad"]
    assert state.get_task("0" * 48) is None
    gate.open.remote()
    assert ray.get([waiting, starved]) == [None, None]


def test_what_a_task_asked_for_is_told_when_it_has_ended():
    @ray.remote(num_cpus=0.5, max_retries=0)
    def asks(fails):
        if fails:
            raise ValueError("on purpose")

    for fails in (False, True):
        ray.wait([asks.options(name=f"asks {fails}").remote(fails)])
    rows = state.list_tasks(filters=[("func_or_class_name", "=", "asks")], detail=True)
    told = [("asks False", "FINISHED", {"CPU": 0.5}), ("asks True", "FAILED", {"CPU": 0.5})]
    assert names_of(rows, "name", "state", "required_resources") == told


def test_a_task_that_was_cancelled_says_so():
    @ray.remote
    def forever():
        while True:
            time.sleep(0.01)

    @ray.remote
    def caller(boxed):
        ray.get(boxed)

    @ray.remote(num_cpus=0)
    class Waiting:
        async def wait(self):
            await asyncio.Event().wait()

    waiting = Waiting.remote()
    refs = [forever.options(name="cancelled task").remote(), waiting.wait.options(name="cancelled method").remote()]
    names = ["cancelled task", "cancelled method"]
    until(lambda: all(state.list_tasks(filters=[("name", "=", name), ("state", "=", "RUNNING")]) for name in names))
    called = caller.options(name="caller of cancelled").remote([refs[0]])
    for ref in refs:
        ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(refs[0])
    ray.wait([refs[1], called], num_returns=2)
    rows = [row for row in state.list_tasks(limit=10_000) if "cancelled" in row.name]
    told = [(name, "FAILED", "TASK_CANCELLED") for name in sorted(names)]
    assert names_of(rows, "name", "state", "error_type") == [
        ("caller of cancelled", "FAILED", "TASK_EXECUTION_EXCEPTION"),
        *told,
    ]


def test_a_column_without_a_value_fits_no_filter():
    for name, function in (("has good", good), ("has bad", bad)):
        ray.wait([function.options(name=name).remote()])

    def listed(*filters):
        return {row.name for row in state.list_tasks(filters=list(filters), limit=10_000) if row.name[:4] == "has "}

    assert listed() == {"has good", "has bad"}
    assert listed(("error_type", "!=", "WORKER_DIED")) == {"has bad"}
    assert listed(("actor_id", "!=", "0" * 32)) == {"has good", "has bad"}  # a column that may be None has a value


def test_the_id_of_a_task_is_what_it_calls_itself():
    @ray.remote
    def own_ids():
        context = ray.get_runtime_context()
        return context.get_task_id(), context.get_worker_id(), context.get_node_id()

    task_id, worker_id, node_id = ray.get(own_ids.remote())
    row = state.get_task(task_id)
    assert (row.name, row.worker_id, row.node_id) == ("own_ids", worker_id, node_id)
    assert state.get_worker(worker_id).pid == row.worker_pid


def test_each_attempt_is_listed(tmp_path):
    log = tmp_path / "attempts"

    @ray.remote(max_retries=2, retry_exceptions=True)
    def flaky():
        with log.open("a") as file:
            file.write("x")
        if log.stat().st_size < 3:
            raise ValueError("again")

    ray.get(flaky.remote())
    rows = state.list_tasks(filters=[("name", "=", "flaky")])
    assert names_of(rows, "attempt_number", "state") == [(0, "FAILED"), (1, "FAILED"), (2, "FINISHED")]
    assert len(state.get_task(rows[0].task_id)) == 3


def test_a_queue_in_front_of_an_actor_is_seen(gate):
    @ray.remote(num_cpus=0)
    class Slow:
        def wait(self, boxed):
            return ray.get(boxed[0])

    slow = Slow.remote()
    refs = [slow.wait.remote([gate.pass_through.remote(i)]) for i in range(3)]

    def waiting():
        rows = state.list_tasks(filters=[("name", "=", "Slow.wait")])
        queued = ["PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"] * 2
        return rows if sorted(row.state for row in rows) == [*queued, "RUNNING"] else None

    rows = until(waiting)
    assert {row.worker_pid for row in rows} == {state.get_actor(slow._actor_id.hex()).pid}
    gate.open.remote()
    assert ray.get(refs) == [0, 1, 2]


def test_failures_stay_behind_a_flood_of_other_tasks():
    steady = Steady.remote()
    with pytest.raises(KeyError):
        ray.get(steady.broken.options(name="before the flood").remote())
    for _ in range(5):
        ray.get([steady.ping.remote() for _ in range(1000)])
    (failed,) = state.list_tasks(filters=[("name", "=", "before the flood")])
    assert failed.state == "FAILED"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state.list_tasks(_explain=True)
    assert any("not kept any more" in str(warning.message) for warning in caught)


def test_objects_and_what_holds_them(gate):
    put = ray.put(bytes(300_000))
    steady = Steady.remote()
    ray.get(steady.keep.remote([put]))
    _, pid = ray.get(steady.ping.remote())
    rows = until(lambda: len(found := state.get_objects(put.hex()) or []) == 2 and found)
    by_type = {row.type: row for row in rows}
    driver, worker = by_type["DRIVER"], by_type["WORKER"]
    assert (driver.pid, worker.pid) == (os.getpid(), pid)
    assert driver.object_size >= 300_000
    assert (driver.reference_type, driver.task_status, driver.call_site) == ("LOCAL_REFERENCE", "FINISHED", "disabled")
    assert (driver.owner_pid, driver.num_borrowers) == (os.getpid(), 1)
    pending = gate.pass_through.remote()
    (row,) = state.get_objects(pending.hex())
    assert (row.object_size, row.transport) == (-1, None)
    gate.open.remote()
    ray.get(pending)


def test_references_within_values_and_calls_are_told_apart(gate):
    inner = ray.put(1)
    inner_id = inner.hex()
    outer = ray.put([inner])
    del inner
    (row,) = state.get_objects(inner_id)
    assert row.reference_type == "CAPTURED_IN_OBJECT"
    argument = ray.put(2)
    call = gate.pass_through.remote([argument])
    rows = until(
        lambda: [row for row in state.get_objects(argument.hex()) if row.reference_type == "USED_BY_PENDING_TASK"]
    )
    assert os.getpid() in {row.pid for row in rows}
    (handle, *_) = state.list_objects(filters=[("reference_type", "=", "ACTOR_HANDLE"), ("type", "=", "DRIVER")])
    assert handle.pid == os.getpid()
    gate.open.remote()
    ray.get(call)
    del outer


def test_direct_tensors_say_where_they_are_and_who_reads_them():
    steady, reader = Steady.remote(), Steady.remote()
    ref = steady.array.options(tensor_transport="auto").remote()
    ray.get(reader.keep.remote(ref))
    _, holder = ray.get(steady.ping.remote())
    _, consumer = ray.get(reader.ping.remote())
    own = next(row for row in state.get_objects(ref.hex()) if row.pid == os.getpid())
    assert (own.transport, own.holder_pid, own.num_readers) == ("direct", holder, 1)
    assert own.object_size >= 1 << 20
    stored = ray.put(np.ones(1 << 20, np.uint8))
    (row,) = state.get_objects(stored.hex())
    assert (row.transport, row.holder_pid) == ("object_store", os.getpid())
    small = ray.put(1)
    (row,) = state.get_objects(small.hex())
    assert (row.transport, row.holder_pid) == ("message", None)
    assert consumer != holder


def test_tensors_that_a_named_transport_fetches_are_direct_ones():
    steady, reader = Steady.remote(), Steady.remote()
    ref = steady.tensor.options(tensor_transport="cma").remote()
    ray.get(reader.keep.remote([ref]))
    _, holder = ray.get(steady.ping.remote())
    object_id = ref.hex()
    rows = until(lambda: [row for row in state.get_objects(object_id) if row.object_size >= 0])
    for row in rows:  # of the owner, and of who holds a reference
        assert (row.transport, row.holder_pid, row.object_size) == ("cma", holder, 1 << 20)
    (published,) = [row for row in transfers() if row["object_id"] == object_id]
    assert (published["kind"], published["holder_pid"], published["nbytes"]) == ("cma", holder, 1 << 20)
    assert published["age_s"] > 0 and published["owner_pid"] == os.getpid()
    ray.get(reader.keep.remote([]))
    del ref
    until(lambda: not [row for row in transfers() if row["kind"] == "cma"])


def transfers():
    done = subprocess.run(
        [sys.executable, "-P", "-m", "beeline.cli", "transfers", "--json"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["publications"]


def test_nodes_workers_and_jobs():
    (node,) = state.list_nodes()
    assert (node.state, node.is_head_node, node.resources_total["CPU"]) == ("ALIVE", True, 4)
    assert node.node_id == ray.get_runtime_context().get_node_id() == node["labels"]["ray.io/node-id"]
    assert state.get_node(node.node_id).start_time_ms > 0
    (driver,) = state.list_workers(filters=[("worker_type", "=", "driver")])
    assert (driver.pid, driver.is_alive) == (os.getpid(), True)
    assert driver.worker_id == ray.get_runtime_context().get_worker_id()
    (job,) = state.list_jobs()
    assert (job.type, job.status, job.driver_info.pid) == ("DRIVER", "RUNNING", str(os.getpid()))
    assert "python" in job.entrypoint


def test_a_worker_that_was_killed_is_remembered():
    steady = Steady.remote()
    _, pid = ray.get(steady.ping.remote())
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(steady.ping.options(name="after the kill").remote())
    until(lambda: is_gone(pid))
    (worker,) = until(lambda: state.list_workers(filters=[("pid", "=", pid), ("is_alive", "=", "False")], detail=True))
    assert (worker.exit_type, worker.worker_type) == ("SYSTEM_ERROR", "WORKER")
    assert "Steady" in worker.exit_detail and "signal 9" in worker.exit_detail
    assert worker.end_time_ms > 0
    (task,) = state.list_tasks(filters=[("name", "=", "after the kill")])
    assert (task.state, task.error_type) == ("FAILED", "ACTOR_DIED")
    assert state.get_actor(steady._actor_id.hex()).state == "DEAD"


@pytest.mark.parametrize(
    ("end", "reason", "exit_type"),
    [
        (lambda actor: actor.leave.remote(), "WORKER_DIED", "INTENDED_USER_EXIT"),
        (lambda actor: actor.crash.remote(), "WORKER_DIED", "SYSTEM_ERROR"),
        (ray.kill, "RAY_KILL", "INTENDED_SYSTEM_EXIT"),
        (None, "OUT_OF_SCOPE", "INTENDED_SYSTEM_EXIT"),
    ],
)
def test_how_an_actor_ended_is_told(end, reason, exit_type):
    @ray.remote(num_cpus=0)
    class Ending:
        def where(self):
            return ray.get_runtime_context().get_actor_id(), os.getpid()

        def leave(self):
            ray.actor.exit_actor()

        def crash(self):
            os._exit(5)

    actor = Ending.remote()
    actor_id, pid = ray.get(actor.where.remote())
    if end is None:
        del actor
    else:
        end(actor)
    until(lambda: state.get_actor(actor_id).state == "DEAD")
    assert state.get_actor(actor_id).death_cause["actor_died_error_context"]["reason"] == reason
    (worker,) = until(lambda: state.list_workers(filters=[("pid", "=", pid), ("is_alive", "=", "False")], detail=True))
    assert worker.exit_type == exit_type


def test_a_worker_that_a_task_ends_has_failed():
    @ray.remote(max_retries=0)
    def crash():
        os._exit(5)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(crash.remote())
    (task,) = until(lambda: state.list_tasks(filters=[("name", "=", "crash"), ("worker_pid", "!=", None)]))
    ended = [("pid", "=", task.worker_pid), ("is_alive", "=", False)]
    (worker,) = until(lambda: state.list_workers(filters=ended, detail=True))
    assert (worker.exit_type, worker.worker_type) == ("SYSTEM_ERROR", "WORKER")


def test_placement_groups():
    group = ray.util.placement_group([{"CPU": 1}], name="a group")
    ray.get(group.ready())
    one = state.get_placement_group(group.id.hex())
    assert (one.name, one.state, one.is_detached) == ("a group", "CREATED", False)
    assert [bundle["unit_resources"] for bundle in one.bundles] == [{"CPU": 1}]
    assert one.bundles[0]["node_id"] == ray.get_runtime_context().get_node_id()
    ray.util.remove_placement_group(group)
    until(lambda: state.get_placement_group(group.id.hex()).state == "REMOVED")


def test_summaries_count_by_name_class_and_call_site():
    @ray.remote
    def summarized():
        return 1

    steady = Steady.remote()
    ray.get([*(summarized.remote() for _ in range(3)), steady.ping.remote()])
    tasks = state.summarize_tasks()["cluster"]
    assert tasks["summary"]["summarized"]["state_counts"] == {"FINISHED": 3}
    assert tasks["total_tasks"] >= 3
    actors = state.summarize_actors()["cluster"]
    assert sum(actors["summary"]["Steady"]["state_counts"].values()) <= actors["total_actors"]
    kept = ray.put(bytes(2 << 20))
    objects = state.summarize_objects()["cluster"]
    assert objects["total_size_mb"] >= 2 and objects["callsite_enabled"] is False
    assert objects["summary"]["disabled"]["total_objects"] == objects["total_objects"]
    del kept


def test_what_is_refused():
    with pytest.raises(ValueError, match="Unsupported filter predicate >"):
        state.list_actors(filters=[("state", ">", "ALIVE")])
    with pytest.raises(ValueError, match="tuples"):
        state.list_actors(filters=[("state", "ALIVE")])
    with pytest.raises(RayStateApiException, match="no_such is not supported.*class_name"):
        state.list_actors(filters=[("no_such", "=", "1")])
    with pytest.raises(RayStateApiException, match="exceeds the supported limit 10000"):
        state.list_tasks(limit=10**6)
    with pytest.raises(RayStateApiException, match="below 0"):
        state.list_tasks(limit=-1)
    with pytest.raises(RayStateApiException, match="48 hexadecimal digits"):
        state.get_task("no such")
    with pytest.raises(RayStateApiException, match="one of .*ALIVE"):
        state.list_actors(filters=[("state", "=", "LIVING")])
    with pytest.warns(UserWarning, match="different values"):
        assert state.list_actors(filters=[("state", "=", "ALIVE"), ("state", "=", "DEAD")]) == []


def test_what_an_answer_cannot_say_is_explained_on_request():
    ref = ray.put(1)
    with pytest.warns(UserWarning, match="RAY_record_ref_creation_sites=1"):
        assert state.list_objects(_explain=True)
    with pytest.warns(UserWarning, match="RAY_record_ref_creation_sites=1"):
        state.summarize_objects(_explain=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.list_objects()
        state.list_nodes(_explain=True)
    del ref


@pytest.mark.parametrize("name", state.__all__)
def test_functions_made_of_one_mechanism_are_as_if_written_out(name):
    function = getattr(state, name)
    assert (function.__name__, function.__qualname__) == (name, name)
    assert "Args:" in inspect.getdoc(function)
    assert pickle.loads(pickle.dumps(function)) is function
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_a_process_that_is_stopped_is_named():
    steady = Steady.remote()
    _, pid = ray.get(steady.ping.remote())
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid))  # one of its threads may answer until all have seen the signal
    try:
        with pytest.raises(RayStateApiException, match=f"actor Steady \\(pid {pid}\\)"):
            state.list_tasks(timeout=1)
        assert state.list_tasks(timeout=1, raise_on_missing_output=False)
        assert state.list_actors(timeout=1)  # the daemon knows them
    finally:
        os.kill(pid, signal.SIGCONT)


def test_logs_of_a_worker():
    @ray.remote(num_cpus=0)
    class Talking:
        def talk(self):
            for i in range(5):
                print(f"line {i}", flush=True)
            return os.getpid()

    talking = Talking.remote()
    pid = ray.get(talking.talk.remote())
    name = f"worker-{pid}.out"
    until(lambda: name in state.list_logs().get("worker_out", []) and "line 4" in "".join(state.get_log(filename=name)))
    assert "".join(state.get_log(pid=pid, tail=2)) == "line 3\nline 4\n"
    assert "".join(state.get_log(actor_id=talking._actor_id.hex())).startswith("line 0\n")
    assert list(state.list_logs(glob_filter=f"*{pid}.out")) == ["worker_out"]
    with pytest.raises(RayStateApiException, match="no log file"):
        next(state.get_log(filename="../lock"))
    with pytest.raises(ValueError, match="Say which log"):
        next(state.get_log())


def test_the_timeline_tells_when_tasks_ran(tmp_path):
    @ray.remote
    def timed():
        return os.getpid()

    pid = ray.get(timed.remote())
    (event,) = [event for event in ray.timeline() if event["name"] == "timed"]
    assert (event["ph"], event["pid"], event["args"]["state"]) == ("X", pid, "FINISHED")
    assert event["dur"] > 0
    assert ray.timeline(tmp_path / "trace.json") is None
    assert "process_name" in (tmp_path / "trace.json").read_text()
