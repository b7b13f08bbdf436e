"""What callers know of a function's parameters, held against inspect."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from beeline.api import signature

# Whose functions have parameters of all kinds.
MODULES = ("argparse", "asyncio.base_events", "dataclasses", "inspect", "numpy", "pickle", "typing", "unittest.mock")


def functions_of(module: Any) -> Iterator[Callable[..., Any]]:
    for value in vars(module).values():
        members = vars(value).values() if isinstance(value, type) else (value,)
        yield from (member for member in members if inspect.isfunction(member))


def by_inspect(function: Callable[..., Any], skip_first: bool) -> signature.Parameters | None:
    try:
        found = list(inspect.signature(function).parameters.values())
    except ValueError:
        return None
    if skip_first and found and found[0].kind in (0, 1):
        found = found[1:]
    return tuple((p.name, int(p.kind), p.default is not inspect.Parameter.empty) for p in found)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("skip_first", [False, True])
def test_parameters_are_those_that_inspect_finds(name: str, skip_first: bool) -> None:
    __import__(name)
    functions = [
        function
        for function in functions_of(sys.modules[name])
        # A default that is the mark of having none: a default all the same.
        if inspect.Parameter.empty not in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    ]
    assert len(functions) > 10
    for function in functions:
        assert signature.parameters_of(function, skip_first) == by_inspect(function, skip_first), function


def test_a_wrapped_function_has_the_parameters_of_what_it_wraps() -> None:
    def inner(a: int, *, b: int = 1) -> None: ...

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> None: ...

    assert signature.parameters_of(outer, skip_first=False) == (("a", 1, False), ("b", 3, True))


def test_a_function_may_say_its_signature_itself() -> None:
    def anything(*args: Any) -> None: ...

    anything.__signature__ = inspect.Signature([inspect.Parameter("only", inspect.Parameter.KEYWORD_ONLY)])  # type: ignore[attr-defined]
    assert signature.parameters_of(anything, skip_first=False) == (("only", 3, False),)
