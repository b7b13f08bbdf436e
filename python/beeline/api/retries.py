"""Which exceptions of a task are worth another attempt: decided where they are raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from beeline.exceptions import TaskError


class RetriedFunction:
    """A function with the exceptions for which its task is tried again; travels in place of the function."""

    def __init__(self, function: Callable[..., Any], retry_exceptions: Sequence[type[BaseException]]) -> None:
        self.function = function
        self.retry_exceptions = tuple(retry_exceptions)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        return self.function(*args, **kwargs)


def is_retryable(error: BaseException, function: Any) -> bool:
    """Whether a task with `retry_exceptions` that raised `error` is tried again; without a list, every Exception is."""
    kinds = function.retry_exceptions if isinstance(function, RetriedFunction) else (Exception,)
    return isinstance(error.cause if isinstance(error, TaskError) else error, kinds)
