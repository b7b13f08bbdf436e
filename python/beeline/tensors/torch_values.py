"""torch tensors as buffers. Imported where a program that has imported torch sends or receives one.

A tensor travels as the byte range that its elements span, with its size and strides: overlapping, expanded and
non-contiguous tensors arrive as they were. Two tensors of one storage share memory on the other side too if the
range of the later one lies within that of the earlier; the same tensor twice is one tensor. Ranges up to
INLINE_BYTES travel inside the skeleton, each a copy of its own.
"""

from __future__ import annotations

import ctypes
import pickle
import threading
from typing import TYPE_CHECKING, Any

import numpy
import torch

from beeline import _core
from beeline.exceptions import TargetMismatchError, TransportUnavailableError
from beeline.tensors.transports import DIRECT_LIVE, OBJECT_STORE
from beeline.tensors.values import REFERRED, WRITABLE

if TYPE_CHECKING:
    from beeline.tensors.values import Sink

INLINE_BYTES = 1 << 10

_DTYPE_NAMES = {value: name for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_loading = threading.local()


class _Span:
    """A byte range of one storage; pickled once per value. Exports the bytes and keeps the tensor alive."""

    __slots__ = ("__array_interface__", "end", "flags", "start", "tensor")

    def __init__(self, tensor: torch.Tensor, start: int, end: int, flags: int) -> None:
        self.tensor, self.start, self.end, self.flags = tensor, start, end, flags
        self.__array_interface__ = {"data": (start, False), "shape": (end - start,), "typestr": "|u1", "version": 3}

    def reduce_into(self, sink: Sink) -> tuple[Any, ...]:
        """Writable on the other side in every mode: torch knows no read-only tensors."""
        sink.next_is = self.flags
        return _restore_span, (pickle.PickleBuffer(numpy.asarray(self)),)  # type: ignore[arg-type]


def reduce(tensor: torch.Tensor, sink: Sink) -> Any:
    """What pickle is told about a plain `torch.Tensor`; NotImplemented leaves it to torch's own pickling.

    Raises TransportUnavailableError for a tensor that is not strided CPU memory, in a direct mode.
    """
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
        if sink.mode == OBJECT_STORE:
            return NotImplemented
        raise TransportUnavailableError(_not_served(tensor))
    requires_grad = tensor.requires_grad
    attributes = tensor.__dict__ or None
    live = sink.mode == DIRECT_LIVE
    extent, start = _extent(tensor), tensor.data_ptr()
    resolved = tensor.is_conj() or tensor.is_neg()
    if live and (resolved or extent <= INLINE_BYTES):
        sink.ranges.append((start, extent))
    if resolved:
        tensor = tensor.detach().resolve_conj().resolve_neg()
        extent, start = _extent(tensor), tensor.data_ptr()
    size, strides, itemsize, count = tuple(tensor.size()), tensor.stride(), tensor.element_size(), tensor.numel()
    if extent > INLINE_BYTES and extent > 2 * count * itemsize and not live:
        tensor = tensor.detach().contiguous()  # it is copied anyhow: do not copy the gaps
        strides, extent, start = tensor.stride(), count * itemsize, tensor.data_ptr()
    described = (_DTYPE_NAMES[tensor.dtype], size, strides, requires_grad, attributes)
    if extent <= INLINE_BYTES:
        return _restore_inline, (bytearray(ctypes.string_at(start, extent)) if extent else None, *described)
    spans = sink.spans.setdefault(tensor.untyped_storage()._cdata, [])
    for span in spans:
        if span.start <= start and start + extent <= span.end and (start - span.start) % itemsize == 0:
            break
    else:
        span = _Span(tensor, start, start + extent, WRITABLE | REFERRED if live and not resolved else WRITABLE)
        spans.append(span)
        if live:
            parameter, sink.parameter = sink.parameter, None
            same = parameter is not None and parameter.data_ptr() == start
            sink.tensors.append(parameter if same else tensor)
    return _restore, (span, (start - span.start) // itemsize, *described)


def _extent(tensor: torch.Tensor) -> int:
    """The bytes from the first element to the end of the last."""
    if not tensor.numel():
        return 0
    last = sum((n - 1) * s for n, s in zip(tensor.size(), tensor.stride(), strict=True))
    return tensor.element_size() * (1 + last)


def _not_served(tensor: torch.Tensor) -> str:
    kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
    what = f"{kind} {str(tensor.dtype).removeprefix('torch.')} tensor of shape {list(tensor.shape)} on {tensor.device}"
    hint = "call .cpu() first" if tensor.device.type not in ("cpu", "meta") else "make it dense (.to_dense())"
    if tensor.device.type == "cuda":
        hint = 'use tensor_transport="cuda_ipc", call .cpu() first'
    if tensor.is_quantized:
        hint = "call .dequantize() first"
    if tensor.device.type == "meta":
        hint = "it has no data"
    return f'A {what} has no direct transport in this version: {hint}, or use tensor_transport="object_store".'


def _restore_span(buffer: Any) -> torch.Tensor:
    return torch.frombuffer(buffer, dtype=torch.uint8)


def _restore(
    span: torch.Tensor,
    offset: int,
    dtype_name: str,
    size: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    attributes: dict[str, Any] | None,
) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, dtype_name)
    tensor = torch.empty(0, dtype=dtype).set_(span.untyped_storage(), offset, size, strides)
    return _finished(tensor, requires_grad, attributes)


def _restore_inline(
    data: bytearray | None,
    dtype_name: str,
    size: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool,
    attributes: dict[str, Any] | None,
) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, dtype_name)
    if data is None:
        tensor = torch.empty_strided(size, strides, dtype=dtype)
    else:
        tensor = torch.frombuffer(data, dtype=dtype).as_strided(size, strides)
    return _finished(tensor, requires_grad, attributes)


