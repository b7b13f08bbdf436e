"""Tensor transports that the program has registered, for processes of the session that are older than they are.

An actor brings what its maker had registered. What is registered later, or by somebody else, it finds in the session's
folder, when it is first to produce a value by it; so does one that is restarted.
"""

from __future__ import annotations

import logging
import pickle
from typing import Any

import cloudpickle

from beeline import _core

_log = logging.getLogger("beeline")


def put(number: int, registration: Any) -> None:
    """Announces a transport by its number to the session, if there is one. The first of a name stays, with a warning.

    Raises OutOfDiskError where there is no room for it.
    """
    if not _core.is_running():
        return
    from beeline.api import session_folder

    data = cloudpickle.dumps(registration)
    there = _read(number)
    if there is None:
        with session_folder.writing(f"the tensor transport {registration.name}"):
            session_folder.put_file(_path(number), data)
    elif there != data:
        _log.warning(
            "The tensor transport %s was announced to this session before, otherwise: actors that have not got it from "
            "their maker take the first one.",
            registration.name,
        )


def find(number: int) -> Any:
    """What was announced, None if nothing."""
    data = _read(number) if _core.is_running() else None
    return None if data is None else pickle.loads(data)


def _path(number: int) -> str:
    from beeline.api import session_folder

    return session_folder.place("transports", str(number))


def _read(number: int) -> bytes | None:
    try:
        with open(_path(number), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
