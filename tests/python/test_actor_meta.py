"""What travels of an actor's class with its handles."""

from __future__ import annotations

import enum
import subprocess
import sys
from typing import Any

import pytest

from beeline.api import actor_meta


class Plain:
    """As most are."""

    def __init__(self, start: int = 0) -> None: ...

    def add(self, amount: int, *, times: int = 1) -> int: ...

    @staticmethod
    def of(text: str) -> Any: ...

    @classmethod
    def make(cls) -> Any: ...

    async def later(self) -> None: ...


def test_a_plain_class_arrives_as_it_was() -> None:
    meta = actor_meta.describe(Plain, {})
    assert meta == actor_meta.load(meta.dumps())
    assert b"cloudpickle" not in meta.dumps()
    assert meta.doc == "As most are."
    assert meta.is_async
    assert meta.methods["add"].parameters == (("amount", 1, False), ("times", 3, True))
    assert {"__init__", "add", "of", "make", "later", "__ray_ready__"} <= set(meta.methods)
    assert "__eq__" not in meta.methods


def in_another_process(meta: actor_meta.ActorMeta, expression: str) -> str:
    """What one that lacks the classes of this file finds in the meta: they must have come by value."""
    program = f"""
import sys
from beeline.api import actor_meta
meta = actor_meta.load(sys.stdin.buffer.read())
print({expression})
"""
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, input=meta.dumps(), capture_output=True, cwd="/", timeout=60, check=True)
    return done.stdout.decode().strip()


def test_a_group_may_be_a_member_of_an_enum() -> None:
    class Group(enum.StrEnum):
        IO = "io"

    meta = actor_meta.describe(Plain, {})._replace(concurrency_groups=(Group.IO,))
    assert in_another_process(meta, "meta.concurrency_groups == ('io',)") == "True"


def test_exceptions_to_retry_may_be_made_within_a_function() -> None:
    class Own(Exception): ...

    meta = actor_meta.describe(Plain, {})
    meta.methods["add"] = meta.methods["add"]._replace(retry_exceptions=[Own])
    assert in_another_process(meta, "meta.methods['add'].retry_exceptions[0].__name__") == "Own"


def test_a_doc_string_may_be_anything() -> None:
    class Described:
        @property
        def __doc__(self) -> str:  # type: ignore[override]
            return "of each"

    meta = actor_meta.describe(Described, {})
    assert isinstance(actor_meta.load(meta.dumps()).doc, property)


@pytest.mark.parametrize("count", [True, enum.IntEnum("Count", {"TWO": 2}).TWO])  # type: ignore[attr-defined]
def test_a_count_may_be_any_integer(count: int) -> None:
    meta = actor_meta.describe(Plain, {"max_task_retries": count})
    assert actor_meta.load(meta.dumps()).max_task_retries == count
