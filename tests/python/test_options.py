"""Options, signatures and the decorators: what is refused, and what the core is told. Nothing is started."""

import pytest

import beeline as ray
from beeline.api import actor_meta, labels, notices, options, signature
from beeline.exceptions import TransportUnavailableError
from beeline.tensors import engine_paths, transports


def function():
    pass


class Plain:
    def method(self):
        pass


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"num_cpus": "two"}, TypeError),
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": 0.00001}, ValueError),
        ({"num_gpus": 1.5}, ValueError),
        ({"num_returns": -1}, ValueError),
        ({"num_returns": "streaming"}, ValueError),
        ({"num_returns": 1.0}, TypeError),
        ({"max_retries": -2}, ValueError),
        ({"max_restarts": 1}, ValueError),
        ({"resources": {"GPU": 1}}, ValueError),
        ({"resources": {"GPU": 0.5, "slot": 1}}, ValueError),
        ({"resources": ["slot"]}, TypeError),
        ({"retry_exceptions": [3]}, ValueError),
        ({"runtime_env": {"conda": "x"}}, ValueError),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError),
        ({"scheduling_strategy": "NEAR"}, ValueError),
        ({"no_such_option": 1}, ValueError),
        ({"num_returns": 65536}, ValueError),
        ({"name": "x" * 65536}, ValueError),
        ({"label_selector": {"zone": "in("}}, ValueError),
        ({"scheduling_strategy": 3}, TypeError),
        ({"placement_group": "a group", "scheduling_strategy": "SPREAD"}, ValueError),
        ({"object_store_memory": 1 << 20}, ValueError),
    ],
    ids=lambda given: str(given)[:60],
)
def test_bad_options_of_a_function(given, error):
    name = next(iter(given))
    with pytest.raises(error, match=name.removeprefix("num_") if name == "num_gpus" else name):
        ray.remote(**given)(function)
    with pytest.raises(error):
        ray.remote(function).options(**given)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"max_restarts": -2}, ValueError),
        ({"max_concurrency": "x"}, TypeError),
        ({"max_concurrency": -1}, ValueError),
        ({"lifetime": "forever"}, ValueError),
        ({"max_retries": 1}, ValueError),
        ({"num_returns": 2}, ValueError),
        ({"get_if_exists": True}, ValueError),
        ({"name": ""}, ValueError),
        ({"name": 5}, TypeError),
        ({"namespace": ""}, ValueError),
        ({"concurrency_groups": {"io": 0}}, ValueError),
        ({"tensor_transport": "pigeon"}, ValueError),
    ],
    ids=str,
)
def test_bad_options_of_a_class(given, error):
    with pytest.raises(error):
        ray.remote(**given)(Plain)


def test_options_of_a_class_are_looked_at_together():
    named = ray.remote(name="its_own", concurrency_groups={"io": 1})(Plain)
    named.options(get_if_exists=True).options(num_cpus=0)
    ray.remote(Plain).options(name="its_own").options(get_if_exists=True)
    for configured in (named.options(num_cpus=0), ray.remote(Plain).options(num_cpus=0)):
        with pytest.raises(ValueError, match="concurrency_groups"):
            configured.options(concurrency_groups={"io": 1})
    with pytest.raises(ValueError, match="get_if_exists"):
        named.options(get_if_exists=True).options(name=None)


@pytest.mark.parametrize(
    ("name", "give"),
    [
        ("_labels of actors", lambda: ray.remote(_labels={"zone": "a"})(Plain)),
        ("_labels of remote functions", lambda: ray.remote(function).options(_labels={"zone": "a"})),
        ("object_store_memory of actors", lambda: ray.remote(Plain).options(object_store_memory=1 << 20)),
    ],
)
def test_what_has_no_effect_is_said_once_and_counted(name, give, monkeypatch, caplog):
    monkeypatch.setattr(notices, "counts", {})
    give()
    first = notices.counts[name]
    assert first >= 1
    give()
    assert notices.counts[name] > first
    assert [record.message.split(" has no effect")[0] for record in caplog.records] == [name]


def test_defaults_are_not_said_to_have_no_effect(monkeypatch):
    monkeypatch.setattr(notices, "counts", {})
    ray.remote(_labels=None, object_store_memory=None, label_selector={}, enable_tensor_transport=True)(Plain)
    ray.remote(scheduling_strategy="SPREAD", enable_task_events=False)(function)
    assert notices.counts == {}


@pytest.mark.parametrize(
    ("given", "calls"),
    [({}, 0), ({"max_calls": 3}, 3), ({"num_gpus": 0.5}, 1), ({"num_gpus": 1, "max_calls": 0}, 0)],
    ids=str,
)
def test_calls_until_a_worker_exits(given, calls):
    assert options.max_calls(given) == calls


