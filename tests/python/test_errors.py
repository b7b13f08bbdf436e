"""Errors of user code across processes: both kinds of `except` catch them, whatever their class does."""

import pickle

import pytest

from beeline import exceptions


def arrived(error):
    """What `get` raises for an exception that a task raised."""
    try:
        raise error
    except BaseException as raised:
        payload = exceptions.dump_task_error(raised, "Actor.method")
    return exceptions.load_task_error(payload).as_instanceof_cause()


class TwoArguments(ValueError):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b

    def __reduce__(self):
        return TwoArguments, (self.a, self.b)


class DoesNotComeBack(Exception):
    def __init__(self, a, b):
        super().__init__("text")


class FrozenArguments(Exception):
    @property
    def args(self):
        return ("frozen",)


@pytest.mark.parametrize(
    "error", [ValueError("v"), KeyError("k"), TwoArguments(1, 2), OSError(2, "gone"), StopIteration()]
)
def test_both_classes_catch_it(error):
    got = arrived(error)
    assert isinstance(got, type(error)) and isinstance(got, exceptions.RayTaskError)
    assert isinstance(got, exceptions.RayError) and type(got.cause) is type(error)
    assert "beeline::Actor.method()" in str(got) and "test_errors.py" in str(got)
    again = pickle.loads(pickle.dumps(got))
    assert isinstance(again, type(error)) and str(again) == str(got)


def test_attributes_of_the_cause_are_there():
    got = arrived(TwoArguments(1, 2))
    assert (got.a, got.b) == (1, 2)
    assert arrived(OSError(2, "gone")).errno == 2


def test_an_exception_group_is_one_on_arrival():
    got = arrived(ExceptionGroup("several", [ValueError("a"), KeyError("b")]))
    assert isinstance(got, ExceptionGroup) and isinstance(got, exceptions.TaskError)
    assert len(got.exceptions) == 2


def test_arguments_that_cannot_be_set():
    got = arrived(FrozenArguments())
    assert isinstance(got, exceptions.TaskError)


def test_what_cannot_be_pickled_arrives_as_text():
    import threading

    error = ValueError("with a lock")
    error.lock = threading.Lock()
    for sent in (error, DoesNotComeBack(1, 2)):
        got = arrived(sent)
        assert isinstance(got.cause, exceptions.UnserializableException)
        assert type(sent).__name__ in str(got) and "cannot be pickled" in str(got.cause)


def test_an_exception_whose_text_raises():
    class Rude(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    assert isinstance(arrived(Rude()), exceptions.TaskError)


def test_an_error_that_passes_through_keeps_its_cause():
    inner = arrived(ValueError("first"))
    outer = arrived(inner)
    assert type(outer.cause) is ValueError and isinstance(outer, ValueError)
    assert "first" in str(outer)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("GetTimeoutError", TimeoutError),
        ("ActorDiedError", exceptions.RayActorError),
        ("ActorUnavailableError", exceptions.RayActorError),
        ("OwnerDiedError", exceptions.ObjectLostError),
        ("ObjectFetchTimedOutError", exceptions.ObjectLostError),
        ("RayDirectTransportError", exceptions.RaySystemError),
        ("TensorMutatedError", exceptions.RayDirectTransportError),
        ("TransportUnavailableError", ValueError),
        ("ActorAlreadyExistsError", ValueError),
    ],
)
def test_families(name, base):
    kind = getattr(exceptions, name)
    assert issubclass(kind, base) and issubclass(kind, exceptions.BeelineError)
    error = kind("message")
    assert type(pickle.loads(pickle.dumps(error))) is kind
