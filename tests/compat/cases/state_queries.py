"""How ray.util.state is asked: filters, limits, what is refused, summaries, logs."""

import os
import warnings

from outcome import describe, until
from state_helpers import counter, functions, quietly, session, state_error

SHARED_SESSION = False
NEEDS_DASHBOARD = True


def case_filters(ray):
    with session(ray) as state:
        task, actors = functions(ray), [counter(ray).options(name=name).remote() for name in ("A1", "b2")]
        pid, _ = ray.get([actor.add.remote() for actor in actors])
        for ref in (task.good.remote(), task.bad.remote()):
            quietly(ray, ref)
        ended = [[("name", "=", name), ("state", "=", how)] for name, how in (("good", "FINISHED"), ("bad", "FAILED"))]
        until(lambda: all(state.list_tasks(filters=each) for each in ended))
        until(lambda: len(state.list_tasks(filters=[("type", "=", "actor_task"), ("state", "=", "finished")])) == 2)
        actor_id, job_id = actors[0]._actor_id.hex(), ray.get_runtime_context().get_job_id()

        def names(*filters):
            return sorted(row.name for row in state.list_actors(filters=list(filters)))

        def tasks(*filters):
            return sorted(row.name for row in state.list_tasks(filters=list(filters)))

        def drivers(*filters):
            return len(state.list_workers(filters=[("worker_type", "=", "driver"), *filters]))

        return [
            [names(("name", "=", "a1")), names(("name", "!=", "a1")), names(("NAME", "=", "a1"))],
            [names(("state", "=", "alive"), ("name", "!=", "A1")), names(("name", "=", "A1"), ("name", "=", "A1"))],
            [names(("pid", "=", pid)), names(("pid", "=", str(pid)))],
            [names(("actor_id", "=", actor_id)), names(("job_id", "=", job_id)), names(("job_id", "!=", job_id))],
            [names(("repr_name", "=", "")), names(("placement_group_id", "=", "x"))],
            # A column without a value fits no filter.
            [
                names(("placement_group_id", "!=", "x")),
                tasks(("error_type", "!=", "x")),
                drivers(("exit_type", "!=", "x")),
            ],
            [tasks(("actor_id", "=", actor_id)), tasks(("state", "=", "failed")), tasks(("state", "=", "no such"))],
            [tasks(("attempt_number", "=", 0), ("name", "=", "good")), tasks(("attempt_number", "!=", "0"))],
            [drivers(("is_alive", "=", value)) for value in (True, "True", "true", "1", 1, False, "false", "0")],
            [
                drivers(("is_alive", "!=", True)),
                drivers(("is_alive", "!=", "False")),
                drivers(("pid", "!=", os.getpid())),
            ],
            len(state.list_nodes(filters=[("is_head_node", "=", "True")])),
            [len(state.list_jobs(filters=[each])) for each in (("status", "=", "running"), ("type", "!=", "driver"))],
            [row.actor_id for row in state.list_actors()] == sorted(row.actor_id for row in state.list_actors()),
            len(state.list_actors(None, [("name", "=", "A1")], 5, 10, True, True, False)),
        ]


def _refused(ray, call, *facts):
    """What a call gives, or which error of the state API, or of Python, it raises."""
    try:
        return call()
    except (state_error(ray), ValueError) as error:
        names = [kind.__name__ for kind in (state_error(ray), ValueError) if isinstance(error, kind)]
        return [names, describe(ray, error, *facts)["mentions"]]


def case_filters_that_are_refused(ray):
    with session(ray) as state:
        actor = counter(ray).options(name="A1").remote()
        ray.get(actor.add.remote())

        def listed(*filters):
            return len(state.list_actors(filters=list(filters)))

        return [
            _refused(ray, lambda: listed(("no_such", "=", "1")), "no_such", "is not supported", "class_name"),
            _refused(ray, lambda: listed(("is_detached", "=", "False")), "is_detached", "is not supported"),
            _refused(ray, lambda: listed(("state", "=", "no such"))),
            _refused(ray, lambda: listed(("actor_id", "=", "zz"))),
            _refused(ray, lambda: listed(("job_id", "=", "zz"))),
            _refused(ray, lambda: listed(("pid", "=", "abc")), "abc"),
            _refused(ray, lambda: listed(("name", ">", "1")), "Unsupported filter predicate >", "=, !="),
            _refused(ray, lambda: listed(("name", "x"))),
            _refused(ray, lambda: state.list_workers(filters=[("is_alive", "=", "yes")]), "is_alive", "yes", "True"),
            _refused(ray, lambda: state.list_nodes(filters=[("state", "=", "x")])),
            _refused(ray, lambda: state.list_tasks(filters=[("actor_id", "!=", "x")])),
            _refused(ray, lambda: state.get_actor("zz")),
            _refused(ray, lambda: state.get_task("zz")),
            _refused(ray, lambda: state.get_node("zz")),
        ]