def test_concurrency_groups_belong_to_the_class():
    with pytest.raises(ValueError, match="concurrency_groups"):
        ray.remote(Plain).options(concurrency_groups={"io": 1})


def test_calls_carry_the_number_of_their_concurrency_group():
    meta = actor_meta.describe(Plain, {})._replace(concurrency_groups=("io", "compute"))
    assert [meta.group_number(group) for group in ("", "io", "compute")] == [0, 1, 2]
    with pytest.raises(ValueError, match="Plain has no concurrency group 'disk'.*'io', 'compute'"):
        meta.group_number("disk")


def test_what_the_decorator_takes():
    with pytest.raises(TypeError, match="function or a class"):
        ray.remote(len)
    for wrong in (lambda: ray.remote(5), lambda: ray.remote(1, 2), lambda: ray.remote()):
        with pytest.raises(AssertionError, match="@remote"):
            wrong()
    with pytest.raises(AssertionError, match="no_such_option"):
        ray.method(no_such_option=1)
    with pytest.raises(ValueError, match="generator"):
        ray.remote(num_returns="streaming")(lambda: 1)

    async def coroutine():
        pass

    with pytest.raises(ValueError, match="async"):
        ray.remote(coroutine)


def test_direct_use_is_a_type_error():
    with pytest.raises(TypeError, match=r"function\.remote\(\)"):
        ray.remote(function)()
    with pytest.raises(TypeError, match=r"Plain\.remote\(\)"):
        ray.remote(Plain)()
    with pytest.raises(TypeError, match="Inheriting"):

        class Derived(ray.remote(Plain)):
            pass


def test_importing_and_decorating_starts_nothing():
    assert not ray.is_initialized()


def test_resources():
    assert options.resources({}, default_cpus=1) == {"CPU": 1.0}
    assert options.resources({"num_cpus": 0}, default_cpus=1) == {}
    given = {"num_gpus": 0.25, "memory": 100, "resources": {"slot": 2, "none": 0}}
    assert options.resources(given, default_cpus=0) == {"GPU": 0.25, "memory": 100.0, "slot": 2.0}


@pytest.mark.parametrize(
    ("given", "held", "to_place"),
    [
        ({}, {}, {"CPU": 1}),
        ({"memory": 10}, {"memory": 10}, {"CPU": 1, "memory": 10}),
        ({"num_gpus": 0.5}, {"CPU": 1, "GPU": 0.5}, None),
        ({"num_gpus": 0}, {"CPU": 1}, None),
        ({"resources": {"slot": 1}}, {"CPU": 1, "slot": 1}, None),
        ({"num_cpus": 0, "num_gpus": 1}, {"GPU": 1}, None),
        ({"num_cpus": 2}, {"CPU": 2}, None),
    ],
)
def test_resources_of_an_actor(given, held, to_place):
    assert options.actor_resources(given) == (held, held if to_place is None else to_place)


def test_label_selectors():
    selector = {"zone": "a", "disk": "!ssd", "gpu": "in(A100, H100)", "spot": "!in(yes,maybe)", "empty": ""}
    assert labels.selector_error(selector) is None
    assert labels.rules_of(selector) == [
        ("zone", ["a"], False),
        ("disk", ["ssd"], True),
        ("gpu", ["A100", "H100"], False),
        ("spot", ["yes", "maybe"], True),
        ("empty", [""], False),
    ]
    assert labels.rules_of(None) == []


@pytest.mark.parametrize(
    ("transport", "isolation", "mode"),
    [
        (None, None, transports.OBJECT_STORE),
        ("object_store", None, transports.OBJECT_STORE),
        ("Object_Store", "snapshot", transports.OBJECT_STORE),
        ("AUTO", None, transports.DIRECT_LIVE),
        ("shm", "live", transports.DIRECT_LIVE),
        ("Shm", "snapshot", transports.DIRECT_SNAPSHOT),
    ],
)
def test_transport_names(transport, isolation, mode):
    assert transports.mode_for(transport, isolation) == mode


@pytest.mark.parametrize("name", ["tcp", "cma", "ucx", "NIXL", "gloo", "NCCL", "cuda_ipc"])
def test_each_path_of_the_engine_has_a_number_of_its_own(name):
    modes = {path: transports.mode_for(path) for path in engine_paths.MANAGERS}
    assert len(set(modes.values())) == len(modes)
    assert transports.mode_for(name, "live") == modes[name.lower()]
    with pytest.raises(ValueError, match="snapshot"):
        transports.mode_for(name, "snapshot")


