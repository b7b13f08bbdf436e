"""get_runtime_context and ray.nodes: who and where the running code is."""

import os

from outcome import raised


def case_identifiers_in_the_driver(ray):
    context = ray.get_runtime_context()
    return [
        len(context.get_job_id()),
        len(context.get_node_id()),
        len(context.get_worker_id()),
        context.get_actor_id(),
        context.get_task_id(),
        context.get_task_name(),
        context.get_actor_name(),
        context.namespace,
    ]


def case_identifiers_in_a_task(ray):
    @ray.remote
    def look():
        context = ray.get_runtime_context()
        return {
            "job": context.get_job_id(),
            "node": context.get_node_id(),
            "worker": context.get_worker_id(),
            "task": context.get_task_id(),
            "actor": context.get_actor_id(),
        }

    driver, seen = ray.get_runtime_context(), ray.get(look.remote())
    return [
        seen["job"] == driver.get_job_id(),
        seen["node"] == driver.get_node_id(),
        seen["worker"] != driver.get_worker_id(),
        len(seen["worker"]),
        len(seen["task"]),
        seen["actor"],
    ]


def case_identifiers_in_an_actor(ray):
    @ray.remote
    class A:
        def look(self):
            context = ray.get_runtime_context()
            return [context.get_actor_id(), context.get_task_id(), context.was_current_actor_reconstructed]

    a = A.remote()
    (actor, first, rebuilt), (same, second, _) = ray.get([a.look.remote(), a.look.remote()])
    return [actor == a._actor_id.hex(), actor == same, first != second, len(actor), len(first), rebuilt]


def case_task_id_matches_the_ref(ray):
    @ray.remote
    def look():
        return ray.get_runtime_context().get_task_id()

    ref = look.remote()
    return ray.get(ref) == ref.task_id().hex()


def case_task_names(ray):
    @ray.remote
    def look():
        context = ray.get_runtime_context()
        return [context.get_task_name(), context.get_task_function_name().split(".")[-1]]

    plain, named = ray.get([look.remote(), look.options(name="renamed").remote()])
    return [plain[0].split(".")[-1], plain[1], named]


def case_actor_names(ray):
    @ray.remote
    class A:
        def name(self):
            context = ray.get_runtime_context()
            return [context.get_actor_name(), context.get_task_name()]

    return ray.get([A.remote().name.remote(), A.options(name="context_name").remote().name.remote()])


def case_namespace_in_a_worker(ray):
    return ray.get(ray.remote(lambda: ray.get_runtime_context().namespace).remote())


def case_assigned_resources(ray):
    @ray.remote(num_cpus=0.5, resources={"slot": 1})
    class A:
        def look(self):
            return ray.get_runtime_context().get_assigned_resources()

    return ray.get(A.remote().look.remote())


def case_accelerator_ids(ray):
    @ray.remote(num_gpus=1)
    def look():
        return ray.get_runtime_context().get_accelerator_ids()["GPU"]

    return len(ray.get(look.remote()))


def case_current_actor_outside_an_actor(ray):
    return raised(ray, lambda: ray.get_runtime_context().current_actor)


def case_reconstructed_outside_an_actor(ray):
    return raised(ray, lambda: ray.get_runtime_context().was_current_actor_reconstructed)


def case_nodes(ray):
    (node,) = ray.nodes()
    return [
        node["NodeID"] == ray.get_runtime_context().get_node_id(),
        node["Alive"],
        node["Resources"]["CPU"],
        bool(node["NodeManagerAddress"]),
    ]


def case_is_initialized_everywhere(ray):
    return [ray.is_initialized(), ray.get(ray.remote(lambda: ray.is_initialized()).remote())]


def case_runtime_env_variables(ray):
    @ray.remote(runtime_env={"env_vars": {"COMPAT_COLOR": "green"}})
    class A:
        def color(self):
            return os.environ.get("COMPAT_COLOR")

    return ray.get(A.remote().color.remote())
