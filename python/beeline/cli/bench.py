"""`beeline bench`: how fast transfers are here, in a minute and without a checkout."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from beeline.cli import tables
from beeline.cli.agents import (
    Size,
    find,
    folder_option,
    measured_by,
    printable,
    size_text,
    speed_text,
    time_text,
    tls_option,
    token_option,
)

if TYPE_CHECKING:
    from beeline.transfer import Agent, TensorRef
    from beeline.transfer.counters import Row

_SIZES = ("1KiB", "16KiB", "256KiB", "1MiB", "16MiB", "256MiB")
_LEAST_RUNS = 5
_PROGRESS_FROM_S = 2.0
_PEER_PATIENCE_S = 60.0


@click.group(short_help="Measure this machine.")
def bench() -> None:
    """Measure what Beeline does on this machine."""


@bench.command(short_help="Measure transfers by each path and size.")
@click.argument("agents", nargs=-1, metavar="[[A] B]")
@click.option("--path", "chosen_paths", multiple=True, help="Only this path; may be repeated.  [default: each]")
@click.option(
    "--size", "sizes", multiple=True, type=Size(), help="Only this size; may be repeated.  [default: 1KiB to 256MiB]"
)
@click.option(
    "--seconds", default=0.3, show_default=True, type=click.FloatRange(min=0.001), help="For each path and size."
)
@token_option
@tls_option
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def transfer(
    agents: tuple[str, ...],
    chosen_paths: tuple[str, ...],
    sizes: tuple[int, ...],
    seconds: float,
    token: str,
    tls: tuple[str, str, str] | None,
    folder: str,
    as_json: bool,
) -> None:
    """Fetch bytes from agent B into memory of this process, by each path that can be used, and show how fast it was.

    B is an agent, by address or name, that has published a buffer for this:

    \b
      agent.publish("beeline.bench", numpy.zeros(256 << 20, numpy.uint8))

    Without B it is a process of its own on this host, started for this.

    With A, an agent of this user on this host, also what A itself has measured of its transfers to B, as `beeline
    paths A B` shows it. No agent can be made to measure by others: this process fetches in A's place, and A's own
    limits (another container, share_memory=False) may differ. For an A elsewhere, run this command there, with B alone.

    \b
    size       of each fetch; those that B's buffer does not have are left out
    path       by which the bytes go; "copy": numpy's copy within this process, to compare with
    GB/s       by the median, p50
    p50, p99   how long half, and all but 1 %, of the fetches took at most
    count      how many were made, in --seconds or more

    Fetches are prepared (Agent.prepare), into memory that was touched before.
    """  # noqa: D301 - \b is a character that click reads
    if len(agents) > 2:
        raise click.UsageError("at most two agents: [[A] B]")
    from beeline.exceptions import BeelineError
    from beeline.transfer import Agent, Tls

    wanted = sizes or tuple(Size().convert(size, None, None) for size in _SIZES)
    measured: list[Row] = []
    try:
        with contextlib.ExitStack() as stack:
            if agents:
                address, _ = find(agents[-1], folder)
            else:
                token = secrets.token_hex()
                address = stack.enter_context(_fresh_peer(max(wanted), token, folder))
            if len(agents) == 2:
                measured = measured_by(agents[0], address, folder)
            own_tls = Tls(*tls) if tls and agents else False
            own = stack.enter_context(Agent(f"beeline-bench-{os.getpid()}", token=token, tls=own_tls, folder=folder))
            buffer = _buffer_of(own, address)
            fitting = [size for size in wanted if size <= buffer.nbytes]
            candidates = own.paths_to(address, max(wanted))["candidates"]
            every = tuple(candidate["path"] for candidate in candidates)
            result = _measure_all(own, buffer, chosen_paths or every, fitting, seconds, verify=not agents)
            why = {candidate["path"]: candidate["reason"] for candidate in candidates if not candidate["usable"]}
            result["refused"] = {path: why.get(path, said) for path, said in result["refused"].items()}
    except (BeelineError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    too_large = [size for size in wanted if size > buffer.nbytes]
    result = {"peer": address, "seconds": seconds, "buffer_bytes": buffer.nbytes, "too_large": too_large, **result}
    if as_json:
        told = [{**row.to_dict(), "gbps": tables.mean_gbps(row)} for row in measured]
        result |= {"measured_by": agents[0] if len(agents) == 2 else None, "measured": told}
        click.echo(json.dumps(result, indent=2))
        return
    console = Console()
    _show(console, result)
    if len(agents) == 2:
        tables.show_measured(console, agents[0], agents[1], measured)


@contextlib.contextmanager
def _fresh_peer(size: int, token: str, folder: str) -> Iterator[str]:
    """The address of an agent in a process of its own, which ends with the context, or with this process."""
    from beeline.cli import bench_peer

    with subprocess.Popen(
        [sys.executable, "-P", "-m", bench_peer.__name__, str(size), folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, bench_peer.TOKEN_VARIABLE: token},
    ) as process:
        assert process.stdin and process.stdout
        watchdog = threading.Timer(_PEER_PATIENCE_S, process.kill)
        watchdog.start()
        try:
            address = process.stdout.readline().strip()
            watchdog.cancel()
            if not address:
                raise click.ClickException(f"the peer's process ended with status {process.wait(_PEER_PATIENCE_S)}")
            yield address
        finally:
            watchdog.cancel()
            process.stdin.close()
            try:
                process.wait(_PEER_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _buffer_of(own: Agent, address: str) -> TensorRef:
    from beeline.cli.bench_peer import BUFFER
    from beeline.exceptions import TransferTimeoutError
    from beeline.transfer import TensorRefs

    subscription = own.subscribe(address, BUFFER)
    try:
        _, refs = subscription.wait(timeout_s=5.0)
    except TransferTimeoutError as error:
        raise click.ClickException(
            f"the peer has published nothing as {BUFFER!r}: let it call "
            f'agent.publish("{BUFFER}", numpy.zeros(256 << 20, numpy.uint8))'
        ) from error
    ref = refs[0] if isinstance(refs, TensorRefs) else refs
    if ref.dtype != "uint8" or len(ref.shape) != 1:
        raise click.ClickException(f"what the peer has published as {BUFFER!r} is no row of uint8, but {ref!r}")
    return ref


def _measure_all(
    own: Agent, buffer: TensorRef, paths: tuple[str, ...], sizes: list[int], seconds: float, *, verify: bool
) -> dict[str, Any]:
    from beeline.exceptions import TransportUnavailableError

    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    console = Console(stderr=True)
    cells = len(sizes) * (len(paths) + 1)
    is_shown = console.is_terminal and cells * seconds > _PROGRESS_FROM_S
    with Progress(console=console, transient=True, disable=not is_shown) as progress:
        task = progress.add_task("measuring", total=cells)
        for size in sizes:
            row: dict[str, Any] = {"size": size, "copy": _figures(size, _time_copies(size, seconds))}
            progress.advance(task)
            for path in paths:
                progress.update(task, description=f"{path}, {size_text(size)}")
                if path not in refused:
                    try:
                        row[path] = _figures(size, _time_fetches(own, buffer, path, size, seconds, verify))
                    except TransportUnavailableError as error:
                        refused[path] = str(error)
                progress.advance(task)
            rows.append(row)
    return {"rows": rows, "paths": [path for path in paths if path not in refused], "refused": refused}


def _time_fetches(own: Agent, buffer: TensorRef, path: str, size: int, seconds: float, verify: bool) -> list[int]:
    import numpy as np

    from beeline.cli.bench_peer import pattern

    out = np.full(size, 0xEE, np.uint8)
    batch = own.prepare(buffer[:size], out, path=path)
    batch.run()
    if verify and not np.array_equal(out, pattern(size)):
        raise click.ClickException(f"wrong bytes arrived by {path}, of {size}")
    return _time(batch.run, seconds)


def _time_copies(size: int, seconds: float) -> list[int]:
    import numpy as np

    source, target = np.full(size, 1, np.uint8), np.full(size, 2, np.uint8)
    return _time(lambda: np.copyto(target, source), seconds)


def _time(work: Any, seconds: float) -> list[int]:
    """Nanoseconds of each call."""
    took: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while True:
        begin = time.perf_counter_ns()
        work()
        now = time.perf_counter_ns()
        took.append(now - begin)
        if now >= end and len(took) >= _LEAST_RUNS:
            return took


def _figures(size: int, took: list[int]) -> dict[str, Any]:
    took = sorted(took)
    median = statistics.median(took)
    return {
        "runs": len(took),
        "gbps": size / median,
        "p50_s": median / 1e9,
        "p99_s": took[min(len(took) - 1, int(len(took) * 0.99))] / 1e9,
    }


def _show(console: Console, result: dict[str, Any]) -> None:
    source = printable(result["peer"].partition("?")[0])
    console.print(Text(f"Fetches of this process from {source}:"))
    table = Table("size", "path", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("GB/s", "p50", "p99", "count"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        for name in ("copy", *result["paths"]):
            figures = row.get(name)
            if figures is None:
                continue  # refused only from this size on
            table.add_row(
                size_text(row["size"]) if name == "copy" else "",
                name,
                speed_text(figures["gbps"]),
                time_text(figures["p50_s"]),
                time_text(figures["p99_s"]),
                str(figures["runs"]),
            )
    console.print(table)
    console.print(Text("copy: within this process, to compare with. --help says what the columns mean."))
    for path, why in result["refused"].items():
        console.print(Text(f"Not measured: path {path}. {printable(why)}"))
    if result["too_large"]:
        sizes = ", ".join(map(size_text, result["too_large"]))
        held = size_text(result["buffer_bytes"])
        console.print(Text(f"Not measured: {sizes}. {source} has published a buffer of {held} for this."))
