"""CPUs, GPUs and custom resources: counted, shared, waited for, refused."""

import os
import time

from outcome import full, raised, until


def _available(ray, name):
    return ray.available_resources().get(name, 0)


def _settles_at(ray, name, amount):
    """Whether that much of the resource becomes available (Ray's figure lags behind)."""
    return until(lambda: _available(ray, name) == amount)


def case_cluster_resources(ray):
    resources = ray.cluster_resources()
    return {name: resources.get(name) for name in ("CPU", "GPU", "slot")} | {"memory": resources["memory"] > 0}


def case_available_resources_when_idle(ray):
    return [_settles_at(ray, "CPU", 4), _settles_at(ray, "GPU", 2), _settles_at(ray, "slot", 2)]


def case_actor_holds_and_returns_what_it_asked_for(ray):
    @ray.remote(num_cpus=2, num_gpus=1, resources={"slot": 1})
    class A:
        def f(self):
            return 1

    a = A.remote()
    ray.get(a.f.remote())
    held = [_settles_at(ray, "CPU", 2), _settles_at(ray, "GPU", 1), _settles_at(ray, "slot", 1)]
    ray.kill(a)
    return [held, _settles_at(ray, "CPU", 4), _settles_at(ray, "GPU", 2), _settles_at(ray, "slot", 2)]


