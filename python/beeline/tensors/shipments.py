"""Values that a transport that is a class moves: what the producer keeps of them, and how readers get them.

The value is pickled with a number in place of each tensor. What the transport's manager says of the tensors travels
with it, and so does its class: whoever gets the value needs no registration of its own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import queue
import sys
import threading
import uuid
import weakref
from collections.abc import Iterator
from typing import Any

import cloudpickle

from beeline.exceptions import BeelineError, DirectTransportError, TransportUnavailableError
from beeline.tensors import fetch_time, registered
from beeline.tensors.values import WRITABLE

_log = logging.getLogger("beeline")
_lock = threading.Lock()

# Shipments that have ended. A value's last reference may go at any point of any thread, also within the manager's own
# code: what it is told then is told on a thread of its own.
_ended: queue.SimpleQueue[tuple[Any, str, Any, list[Any]]] = queue.SimpleQueue()
_collector: threading.Thread | None = None


def _start_collector() -> None:
    global _collector
    with _lock:
        if _collector is None or not _collector.is_alive():  # a child of fork() has none of its parent's threads
            _collector = threading.Thread(target=_collect, name="beeline-collector", daemon=True)
            _collector.start()


def _collect() -> None:
    while True:
        manager, obj_id, metadata, tensors = _ended.get()
        try:
            manager.garbage_collect(obj_id, metadata, tensors)
        except Exception:
            _log.exception("A tensor transport could not let go of object %s", obj_id)
        del manager, metadata, tensors


def _own_handle() -> Any:
    from beeline.api import this_worker

    return this_worker.own_handle()


# Of this process, by object.
_shipments: weakref.WeakValueDictionary[str, Shipment] = weakref.WeakValueDictionary()
_getting = threading.local()


class Shipment:
    """On the producer: a value and its tensors, until nobody refers to the object any more."""

    def __init__(self, value: Any, registration: registered.Registration, tensors: list[Any]) -> None:
        _start_collector()
        self.value = value
        self.transport = registration.name
        self.obj_id = uuid.uuid4().hex
        self.tensors = tensors
        self.manager = registered.load_manager(registration.name, registration.manager_class)
        # Where readers of a two-sided one ask for it.
        self.contact = None if self.manager.is_one_sided() else self._listen(registration.name)
        # Where else the tensors may lie, a program's one-sided one knows alone.
        self.stays_here = registration.name in registered.BUILTIN or self.contact is not None
        self.metadata = self.manager.extract_tensor_transport_metadata(self.obj_id, tensors)
        _shipments[self.obj_id] = self

    @staticmethod
    def _listen(name: str) -> Any:
        from beeline.tensors import two_sided

        if _own_handle() is None:
            raise TransportUnavailableError(
                f"put is not supported for the two-sided tensor transport '{name}' in a driver. Use a one-sided one, "
                "or return the value from a method of an actor."
            )
        return two_sided.contact(_shipments.get)

    def __del__(self) -> None:
        if hasattr(self, "metadata"):  # else nothing was registered
            _ended.put((self.manager, self.obj_id, self.metadata, self.tensors))


class _NumberingPickler(cloudpickle.Pickler):
    """Puts a number in place of each tensor; the rest as any value is pickled."""

    def __init__(self, file: io.BytesIO, registration: registered.Registration, buffers: list[Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=lambda buffer: buffers.append(buffer))
        self._registration = registration
        self._numbers: dict[int, int] = {}
        self.tensors: list[Any] = []
        self.refs: list[Any] = []

    def persistent_id(self, value: Any) -> int | None:
        """Asked by pickle for every object; None: as usual."""
        if not self._registration.is_tensor(value):
            return None
        device = getattr(getattr(value, "device", None), "type", None)
        if device is not None and device not in self._registration.devices:
            shape = list(getattr(value, "shape", ()))
            raise TransportUnavailableError(
                f"The tensor transport '{self._registration.name}' serves tensors on "
                f"{', '.join(self._registration.devices)}; one of shape {shape} is on {device}."
            )
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self._numbers[id(value)]

    def reducer_override(self, value: Any) -> Any:
        """References are collected on the way, as in every value."""
        from beeline import _core

        if type(value) is _core.ObjectRef:
            self.refs.append(value)
            return _core.ObjectRef, (value.binary(),)
        return super().reducer_override(value)


def dumps(value: Any, mode: int) -> tuple[Any, ...]:
    """(skeleton, buffers, flags, refs, ranges, shipment) of a value in the mode of a registered transport.

    Without a tensor in it the value is like any other: shipment is None.
    """
    registration = registered.of_mode(mode)
    if registration is None:
        raise TransportUnavailableError(
            f"No process of this session has registered the tensor transport of number {mode}: call "
            "register_tensor_transport in one that is in it. This process has "
            f"{', '.join(registered.names()) or 'none'}."
        )
    file = io.BytesIO()
    buffers: list[Any] = []
    pickler = _NumberingPickler(file, registration, buffers)
    pickler.dump(value)
    tensors = pickler.tensors
    shipment = Shipment(value, registration, tensors) if tensors else None
    out_of_band: list[Any] = []
    # Managers of a program's own may say what only cloudpickle takes.
    pickle_all = pickle.dumps if registration.name in registered.BUILTIN else cloudpickle.dumps
    skeleton = pickle_all(
        _Received(
            registration.name,
            registration.manager_class,
            shipment and shipment.obj_id,
            shipment and shipment.metadata,
            shipment and _own_handle(),
            shipment and shipment.contact,
            file.getvalue(),
            buffers,
        ),
        protocol=5,
        buffer_callback=lambda buffer: out_of_band.append(buffer.raw()),
    )
    ranges = [_range_of(tensor) for tensor in tensors]
    return skeleton, out_of_band, bytes([WRITABLE]) * len(out_of_band), pickler.refs, ranges, shipment


def _range_of(tensor: Any) -> tuple[int, int]:
    """The memory that counts as published; of what does not say where its memory is, a byte of the object."""
    if not hasattr(tensor, "data_ptr") or not tensor.numel():
        return id(tensor), 1
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.element_size() * (1 + last)


class _Received:
    """What travels; unpickles to the value."""

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, self._fields


class _NumberUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, buffers: list[Any], tensors: list[Any]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._tensors = tensors

    def persistent_load(self, number: Any) -> Any:
        return self._tensors[number]


def _receive(
    name: str,
    manager_class: bytes,
    obj_id: str | None,
    metadata: Any,
    src: Any,
    contact: Any,
    inner: bytes,
    buffers: list[Any],
) -> Any:
    tensors: list[Any] = []
    if obj_id is not None:
        targets = _targets(metadata.tensor_meta)
        if getattr(_getting, "by_object_store", False):
            tensors = _by_object_store(name, src, obj_id)
        elif contact is not None:
            from beeline.tensors import two_sided

            manager = registered.load_manager(name, manager_class)
            fetch = two_sided.Fetch(name, manager, obj_id, metadata, src, _own_handle(), contact)
            tensors = fetch.run(fetch_time.left())
        else:
            tensors = _by_transport(name, manager_class, obj_id, metadata, src, targets)
        if targets is not None:
            for target, tensor in zip(targets, tensors, strict=True):
                if target is not tensor:
                    target.copy_(tensor)
            tensors = targets
    return _NumberUnpickler(inner, buffers, tensors).load()


def _by_transport(
    name: str, manager_class: bytes, obj_id: str, metadata: Any, src: Any, targets: list[Any] | None
) -> list[Any]:
    time = fetch_time.left()
    count = len(metadata.tensor_meta)
    given = None if targets is None else list(targets)  # some managers put other tensors into the list that they get
    try:
        manager = registered.load_manager(name, manager_class)
        communicator = manager.get_communicator_metadata(src, _own_handle(), name.upper())
        if hasattr(manager, "fetch_multiple_tensors"):
            request = manager.fetch_multiple_tensors(obj_id, metadata, communicator, given)
            try:
                tensors = manager.wait_fetch_complete(request, time.seconds)
            except TimeoutError as error:
                if manager.can_abort_transport():
                    manager.abort_transport(obj_id, communicator)
                raise time.error(f"{count} tensors by the tensor transport '{name}' ({error})") from error
        else:
            tensors = manager.recv_multiple_tensors(obj_id, metadata, communicator, given)
        if len(tensors) != count:
            raise ValueError(f"it gave {len(tensors)} tensors")
    except BeelineError:
        raise
    except Exception as error:
        raise DirectTransportError(
            f"The tensor transport '{name}' could not receive an object of {count} tensors: "
            f"{type(error).__name__}: {error}"
        ) from error
    return list(tensors)


@contextlib.contextmanager
def by_object_store() -> Iterator[None]:
    """Values that this thread gets meanwhile come through the object store, whatever transport they were made for."""
    _getting.by_object_store = True
    try:
        yield
    finally:
        _getting.by_object_store = False


def _by_object_store(name: str, src: Any, obj_id: str) -> list[Any]:
    """The producer stores the tensors, as results of its methods are."""
    from beeline.api import objects

    if src is None:
        raise TransportUnavailableError(
            f"_use_object_store=True is not supported for objects that a driver has put by the tensor transport "
            f"'{name}': a driver serves no calls. Leave it out."
        )
    time = fetch_time.left()
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, _getting, "by_object_store", True)
        _getting.by_object_store = False  # what the producer stores comes as it comes
        try:
            tensors: list[Any] = objects.get(src.__ray_call__.remote(_stored_tensors, obj_id), timeout=time.seconds)
        except TimeoutError as error:
            raise time.error(f"its producer did not store it ({error})") from error
    return tensors


def _stored_tensors(instance: Any, obj_id: str) -> list[Any]:
    """In the producer."""
    shipment = _shipments.get(obj_id)
    if shipment is None:
        raise DirectTransportError(
            f"The object {obj_id} is not there any more: nobody refers to it, or it was restarted"
        )
    return list(shipment.tensors)


def _targets(tensor_meta: list[tuple[Any, Any]]) -> list[Any] | None:
    """What the caller of `get` wants filled, in order; None without. Raises TargetMismatchError if they do not fit."""
    torch_values = sys.modules.get("beeline.tensors.torch_values")
    return None if torch_values is None else torch_values.take_targets(tensor_meta)
