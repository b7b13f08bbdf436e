"""Metrics that a program keeps of itself: Counter, Gauge, Histogram, as `ray.util.metrics` has them.

Values are in a file of the session from the first record on: `beeline metrics` serves them to Prometheus while the
program runs, and `beeline.util.metrics_files` reads them. What was recorded before `init()` is there from then on.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from beeline import _core
from beeline.exceptions import BeelineError

_log = logging.getLogger("beeline")
_VALID_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")

# Series that could not be made, by the name of their metric: how many records were dropped. Warned of once per name.
dropped: dict[str, int] = {}


class Metric:
    """What the three have in common. Metrics of one name and the same tags have the same values, within a process."""

    _kind: ClassVar[int] = -1

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        if not name:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        self._name = name
        self._description = description
        self._default_tags: dict[str, str] = {}
        self._tag_keys = tag_keys or ()
        self._series: dict[tuple[tuple[str, str], ...], int] = {}
        self._is_valid = _VALID_NAME.fullmatch(name) is not None
        if not self._is_valid:
            warnings.warn(
                f"Invalid metric name: {name}. It will be discarded: Prometheus takes letters, digits, _ and :, "
                "and no digit at the beginning.",
                UserWarning,
                stacklevel=3,
            )
        if not isinstance(self._tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(self._tag_keys)}")
        for key in self._tag_keys:
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
        if ":" in name:
            warnings.warn(
                f"Metric name {name} contains a : character, which Prometheus keeps for rules; Ray will not allow it.",
                FutureWarning,
                stacklevel=3,
            )

    def set_default_tags(self, default_tags: dict[str, str]) -> Metric:
        """Tags of every record that does not say otherwise. Returns the metric itself.

        Raises ValueError for a key that is not in `tag_keys`, TypeError for a value that is no string.
        """
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}. Those of {self._name} are {self._tag_keys}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        self._default_tags = default_tags
        return self

    @property
    def info(self) -> dict[str, Any]:
        """name, description, tag_keys, default_tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def _bounds(self) -> Sequence[float]:
        return ()

    def _series_for(self, tags: Mapping[str, str] | None) -> int | None:
        """The series that a record with these tags goes to; None where it is dropped.

        Raises ValueError where a tag has no value, TypeError for a value that is no string.
        """
        if not self._is_valid:
            return None
        for value in (tags or {}).values():
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")
        given = {**self._default_tags, **(tags or {})}
        missing = [key for key in self._tag_keys if key not in given]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        key = tuple(sorted(given.items()))
        found = self._series.get(key)
        if found is None:
            try:
                found = _core.metric_series(self._kind, self._name, self._description, self._bounds(), key)
            except (BeelineError, MemoryError) as error:
                dropped[self._name] = dropped.get(self._name, 0) + 1
                if dropped[self._name] == 1:
                    _log.warning("What the metric %s records is dropped in part: %s", self._name, error)
                return None
            self._series[key] = found
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """By what it was made with; default tags do not travel, as on Ray."""
        return type(self), (self._name, self._description, self._tag_keys)


def _check_number(value: Any) -> None:
    if not isinstance(value, int | float):
        raise TypeError(f"value must be int or float, got {type(value)}.")


class Counter(Metric):
    """A number that only grows. Prometheus shows it as `ray_<name>_total`.

    Args:
        name: Letters, digits and underscores.
        description: For people.
        tag_keys: The names of the tags that each record has.
    """

    _kind = 0

    def inc(self, value: int | float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Adds `value`, which must be above 0; `tags` come on top of the default ones.

        Raises TypeError for what is no number, ValueError for a number that is not above 0 or a tag without a value.
        """
        _check_number(value)
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        series = self._series_for(tags)
        if series is not None:
            _core.metric_add(series, value)


class Gauge(Metric):
    """A number as it was set last. Prometheus shows it as `ray_<name>`. Arguments as Counter's."""

    _kind = 1

    def set(self, value: int | float | None, tags: dict[str, str] | None = None) -> None:
        """Sets the value; None leaves it as it is.

        Raises TypeError for what is no number, ValueError for a tag without a value.
        """
        if value is None:
            return
        _check_number(value)
        series = self._series_for(tags)
        if series is not None:
            _core.metric_set(series, value)


class Histogram(Metric):
    """How values are distributed: how many were at most each of `boundaries`, and their sum.

    Prometheus shows it as `ray_<name>_bucket`, `_sum` and `_count`.

    Args:
        name: Letters, digits and underscores.
        description: For people.
        boundaries: Numbers above 0, ascending.
        tag_keys: The names of the tags that each record has.
    """

    _kind = 2

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: list[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(name, description, tag_keys)
        if not boundaries:
            raise ValueError(
                "boundaries argument should be provided when using the Histogram class. e.g., "
                'Histogram("name", boundaries=[1.0, 2.0])'
            )
        for at, boundary in enumerate(boundaries):
            if boundary <= 0:
                raise ValueError(
                    f"Invalid `boundaries` argument at index {at}, {boundaries}. Use positive values for the arguments."
                )
        self.boundaries = boundaries

    def observe(self, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Counts the value. Raises TypeError for what is no number, ValueError for a tag without a value."""
        _check_number(value)
        series = self._series_for(tags)
        if series is not None:
            _core.metric_observe(series, value)

    @property
    def info(self) -> dict[str, Any]:
        """As of any metric, and boundaries."""
        return {**super().info, "boundaries": self.boundaries}

    def _bounds(self) -> Sequence[float]:
        return sorted(float(boundary) for boundary in self.boundaries)

    def __reduce__(self) -> tuple[Any, ...]:
        """By what it was made with."""
        return Histogram, (self._name, self._description, self.boundaries, self._tag_keys)


__all__ = ["Counter", "Gauge", "Histogram"]
