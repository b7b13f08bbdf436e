"""Devices of tensors: how callers name them and their streams, and new tensors on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from beeline import _core
from beeline.exceptions import TransportUnavailableError
from beeline.transfer.bounds import left_s
from beeline.transfer.references import dtype_name

HOST = 1
CUDA = 2
# (DLPack's device type, index); the index None stands for torch's current device.
Device = tuple[int, int | None]


def parse(device: Any) -> Device | None:
    """Of "cpu", "cuda", "cuda:1", a torch.device, or a number, which is that of a GPU; None stays None."""
    if device is None:
        return None
    kind, _, index = f"cuda:{device}".partition(":") if isinstance(device, int) else str(device).partition(":")
    if kind == "cpu":
        return HOST, 0
    if kind == "cuda" and (index.isdigit() or not index):
        return CUDA, int(index) if index else None
    raise ValueError(f'device= is "cpu", "cuda" or "cuda:1", not {device!r}; nothing was written')


def stream_handle(stream: Any) -> int | None:
    """The driver's handle of a torch.cuda.Stream, of a cupy.cuda.Stream, or of one given as a number."""
    if stream is None or isinstance(stream, int):
        return stream
    for name in ("cuda_stream", "ptr"):
        if isinstance(getattr(stream, name, None), int):
            return getattr(stream, name)
    raise TypeError(f"stream= is a torch.cuda.Stream or a handle, not {type(stream).__name__}")


def empty(shape: Sequence[int], strides: Sequence[int], dtype: str, device: str) -> Any:
    """A tensor on a GPU whose content is undefined; by torch, whose allocator is the program's own."""
    import torch

    try:
        return torch.empty_strided(tuple(shape), tuple(strides), dtype=getattr(torch, dtype), device=device)
    except torch.cuda.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        raise TransportUnavailableError(
            f'no tensor can be made on {device}: {error}. device="cpu" copies into the host\'s memory, out= into '
            "tensors of the caller's; nothing was written"
        ) from error


def new_targets(
    agent: _core.Agent,
    parts: Sequence[_core.TensorRef],
    dtypes: Sequence[tuple[int, int, int] | None] | None,
    block: tuple[int, int] | None,
    device: Any,
    until: float | None,
) -> list[Any] | None:
    """New tensors for a fetch to fill: on `device`, by default each where its owner has it. What asks for that ends at
    `until`.

    None where all are the host's: the core makes those. Memory of other devices than GPUs comes into the host's.
    """
    wanted = parse(device)
    if wanted == (HOST, 0) or (wanted is None and not _core.any_on_cuda(list(parts))):
        return None
    if block is not None:
        raise ValueError('blocks are quantised in the host\'s memory: fetch with device="cpu"; nothing was written')
    known: dict[tuple[str, int], Device] = {}
    targets = []
    for at, part in enumerate(parts):
        code, bits, lanes, shape, *_ = part.row()
        row = (dtypes[at] if dtypes is not None else None) or (code, bits, lanes)
        kind, theirs = part.device
        place = wanted or (HOST, 0)
        if wanted is None and kind == CUDA:
            if (part.owner, theirs) not in known:
                known[part.owner, theirs] = agent.device_here(part, left_s(until))
            place = known[part.owner, theirs]
        if place[0] == HOST:
            targets.append(agent.make(part, row))
        else:
            name = "cuda" if place[1] is None else f"cuda:{place[1]}"
            targets.append(empty(shape, part.new_strides(), dtype_name(row[0], row[1]), name))
    return targets


def on_current_stream(work: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The same work for another thread, where the CUDA stream that is current here is current, too."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return work
    stream = torch.cuda.current_stream()

    def run(*given: Any) -> Any:
        with torch.cuda.stream(stream):
            return work(*given)

    return run
