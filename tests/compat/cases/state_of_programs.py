"""The rows that ray.util.state has of a program that runs."""

import os
import time

from outcome import until
from state_helpers import DETACHED, at_last, counter, functions, kinds, quietly, session

SHARED_SESSION = False
NEEDS_DASHBOARD = True

_DEAD = ("crashed", "dropped", "failing", "killed", "left")


def _actors(ray):
    """Actors that live or wait, and the pids of those that have lived."""
    actor = counter(ray)
    kept = [
        actor.options(name="plain").remote(),
        actor.options(name=DETACHED, lifetime="detached").remote(),
        actor.options(name="rich", num_cpus=3, num_gpus=1, resources={"slot": 1}).remote(),
        actor.options(name="restarted", max_restarts=1).remote(),
    ]
    pids = {"plain": ray.get([each.add.remote() for each in kept])[0]}
    quietly(ray, kept[3].crash.remote())
    for name in ("crashed", "dropped", "killed", "left"):
        one = actor.options(name=name).remote()
        pids[name] = ray.get(one.add.remote())
        if name == "killed":
            ray.kill(one)
        elif name != "dropped":
            quietly(ray, (one.leave if name == "left" else one.crash).remote())
        kept += [one] if name != "dropped" else []  # else Ray may tell that the handle is gone as the reason
        del one
    kept += [actor.options(name="failing").remote(True), actor.options(name="waiting", num_cpus=3).remote()]
    return kept, pids


def _death(cause):
    """What a death cause says, but for its words."""
    if cause is None:
        return None
    ((name, context),) = cause.items()
    if name == "creation_task_failure_context":
        return [name, context["language"], "on purpose" in context["formatted_exception_string"]]
    said = [context[key] for key in ("reason", "class_name", "name", "ray_namespace", "never_started")]
    return [name, *said, context["error_message"].startswith("The actor is dead because "), sorted(context)]


def case_actors(ray):
    with session(ray) as state:
        kept, pids = _actors(ray)
        alive = dict.fromkeys(["plain", DETACHED, "rich", "restarted"], "ALIVE")

        def rows():
            return {row.name: row for row in state.list_actors(detail=True)}

        until(lambda: rows()["restarted"].num_restarts == 1)
        found = at_last(rows, {**alive, **dict.fromkeys(_DEAD, "DEAD"), "waiting": "PENDING_CREATION"})
        context = ray.get_runtime_context()
        where = (context.get_job_id(), context.get_node_id())
        told = {
            name: [
                [row.state, row.class_name, row.ray_namespace, row.is_detached, row.num_restarts],
                [row.required_resources, row.placement_group_id, row.repr_name, _death(row.death_cause)],
                [row.job_id == where[0], row.node_id == where[1], row.pid > 0],
            ]
            for name, row in sorted(found.items())
        }
        pids["failing"] = found["failing"].pid
        one = state.get_actor(found["plain"].actor_id)
        return [
            told,
            _exits(state, {name: pids[name] for name in _DEAD}),
            [one.pid == pids["plain"], one["name"], one.get("no such", "absent"), one.asdict()["state"]],
            state.get_actor("0" * 32),
            state.summarize_actors(),
            len(kept),
        ]


def _exits(state, pids):
    """How the workers with these pids have ended."""

    def ended():
        rows = state.list_workers(filters=[("is_alive", "=", "False")], detail=True, limit=1000)
        return {row.pid: row for row in rows}

    until(lambda: set(pids.values()) <= ended().keys(), timeout_s=30)
    rows = {name: ended()[pid] for name, pid in pids.items()}
    return {name: [row.exit_type, type(row.exit_detail).__name__, row.end_time_ms > 0] for name, row in rows.items()}


def case_columns_of_an_actor(ray):
    with session(ray) as state:
        actor = counter(ray).remote()
        ray.get(actor.add.remote())
        vary = {"label_selector", "call_site", "fallback_strategy"}  # with what Ray has heard of the actor
        (short,), (whole,) = state.list_actors(), state.list_actors(detail=True)
        return [{name: kind for name, kind in kinds(row).items() if name not in vary} for row in (short, whole)]


