"""`inspect_serializability`, `register_serializer` and others beyond what Ray's have."""

import functools
import io
import pickle
import threading

import cloudpickle
import pytest

import beeline as ray
from beeline.util import debug

LOCK = threading.Lock()


class Slotted:
    __slots__ = ("lock",)

    def __init__(self):
        self.lock = LOCK


class Broken:
    def __init__(self):
        self.lock = LOCK

    def __repr__(self):
        raise RuntimeError("no text")


class Cyclic:
    def __init__(self):
        self.me, self.lock = self, LOCK


def found(value, depth=5):
    is_serializable, failures = ray.util.inspect_serializability(value, "value", depth, io.StringIO())
    assert not is_serializable
    (failure,) = failures
    assert repr(failure)
    return failure


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1, {"a": (2, LOCK)}], ["value", "[1]", "['a']", "[1]"]),
        (Slotted(), ["value", "lock"]),
        (Broken(), ["value", "lock"]),
        (Cyclic(), ["value", "lock"]),
        (functools.partial(abs, LOCK), ["value", "args", "[0]"]),
        (lambda x=LOCK: x, ["value", "default 0"]),
    ],
)
def test_the_innermost_part_is_found(value, path):
    failure = found(value)
    assert failure.obj is LOCK
    assert list(failure.path) == path


def test_not_further_than_depth():
    assert list(found([[[LOCK]]], depth=2).path) == ["value", "[0]", "[0]"]
    assert list(found([[[LOCK]]], depth=0).path) == ["value"]


def test_what_is_inspected_is_said(capsys):
    ray.util.inspect_serializability(LOCK)
    assert "cannot be serialized" in capsys.readouterr().out


class Point:
    def __init__(self, x):
        self.x, self.lock = x, LOCK


class Derived(Point):
    pass


@pytest.fixture
def registered():
    ray.util.register_serializer(Point, serializer=lambda p: p.x, deserializer=lambda x: Point(x + 1))
    yield
    ray.util.deregister_serializer(Point)


def test_registered_for_the_class_alone(registered):
    assert ray.get(ray.put(Point(1))).x == 2
    with pytest.raises(TypeError):
        ray.put(Derived(1))


def test_other_pickles_are_left_alone(registered):
    for dumps in (pickle.dumps, cloudpickle.dumps):
        with pytest.raises(TypeError):
            dumps(Point(1))


def test_registered_for_what_is_thrown_and_returned(registered):
    point = Point(1)

    @ray.remote
    def get_back(boxed):
        return boxed[0].x, point.x

    assert ray.get(get_back.remote([point])) == (2, 2)
    is_serializable, failures = ray.util.inspect_serializability([point], print_file=io.StringIO())
    assert [is_serializable, failures] == [True, set()]


def test_bad_registrations():
    with pytest.raises(TypeError, match="class"):
        ray.util.register_serializer(5, serializer=int, deserializer=int)
    with pytest.raises(TypeError, match="callable"):
        ray.util.register_serializer(Point, serializer=None, deserializer=int)


def test_log_once_can_be_periodic_and_off(monkeypatch):
    monkeypatch.setattr(debug, "_logged", debug._Logged())
    now = [100.0]
    monkeypatch.setattr(debug.time, "monotonic", lambda: now[0])
    assert [debug.log_once("a"), debug.log_once("a")] == [True, False]
    now[0] += 61
    assert not debug.log_once("a")
    debug.enable_periodic_logging()
    assert [debug.log_once("a"), debug.log_once("a")] == [True, False]
    debug.disable_log_once_globally()
    assert not debug.log_once("b")


def test_all_names_are_there():
    for name in ray.util.__all__:
        assert getattr(ray.util, name) is not None
