"""LoggingConfig, by Ray's name: how a program and its workers log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from beeline import _core

_ENCODINGS = ("TEXT", "JSON")
_TEXT_FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
# What a record has by itself; all else in it is context: the program's (`extra=`), or that of the task.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass
class LoggingConfig:
    """How the root logger and the logger "beeline" of a driver and of its workers write to stderr.

    encoding: "TEXT", or "JSON" for one object a line. Both say which job, node, worker, actor and task a line is from.
    log_level: the least level that is written.
    additional_log_standard_attrs: attributes of logging.LogRecord to write besides, such as "name".

    Raises ValueError for an encoding or an attribute that there is not.
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in _ENCODINGS:
            raise ValueError(f"Invalid encoding type: {self.encoding}. Valid ones are {list(_ENCODINGS)}.")
        for name in self.additional_log_standard_attrs:
            if name not in _STANDARD:
                raise ValueError(
                    f"Unknown python logging standard attribute: {name}. The valid ones are {sorted(_STANDARD)}."
                )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoggingConfig:
        """What to_dict() gave; other keys are left out."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def apply(self) -> None:
        """Configures the loggers of this process; what an earlier call has set is replaced."""
        handler = _Handler()
        handler.setLevel(self.log_level)
        handler.setFormatter((_Json if self.encoding == "JSON" else _Text)(self.additional_log_standard_attrs))
        handler.addFilter(_add_context)
        root, own = logging.getLogger(), logging.getLogger("beeline")
        root.handlers[:] = [*(other for other in root.handlers if not isinstance(other, _Handler)), handler]
        root.setLevel(self.log_level)
        own.handlers[:] = [handler]
        own.setLevel(self.log_level)
        own.propagate = False

    _apply = apply


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Ours among those that the program has added."""


def _add_context(record: logging.LogRecord) -> bool:
    """Notes in the record where it is from; never holds it back."""
    for name, value in _context().items():
        if value:
            setattr(record, name, value)
    return True


def _context() -> dict[str, Any]:
    from beeline.api import runtime_context, session

    if not _core.is_running() or not session.current.info:
        return {}
    here = runtime_context.RuntimeContext()
    context: dict[str, Any] = {
        "job_id": here.get_job_id(),
        "worker_id": here.get_worker_id(),
        "node_id": here.get_node_id(),
    }
    if session.current.is_worker:
        context |= {
            "actor_id": here.get_actor_id(),
            "task_id": here.get_task_id(),
            "task_name": here.get_task_name(),
            "task_func_name": here.get_task_function_name(),
            "actor_name": here.get_actor_name(),
        }
    return context


class _Formatter(logging.Formatter):
    def __init__(self, additional: list[str]) -> None:
        super().__init__(_TEXT_FORMAT)
        self._additional = additional

    def _more(self, record: logging.LogRecord) -> dict[str, Any]:
        """What is written besides what every line has."""
        more = {name: getattr(record, name, None) for name in self._additional}
        more |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        return {**more, "timestamp_ns": int(record.created * 1e9)}


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The message as usual, then name=value for the rest."""
        more = " ".join(f"{name}={value}" for name, value in self._more(record).items())
        return f"{super().format(record)} {more}"


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One JSON object; what JSON does not have is written as text."""
        written = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
        }
        if record.exc_info:
            written["exc_text"] = record.exc_text or self.formatException(record.exc_info)
        import json

        return json.dumps({**written, **self._more(record)}, default=str)
