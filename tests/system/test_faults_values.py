"""Bad input: each a typed error that names the thing, at once, with the runtime usable afterwards."""

import pytest

USABLE = """
    say("usable", ray.get(ray.remote(lambda x: x + 1).remote(1)))
"""


def test_value_that_cannot_be_pickled(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    class A:
        def echo(self, x):
            return x

        def bad(self):
            return threading.Lock()

    a = A.remote()
    lock = threading.Lock()
    say("argument", tried(lambda: a.echo.remote({"deep": [lock]})))
    say("put", tried(lambda: ray.put(lock)))
    say("closure", tried(lambda: ray.remote(lambda: lock).remote()))
    say("result", tried(lambda: ray.get(a.bad.remote())))
    say("actor", ray.get(a.echo.remote(5)))
    """
        + USABLE
    )
    for event in ("argument", "put", "closure", "result"):
        kinds, message = driver.expect(event)
        assert "TypeError" in kinds, (event, kinds)
        assert "lock" in message, (event, message)
    assert driver.expect("actor") == 5
    assert driver.expect("usable") == 2


def test_requests_that_can_never_be_met(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2, num_gpus=0)

    @ray.remote
    class A:
        def f(self):
            return 1

    say("task", tried(lambda: ray.get(ray.remote(num_cpus=64)(lambda: 1).remote(), timeout=20)))
    say("actor", tried(lambda: ray.get(A.options(num_gpus=1).remote().f.remote(), timeout=20)))
    say("custom", tried(lambda: ray.get(A.options(resources={"unicorn": 1}).remote().f.remote(), timeout=20)))
    """
        + USABLE
    )
    for event, error, words in (
        ("task", "TaskUnschedulableError", ("CPU", "64", "2")),
        ("actor", "ActorUnschedulableError", ("GPU", "1")),
        ("custom", "ActorUnschedulableError", ("unicorn",)),
    ):
        kinds, message = driver.expect(event)
        assert error in kinds, (event, kinds, message)
        assert all(word in message for word in words), message
    assert driver.expect("usable") == 2


def test_unknown_transport(start_driver):
    driver = start_driver(
        """
    import numpy as np
    ray.init(num_cpus=2)

    @ray.remote
    class A:
        def f(self):
            return np.ones(3)

    a = A.remote()
    say("put", tried(lambda: ray.put(np.ones(3), _tensor_transport="warp")))
    say("options", tried(lambda: ray.get(a.f.options(tensor_transport="warp").remote(), timeout=20)))

    def declare():
        class B:
            @ray.method(tensor_transport="warp")
            def f(self):
                return 1
        return ray.get(ray.remote(B).remote().f.remote(), timeout=20)

    say("method", tried(declare))
    say("still", ray.get(a.f.remote()).tolist())
    """
        + USABLE
    )
    for event in ("put", "options", "method"):
        kinds, message = driver.expect(event)
        assert "ValueError" in kinds, (event, kinds, message)
        assert "warp" in message
        assert "shm" in message, message  # it lists what there is
    assert driver.expect("still") == [1, 1, 1]
    assert driver.expect("usable") == 2


