"""Agents: the two ends of every transfer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from beeline import _core
from beeline.exceptions import StaleReferenceError
from beeline.transfer.faults import Fault
from beeline.transfer.nixl import Reach
from beeline.transfer.nixl import options as nixl_options
from beeline.transfer.references import TensorRef, TensorRefs, dtype_row

DEFAULT_TIMEOUT_S = 60.0
MAX_ASYNC = 4


class Agent:
    """Registers tensors of this process for others to reach, and reaches theirs.

    Args:
        name: For people; need not be unique.
        tcp: "host:port" to listen on for agents of other hosts; port 0 takes a free one. Needs `token`, and
            `advertise` where the host is a wildcard.
        token: Asked of whoever connects by TCP, and shown to agents that this one connects to by TCP.
        advertise: The host by which others reach this one; by default the one it listens on.
        share_memory: Whether agents of this user on this host may map and read registered memory directly.
        folder: Where agents on this host find its socket, and `beeline top` its counters; by default
            `<BEELINE_TMPDIR or /tmp>/beeline-<uid>/agents`. Where no counters can be kept, it warns and does without.
        plugins: Shared libraries with transports of your own (`beeline/transport_plugin.h`, docs/transports.md), beside
            those that `BEELINE_TRANSPORT_PLUGINS` lists.
        nixl: How far the path "nixl" may reach: "host" keeps it to this host; "rdma" adds the network but TCP, "any"
            adds that. Whoever gets at the network that is allowed can read and write this process's memory, token or
            not: see docs/transports.md.
        faults: What its paths are to do wrong, for tests of programs that must bear it.

    An agent lives until `close()`, or until nobody refers to it; then its peers' transfers fail with
    `PeerLostError`. Thread-safe. In a child of `fork()` it is of no use: open another one there.
    """

    def __init__(
        self,
        name: str,
        *,
        tcp: str | None = None,
        token: str = "",
        advertise: str = "",
        share_memory: bool = True,
        folder: str = "",
        plugins: Sequence[str | os.PathLike[str]] = (),
        nixl: Reach = "host",
        faults: Sequence[Fault] = (),
    ) -> None:
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._agent = _core.Agent(
            name,
            folder=folder,
            share_memory=share_memory,
            tcp=tcp,
            advertise=advertise,
            token=token,
            plugins=[os.fspath(library) for library in plugins],
            nixl=nixl_options(nixl),
            faults=[fault._row() for fault in faults],
        )
        _, uncounted = self._agent.counters()
        if uncounted:
            warnings.warn(f"agent {name!r} keeps no counters that others can read: {uncounted}", stacklevel=2)

    @property
    def address(self) -> str:
        """Where others find it: a URL that may travel anywhere. No secret is in it."""
        return self._agent.address

    def close(self) -> None:
        """Ends it, and is repeatable: peers get `PeerLostError`, what they have mapped stays.

        Waits for transfers that were started and not cancelled.
        """
        if self._threads is not None:
            self._threads.shutdown()
        self._agent.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def register(self, tensors: Any, *, checksum: bool = False) -> Any:
        """Lets other agents reach tensors where they are: nothing is copied.

        Args:
            tensors: A CPU torch tensor or numpy array of any shape, dtype and strides; or a list or dict of them.
            checksum: Takes one of each tensor now, for those who `fetch` with `verify`: of tensors that do not change.

        Returns:
            A `TensorRef` for one, `TensorRefs` for several. They see what is written to the tensors later.

        Raises:
            TypeError: Something is neither a tensor nor an array of numbers.
            ValueError: A tensor is on another device, or its memory does not hold its values (a lazy conjugate).
        """
        names, values = _named(tensors)
        refs = self._agent.add(values, names, checksum)
        return TensorRefs(refs) if isinstance(tensors, (Mapping, list, tuple)) else TensorRef(refs.at(0))

    @contextlib.contextmanager
    def writing(self, refs: TensorRef | TensorRefs) -> Iterator[None]:
        """Around writes to registered tensors of this process, in place.

        Whoever fetches one of them meanwhile gets `TornReadError`, whatever the path, instead of a mixture of old and
        new; a fetch begins anew when the writes have ended. References that were registered together count as one.
        Mapped tensors show the writes as they come. Raises ValueError for references of another process.

            with agent.writing(refs):
                optimizer.step()
        """
        own = refs._refs if isinstance(refs, TensorRefs) else refs._ref.alone()
        own.begin_write()
        try:
            yield
        finally:
            own.end_write()

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """A torch tensor whose memory agents on this host can map and read directly once it is registered.

        Tensors of 1 MiB and more are so anyhow in a process that runs with the preload library. `dtype` is torch's, or
        its name. The content is undefined. Raises ObjectStoreFullError when the arena's quota is used up.
        """
        return self._agent.empty((*dtype_row(dtype), list(shape)))

    def grant(self, refs: TensorRef | TensorRefs, to: str) -> None:
        """Lets the agent of that address write to registered tensors with `push`."""
        self._agent.grant(refs._refs if isinstance(refs, TensorRefs) else refs._ref.alone(), to)

    def publish(
        self, name: str, tensors: Any, *, version: int | None = None, keep: int = 2, checksum: bool = False
    ) -> int:
        """Copies tensors as they are now, and makes the copy the newest version of `name` for its subscribers.

        The caller may write to the tensors as soon as this returns, and never waits for readers: each version has
        memory of its own, reused once nobody reads it any more.

        Args:
            name: What subscribers ask for.
            tensors: As for `register`; a single one arrives as a list of one.
            version: A number larger than those before; by default the next one, from 1.
            keep: How many of the newest versions stay readable. Older ones stay for those who have mapped them.
            checksum: Takes one of each tensor, for those who `fetch` with `verify`.

        Returns:
            The version's number.

        Raises:
            ValueError: The number is not larger.
            ObjectStoreFullError: The arena's quota is used up; the version before stays the newest.
        """
        if (version is not None and version < 1) or keep < 1:
            raise ValueError(f"version and keep are at least 1, not {version} and {keep}")
        names, values = _named(tensors)
        return self._agent.publish(name, values, names, version or 0, keep, checksum)

    def withdraw(self, name: str) -> None:
        """No version of `name` can be fetched any more; what is mapped stays with those who have it."""
        self._agent.withdraw(name)

    def subscribe(self, address: str, name: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Subscription:
        """What the agent at `address` publishes as `name`, now or later. Raises as `connect`."""
        return Subscription(self, name, self._agent.subscribe(address, name, timeout_s))

    def connect(self, address: str, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> None:
        """Connects ahead of use.

        Raises:
            PeerLostError: Nobody is there.
            StaleReferenceError: Another agent has taken its place.
            ValueError: The address is none, or the token was refused.
            TransferTimeoutError: It did not answer in time.
        """
        self._agent.connect(address, timeout_s)

    def fetch(
        self,
        refs: Any,
        out: Any = None,
        *,
        dtype: Any = None,
        block: tuple[int, int] | None = None,
        path: str = "",
        min_gbps: float = 0.0,
        verify: bool = False,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Copies tensors of another agent, and converts them on the way where `dtype` says so.

        Args:
            refs: A `TensorRef`, a sequence or dict of them, or `TensorRefs`; all of one agent.
            out: Tensors or arrays to fill, in the same structure, of the same shapes and any strides, of the dtypes
                that the references have or that `dtype` gives; by default new torch tensors.
            dtype: What elements become, bit for bit as `Tensor.to(dtype)` makes them: a torch dtype or its name, for
                all references; or a list of such, or a dict by name, where None and names that are left out stay as
                they are. float32 to bfloat16, float16, float8_e4m3fn, float8_e5m2 and float64; bfloat16 and float16
                to each other, to float32 and to float8; float64 to float32. None: nothing is converted, and `out`
                of another dtype is refused.
            block: (rows, columns), (128, 128) or (1, 128) for most kernels: what becomes float8_e4m3fn is quantised in
                blocks of its last two dimensions, and comes as a pair (values, scales) where there would be a tensor,
                in `out`, too. From float32, bfloat16 or float16, at most 2^20 elements a block; values have the
                reference's shape, scales are float32 of shape (..., ceil(R / rows), ceil(C / columns)), and
                `values.float() * scale` gives the numbers back. scale = amax(abs(block)) / 448 and
                value = (block.float() / scale).to(float8_e4m3fn), as DeepSeek-V3's `act_quant`; a block whose scale
                would be 0 gets 1. Blocks at the lower and right edge may be smaller.
            path: Insists on one path ("shm", "cma", "nixl", "tcp"); by default the best is taken, see `explain`.
            min_gbps: Refuses paths that are slower, in 10^9 bytes per second, before a byte moves.
            verify: Compares what arrived with the checksums that the owner took (`register`, `publish`); of whole
                tensors, and not with `dtype`.
            timeout_s: Seconds; None waits for ever.

        Returns:
            `out`, or the new tensors: one, a list, or a dict by name.

        Raises:
            TransportUnavailableError: No path meets the requirements; the message lists each with its reason.
            StaleReferenceError: The registration was undone.
            TornReadError: The owner wrote to them meanwhile (`writing`), or a checksum differs.
            PeerLostError: The other agent is gone.
            DirectTransportError: The path that is required failed.
            ObjectStoreFullError: No memory is left for new tensors.
            TransferTimeoutError: It took too long.
            ValueError: `out` does not fit, references of several agents, nothing to verify with, or a dtype that is not
                converted to `dtype` (the message lists what is). Nothing was written.

        After any other failure the content of `out` is undefined, and nothing writes to it any more.
        """
        keys, parts = _flatten(refs)
        targets = None if out is None else _matching(keys, out)
        dtypes, block = _conversions(keys, len(parts), dtype, block)
        fetched = self._agent.fetch(parts, targets, dtypes, block, path, min_gbps, verify, timeout_s, None)
        return _structure(keys, fetched, out)

    def fetch_async(
        self,
        refs: Any,
        out: Any = None,
        *,
        dtype: Any = None,
        block: tuple[int, int] | None = None,
        path: str = "",
        min_gbps: float = 0.0,
        verify: bool = False,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> Transfer:
        """As `fetch`, on a thread of the agent: returns at once. At most four run at a time, others wait."""
        keys, parts = _flatten(refs)
        targets = None if out is None else _matching(keys, out)
        dtypes, block = _conversions(keys, len(parts), dtype, block)
        return self._start(
            lambda cancellation: _structure(
                keys,
                self._agent.fetch(parts, targets, dtypes, block, path, min_gbps, verify, timeout_s, cancellation),
                out,
            )
        )

    def push_async(
        self,
        refs: Any,
        tensors: Any,
        *,
        path: str = "",
        min_gbps: float = 0.0,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> Transfer:
        """As `push`, on a thread of the agent: returns at once."""
        keys, parts = _flatten(refs)
        sources = _matching(keys, tensors)
        return self._start(
            lambda cancellation: self._agent.push(parts, sources, path, min_gbps, timeout_s, cancellation)
        )

    def _start(self, work: Callable[[_core.Cancellation], Any]) -> Transfer:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(MAX_ASYNC, thread_name_prefix="beeline-transfer")
        cancellation = _core.Cancellation.make()
        return Transfer(self._threads.submit(work, cancellation), cancellation)

    def prepare(
        self,
        refs: Any,
        out: Any,
        *,
        dtype: Any = None,
        block: tuple[int, int] | None = None,
        path: str = "",
        min_gbps: float = 0.0,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> Batch:
        """A fetch that is made again and again: all but the moving of bytes is done here. As `fetch` otherwise.

        While the batch lives, registered memory in the owner's arena is not reused, and `out` is kept.
        """
        keys, parts = _flatten(refs)
        dtypes, block = _conversions(keys, len(parts), dtype, block)
        return Batch(self._agent.prepare(parts, _matching(keys, out), dtypes, block, path, min_gbps, timeout_s))

    def push(
        self,
        refs: Any,
        tensors: Any,
        *,
        path: str = "",
        min_gbps: float = 0.0,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Fills tensors of another agent, which it must have granted to this one; as `fetch` otherwise.

        By TCP, what was on its way when a push failed may still arrive: at most some requests of 4 MiB, each whole.
        """
        keys, parts = _flatten(refs)
        self._agent.push(parts, _matching(keys, tensors), path, min_gbps, timeout_s, None)

    def map(self, refs: Any, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Any:
        """torch tensors over the memory of an agent on this host: no copy, whatever the size.

        What the owner writes later shows, in pages that this process has not written to; what this process writes
        stays its own. The memory stays the owner's, and is not reused, until the tensors are dropped.

        Raises:
            TransportUnavailableError: The agent is on another host, or the memory is not in its arena.
            StaleReferenceError, PeerLostError: As for `fetch`.
        """
        keys, parts = _flatten(refs)
        return _structure(keys, self._agent.map(parts, timeout_s), None)

    def explain(
        self,
        ref: TensorRef,
        *,
        path: str = "",
        min_gbps: float = 0.0,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Which path a fetch of `ref` would take, and why: `candidates` (path, usable, reason, gbps, measured),
        `chosen`, and `failovers` to this peer so far.
        """
        return self._agent.explain(_core_ref(ref), path, min_gbps, timeout_s)

    def paths_to(
        self, address: str, nbytes: int, *, in_arena: bool = True, timeout_s: float | None = DEFAULT_TIMEOUT_S
    ) -> dict[str, Any]:
        """Which path a fetch of `nbytes` from the agent at `address` would take, and why; as `explain`, but nothing
        need be registered. Each path that would do is connected, so that what does not work shows.

        Args:
            address: As others know it.
            nbytes: Of one transfer.
            in_arena: Whether the memory lies in the other's arena, as of all that it publishes.
            timeout_s: Seconds; None waits for ever.

        Raises as `connect`.
        """
        return self._agent.paths_to(address, nbytes, in_arena, timeout_s)

    @property
    def counters_path(self) -> str:
        """The file of its counters, see `beeline.transfer.counters`; empty where there is none."""
        return self._agent.counters()[0]

    def stats(self) -> dict[str, int]:
        """Counters: peers, visitors (agents that connected to this one), refused, registrations, ..."""
        return self._agent.stats()


class Transfer:
    """A transfer that was started, see `Agent.fetch_async`. Awaitable."""

    def __init__(self, future: Future[Any], cancellation: _core.Cancellation) -> None:
        self._future = future
        self._cancellation = cancellation

    def result(self, timeout_s: float | None = None) -> Any:
        """What the call would have returned, or raises what it would have raised. TimeoutError after `timeout_s`."""
        return self._future.result(timeout_s)

    def done(self) -> bool:
        """Whether it has ended, in whatever way: nothing of it is written later."""
        return self._future.done()

    def cancel(self) -> None:
        """Ends it soon: `result` then raises TransferCancelledError, unless it had ended before.

        Returns at once; once `done`, nothing of it is written later.
        """
        self._cancellation.cancel()

    def add_done_callback(self, function: Callable[[Transfer], Any]) -> None:
        """Calls `function(self)` once it has ended, on a thread of the agent."""
        self._future.add_done_callback(lambda _: function(self))

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        future = asyncio.wrap_future(self._future)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.cancel()
            await asyncio.wait([future])  # then nothing is written any more
            if not future.cancelled():
                future.exception()  # taken, or asyncio complains that nobody did
            raise


class Batch:
    """A prepared fetch, see `Agent.prepare`. One thread at a time."""

    def __init__(self, batch: _core.Batch) -> None:
        self._batch = batch

    @property
    def nbytes(self) -> int:
        """Bytes that one run reads of the owner's memory."""
        return self._batch.nbytes

    def run(self, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> None:
        """Fills the targets; raises as `Agent.fetch`."""
        self._batch.run(timeout_s)


class Subscription:
    """Versions that another agent publishes under a name. Ends with its last reference. Thread-safe.

    Each reader takes the newest version; those that came and went meanwhile are passed over. A version is read whole
    or not at all: one that is replaced while it is fetched is given up for its successor.
    """

    def __init__(self, agent: Agent, name: str, subscription: _core.Subscription) -> None:
        self._agent = agent
        self._subscription = subscription
        self.name = name

    def latest(self) -> tuple[int, TensorRefs] | None:
        """The newest version and its references, or None where there is none yet. Does not wait."""
        number, refs = self._subscription.latest()
        return None if refs is None else (number, TensorRefs(refs))

    def wait(self, newer_than: int = 0, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> tuple[int, TensorRefs]:
        """The newest version after `newer_than`, as `latest`.

        Raises:
            TransferTimeoutError: There was none in time.
            PeerLostError: The publisher is gone.
        """
        number, refs = self._subscription.newer_than(newer_than, timeout_s)
        assert refs is not None
        return number, TensorRefs(refs)

    def fetch(
        self,
        out: Any = None,
        *,
        newer_than: int = 0,
        dtype: Any = None,
        block: tuple[int, int] | None = None,
        verify: bool = False,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> tuple[int, Any]:
        """Waits for a version after `newer_than` and copies it, as `Agent.fetch`; returns its number, too."""
        return self._read(
            lambda refs, left: self._agent.fetch(refs, out, dtype=dtype, block=block, verify=verify, timeout_s=left),
            newer_than,
            timeout_s,
        )

    def map(self, *, newer_than: int = 0, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> tuple[int, Any]:
        """Waits for a version after `newer_than` and maps it, as `Agent.map`; returns its number, too."""
        return self._read(lambda refs, left: self._agent.map(refs, timeout_s=left), newer_than, timeout_s)

    def _read(
        self, read: Callable[[TensorRefs, float | None], Any], newer_than: int, timeout_s: float | None
    ) -> tuple[int, Any]:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            number, refs = self.wait(newer_than, timeout_s=left)
            left = None if until is None else max(0.0, until - time.monotonic())
            try:
                return number, read(refs, left)
            except StaleReferenceError:
                newer_than = number  # replaced meanwhile: its successor is on its way


def _named(tensors: Any) -> tuple[list[str], list[Any]]:
    if isinstance(tensors, Mapping):
        names = [str(name) for name in tensors]
        if len(set(names)) < len(names):
            raise ValueError("two tensors of one name")
        return names, list(tensors.values())
    return [], list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]


# The structure of several: None for one, a list of names for a dict, else how many.
_Keys = None | list[str] | int


def _core_ref(ref: Any) -> _core.TensorRef:
    if isinstance(ref, TensorRef):
        return ref._ref
    hint = ": TensorRefs.from_json(text) or TensorRefs.from_bytes(data) first" if isinstance(ref, (str, bytes)) else ""
    raise TypeError(f"expected a TensorRef, got {type(ref).__name__}{hint}")


def _flatten(refs: Any) -> tuple[_Keys, list[_core.TensorRef]]:
    if isinstance(refs, (TensorRef, str, bytes)):
        return None, [_core_ref(refs)]
    if isinstance(refs, Mapping):
        return list(refs), [_core_ref(ref) for ref in refs.values()]
    parts = [_core_ref(ref) for ref in refs]
    names = refs.names if isinstance(refs, TensorRefs) else []
    return names or len(parts), parts


def _matching(keys: _Keys, tensors: Any) -> list[Any]:
    if keys is None:
        return [tensors]
    if isinstance(keys, list) and isinstance(tensors, Mapping):
        missing = [name for name in keys if name not in tensors]
        if missing:
            raise ValueError(f"no tensor is given for {missing[0]!r}; nothing was written")
        return [tensors[name] for name in keys]
    count = len(keys) if isinstance(keys, list) else keys
    if not isinstance(tensors, Sequence) or len(tensors) != count:
        raise ValueError(f"{count} references, but not as many tensors; nothing was written")
    return list(tensors)


# (dtype code, bits, lanes) of what each tensor becomes, None for one that stays; and the shape of blocks.
_DTypes = list[tuple[int, int, int] | None] | None


def _conversions(
    keys: _Keys, count: int, dtype: Any, block: tuple[int, int] | None
) -> tuple[_DTypes, tuple[int, int] | None]:
    if dtype is None:
        if block is not None:
            raise ValueError("block= needs dtype=torch.float8_e4m3fn; nothing was written")
        return None, None
    if isinstance(dtype, Mapping):
        known = keys if isinstance(keys, list) else []
        unknown = [name for name in dtype if name not in known]
        if unknown:
            raise ValueError(f"a dtype for {unknown[0]!r}, which is not among the references; nothing was written")
        wanted = [dtype.get(name) for name in known]
    elif isinstance(dtype, (list, tuple)):
        if len(dtype) != count:
            raise ValueError(f"{count} references, but {len(dtype)} dtypes; nothing was written")
        wanted = list(dtype)
    else:
        wanted = [dtype] * count
    rows = [None if each is None else dtype_row(each) for each in wanted]
    if block is None:
        return rows, None
    if dtype_row("float8_e4m3fn") not in rows:
        raise ValueError("block= needs dtype=torch.float8_e4m3fn; nothing was written")
    if not isinstance(block, (tuple, list)) or len(block) != 2:
        raise ValueError(f"block= is (rows, columns), not {block!r}; nothing was written")
    rows_high, columns_wide = block
    return rows, (rows_high, columns_wide)


def _structure(keys: _Keys, tensors: list[Any], out: Any) -> Any:
    if out is not None:
        return out
    if keys is None:
        return tensors[0]
    return dict(zip(keys, tensors, strict=True)) if isinstance(keys, list) else tensors
