"""Serialization of values: cloudpickle, with tensors and arrays as buffers and references collected on the way.

The hooks of `_core` (dumps, dumps_call, loads_into) are here; trees of tensors, arrays and plain values do not come by:
`_core` pickles those itself. torch is looked at only where the program has imported it.
Any thread; nothing here is shared between calls but `mutation`'s record of the last dumps of this thread.
"""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import cloudpickle

from beeline import _core
from beeline.tensors import mutation, serializers, transports

# Arrays that are not contiguous and larger than this travel as a contiguous copy out of band.
STRIDED_ARRAY_BYTES = 64 << 10

# Flags of a buffer: the consumer may write it; it is the program's own memory, and in a live value counts as published.
WRITABLE = 1
REFERRED = 2

Dumped = tuple[bytes, list[Any], bytes, list[Any], list[tuple[int, int]]]

_FLAGS = {
    transports.OBJECT_STORE: 0,
    transports.DIRECT_LIVE: WRITABLE | REFERRED,
    transports.DIRECT_SNAPSHOT: WRITABLE,
}


class Sink:
    """Collects what leaves the skeleton during one dumps."""

    __slots__ = ("buffers", "flags", "mode", "next_is", "parameter", "ranges", "refs", "spans", "tensors")

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.buffers: list[Any] = []
        self.flags = bytearray()
        # (address, bytes) of tensors and arrays that a live value stands for and no buffer shows.
        self.ranges: list[tuple[int, int]] = []
        self.refs: list[Any] = []
        # Of torch_values: byte ranges already sent by storage, and the tensors that were sent without a copy.
        self.spans: dict[int, list[Any]] = {}
        self.tensors: list[Any] = []
        # The torch.nn.Parameter whose `.data` comes next: it counts the writes, its data does not.
        self.parameter: Any = None
        # Flags of the next buffer where they are not those of the mode.
        self.next_is: int | None = None

    def take(self, buffer: pickle.PickleBuffer) -> None:
        """The pickler's buffer_callback: every buffer leaves the skeleton."""
        self.buffers.append(buffer.raw())
        self.flags.append(_FLAGS[self.mode] if self.next_is is None else self.next_is)
        self.next_is = None


class ValuePickler(cloudpickle.Pickler):
    """cloudpickle that knows references, handles, tensors, strided arrays and what the program has registered."""

    dispatch_table = serializers.dispatch_table

    def __init__(self, file: io.BytesIO, sink: Sink) -> None:
        super().__init__(file, protocol=5, buffer_callback=sink.take)
        self._sink = sink

    def reducer_override(self, value: Any) -> Any:
        """Asked by pickle for every object that it has no built-in way for."""
        kind = type(value)
        if kind is _core.ObjectRef:
            self._sink.refs.append(value)
            return _core.ObjectRef, (value.binary(),)
        name = kind.__module__
        if name == "torch":
            torch = sys.modules.get("torch")
            if kind is getattr(torch, "Tensor", None):
                from beeline.tensors import torch_values

                return torch_values.reduce(value, self._sink)
        elif name == "torch.nn.parameter":
            self._sink.parameter = value
        elif name == "numpy":
            if kind is sys.modules["numpy"].ndarray:
                return _reduce_array(value, self._sink)
        elif name == "beeline.tensors.torch_values":
            return value.reduce_into(self._sink)
        elif name.startswith("jax"):
            from beeline.tensors import jax_values

            if jax_values.is_array(value):
                return jax_values.reduce(value)
        return super().reducer_override(value)


def _reduce_array(array: Any, sink: Sink) -> Any:
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous or array.dtype.hasobject:
        return NotImplemented
    if sink.mode == transports.DIRECT_LIVE:
        from numpy.lib.array_utils import byte_bounds

        low, high = byte_bounds(array)
        sink.ranges.append((low, high - low))
    if array.nbytes < STRIDED_ARRAY_BYTES:
        return NotImplemented
    sink.next_is = WRITABLE  # as numpy's own pickling of such an array gives
    return array.copy(order="C").__reduce_ex__(5)


def dumps(value: Any, mode: int) -> Dumped:
    """(skeleton, buffers, flags, refs, ranges) of a value; see `_core.set_hooks`.

    Raises what pickling the value raises (a TypeError that names what cannot be pickled), and
    TransportUnavailableError for a tensor that a direct transport does not serve.
    """
    sink = Sink(mode)
    file = io.BytesIO()
    try:
        ValuePickler(file, sink).dump(value)
    except RecursionError as error:
        raise pickle.PicklingError(f"The {type(value).__name__} is nested too deeply to be pickled.") from error
    if mode == transports.DIRECT_LIVE:
        mutation.remember(sink.tensors)
    return file.getvalue(), sink.buffers, bytes(sink.flags), sink.refs, sink.ranges


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """(skeleton, buffers, flags, refs, ranges, dependencies) of a call's arguments; see `_core.set_hooks`."""
    dependencies: list[Any] = []
    slots: list[int | str] = []
    reference = _core.ObjectRef
    positional = list(args)
    for index, value in enumerate(args):
        if type(value) is reference:
            dependencies.append(value)
            slots.append(index)
            positional[index] = None
    named = kwargs
    for name, value in kwargs.items():
        if type(value) is reference:
            dependencies.append(value)
            slots.append(name)
            named = {**named, name: None}
    return (*dumps((positional, named, tuple(slots)), transports.OBJECT_STORE), dependencies)


def loads_into(skeleton: Any, buffers: list[Any], targets: Any) -> Any:
    """The value of (skeleton, buffers), its tensors written into `targets`, see `torch_values`.

    Raises TargetMismatchError where the targets do not fit; nothing was written then.
    """
    from beeline.tensors import torch_values

    return torch_values.loads_into(skeleton, buffers, targets)