def test_get_past_its_time_out_names_what_it_waits_for(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    class Sleeper:
        def doze(self):
            time.sleep(1)
            return "slept"

    ref = Sleeper.remote().doze.remote()
    say("early", tried(lambda: ray.get(ref, timeout=0.1)))
    say("late", ray.get(ref))
    """
        + USABLE
    )
    kinds, message = driver.expect("early")
    assert "GetTimeoutError" in kinds
    assert "doze" in message
    assert driver.expect("late") == "slept"
    assert driver.expect("usable") == 2


@pytest.mark.parametrize("where", ["driver", "actor"])
def test_exhausted_quota(start_driver, where):
    driver = start_driver(
        f"""
    import numpy as np
    ray.init(num_cpus=2, object_store_memory=256 << 20)

    class Filler:
        def fill(self):
            self.refs = []
            while len(self.refs) < 64:
                # By direct transport: what is stored would be moved to disk.
                value = np.full(16 << 20, len(self.refs), np.uint8)
                self.refs.append(ray.put(value, _tensor_transport="auto"))

        def check(self):
            return [int(ray.get(ref)[-1]) == i for i, ref in enumerate(self.refs)]

        def release(self):
            self.refs.clear()

    if "{where}" == "driver":
        filler = Filler()
        call = lambda name: getattr(filler, name)()
    else:
        filler = ray.remote(Filler).remote()
        call = lambda name: ray.get(getattr(filler, name).remote())

    say("fill", tried(lambda: call("fill")))
    say("check", call("check"))
    call("release")
    say("after", int(ray.get(ray.put(np.full(64 << 20, 7, np.uint8)))[-1]))
    """
        + USABLE
    )
    kinds, message = driver.expect("fill")
    assert {"ObjectStoreFullError", "OutOfMemoryError"} & set(kinds), (kinds, message)
    assert "256" in message or str(256 << 20) in message, message
    kept = driver.expect("check")
    assert len(kept) >= 8
    assert all(kept)
    assert driver.expect("after") == 7
    assert driver.expect("usable") == 2


def test_user_exception_carries_the_remote_traceback(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    def outer_step(x):
        def inner_step():
            return 1 / x
        return inner_step()

    say("error", tried(lambda: ray.get(outer_step.remote(0))))
    """
        + USABLE
    )
    kinds, message = driver.expect("error")
    assert {"RayTaskError", "ZeroDivisionError"} <= set(kinds)
    assert all(word in message for word in ("outer_step", "inner_step", "1 / x", "driver0.py")), message
    assert driver.expect("usable") == 2


@pytest.mark.parametrize("transport", ["object_store", "auto"])
def test_memory_beyond_the_quota_is_ordinary_until_it_is_published(start_driver, transport):
    driver = start_driver(
        f"""
    import numpy as np
    ray.init(num_cpus=2, object_store_memory=64 << 20)

    @ray.remote
    class A:
        def use(self):
            return float(np.ones(16 << 20).sum())

        def make(self, n):
            return np.ones(n)

    a = A.remote()
    make = a.make.options(tensor_transport="{transport}")
    say("used", ray.get(a.use.remote()))
    say("made", tried(lambda: ray.get(make.remote(16 << 20))))
    say("after", float(ray.get(make.remote(1 << 20)).sum()))
    """
        + USABLE
    )
    assert driver.expect("used") == 16 << 20
    kinds, message = driver.expect("made")
    assert "ObjectStoreFullError" in kinds, (kinds, message)
    assert str(64 << 20) in message
    assert driver.expect("after") == 1 << 20
    assert driver.expect("usable") == 2


def test_more_arguments_than_a_call_can_have(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    def count(*args, **kwargs):
        return len(args) + len(kwargs)

    @ray.remote
    class A:
        def count(self, *args):
            return len(args)

    a = A.remote()
    one = ray.put(1)
    say("most", ray.get([count.remote(*[one] * 65535), a.count.remote(*range(65535))]))
    say("references", tried(lambda: count.remote(*[one] * 65536)))
    say("values", tried(lambda: a.count.remote(*range(65536))))
    say("keywords", tried(lambda: count.remote(*[one] * 65535, more=one)))
    say("returns", tried(lambda: count.options(num_returns=65536)))
    say("actor", ray.get(a.count.remote(1, 2)))
    """
        + USABLE
    )
    assert driver.expect("most") == [65535, 65535]
    for event in ("references", "values", "keywords", "returns"):
        kinds, message = driver.expect(event)
        assert "ValueError" in kinds, (event, kinds)
        assert "65535" in message, message
        assert "65536" in message, message
    assert driver.expect("actor") == 2
    assert driver.expect("usable") == 2
