"""`inspect_serializability`: which part of a value keeps it from being pickled."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from beeline.tensors import transports, values


class FailureTuple:
    """A part that cannot be pickled.

    `obj` is the part itself, `path` the names that lead to it, `parent` what refers to it (None: it is the value).
    """

    def __init__(self, obj: Any, path: tuple[str, ...], parent: Any) -> None:
        self.obj = obj
        self.path = path
        self.parent = parent

    def __repr__(self) -> str:
        """As Ray's."""
        name = self.path[-1] if self.path else "unknown"
        path = " -> ".join(self.path)
        return f"FailTuple({name} [path={path}, obj={_shown(self.obj)}, parent={_shown(self.parent)}])"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[FailureTuple]]:
    """Whether `base_obj` can be pickled, and if not, the innermost part found that is why.

    Args:
        base_obj: A value, function or class.
        name: What to call it.
        depth: How many steps to go from it: from a function to what it refers to, from an object to its attributes,
            from a container to its items.
        print_file: Where to say what is looked at; None: standard output.

    Returns (True, an empty set) or (False, what was found). Raises nothing.
    """
    search = _Search(print_file)
    search.say(f"Checking whether {_shown(base_obj)} can be serialized")
    path = () if name is None else (name,)
    is_serializable = search.visit(base_obj, path, depth, None)
    for found in search.found:
        search.say(
            f"{' -> '.join(found.path) or 'It'} cannot be serialized: {_shown(found.obj)}. Create it where it is used, "
            "or leave it out of what the function or object refers to (`__getstate__`, register_serializer()). There "
            "may be more."
        )
    return is_serializable, search.found


class _Search:
    def __init__(self, print_file: TextIO | None) -> None:
        self.found: set[FailureTuple] = set()
        self._file = print_file
        self._level = 0
        self._seen: set[int] = set()

    def say(self, text: str) -> None:
        print("    " * self._level + text, file=self._file)

    def visit(self, value: Any, path: tuple[str, ...], depth: int, parent: Any) -> bool:
        """Whether `value` can be pickled; what is in the way is in `found`."""
        try:
            values.dumps(value, transports.OBJECT_STORE)
            return True
        except Exception as error:
            self.say(f"!!! {' -> '.join(path) or 'It'} ({type(value).__name__}): {error}")
        self._seen.add(id(value))
        self._level += 1
        if depth <= 0 or all(
            id(part) in self._seen or self.visit(part, (*path, name), depth - 1, value) for name, part in _parts(value)
        ):
            if not self.found:
                self.found.add(FailureTuple(value, path, parent))
        self._level -= 1
        return False


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickling `value` may have to pickle, with names."""
    if inspect.isfunction(value):
        try:
            closure = inspect.getclosurevars(value)
        except ValueError:  # a variable of the closure has no value yet
            return
        yield from closure.globals.items()
        yield from closure.nonlocals.items()
        yield from (value.__kwdefaults__ or {}).items()
        yield from ((f"default {i}", part) for i, part in enumerate(value.__defaults__ or ()))
    elif isinstance(value, types.MethodType):
        yield from (("__func__", value.__func__), ("__self__", value.__self__))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, Mapping):
        yield from ((f"key {_shown(key)}", key) for key in value)
        yield from ((f"[{_shown(key)}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    elif inspect.isclass(value):
        members = ((n, m) for n, m in vars(value).items() if not (n.startswith("__") and n.endswith("__")))
        yield from ((n, getattr(m, "__func__", m)) for n, m in members)
        if "__init__" in vars(value):
            yield "__init__", vars(value)["__init__"]
    else:
        yield from getattr(value, "__dict__", {}).items()
        for name in getattr(type(value), "__slots__", ()):
            if hasattr(value, name):
                yield name, getattr(value, name)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose __repr__ raises {type(error).__name__}>"
    return text if len(text) <= 200 else f"{text[:200]}..."
