"""What the filters of list_* mean: (column, "=" or "!=", value), all must hold. Texts are compared without case."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from beeline.util.state.common import StateSchema
from beeline.util.state.exception import RayStateApiException

Filters = Sequence[tuple[str, str, Any]]

_TRUE, _FALSE = ("true", "1"), ("false", "0")


def check(filters: Filters | None) -> list[tuple[str, str, Any]]:
    """The filters as a list. Raises ValueError for what is none."""
    checked = []
    for each in filters or ():
        if len(each) != 3:
            raise ValueError(
                f"The given filter has incorrect input type, {each}. Provide (key, predicate, value) tuples."
            )
        column, predicate, value = each
        if predicate not in ("=", "!="):
            raise ValueError(f"Unsupported filter predicate {predicate} is given. Available predicates: =, !=.")
        checked.append((column, predicate, value))
    return checked


def contradict(filters: Sequence[tuple[str, str, Any]]) -> bool:
    """Whether a column shall have two values, which is warned of."""
    wanted: dict[str, Any] = {}
    for column, predicate, value in filters:
        if predicate == "=" and wanted.setdefault(column, value) != value:
            warnings.warn(
                f"There are multiple '=' filters with the same key '{column}' but different values "
                f"'{wanted[column]}' & '{value}'. Empty result set will be returned",
                UserWarning,
                stacklevel=4,
            )
            return True
    return False


def matcher(filters: Sequence[tuple[str, str, Any]], schema: type[StateSchema]) -> Callable[[Mapping[str, Any]], bool]:
    """Tells of a row whether all filters hold; none does that names a column which the row lacks.

    Raises RayStateApiException for a column that cannot be filtered by and a value that it never has; what is returned
    does for a value that is no number or truth value where the row has one.
    """
    columns = schema.filterable_columns()
    wanted = [(column.lower(), predicate, value) for column, predicate, value in filters]
    for column, _, value in wanted:
        if column not in columns:
            raise RayStateApiException(
                f"The given filter column {column} is not supported. Supported filter columns: {sorted(columns)}"
            )
        if problem := schema.check_filter(column, value):
            raise RayStateApiException(f"Invalid filter {column} {value}: {problem}.")

    def matches(row: Mapping[str, Any]) -> bool:
        return all(
            column in row and _is_equal(column, row[column], value) == (predicate == "=")
            for column, predicate, value in wanted
        )

    return matches


def _is_equal(column: str, have: Any, want: Any) -> bool:
    if not isinstance(want, str) or have is None:
        return bool(have == want)
    text = want.lower()
    if isinstance(have, bool):
        if text not in (*_TRUE, *_FALSE):
            raise RayStateApiException(f"Invalid filter {column} {want}: a boolean column is True or False.")
        return have == (text in _TRUE)
    if isinstance(have, int | float):
        try:
            return bool(have == float(text))
        except ValueError as error:
            raise RayStateApiException(f"Invalid filter {column} {want}: the column is a number.") from error
    return str(have).lower() == text
