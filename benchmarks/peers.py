"""The engines that `transfer` compares with, used as their own documents do: the side that reads.

Each reader takes what the probe `read` takes, and gives seconds for each read of each size; the other side is in
owners.py. An engine that is not installed or does not run here raises, and its error stands in the row.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import owners
from benchmarks.engines import Context
from benchmarks.registry import Samples
from benchmarks.timing import per_call

KIB, MIB, GIB = 2**10, 2**20, 2**30
SIZES = {"1 KiB": KIB, "1 MiB": MIB, "256 MiB": 256 * MIB}
# How many reads make one sample, and how many are made before the first one.
CALLS = {"1 KiB": 2000, "1 MiB": 50, "256 MiB": 1}
WARM = 3


def check(target: Any) -> None:
    if int(target[0]) != 1 or int(target[-1]) != 1:
        raise AssertionError("wrong bytes arrived")


def blocks(ctx: Context) -> int:
    """How many samples there are of each size."""
    return ctx.reps(15, 5)


@contextlib.contextmanager
def nixl_batch(owner: owners.Owner, name: str, size: int, count: int = 1) -> Iterator[Callable[[], None]]:
    """A prepared READ, polled for, of pieces that lie side by side, into memory where they lie apart.

    Args:
        owner: Of kind "nixl".
        name: Of the agent; each has one of its own.
        size: Bytes of a piece.
        count: How many pieces.
    """
    import numpy as np
    from nixl_cu12._api import nixl_agent, nixl_agent_config

    agent = nixl_agent(name, nixl_agent_config(backends=["UCX"]))
    answer = owner.ask([size * count])
    remote = agent.add_remote_agent(bytes.fromhex(answer["metadata"]))
    distance = size if count == 1 else 2 * size
    target = np.zeros(distance * count, np.uint8)
    registered = agent.register_memory([(target.ctypes.data, target.nbytes, 0, "")], "DRAM")
    pieces = list(range(count))
    to = [(target.ctypes.data + distance * at, size, 0) for at in pieces]
    here = agent.prep_xfer_dlist("NIXL_INIT_AGENT", to, "DRAM")
    there = agent.prep_xfer_dlist(remote, [(answer["address"] + size * at, size, 0) for at in pieces], "DRAM")
    handle = agent.make_prepped_xfer("READ", here, pieces, there, pieces)

    def once() -> None:
        state = agent.transfer(handle)
        while state != "DONE":
            if state == "ERR":
                raise RuntimeError("NIXL says ERR")
            state = agent.check_xfer_state(handle)

    once()
    check(target[: distance * (count - 1) + size])
    yield once
    handle.release()
    agent.deregister_memory(registered)


def nixl(ctx: Context) -> Samples:
    """A prepared READ of one descriptor."""
    samples: Samples = {}
    with owners.Owner("nixl") as owner:
        for name, size in SIZES.items():
            with nixl_batch(owner, f"reader {size}", size) as once:
                samples[name] = per_call(once, CALLS[name], blocks(ctx), WARM)
    return samples


def nixl_registration(pieces: list[tuple[int, int]]) -> Callable[[], None]:
    """Of pieces (address, bytes), in one call."""
    from nixl_cu12._api import nixl_agent, nixl_agent_config

    agent = nixl_agent("owner", nixl_agent_config(backends=["UCX"]))
    described = [(address, size, 0, "") for address, size in pieces]
    return lambda: agent.deregister_memory(agent.register_memory(described, "DRAM"))


def mooncake_registration(pieces: list[tuple[int, int]]) -> Callable[[], None]:
    """Likewise."""
    engine = mooncake_engine()
    addresses, sizes = [address for address, _ in pieces], [size for _, size in pieces]

    def once() -> None:
        need(engine.batch_register_memory(addresses, sizes), "batch_register_memory")
        need(engine.batch_unregister_memory(addresses), "batch_unregister_memory")

    return once


def need(code: int, what: str) -> None:
    if code != 0:
        raise RuntimeError(f"Mooncake's {what} gives {code}")


def mooncake_engine() -> Any:
    """An engine that moves by TCP, without a metadata server."""
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    need(engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", ""), "initialize")
    return engine


def mooncake(ctx: Context) -> Samples:
    """`transfer_sync_read`."""
    import numpy as np

    engine = mooncake_engine()
    samples: Samples = {}
    with owners.Owner("mooncake") as owner:
        # One buffer for all sizes.
        source = owner.ask(max(SIZES.values()))
        for name, size in SIZES.items():
            target = np.zeros(size, np.uint8)
            address = target.ctypes.data
            need(engine.register_memory(address, size), "register_memory")

            def once(address=address, size=size) -> None:
                need(engine.transfer_sync_read(source["session"], address, source["address"], size), "read")

            once()
            check(target)
            samples[name] = per_call(once, CALLS[name], blocks(ctx), WARM)
            need(engine.unregister_memory(address), "unregister_memory")
    return samples


def monarch(ctx: Context) -> Samples:
    """`RDMABuffer.read_into`, from an actor of one process to an actor of another."""
    from monarch.actor import this_host

    from benchmarks import monarch_actors

    samples: Samples = {}
    processes = [this_host().spawn_procs(per_host={"processes": 1}) for _ in range(2)]
    owner = processes[0].spawn("owner", monarch_actors.Owner)
    reader = processes[1].spawn("reader", monarch_actors.Reader)
    for name, size in SIZES.items():
        buffer = owner.register.call_one(size).get()
        # A read takes a millisecond.
        calls = min(CALLS[name], 100)
        samples[name] = reader.read.call_one(buffer, size, calls, blocks(ctx), WARM).get()
    for each in processes:
        each.stop().get()
    return samples


def gloo(ctx: Context) -> Samples:
    """`torch.distributed.recv` of what is sent without being asked for: the owner knows how often."""
    import torch
    import torch.distributed

    samples: Samples = {}
    with owners.Owner("gloo") as owner, tempfile.TemporaryDirectory(prefix="beeline-bench-") as folder:
        rendezvous = f"file://{folder}/rendezvous"
        owner.tell({"rendezvous": rendezvous})
        torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=2)
        owner.hear()
        for name, size in SIZES.items():
            target = torch.zeros(size, dtype=torch.uint8)
            owner.tell({"size": size, "times": 1 + WARM + blocks(ctx) * CALLS[name]})
            torch.distributed.recv(target, 1)
            check(target)
            samples[name] = per_call(
                lambda target=target: torch.distributed.recv(target, 1), CALLS[name], blocks(ctx), WARM
            )
            owner.hear()
        torch.distributed.destroy_process_group()
    return samples


def torch_queue(ctx: Context) -> Samples:
    """From `put` to `get` by a queue of torch.multiprocessing, and the copy into existing memory."""
    import torch

    def use_of(size: int) -> Callable[[Any], Any]:
        return torch.zeros(size, dtype=torch.uint8).copy_

    return from_torch_queue(SIZES, 4 * blocks(ctx), use_of)


def from_torch_queue(sizes: dict[str, int], times: int, use_of: Callable[[int], Callable[[Any], Any]]) -> Samples:
    """Seconds from when a tensor that is in shared memory already is put into the queue until it was taken out, used
    and dropped: whoever wants it again needs it put again.

    Args:
        sizes: Bytes of the tensors, by name.
        times: How many are taken of each size.
        use_of: Gives what to call with each tensor of a size.
    """
    import torch.multiprocessing

    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    orders, theirs = context.Pipe()
    process = context.Process(target=owners.put_shared, args=(queue, theirs), daemon=True)
    process.start()
    theirs.close()
    queue._writer.close()  # so that the end of the other process shows here
    samples: Samples = {}
    for name, size in sizes.items():
        use = use_of(size)
        taken = []
        for _ in range(WARM + times):
            orders.send(size)
            use(queue.get())
            ended = time.monotonic()
            taken.append(ended - orders.recv())
        samples[name] = taken[WARM:]
        orders.send(size)
        check(queue.get())
        orders.recv()
    orders.send(0)
    process.join()
    return samples


READERS: dict[str, Callable[[Context], Samples]] = {
    "nixl": nixl,
    "mooncake": mooncake,
    "monarch": monarch,
    "gloo": gloo,
    "torch_queue": torch_queue,
}
# What gives a call that registers pieces of memory and lets go of them.
REGISTRATIONS: dict[str, Callable[[list[tuple[int, int]]], Callable[[], None]]] = {
    "nixl": nixl_registration,
    "mooncake": mooncake_registration,
}
