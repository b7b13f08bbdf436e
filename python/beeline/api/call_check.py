"""Puts the argument check of `signature` in front of a call: in the core where it can, else in Python."""

from __future__ import annotations

from typing import Any

from beeline import _core
from beeline.api import signature

IN_CORE = hasattr(_core.ActorCall, "set_signature")


class _CheckingActorCall(_core.ActorCall):
    def set_signature(self, least: int, most: int, check: Any) -> None:
        self._check = (least, most, check)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        least, most, check = self._check
        if kwargs or not least <= len(args) <= most:
            check(args, kwargs)
        return super().remote(*args, **kwargs)


class _CheckingFunctionCall(_core.FunctionCall):
    def set_signature(self, least: int, most: int, check: Any) -> None:
        self._check = (least, most, check)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        least, most, check = self._check
        if kwargs or not least <= len(args) <= most:
            check(args, kwargs)
        return super().remote(*args, **kwargs)


ActorCall: Any = _core.ActorCall if IN_CORE else _CheckingActorCall
FunctionCall: Any = _core.FunctionCall if IN_CORE else _CheckingFunctionCall


def install(call: Any, parameters: signature.Parameters | None, name: str) -> None:
    """From now on `call.remote` raises TypeError for arguments that do not fit `parameters`."""
    call.set_signature(*signature.arity(parameters), signature.checker(parameters, name))
