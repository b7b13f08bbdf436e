"""`GlooTransport`: what an agent calls. Imports neither torch nor numpy before something is moved by it."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from beeline.exceptions import TransportUnavailableError
from beeline.transfer.transport import Memory, Operation, Run, Transport, Wait

if TYPE_CHECKING:
    from beeline.transfer.gloo.engine import Engine
    from beeline.transfer.gloo.reader import Connection


@functools.cache
def is_installed() -> bool:
    """Whether there is a torch; whether it has gloo shows when it is imported."""
    return importlib.util.find_spec("torch") is not None


def describe() -> tuple[bool, str]:
    """(whether the path can be used, what was found or why not). Imports torch.distributed."""
    if not is_installed():
        return False, "torch is not installed"
    import torch
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        return False, f"torch {torch.__version__} has no gloo"
    return True, f"torch {torch.__version__}"


class GlooTransport(Transport):
    """The path "gloo".

    It keeps to one host: gloo asks nobody who connects who he is, and speaks in clear. There its sockets are bound to
    the loopback interface; a listener that only processes of the same user reach, with a secret that the agents' own
    connection brought, says whom the owner moves bytes with.
    """

    name = "gloo"
    same_host_only = True
    can_write = True
    named_only = True
    expected_gbps = 0.5

    def open(self, agent_name: str) -> Engine:
        try:
            from beeline.transfer.gloo.engine import Engine
        except ImportError as error:
            raise TransportUnavailableError(f"torch.distributed cannot be imported: {error}") from error
        return Engine()

    def close(self, engine: Engine) -> None:
        engine.close()

    def count_refusals(self, engine: Engine, count: Callable[[], None]) -> None:
        engine.count_refusal = count

    def contact(self, engine: Engine) -> bytes:
        return engine.owner().contact

    def expose(self, engine: Engine, memory: Memory, writable: bool) -> tuple[bytes, bytes]:
        return engine.owner().expose(memory.view(), writable)

    def withdraw(self, engine: Engine, exposure: bytes) -> None:
        engine.withdraw(exposure)

    def connect(self, engine: Engine, peer_name: str, contact: bytes, wait: Wait) -> Connection:
        connection = engine.connection(peer_name, contact)
        connection.open(wait)
        return connection

    def disconnect(self, engine: Engine, connection: Connection) -> None:
        connection.close()

    def quiet(self, engine: Engine, connection: Connection, wait: Wait) -> None:
        connection.quiet(wait)

    def transfer(
        self, engine: Engine, connection: Connection, operation: Operation, runs: Sequence[Run], wait: Wait
    ) -> None:
        connection.transfer(operation, runs, wait)