def _row_of_task(row, driver, actor):
    return [
        [row.state, row.type, row.func_or_class_name, row.error_type, row.attempt_number, row.language],
        [row.required_resources, isinstance(row.error_message, str)],
        [row.parent_task_id == driver, row.job_id == driver[40:], row.actor_id == actor._actor_id.hex()],
    ]


def case_tasks_that_have_ended(ray):
    with session(ray) as state:
        task, actor = functions(ray), counter(ray).options(name="acting").remote()
        ray.get([task.good.remote(), task.good.options(name="renamed").remote(), task.outer.remote()])
        ray.get([actor.add.remote(), actor.add.options(name="called").remote()])

        def rows():
            return {row.name: row for row in state.list_tasks(detail=True)}

        for ref in (task.bad.remote(), actor.broken.remote()):
            quietly(ray, ref)
        ray.kill(actor)
        quietly(ray, actor.add.options(name="too late").remote())
        ended = ["good", "renamed", "outer", "inner", "called", "acting:Counter.__init__"]
        failed = ["bad", "Counter.broken", "too late"]
        found = at_last(rows, {**dict.fromkeys(ended, "FINISHED"), **dict.fromkeys(failed, "FAILED")})
        driver = "f" * 40 + ray.get_runtime_context().get_job_id()
        one = state.get_task(found["bad"].task_id)
        return [
            {name: _row_of_task(found[name], driver, actor) for name in (*ended, *failed)},
            found["inner"].parent_task_id == found["outer"].task_id,
            ["on purpose" in found[name].error_message for name in ("bad", "Counter.broken")],
            [one.name, one.state, state.get_task("0" * 48)],
        ]


def case_tasks_that_crash_and_go_on(ray):
    with session(ray) as state:
        task, actor = functions(ray), counter(ray).remote()
        quietly(ray, task.crash.remote())
        runs = task.forever.options(name="runs").remote()
        refs = [task.good.options(name="waits").remote(runs), task.good.options(name="starved", num_cpus=4).remote()]

        def rows():
            return {row.name: row for row in state.list_tasks(detail=True)}

        pending = {"runs": "RUNNING", "waits": "PENDING_ARGS_AVAIL", "starved": "PENDING_NODE_ASSIGNMENT"}
        found = at_last(rows, {"crash": "FAILED", **pending})
        driver = "f" * 40 + ray.get_runtime_context().get_job_id()
        return [{name: _row_of_task(found[name], driver, actor) for name in ("crash", *pending)}, len(refs)]


def case_attempts_of_a_task(ray):
    with session(ray) as state:
        quietly(ray, functions(ray).flaky.remote())
        rows = until(lambda: len(found := state.list_tasks(filters=[("name", "=", "flaky")])) == 3 and found)
        until(lambda: {row.state for row in state.get_task(rows[0].task_id)} == {"FAILED"})
        attempts = state.get_task(rows[0].task_id)
        return [
            sorted([row.attempt_number, row.error_type, row.required_resources] for row in attempts),
            len({row.task_id for row in rows}),
        ]


def case_objects(ray):
    with session(ray) as state:
        task = functions(ray)
        refs = {"put": ray.put(bytes(300_000)), "result": task.good.remote(), "error": task.bad.remote()}
        for ref in (refs["result"], refs["error"]):
            quietly(ray, ref)
        inner = ray.put(2)
        refs["outer"], inner_id = ray.put([inner]), inner.hex()
        del inner
        runs = task.forever.remote()
        refs["dependent"] = task.good.remote(runs)
        argument, holder = ray.put(bytes(300_000)), counter(ray).remote()
        ray.get(holder.keep.remote([argument]))
        held = until(lambda: len(rows := state.get_objects(argument.hex()) or []) == 2 and rows)

        def told(key):
            (row,) = [row for row in state.get_objects(key) if row.type == "DRIVER"]
            made = [row.task_status, row.attempt_number, row.call_site]
            return [*made, row.reference_type, row.object_size > 0, row.pid == os.getpid()]

        handles = state.list_objects(
            filters=[("reference_type", "=", "ACTOR_HANDLE"), ("type", "=", "DRIVER")], raise_on_missing_output=False
        )
        return [
            {name: told(ref.hex()) for name, ref in refs.items()},
            told(inner_id),
            told(runs.hex())[3:],
            sorted([row.type, row.task_status, row.attempt_number, row.reference_type] for row in held),
            [[row.task_status, row.attempt_number, row.object_size] for row in handles],
            state.get_objects("0" * 56),
        ]