def case_limits_and_warnings(ray):
    with session(ray) as state:
        actors = [counter(ray).remote() for _ in range(2)]
        ray.get([actor.add.remote() for actor in actors])

        def listed(**options):
            return _refused(ray, lambda: len(state.list_actors(**options)), "10001")

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            contradiction = state.list_actors(filters=[("name", "=", "a"), ("name", "=", "b")])
            listed(limit=1)
            listed(limit=1, _explain=True)
            state.list_objects(raise_on_missing_output=False, _explain=True)
            state.summarize_objects(raise_on_missing_output=False, _explain=True)
        said = [str(each.message) for each in caught if each.category is UserWarning]
        return [
            [listed(limit=limit) for limit in (0, 1, 10_000, 10_001, -1)],
            [listed(timeout=timeout) for timeout in (0, 1)],
            contradiction,
            sum("different values" in text for text in said),
            sum("RAY_record_ref_creation_sites=1" in text for text in said) >= 2,
            len([text for text in said if "RAY_record" not in text and "incomplete" not in text]),
        ]


def case_summaries(ray):
    with session(ray) as state:
        task, actor = functions(ray), counter(ray).remote()
        ray.get([*(task.good.remote() for _ in range(3)), actor.add.remote()])
        quietly(ray, task.bad.remote())

        def tasks():
            return state.summarize_tasks()["cluster"]

        wanted = [("good", {"FINISHED": 3}), ("bad", {"FAILED": 1}), ("Counter.add", {"FINISHED": 1})]
        until(lambda: all(tasks()["summary"].get(name, {}).get("state_counts") == counts for name, counts in wanted))
        refs = [ray.put(bytes(1 << 20)), ray.put(1)]
        objects = state.summarize_objects(raise_on_missing_output=False)["cluster"]
        of_site = objects["summary"]["disabled"]
        return [
            [tasks(), len(refs)],
            state.summarize_actors(),
            [sorted(objects), objects["callsite_enabled"], objects["summary_by"], objects["total_objects"]],
            [objects["total_size_mb"] >= 1, of_site["total_size_mb"] == objects["total_size_mb"]],
            {key: value for key, value in of_site.items() if key != "total_size_mb"},
        ]


def case_logs(ray):
    with session(ray) as state:

        @ray.remote
        def talks():
            print("from a task", flush=True)
            return ray.get_runtime_context().get_task_id()

        actor = counter(ray).remote()
        pid, actor_id = ray.get(actor.add.remote()), actor._actor_id.hex()
        ray.get(actor.say.remote())
        task_id = ray.get(talks.remote())
        node_id, ip = ray.nodes()[0]["NodeID"], ray.nodes()[0]["NodeManagerAddress"]

        def read(**arguments):
            return _refused(ray, lambda: "".join(state.get_log(**arguments)))

        until(lambda: "to stderr" in read(actor_id=actor_id, suffix="err"))
        until(lambda: "from a task" in str(read(task_id=task_id)))
        groups = [state.list_logs(**{which: value}) for which, value in (("node_id", node_id), ("node_ip", ip))]
        out = state.list_logs(node_id=node_id, glob_filter=f"worker-*{pid}.out")
        (name,) = out["worker_out"]
        return [
            [{"worker_out", "worker_err"} <= set(group) for group in groups],
            [list(out), state.list_logs(node_id=node_id, glob_filter="no such*")],
            [read(actor_id=actor_id, tail=1), read(actor_id=actor_id, tail=1, suffix="err")],
            [read(node_id=node_id, pid=pid, tail=1), read(node_ip=ip, filename=name, tail=1)],
            read(task_id=task_id, tail=1),
            [type(piece).__name__ for piece in state.get_log(node_id=node_id, pid=pid, encoding=None)],
            [read(node_id=node_id, filename="no such"), read(node_id=node_id, pid=1), read(actor_id="0" * 32)],
            [read(task_id="0" * 48), read(task_id=task_id, attempt_number=4), read(submission_id="x", node_id=node_id)],
            [read(), read(node_id=node_id), read(node_id=node_id, pid=pid, suffix="x")],
            read(node_id=node_id, node_ip=ip, pid=pid),
            type(state.get_log(node_id=node_id, pid=pid, suffix="x")).__name__,  # raises nothing before it is read
        ]
