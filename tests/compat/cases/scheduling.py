"""Where tasks and actors run, as far as one node can tell."""

import importlib

from outcome import raised


def _strategies(ray):
    return importlib.import_module(f"{ray.__name__}.util.scheduling_strategies")


def _task(ray):
    @ray.remote
    def node():
        return ray.get_runtime_context().get_node_id()

    return node


def _actor(ray):
    @ray.remote
    class A:
        def node(self):
            return ray.get_runtime_context().get_node_id()

    return A


def _runs_here(ray, **options):
    here = ray.get_runtime_context().get_node_id()
    actor = _actor(ray).options(**options).remote()
    return [
        ray.get(_task(ray).options(**options).remote(), timeout=30) == here,
        ray.get(actor.node.remote(), timeout=30) == here,
    ]


def _fails(ray, *facts, **options):
    actor = _actor(ray).options(**options).remote()
    return [
        raised(ray, lambda: ray.get(_task(ray).options(**options).remote(), timeout=30), *facts),
        raised(ray, lambda: ray.get(actor.node.remote(), timeout=30), *facts),
    ]


def case_by_name(ray):
    return [_runs_here(ray, scheduling_strategy=name) for name in ("DEFAULT", "SPREAD", None)]


def case_affinity_to_this_node(ray):
    here = ray.get_runtime_context().get_node_id()
    affinity = _strategies(ray).NodeAffinitySchedulingStrategy
    return [_runs_here(ray, scheduling_strategy=affinity(here, soft=soft)) for soft in (True, False)]


def case_soft_affinity_to_no_node(ray):
    affinity = _strategies(ray).NodeAffinitySchedulingStrategy("ab" * 28, soft=True)
    return _runs_here(ray, scheduling_strategy=affinity)


def case_affinity_to_no_node(ray):
    affinity = _strategies(ray).NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
    return _fails(ray, "soft=False", "NodeAffinitySchedulingStrategy", scheduling_strategy=affinity)


def case_affinity_to_a_node_that_has_too_little(ray):
    here = ray.get_runtime_context().get_node_id()
    affinity = _strategies(ray).NodeAffinitySchedulingStrategy(here, soft=False)
    return _fails(ray, "soft=False", num_cpus=50, scheduling_strategy=affinity)


def case_bad_affinity(ray):
    affinity = _strategies(ray).NodeAffinitySchedulingStrategy
    return [
        raised(ray, lambda: affinity("xyz", soft=True), "xyz"),
        raised(ray, lambda: affinity("f" * 56, soft=True), "node_id"),
        raised(ray, lambda: affinity("ab" * 28, soft=False, _spill_on_unavailable=True), "_spill_on_unavailable"),
        raised(ray, lambda: affinity("ab" * 28, soft=True, _fail_on_unavailable=True), "_fail_on_unavailable"),
    ]


def case_labels(ray):
    here = ray.get_runtime_context().get_node_id()
    s = _strategies(ray)
    hard = [
        {"ray.io/node-id": s.In(here, "x")},
        {"ray.io/node-id": s.Exists(), "zone": s.DoesNotExist()},
        {"zone": s.NotIn("a", "b")},
    ]
    outcomes = [_runs_here(ray, scheduling_strategy=s.NodeLabelSchedulingStrategy(rules)) for rules in hard]
    soft = s.NodeLabelSchedulingStrategy({}, soft={"zone": s.In("b")})
    return [*outcomes, _runs_here(ray, scheduling_strategy=soft)]


def case_bad_labels(ray):
    s = _strategies(ray)
    return [
        raised(ray, lambda: s.NodeLabelSchedulingStrategy({}), "hard", "soft", "empty"),
        raised(ray, lambda: s.NodeLabelSchedulingStrategy({"zone": "a"}), "hard", "zone"),
        raised(ray, lambda: s.NodeLabelSchedulingStrategy([]), "hard", "soft"),
        raised(ray, lambda: s.NodeLabelSchedulingStrategy({1: s.Exists()}), "hard"),
        raised(ray, lambda: s.In(), "In"),
        raised(ray, lambda: s.NotIn(1), "NotIn", "str"),
    ]


def case_label_selector(ray):
    here = ray.get_runtime_context().get_node_id()
    selectors = ({"ray.io/node-id": here}, {"zone": "!in(a,b)"}, {"zone": "!a"}, {"zone": "!in(a, b)"}, {})
    return [_runs_here(ray, label_selector=selector) for selector in selectors]


def case_label_selector_of_no_node(ray):
    ref = _task(ray).options(label_selector={"zone": "a"}).remote()
    outcome = raised(ray, lambda: ray.get(ref, timeout=0.5)) != "returned"
    ray.cancel(ref)
    return [outcome, _runs_here(ray)]


def case_bad_label_selectors(ray):
    bad = ({"zone": "in("}, {"zone": "-a"}, {"-zone": "a"}, {"zone": 1})
    return [
        raised(ray, lambda selector=selector: ray.get(_task(ray).options(label_selector=selector).remote()))
        for selector in bad
    ]


def case_strategy_of_another_type(ray):
    return raised(ray, lambda: _task(ray).options(scheduling_strategy=3), "scheduling_strategy")


def case_as_an_option_of_the_decorator(ray):
    here = ray.get_runtime_context().get_node_id()

    @ray.remote(scheduling_strategy=_strategies(ray).NodeAffinitySchedulingStrategy(here, soft=False))
    def node():
        return ray.get_runtime_context().get_node_id()

    return ray.get(node.remote(), timeout=30) == here