def _row_of_group(row, context):
    return [
        [row.state, row.is_detached, row.stats["scheduling_state"], row.creator_job_id == context.get_job_id()],
        [bundle["unit_resources"] for bundle in row.bundles],
        [bundle["node_id"] == context.get_node_id() for bundle in row.bundles if bundle["node_id"]],
        [row.topology_strategy, row.topology_assignments],
    ]


def case_placement_groups(ray):
    with session(ray) as state:
        group = ray.util.placement_group([{"CPU": 1}, {"GPU": 1, "slot": 1}], name="made")
        kept = ray.util.placement_group([{"CPU": 1}], name="kept", lifetime="detached")
        gone = ray.util.placement_group([{"CPU": 1}], name="gone")
        ray.get([group.ready(), kept.ready(), gone.ready()])
        ray.util.remove_placement_group(gone)
        waits = [ray.util.placement_group([{"CPU": cpus}], name=name) for name, cpus in (("big", 4), ("never", 99))]

        def rows():
            return {row.name: row for row in state.list_placement_groups(detail=True)}

        until(lambda: rows()["never"].stats["scheduling_state"] == "INFEASIBLE")
        until(lambda: rows()["big"].stats["scheduling_state"] == "NO_RESOURCES")
        found = at_last(rows, {"made": "CREATED", "kept": "CREATED", "gone": "REMOVED"})
        context = ray.get_runtime_context()
        made = found["made"].bundles
        return [
            {name: _row_of_group(row, context) for name, row in sorted(found.items())},
            made[1]["bundle_id"] == {"placement_group_id": group.id.hex(), "bundle_index": 1},
            [sorted(made[0]), len(waits)],
            [row.bundles for row in state.list_placement_groups(filters=[("name", "=", "made")])],
            [state.get_placement_group(group.id.hex()).name, state.get_placement_group("0" * 36)],
        ]


def case_nodes_and_workers(ray):
    with session(ray) as state:
        before_ms, actor = time.time() * 1000, counter(ray).remote()
        pid = ray.get(actor.add.remote())
        context = ray.get_runtime_context()
        (node,) = state.list_nodes(detail=True)
        (driver,) = state.list_workers(filters=[("worker_type", "=", "driver")], detail=True)
        (worker,) = until(lambda: state.list_workers(filters=[("pid", "=", pid)], detail=True))
        return [
            [node.state, node.is_head_node, node.state_message, node.node_name == node.node_ip, node.end_time_ms],
            {name: node.resources_total[name] for name in ("CPU", "GPU", "slot")},
            [node.node_id == context.get_node_id(), node.labels["ray.io/node-id"] == node.node_id],
            0 < before_ms - node.start_time_ms < 120_000,
            [driver.pid == os.getpid(), driver.worker_id == context.get_worker_id(), driver.is_alive],
            kinds(worker),
            [worker.worker_type, worker.is_alive, worker.exit_type, worker.exit_detail, worker.end_time_ms],
            [0 < each.start_time_ms < time.time() * 1000 for each in (worker, driver)],
            [state.get_node(node.node_id).state, state.get_worker(worker.worker_id).pid == pid],
            [state.get_node("0" * 56), state.get_worker("0" * 56)],
        ]


def case_jobs(ray):
    with session(ray) as state:
        (job,), (short,) = state.list_jobs(detail=True), state.list_jobs()
        return [
            [job.type, job.status, job.submission_id, job.message, job.error_type],
            [job.job_id == ray.get_runtime_context().get_job_id(), "python" in job.entrypoint],
            [
                job.driver_info.pid == str(os.getpid()),
                job.driver_info.id == job.job_id,
                job.driver_info.node_ip_address != "",
            ],
            [
                0 < job.start_time < time.time() * 1000,
                job.end_time,
                job.metadata,
                job.runtime_env,
                job.driver_exit_code,
            ],
            [sorted(job.columns()), job.list_columns(detail=False), sorted(job.filterable_columns())],
            [short.start_time, short.metadata, short["status"], short.asdict()["driver_info"]["id"] == short.job_id],
        ]
