"""Agents: the two ends of every transfer."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from beeline import _core
from beeline.transfer import devices, nccl, ucx
from beeline.transfer.bounds import ends_at, left_s
from beeline.transfer.faults import Fault
from beeline.transfer.nixl import Reach
from beeline.transfer.nixl import options as nixl_options
from beeline.transfer.notifications import Notifications
from beeline.transfer.references import TensorRef, TensorRefs, dtype_row
from beeline.transfer.runner import Runner, Work
from beeline.transfer.structures import conversions, core_ref, flatten, matching, named, structure
from beeline.transfer.subscription import DEFAULT_TIMEOUT_S, Subscription
from beeline.transfer.tls import Tls
from beeline.transfer.transfers import Batch, Transfer
from beeline.transfer.transport import Transport, sort_out


class Agent:
    """Registers tensors of this process for others to reach, and reaches theirs.

    Args:
        name: For people; need not be unique.
        tcp: "host:port" to listen on for agents of other hosts; port 0 takes a free one. Needs `token`, and
            `advertise` where the host is a wildcard.
        token: A secret of all who may connect by TCP: both sides prove to each other that they have it, and it does not
            travel. Long and random, as `secrets.token_hex()` makes it.
        tls: Speaks TLS where it listens, and to agents that it connects to by TCP; to those that speak none it does not
            connect by TCP then. True: with a certificate of its own making; `Tls(...)`: with PEM files. By default it
            listens in clear, and speaks TLS to those whose address says so. Needs OpenSSL 3.
        advertise: The host by which others reach this one; by default the one it listens on.
        share_memory: Whether agents of this user on this host may map and read registered memory directly.
        folder: Where agents on this host find its socket, and `beeline top` its counters; by default
            `<BEELINE_TMPDIR or /tmp>/beeline-<uid>/agents`. Where no counters can be kept, it warns and does without.
        plugins: Transports of your own, beside those that `BEELINE_TRANSPORT_PLUGINS` lists: shared libraries
            (`beeline/transport_plugin.h`, docs/transports.md), or objects (`beeline.transfer.Transport`).
        quota_bytes: The most memory that its arena may take, for `empty`, `publish` and what `fetch` returns; by
            default the machine's. A session's arena is its agents', too: there `init(object_store_memory=)` says it.
        nixl: How far the path "nixl" may reach: "host" keeps it to shared memory; "rdma" adds the network but TCP,
            "any" adds that. Whoever gets at the network that is allowed can read and write this process's memory, token
            or not: see docs/transports.md.
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
        tls: Tls | bool = False,
        advertise: str = "",
        share_memory: bool = True,
        folder: str = "",
        plugins: Sequence[str | os.PathLike[str] | Transport] = (),
        quota_bytes: int | None = None,
        nixl: Reach = "host",
        faults: Sequence[Fault] = (),
    ) -> None:
        if quota_bytes is not None and quota_bytes < 1:
            raise ValueError(f"quota_bytes is at least 1, not {quota_bytes}")
        self._runner = Runner()
        own_tls = Tls() if tls is True else tls
        own = sort_out(plugins)
        self._agent = _core.Agent(
            name,
            folder=folder,
            share_memory=share_memory,
            tcp=tcp,
            advertise=advertise,
            token=token,
            tls=own_tls._row() if own_tls else None,
            plugins=own.libraries,
            transports=own.transports,
            quota_bytes=quota_bytes or 0,
            ucx_library=ucx.library(),
            nccl_library=nccl.library(),
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
        self._runner.close()
        self._agent.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def register(self, tensors: Any, *, checksum: bool = False, stream: Any = None, path: str | None = None) -> Any:
        """Lets other agents reach tensors where they are: nothing is copied.

        Args:
            tensors: A torch tensor of the CPU or of a CUDA device, a numpy array, or an array that another library
                shows by `__dlpack__`, of any shape, dtype and strides; or a list or dict of them.
            checksum: Takes one of each tensor now, for those who `fetch` with `verify`: of tensors that do not change,
                of the host's memory.
            stream: Of CUDA tensors: what this stream (a torch.cuda.Stream, or its handle) holds by now is done before
                others read; by default torch's current stream. Each fetch also waits for what the owner's default
                stream holds then. What goes into other streams later is waited for if `writing` says so.
            path: Of readers, if it is known by which they come: the references carry what they would ask for first,
                which saves each new registration an exchange with the owner. By any other path they are read as well.

        Returns:
            A `TensorRef` for one, `TensorRefs` for several. They see what is written to the tensors later.

        Raises:
            TypeError: Something is neither a tensor nor an array of numbers.
            TransportUnavailableError: There is no such path, or none that serves the device, or its memory cannot be
                handed to others (torch's expandable segments, pools of cudaMallocAsync); the message says what to do.
            ValueError: A tensor's memory does not hold its values (a lazy conjugate).
        """
        names, values = named(tensors)
        refs = self._agent.add(values, names, checksum, devices.stream_handle(stream), path or "")
        return TensorRefs(refs) if isinstance(tensors, (Mapping, list, tuple)) else TensorRef(refs.at(0))

    @contextlib.contextmanager
    def writing(
        self,
        refs: TensorRef | TensorRefs,
        *,
        stream: Any = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> Iterator[None]:
        """Around writes to registered tensors, in place.

        Whoever fetches one of them meanwhile gets `TornReadError`, whatever the path, instead of a mixture of old and
        new; a fetch begins anew when the writes have ended. References that were registered together count as one.
        Mapped tensors show the writes as they come. Of CUDA tensors, who fetches afterwards waits for what `stream`,
        by default torch's current one, holds at the end.

            with agent.writing(refs):
                optimizer.step()

        Of another agent's tensors, around `push`: it is asked first, within `timeout_s`. Raises ValueError unless it
        has granted them, StaleReferenceError where it has undone the registration, and as `connect`. What a writer
        began that dies ends with its connection, with whatever is there then.
        """
        written = refs._refs if isinstance(refs, TensorRefs) else refs._ref.alone()
        handle = devices.stream_handle(stream)
        writing = self._agent.begin_write(written, timeout_s)
        try:
            yield
        finally:
            try:
                self._agent.announce(written, handle)
            finally:
                writing.end()

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
        self,
        name: str,
        tensors: Any,
        *,
        version: int | None = None,
        keep: int = 2,
        checksum: bool = False,
        fan_out: int = 3,
    ) -> int:
        """Copies tensors as they are now, and makes the copy the newest version of `name` for its subscribers.

        The caller may write to the tensors as soon as this returns, and never waits for readers: each version has
        memory of its own, reused once nobody reads it any more.

        Args:
            name: What subscribers ask for.
            tensors: As for `register`; they arrive in the same structure: a single one, a list, or a dict.
            version: A number larger than those before; by default the next one, from 1.
            keep: How many of the newest versions stay readable. Older ones stay for those who have mapped them.
            checksum: Takes one of each tensor, for those who `fetch` with `verify`, and for those who relay: they
                compare what they got before they give it on.
            fan_out: Of subscribers that relay, how many get the version from here, and from each that has it.

        Returns:
            The version's number.

        Raises:
            ValueError: The number is not larger, or `keep` or `fan_out` is less than 1.
            ObjectStoreFullError: The arena's quota is used up; the version before stays the newest.
        """
        if (version is not None and version < 1) or keep < 1 or fan_out < 1:
            raise ValueError(f"version, keep and fan_out are at least 1, not {version}, {keep} and {fan_out}")
        names, values = named(tensors)
        single = not isinstance(tensors, (Mapping, list, tuple))
        return self._agent.publish(name, values, names, version or 0, keep, checksum, single, fan_out)

    def withdraw(self, name: str) -> None:
        """No version of `name` can be fetched any more; what is mapped stays with those who have it.

        Subscribers are told: their `latest` is None until the next version, whose number is larger than those before.
        """
        self._agent.withdraw(name)

    def subscribe(
        self, address: str, name: str, *, relay: bool = False, timeout_s: float | None = DEFAULT_TIMEOUT_S
    ) -> Subscription:
        """What the agent at `address` publishes as `name`, now or later. Raises as `connect`.

        Args:
            address: The publisher's.
            name: What it publishes it as.
            relay: Get versions from other subscribers that have them, and give them on (docs/transports.md). Needs
                `tcp`, or shared memory, so that others reach this agent; ValueError where it has neither.
            timeout_s: Seconds to connect; None waits for ever.
        """
        return Subscription(self, name, self._agent.subscribe(address, name, relay, timeout_s))

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
        device: Any = None,
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
                that the references have or that `dtype` gives; by default new torch tensors, laid out as
                `Tensor.clone()` lays them out: without gaps, in the order of the strides that they have at their
                owner's. On GPUs, what torch's current stream holds is done before they are filled.
            device: Where new tensors are made: "cpu", "cuda" or "cuda:1" as torch has it. By default where the owner
                has them: on the same GPU, whatever its number is here, or in the host's memory.
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
            path: Insists on one path ("shm", "cma", "cuda_ipc", "nccl", "ucx", "nixl", "object_store", "tcp",
                "gloo"); by default the best is taken, see `explain`; "gloo" is taken only so.
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
        _, work = self._fetching(refs, out, device, dtype, block, path, min_gbps, verify)
        return work(None, timeout_s)

    def fetch_async(
        self,
        refs: Any,
        out: Any = None,
        *,
        device: Any = None,
        dtype: Any = None,
        block: tuple[int, int] | None = None,
        path: str = "",
        min_gbps: float = 0.0,
        verify: bool = False,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> Transfer:
        """As `fetch`, on a thread of the agent: returns at once.

        Of those that were started at most four run at a time with one other agent. Others wait for them, within
        `timeout_s`, which runs from here on.
        """
        return self._start(*self._fetching(refs, out, device, dtype, block, path, min_gbps, verify), timeout_s)

    def _fetching(
        self,
        refs: Any,
        out: Any,
        device: Any,
        dtype: Any,
        block: tuple[int, int] | None,
        path: str,
        min_gbps: float,
        verify: bool,
    ) -> tuple[list[_core.TensorRef], Callable[[_core.Cancellation | None, float | None], Any]]:
        """What is fetched, and what does it."""
        keys, parts = flatten(refs)
        given = None if out is None else matching(keys, out)
        if given is not None and device is not None:
            raise ValueError("device= is for new tensors, out= has some; nothing was written")
        dtypes, block = conversions(keys, len(parts), dtype, block)

        def work(cancellation: _core.Cancellation | None, timeout_s: float | None) -> Any:
            until, targets = ends_at(timeout_s), given
            if targets is None:
                targets = devices.new_targets(self._agent, parts, dtypes, block, device, until)
            left = left_s(until)
            fetched = self._agent.fetch(parts, targets, dtypes, block, path, min_gbps, verify, left, cancellation)
            return structure(keys, fetched, out)

        return parts, work

    def push_async(
        self,
        refs: Any,
        tensors: Any,
        *,
        path: str = "",
        min_gbps: float = 0.0,
        notify: tuple[str, bytes] | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> Transfer:
        """As `push`, on a thread of the agent: returns at once; see `fetch_async`."""
        keys, parts = flatten(refs)
        sources = matching(keys, tensors)

        def work(cancellation: _core.Cancellation, left: float | None) -> None:
            self._agent.push(parts, sources, path, min_gbps, notify, left, cancellation)

        return self._start(parts, work, timeout_s)

    def _start(self, parts: list[_core.TensorRef], work: Work, timeout_s: float | None) -> Transfer:
        return self._runner.start(parts[0].owner if parts else "", devices.on_current_stream(work), timeout_s)

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
        keys, parts = flatten(refs)
        dtypes, block = conversions(keys, len(parts), dtype, block)
        return Batch(self._agent.prepare(parts, matching(keys, out), dtypes, block, path, min_gbps, timeout_s))

    def push(
        self,
        refs: Any,
        tensors: Any,
        *,
        path: str = "",
        min_gbps: float = 0.0,
        notify: tuple[str, bytes] | None = None,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Fills tensors of another agent, which it must have granted to this one; as `fetch` otherwise.

        By TCP, what was on its way when a push failed may still arrive: at most some requests of 4 MiB, each whole.

        `notify` is a topic and a payload, sent as by `notify` once the tensors are there: who takes the notification
        finds them filled. Where the push fails nothing is sent; where the notification fails the tensors are filled.
        """
        keys, parts = flatten(refs)
        self._agent.push(parts, matching(keys, tensors), path, min_gbps, notify, timeout_s, None)

    def notify(
        self, address: str, topic: str, payload: bytes = b"", *, timeout_s: float | None = DEFAULT_TIMEOUT_S
    ) -> None:
        """Sends a short message to the agent at `address`; returns once it waits there to be taken.

        Args:
            address: The other agent's.
            topic: What it has called `notifications` with; at most 1,024 bytes.
            payload: At most 64 KiB.
            timeout_s: Seconds; None waits for ever.

        Raises:
            NotificationRefusedError: It takes none of that topic, or as many as it lets wait are waiting.
            TransferTimeoutError: It did not answer in time; the message may have arrived.
            PeerLostError: It is gone; likewise.
            ValueError: The topic or the payload is too long.
        """
        self._agent.notify(address, topic, payload, timeout_s)

    def notifications(
        self, topic: str, *, limit: int = 1024, when_full: Literal["refuse", "drop_oldest"] = "refuse"
    ) -> Notifications:
        """What other agents send under `topic`, from here on and as long as the result is referred to.

        Args:
            topic: As senders name it.
            limit: How many may wait to be taken.
            when_full: Of one more: "refuse" tells its sender (NotificationRefusedError), "drop_oldest" lets it in and
                drops the one that has waited longest, which is counted in `Notifications.stats`.

        Raises ValueError for another limit than the topic has already.
        """
        if limit < 1 or when_full not in ("refuse", "drop_oldest"):
            raise ValueError(f"limit is at least 1, when_full refuse or drop_oldest; not {limit} and {when_full!r}")
        return Notifications(topic, self._agent.notifications(topic, limit, when_full == "drop_oldest"))

    def map(self, refs: Any, *, timeout_s: float | None = DEFAULT_TIMEOUT_S) -> Any:
        """torch tensors over the memory of an agent on this host: no copy, whatever the size.

        What the owner writes later shows, in pages that this process has not written to; what this process writes
        stays its own. The memory stays the owner's, and is not reused, until the tensors are dropped.

        Of CUDA tensors it is the owner's memory itself, on the same GPU: what either side writes, both see. When such a
        tensor is dropped, work that uses it and went into the default stream is waited for; for other streams,
        synchronise them before.

        Raises:
            TransportUnavailableError: The agent is on another host, or the memory is neither in its arena nor on a GPU
                that this process sees.
            StaleReferenceError, PeerLostError: As for `fetch`.
        """
        keys, parts = flatten(refs)
        return structure(keys, self._agent.map(parts, timeout_s), None)

    def explain(
        self,
        ref: TensorRef,
        *,
        operation: Literal["fetch", "push"] = "fetch",
        device: Any = "cpu",
        path: str = "",
        min_gbps: float = 0.0,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Which path a fetch of `ref` into memory of `device`, or a push of such memory, would take, and why:
        `candidates` (path, usable, reason, gbps, measured), `chosen`, and `failovers` to this peer so far. Raises as
        `connect`.
        """
        if operation not in ("fetch", "push"):
            raise ValueError(f"operation is fetch or push, not {operation!r}")
        kind, index = devices.parse(device) or (devices.HOST, 0)
        return self._agent.explain(core_ref(ref), path, min_gbps, operation == "push", (kind, index or 0), timeout_s)

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
        """Counters: peers, visitors (agents that connected to this one), refused, registrations, ...

        Of subscribers that relay what this agent publishes: `relays` (copies that they offer now), `reparented` (times
        that one was given another parent), `overdue` (times that one was sent here beyond `fan_out`, since nobody else
        had room in time). `parents_lost` counts parents that failed this agent as a subscriber.
        `copies_through_host` are those between GPUs that have no direct way to each other.
        """
        return self._agent.stats()