def case_an_actor_holds_no_cpu_by_default(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    a = A.remote()
    ray.get(a.f.remote())
    return _settles_at(ray, "CPU", 4)


def case_an_actor_that_asks_for_anything_holds_a_cpu(ray):
    @ray.remote
    class A:
        def assigned(self):
            return ray.get_runtime_context().get_assigned_resources()

    asked = (
        {"num_gpus": 0.5},
        {"resources": {"slot": 1}},
        {"memory": 1000},
        {"num_cpus": 0, "num_gpus": 1},
        {"num_gpus": 0},
    )
    outcomes = []
    for options in asked:
        a = A.options(**options).remote()
        outcomes.append(sorted(ray.get(a.assigned.remote()).items()))
        ray.kill(a)
    return outcomes


@full
def case_more_default_actors_than_cpus(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    actors = [A.remote() for _ in range(5)]
    return sum(ray.get([a.f.remote() for a in actors]))


def case_gpu_ids(ray):
    @ray.remote(num_gpus=1)
    class A:
        def ids(self):
            return [len(ray.get_gpu_ids()), os.environ["CUDA_VISIBLE_DEVICES"], [str(i) for i in ray.get_gpu_ids()]]

    a, b = A.remote(), A.remote()
    (count_a, visible_a, ids_a), (count_b, visible_b, ids_b) = ray.get([a.ids.remote(), b.ids.remote()])
    return [count_a, count_b, sorted([visible_a, visible_b]), [visible_a] == ids_a, [visible_b] == ids_b]


def case_two_gpus_at_once(ray):
    @ray.remote(num_gpus=2)
    def ids():
        return [sorted(str(i) for i in ray.get_gpu_ids()), os.environ["CUDA_VISIBLE_DEVICES"]]

    return ray.get(ids.remote())


def case_fractional_gpus_share_one(ray):
    @ray.remote(num_gpus=0.5)
    class A:
        def ids(self):
            return [str(i) for i in ray.get_gpu_ids()]

    actors = [A.remote() for _ in range(4)]
    ids = ray.get([a.ids.remote() for a in actors])
    return sorted(ids)


def case_fractions_fit_first(ray):
    @ray.remote
    class A:
        def ids(self):
            return [str(i) for i in ray.get_gpu_ids()]

    # Whoever had one before is gone: else the two may come to lie on different ones.
    while ray.available_resources().get("GPU") != 2:
        time.sleep(0.05)
    a = A.options(num_gpus=0.3).remote()
    first = ray.get(a.ids.remote())
    b = A.options(num_gpus=0.3).remote()
    second = ray.get(b.ids.remote())
    whole = A.options(num_gpus=1).remote()
    third = ray.get(whole.ids.remote())
    return [first == second, third != first]


def case_fractions_of_more_than_one_gpu(ray):
    return raised(ray, lambda: ray.remote(num_gpus=1.5)(lambda: 1).remote(), "num_gpus")


def case_no_gpu_no_ids(ray):
    @ray.remote
    def ids():
        return ray.get_gpu_ids()

    return [ray.get(ids.remote()), ray.get_gpu_ids()]


def case_tasks_wait_for_their_turn(ray):
    @ray.remote(num_cpus=4)
    def alone(began):
        time.sleep(0.1)
        return began

    return ray.get([alone.remote(i) for i in range(4)])


def case_no_more_tasks_at_once_than_cpus(ray):
    @ray.remote
    def enter(folder):
        inside = os.path.join(folder, str(os.getpid()))
        open(inside, "w").close()
        time.sleep(0.3)
        count = len(os.listdir(folder))
        time.sleep(0.3)
        os.remove(inside)
        return count

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return max(ray.get([enter.remote(folder) for _ in range(8)])) <= 4


def case_custom_resource_limits_parallelism(ray):
    @ray.remote(resources={"slot": 1}, num_cpus=0)
    def enter(folder):
        inside = os.path.join(folder, str(os.getpid()))
        open(inside, "w").close()
        count = len(os.listdir(folder))
        time.sleep(0.05)
        os.remove(inside)
        return count

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return max(ray.get([enter.remote(folder) for _ in range(8)])) <= 2


def case_options_override_resources(ray):
    @ray.remote(num_cpus=1, resources={"slot": 1})
    def assigned():
        return ray.get_runtime_context().get_assigned_resources()

    return [
        ray.get(assigned.remote()),
        ray.get(assigned.options(num_cpus=2, resources={"slot": 0.5}).remote()),
        ray.get(assigned.options(num_gpus=0.25).remote()),
    ]


def case_actor_waits_until_resources_are_free(ray):
    @ray.remote(num_gpus=2)
    class A:
        def f(self):
            return 1

    a = A.remote()
    ray.get(a.f.remote())
    b = A.remote()
    ref = b.f.remote()
    early, _ = ray.wait([ref], timeout=0.3)
    ray.kill(a)
    return [early, ray.get(ref, timeout=30)]


def case_infeasible_task_does_not_run(ray):
    ref = ray.remote(num_gpus=3)(lambda: 1).remote()
    outcome = raised(ray, lambda: ray.get(ref, timeout=0.5)) != "returned"
    ray.cancel(ref)
    return [outcome, ray.get(ray.remote(lambda: 1).remote())]


def case_blocked_task_lends_its_cpu(ray):
    @ray.remote(num_cpus=4)
    def inner():
        return "ran"

    @ray.remote(num_cpus=4)
    def outer():
        return ray.get(inner.remote())

    return ray.get(outer.remote(), timeout=40)


def case_zero_cpus(ray):
    @ray.remote(num_cpus=0)
    def free():
        return ray.get_runtime_context().get_assigned_resources()

    return ray.get(free.remote())


@full
def case_crashed_actor_returns_its_resources(ray):
    @ray.remote(num_gpus=2)
    class A:
        def crash(self):
            os._exit(1)

    a = A.remote()
    raised(ray, lambda: ray.get(a.crash.remote()))
    return _settles_at(ray, "GPU", 2)


def case_openmp_gets_the_cpus_that_are_held(ray):
    @ray.remote
    class A:
        def threads(self):
            return os.environ.get("OMP_NUM_THREADS")

    @ray.remote
    def threads():
        return os.environ.get("OMP_NUM_THREADS")

    default, two = A.remote(), A.options(num_cpus=2).remote()
    outcome = ray.get([default.threads.remote(), two.threads.remote()])
    ray.kill(two)
    return [*outcome, ray.get(threads.remote()), ray.get(threads.options(num_cpus=2).remote())]
