"""Labels of nodes, and rules about them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

NODE_ID = "ray.io/node-id"
# (key, values, negated): the label is one of the values, or there at all where there are none; negated: not so.
Rule = tuple[str, list[str], bool]

_NAME = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
# Compiled at their first use, which re remembers: most programs have none.
_KEY = rf"(?P<prefix>[a-zA-Z0-9.-]{{1,253}}/)?{_NAME}"
_VALUE = rf"(?P<negated>!)?({_NAME}|(in)?\((?P<listed>{_NAME}(, ?{_NAME})*)\))"


def checked(labels: Mapping[str, str] | None) -> dict[str, str]:
    """A copy of a node's labels. Raises ValueError for what is none."""
    for key, value in (labels or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"labels must map strings to strings, got {key!r}: {value!r}")
        if key.startswith("ray.io/"):
            raise ValueError(f"labels: {key!r} is not for programs to set; the prefix 'ray.io/' is Ray's own")
    return dict(labels or {})


def selector_error(selector: Mapping[str, Any]) -> str | None:
    """What is wrong with a label selector, if anything. Raises TypeError where a value is not a string, as Ray."""
    for key, value in selector.items():
        if not isinstance(value, str):
            raise TypeError(f"label_selector: expected a string for {key!r}, got {type(value).__name__!r}")
        if not isinstance(key, str) or not re.fullmatch(_KEY, key):
            return (
                f"Invalid label key name `{key}`: at most 63 letters, digits, '-', '_' and '.', which begin and end "
                "with a letter or digit, after a prefix and '/' if there is one"
            )
        if value and not re.fullmatch(_VALUE, value):
            return (
                f"Invalid label selector value `{value}`: a value, 'in(value, ...)', or either after '!'. Values have "
                "at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit"
            )
    return None


def rules_of(selector: Mapping[str, str] | None) -> list[Rule]:
    """The rules that a valid selector stands for: {"zone": "a"}, {"zone": "!a"}, {"zone": "in(a, b)"}."""
    rules: list[Rule] = []
    for key, value in (selector or {}).items():
        found = re.fullmatch(_VALUE, value)
        listed = found["listed"] if found else None
        plain = value.removeprefix("!")
        values = [part.strip() for part in listed.split(",")] if listed else [plain]
        rules.append((key, values, value.startswith("!")))
    return rules
