"""The other side of the `transfer` benchmarks: a process that holds memory which the measured one reads.

`python owners.py KIND`: says hello in a line of JSON, then answers each line of stdin, until stdin ends. All memory is
filled with ones. `Owner` is how the measured side starts one.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

TOKEN = "bench"
STREAMS = 2


class Owner:
    """A process of a kind, for as long as the context."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.hello = self.hear()

    def hear(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the owner has ended: {self._process.wait()}")
        return json.loads(line)

    def tell(self, request: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def ask(self, request: Any) -> Any:
        self.tell(request)
        return self.hear()

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


# What is printed here is the answers' alone: libraries that print to stdout are sent to stderr.
_answers = sys.stdout


def say(value: Any) -> None:
    print(json.dumps(value), file=_answers, flush=True)


def serve(answer: Callable[[Any], Any], hello: Any = None) -> None:
    say(hello)
    for line in sys.stdin:
        say(answer(json.loads(line)))


def beeline(*, tls: bool = False) -> None:
    """Tensors in the agent's arena, where `publish` or the preload library would have them."""
    from beeline.transfer import Agent

    agent = Agent("owner", tcp="127.0.0.1:0", token=TOKEN, tls=tls)
    kept: dict[str, Any] = {}

    def register(asked: list[int] | dict[str, Any]) -> str:
        """Of so many bytes each; or one of a shape and dtype, which may be transposed."""
        kept.clear()
        if isinstance(asked, dict):
            tensor = agent.empty(asked["shape"], asked["dtype"])
            tensors = [tensor.t() if asked.get("transposed") else tensor]
        else:
            tensors = [agent.empty((size,), "uint8") for size in asked]
        for tensor in tensors:
            tensor.fill_(1)
        kept["refs"] = agent.register(tensors)
        return kept["refs"].to_json()

    serve(register)


def subscriber() -> None:
    """Maps each version of what it is told to subscribe to, and says when it had it (CLOCK_MONOTONIC)."""
    import time

    from beeline.transfer import Agent

    agent = Agent("subscriber")
    kept: dict[str, Any] = {}

    def follow(request: dict[str, Any]) -> float:
        if "address" in request:
            kept["subscription"] = agent.subscribe(request["address"], "weights")
            return 0.0
        _, kept["tensors"] = kept["subscription"].map(newer_than=request["after"])
        return time.monotonic()

    serve(follow)


def nixl() -> None:
    """One buffer, registered with UCX."""
    import numpy as np
    from nixl_cu12._api import nixl_agent, nixl_agent_config

    agent = nixl_agent("owner", nixl_agent_config(backends=["UCX"]))
    kept: dict[str, Any] = {}

    def register(sizes: list[int]) -> dict[str, Any]:
        if kept:
            agent.deregister_memory(kept["descriptors"])
        kept["memory"] = memory = np.ones(sizes[0], np.uint8)
        kept["descriptors"] = agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
        return {"address": memory.ctypes.data, "metadata": agent.get_agent_metadata().hex()}

    serve(register)


def mooncake() -> None:
    """One buffer, registered with the engine's TCP transport."""
    import numpy as np
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    if (code := engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "")) != 0:
        raise RuntimeError(f"Mooncake's initialize gives {code}")
    kept: dict[str, Any] = {}

    def register(size: int) -> dict[str, Any]:
        kept["memory"] = memory = np.ones(size, np.uint8)
        if (code := engine.register_memory(memory.ctypes.data, size)) != 0:
            raise RuntimeError(f"Mooncake's register_memory gives {code}")
        return {"session": f"127.0.0.1:{engine.get_rpc_port()}", "address": memory.ctypes.data}

    serve(register)


def gloo() -> None:
    """Rank 1 of two: sends a message of a size as often as it is told to."""
    import torch
    import torch.distributed

    def answer(request: dict[str, Any]) -> None:
        if "rendezvous" in request:
            torch.distributed.init_process_group("gloo", init_method=request["rendezvous"], rank=1, world_size=2)
            return
        message = torch.ones(request["size"], dtype=torch.uint8)
        for _ in range(request["times"]):
            torch.distributed.send(message, 0)

    serve(answer)


def put_shared(queue: Any, orders: Any) -> None:
    """In a process of torch.multiprocessing: puts a tensor that is in shared memory into the queue, once for each
    order of so many bytes, until one of none, and says when it began to (CLOCK_MONOTONIC).
    """
    import time

    import torch

    tensor = torch.empty(0)
    while size := orders.recv():
        if tensor.numel() != size:
            tensor = torch.ones(size, dtype=torch.uint8).share_memory_()
        begun = time.monotonic()
        queue.put(tensor)
        orders.send(begun)


def loopback() -> None:
    """Sends as many bytes as were asked for over each connection, a thread for each."""
    import socket
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def send(connection: socket.socket) -> None:
        memory = memoryview(bytearray(b"\x01") * (256 << 20))
        while asked := connection.recv(8):
            connection.sendall(memory[: int.from_bytes(asked, "little")])

    def accept() -> None:
        while True:
            threading.Thread(target=send, args=[listener.accept()[0]], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    serve(lambda _: None, {"port": listener.getsockname()[1]})


KINDS = {
    "beeline": beeline,
    "beeline tls": functools.partial(beeline, tls=True),
    "subscriber": subscriber,
    "nixl": nixl,
    "mooncake": mooncake,
    "gloo": gloo,
    "loopback": loopback,
}

if __name__ == "__main__":
    _answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    KINDS[sys.argv[1]]()
