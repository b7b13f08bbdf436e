"""Names of living actors."""

from __future__ import annotations

from typing import Any

from beeline import _core
from beeline.api import session


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of the living named actors of the session's namespace.

    With all_namespaces=True those of all: [{"name": ..., "namespace": ...}, ...]. Starts a session if there is none.
    """
    session.ensure()
    found = _core.list_named_actors(session.current.namespace, all_namespaces)
    if all_namespaces:
        return [{"name": name, "namespace": namespace} for namespace, name in found]
    return [name for _, name in found]
