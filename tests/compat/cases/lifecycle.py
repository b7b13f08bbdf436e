"""init, shutdown and what happens outside of them. Every case starts and ends a session of its own."""

from outcome import full, raised

SHARED_SESSION = False
QUIET = {"num_cpus": 2, "include_dashboard": False, "logging_level": "ERROR", "object_store_memory": 128 << 20}


def case_init_and_shutdown(ray):
    states = [ray.is_initialized()]
    ray.init(**QUIET)
    states.append(ray.is_initialized())
    again = raised(ray, lambda: ray.init(**QUIET), "ignore_reinit_error")
    tolerated = raised(ray, lambda: ray.init(ignore_reinit_error=True))
    value = ray.get(ray.remote(lambda: "works").remote())
    ref = ray.put("of the first session")
    ray.shutdown()
    states.append(ray.is_initialized())
    ray.shutdown()
    ray.init(**QUIET)
    stale = raised(ray, lambda: ray.get(ref, timeout=1)) != "returned"
    fresh = ray.get(ray.put("of the second session"))
    ray.shutdown()
    return [states, again, tolerated, value, stale, fresh]


def case_everything_needs_a_session(ray):
    return [
        raised(ray, lambda: ray.available_resources(), "ray.init"),
        raised(ray, lambda: ray.cluster_resources(), "ray.init"),
        raised(ray, lambda: ray.nodes(), "ray.init"),
    ]


def case_bad_arguments_of_init(ray):
    outcome = raised(ray, lambda: ray.init(no_such_argument=1), "no_such_argument")
    return [outcome, ray.is_initialized()]


def case_logging_config(ray):
    config = ray.LoggingConfig(encoding="JSON", additional_log_standard_attrs=["name"])
    return [
        config.to_dict(),
        ray.LoggingConfig().to_dict(),
        raised(ray, lambda: ray.LoggingConfig(encoding="YAML"), "YAML"),
        raised(ray, lambda: ray.LoggingConfig(additional_log_standard_attrs=["no_such"]), "no_such"),
    ]


def case_labels_of_the_node(ray):
    ray.init(**QUIET, labels={"team": "a"})
    everywhere = [ray.nodes()[0]["Labels"], ray.get_runtime_context().get_node_labels()]
    everywhere.append(ray.get(ray.remote(lambda: ray.get_runtime_context().get_node_labels()).remote()))
    node_id = ray.get_runtime_context().get_node_id()
    ray.shutdown(wait_for_processes=True)
    return [[labels["team"], labels["ray.io/node-id"] == node_id] for labels in everywhere]


@full
def case_init_as_a_context(ray):
    with ray.init(**QUIET):
        inside = [ray.is_initialized(), ray.get(ray.put(1))]
    return [inside, ray.is_initialized()]


@full
def case_first_use_starts_a_session(ray):
    value = ray.get(ray.put(3))
    started = ray.is_initialized()
    ray.shutdown()
    return [value, started]


@full
def case_first_task_starts_a_session(ray):
    f = ray.remote(lambda: "auto")
    value = ray.get(f.remote())
    ray.shutdown()
    return value


@full
def case_remote_function_over_two_sessions(ray):
    @ray.remote
    def f():
        return 1

    @ray.remote
    class A:
        def g(self):
            return 2

    got = []
    for _ in range(2):
        ray.init(**QUIET)
        got += ray.get([f.remote(), A.remote().g.remote()])
        ray.shutdown()
    return got


@full
def case_handle_of_an_earlier_session(ray):
    @ray.remote
    class A:
        def f(self):
            return 1

    ray.init(**QUIET)
    a = A.remote()
    ray.get(a.f.remote())
    ray.shutdown()
    ray.init(**QUIET)
    outcome = raised(ray, lambda: ray.get(a.f.remote(), timeout=5)) != "returned"
    ray.shutdown()
    return outcome
