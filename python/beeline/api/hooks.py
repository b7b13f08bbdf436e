"""What the core calls in every process: values to bytes and back, errors to exceptions. See `_core.set_hooks`."""

from __future__ import annotations

from typing import Any

from beeline import _core
from beeline.api import this_worker
from beeline.api.errors import make_error
from beeline.exceptions import dump_task_error
from beeline.tensors.mutation import published, remember
from beeline.tensors.values import dumps, dumps_call, loads_into


class Hooks:
    """The functions by the names that the core knows them by."""

    dumps = staticmethod(dumps)
    dumps_call = staticmethod(dumps_call)
    loads_into = staticmethod(loads_into)
    make_error = staticmethod(make_error)
    published = staticmethod(published)
    remember = staticmethod(remember)

    @staticmethod
    def dumps_registered(value: Any, mode: int) -> tuple[Any, ...]:
        """See `shipments.dumps`, which few programs need."""
        from beeline.tensors import shipments

        return shipments.dumps(value, mode)

    @staticmethod
    def dumps_error(error: BaseException, function_name: str) -> bytes:
        """What user code raised, as bytes, with the actor it was raised in."""
        info = _core.actor_info()
        actor_id = f"{info['actor_id']:032x}" if info else ""
        return dump_task_error(error, function_name, actor_id, this_worker.actor_repr())


def install() -> None:
    """Gives the core its hooks; once, at import."""
    _core.set_hooks(Hooks)