def _finished(tensor: torch.Tensor, requires_grad: bool, attributes: dict[str, Any] | None) -> torch.Tensor:
    pairs = getattr(_loading, "pairs", None)
    if pairs is not None:
        tensor = pairs.target_for(tensor)
        if isinstance(pairs, _Pairs):
            return tensor
    if requires_grad:
        tensor.requires_grad_(True)
    if attributes:
        tensor.__dict__.update(attributes)
    return tensor


class _Pairs:
    """Matches the tensors of one value, in pickling order, with the targets."""

    def __init__(self, targets: list[torch.Tensor]) -> None:
        self.targets = targets
        self.sources: list[torch.Tensor] = []

    def target_for(self, source: torch.Tensor) -> torch.Tensor:
        index = len(self.sources)
        self.sources.append(source)
        if index >= len(self.targets):
            return source  # reported by copy(), which knows the number of all
        return self.targets[index]

    def copy(self) -> None:
        """Writes every target, or raises TargetMismatchError and writes none."""
        if len(self.sources) != len(self.targets):
            raise TargetMismatchError(
                f"The object has {len(self.sources)} tensors, set_target_for_ref was given {len(self.targets)}."
            )
        for index, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            if source.shape != target.shape or source.dtype != target.dtype:
                raise TargetMismatchError(
                    f"Tensor {index} of the object is {source.dtype} {list(source.shape)}, its target is "
                    f"{target.dtype} {list(target.shape)}."
                )
        with torch.no_grad():
            for source, target in zip(self.sources, self.targets, strict=True):
                target.copy_(source)


class _OnDevice:
    """Has the tensors of one value come to a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def target_for(self, source: torch.Tensor) -> torch.Tensor:
        return source.to(self.device)

    def copy(self) -> None:
        """They are copied as they come."""


def take_targets(tensor_meta: list[tuple[Any, Any]]) -> list[torch.Tensor] | None:
    """The targets of the value that this thread unpickles, for a transport that fills them itself; None without any.

    Where a device was asked for, they are new tensors there. Raises TargetMismatchError where they are not of the
    shapes and dtypes of `tensor_meta`.
    """
    pairs = getattr(_loading, "pairs", None)
    if pairs is None:
        return None
    if isinstance(pairs, _OnDevice):
        return [torch.empty(shape, dtype=dtype, device=pairs.device) for shape, dtype in tensor_meta]
    if len(tensor_meta) != len(pairs.targets):
        raise TargetMismatchError(
            f"The object has {len(tensor_meta)} tensors, set_target_for_ref was given {len(pairs.targets)}."
        )
    for index, ((shape, dtype), target) in enumerate(zip(tensor_meta, pairs.targets, strict=True)):
        if tuple(shape) != tuple(target.shape) or dtype != target.dtype:
            raise TargetMismatchError(
                f"Tensor {index} of the object is {dtype} {list(shape)}, its target is {target.dtype} "
                f"{list(target.shape)}."
            )
    pairs.sources = pairs.targets
    return list(pairs.targets)


def loads_into(skeleton: Any, buffers: list[Any], targets: list[torch.Tensor] | torch.device) -> Any:
    """Unpickles a value whose tensors are replaced by `targets`, which get their contents, or come to a device.

    Raises TargetMismatchError where number, shapes or dtypes differ; nothing was written then.
    """
    pairs: _Pairs | _OnDevice = _OnDevice(targets) if isinstance(targets, torch.device) else _Pairs(targets)
    _loading.pairs = pairs
    try:
        value = _core.replacing_tensors(pairs.target_for, lambda: pickle.loads(skeleton, buffers=buffers))
    finally:
        _loading.pairs = None
    pairs.copy()
    return value