@pytest.mark.parametrize("name", ["pigeon", "infiniband", ""])
def test_an_unknown_transport_says_what_can_be_used(name):
    with pytest.raises(TransportUnavailableError) as caught:
        transports.mode_for(name)
    for mentioned in ("auto", "shm", "nixl", "object_store"):
        assert mentioned in str(caught.value)
    with pytest.raises(ValueError):
        ray.method(tensor_transport=name)


def test_bad_isolation():
    with pytest.raises(ValueError, match="isolation"):
        transports.mode_for("shm", "frozen")
    with pytest.raises(ValueError, match="direct transport"):
        transports.mode_for("object_store", "live")
    with pytest.raises(TypeError):
        transports.mode_for(5)


def test_isolation_alone_asks_for_direct_transport():
    assert options.mode({"isolation": "snapshot"}) == transports.DIRECT_SNAPSHOT
    assert options.mode({}) is None


CALLS = [((), {}), ((1,), {}), ((1, 2), {}), ((1, 2, 3), {}), ((), {"a": 1}), ((1,), {"b": 2}), ((1,), {"z": 2})]


@pytest.mark.parametrize(
    "target",
    [
        lambda: None,
        lambda a: None,
        lambda a, b=1: None,
        lambda a, *rest: None,
        lambda *, a: None,
        lambda a=1, *, b=2: None,
        lambda **others: None,
        lambda a, /, b=1: None,
    ],
    ids=range(8),
)
def test_arguments_are_checked_as_python_does(target):
    parameters = signature.parameters_of(target, skip_first=False)
    least, most = signature.arity(parameters)
    check = signature.checker(parameters, "target")
    for args, kwargs in CALLS:
        try:
            target(*args, **kwargs)
            fits = True
        except TypeError:
            fits = False
        if not kwargs and least <= len(args) <= most:
            assert fits, "the fast path let a wrong call through"
        if fits:
            check(args, kwargs)
        else:
            with pytest.raises(TypeError, match="`target`"):
                check(args, kwargs)


def test_a_builtin_without_signature_is_not_checked():
    signature.checker(None, "x")((1, 2, 3), {"a": 1})
    assert signature.arity(None)[0] == 0


def test_a_handle_knows_methods_and_their_options():
    class Base:
        @ray.method(num_returns=2, tensor_transport="shm", isolation="snapshot")
        def pair(self, x):
            return x, x

    class Actor(Base):
        limit = 5

        async def work(self, a, b=1):
            pass

        @staticmethod
        def double(x):
            return 2 * x

        def __len__(self):
            return 1

    meta = actor_meta.load(actor_meta.describe(Actor, {"max_task_retries": 4}).dumps())
    assert meta.is_async and meta.max_task_retries == 4
    assert meta.methods["pair"].num_returns == 2 and meta.methods["pair"].mode == transports.DIRECT_SNAPSHOT
    assert meta.methods["work"].mode == -1
    assert signature.arity(meta.methods["work"].parameters) == (1, 2)
    assert signature.arity(meta.methods["double"].parameters) == (1, 1)
    assert {"__len__", "__ray_ready__", "__ray_call__", "__ray_terminate__"} <= set(meta.methods)
    assert "limit" not in meta.methods and "__init_subclass__" not in meta.methods


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"address": "ray://host:1"}, ValueError),
        ({"num_cpus": -1}, ValueError),
        ({"local_mode": True}, ValueError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"namespace": ""}, ValueError),
        ({"namespace": 5}, TypeError),
        ({"runtime_env": {"working_dir": "/no/such/folder"}}, ValueError),
        ({"runtime_env": {"env_vars": {"A": 1}}}, TypeError),
        ({"logging_config": "JSON"}, TypeError),
        ({"object_store_memory": "lots"}, TypeError),
        ({"no_such_argument": 1}, RuntimeError),
    ],
    ids=str,
)
def test_bad_arguments_of_init_start_nothing(arguments, error):
    with pytest.raises(error):
        ray.init(**arguments)
    assert not ray.is_initialized()


def test_a_function_that_calls_itself_survives_pickling():
    import cloudpickle

    @ray.remote
    def count(n, *, step=1):
        return n and count.remote(n - step)

    again = cloudpickle.loads(cloudpickle.dumps(count))
    assert signature.arity(again._pickled.parameters) == (1, 1)
    again_inside = again._function.__closure__[0].cell_contents
    signature.checker(again_inside._pickled.parameters, "count")((3,), {})  # step has a default there too


def test_a_class_that_refers_to_itself_survives_pickling():
    import cloudpickle

    @ray.remote
    class Node:
        def __init__(self, depth):
            self.child = Node.remote(depth - 1) if depth else None

    again = cloudpickle.loads(cloudpickle.dumps(Node))
    inside = again._cls.__init__.__closure__[0].cell_contents
    assert signature.arity(inside._constructor) == (1, 1)
