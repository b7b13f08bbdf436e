"""Arguments are checked where the call is made, as in Ray: a wrong call raises TypeError at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

# One parameter: (name, kind, has a default). Plain data, so that it travels with a handle.
Parameters = tuple[tuple[str, int, bool], ...]

# What a class without a constructor takes, by its signature. inspect needs 5 ms to find out, the first time.
_ANYTHING: Parameters = (("args", 2, False), ("kwargs", 4, False))


def parameters_of(function: Callable[..., Any], skip_first: bool) -> Parameters | None:
    """The parameters of `function`, without `self` if `skip_first`; None where it has no signature (some builtins)."""
    if function is object.__init__:
        return _ANYTHING
    if type(function) is FunctionType and not function.__dict__:
        found = _of_code(function)
        return found[1:] if skip_first and found and found[0][1] in (0, 1) else found
    try:
        described = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return None
    if skip_first and described and described[0].kind in (0, 1):
        described = described[1:]
    return tuple((p.name, int(p.kind), p.default is not inspect.Parameter.empty) for p in described)


def _of_code(function: FunctionType) -> Parameters:
    """What inspect says of a function that nothing was written on (`__wrapped__`, `__signature__`), in a tenth of the
    time: every method of an actor's class is asked.
    """
    code = function.__code__
    positional, total = code.co_argcount, code.co_argcount + code.co_kwonlyargcount
    names, first_default = code.co_varnames, positional - len(function.__defaults__ or ())
    found = [(names[i], int(i >= code.co_posonlyargcount), i >= first_default) for i in range(positional)]
    behind = total
    if code.co_flags & inspect.CO_VARARGS:
        found.append((names[behind], 2, False))
        behind += 1
    found += [(name, 3, name in (function.__kwdefaults__ or ())) for name in names[positional:total]]
    if code.co_flags & inspect.CO_VARKEYWORDS:
        found.append((names[behind], 4, False))
    return tuple(found)


def arity(parameters: Parameters | None) -> tuple[int, int]:
    """The least and the most positional arguments of a call without keywords that surely fits."""
    if parameters is None:
        return 0, 1 << 30
    least = most = 0
    for _, kind, has_default in parameters:
        if kind in (0, 1):  # positional only, positional or keyword
            most += 1
            least += not has_default
        elif kind == 2:  # *args
            most = 1 << 30
        elif kind == 3 and not has_default:  # a required keyword: no such call fits
            return 1, 0
    return least, most


def checker(parameters: Parameters | None, function_name: str) -> Callable[[tuple[Any, ...], dict[str, Any]], None]:
    """A function (args, kwargs) -> None that raises TypeError where the arguments do not fit."""
    if parameters is None:
        return lambda args, kwargs: None
    signature: inspect.Signature | None = None

    def check(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal signature
        if signature is None:
            signature = _signature(parameters)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"{error}. The function `{function_name}` has a signature `{signature}`, but was given "
                f"{len(args)} positional arguments and the keywords {list(kwargs)}."
            ) from None

    return check


def _signature(parameters: Parameters) -> inspect.Signature:
    kinds = list(inspect._ParameterKind)
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, kinds[kind], default=_DEFAULT if has_default else empty)
            for name, kind, has_default in parameters
        ]
    )


class _Default:
    """Stands for a default value, which stays with the function."""

    def __repr__(self) -> str:
        """As in documentation."""
        return "..."


_DEFAULT = _Default()
