"""The log files of a session: output of workers, and what the daemon and the zygote say."""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Iterator

from beeline.util.state.common import DEFAULT_RPC_TIMEOUT
from beeline.util.state.exception import RayStateApiException
from beeline.util.state.snapshot import find_session

_INTERVAL_S = 0.5
_CHUNK_BYTES = 1 << 16
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")


def folder(address: str | None = None) -> str:
    """Where the log files of a session lie. Raises ServerUnavailable as list_actors."""
    session_dir = find_session(address)
    if session_dir is None:
        from beeline.api import session

        session_dir = session.current.info["session_dir"]
    return os.path.join(session_dir, "logs")


def files(address: str | None = None, glob: str = "*") -> list[str]:
    """Names of the log files that match, sorted."""
    try:
        names = os.listdir(folder(address))
    except FileNotFoundError:  # the session has ended meanwhile
        names = []
    return sorted(fnmatch.filter(names, glob))


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: int = DEFAULT_RPC_TIMEOUT,
) -> dict[str, list[str]]:
    """Names of the log files, by what they are of: worker_out, worker_err, beelined, zygote.

    Args:
        address: As of list_actors.
        node_id: There is one place for the logs of all nodes: accepted, and not needed.
        node_ip: Likewise.
        glob_filter: Only names that match, as `"worker-*.err"`.
        timeout: Not needed: the files are read, nobody is asked.
    """
    groups: dict[str, list[str]] = {}
    for name in files(address, glob_filter or "*"):
        stem, _, suffix = name.rpartition(".")
        group = f"worker_{suffix}" if stem.startswith("worker-") else stem
        groups.setdefault(group, []).append(name)
    return groups


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: int = DEFAULT_RPC_TIMEOUT,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "strict",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    filter_ansi_code: bool = False,
) -> Iterator[str]:
    """The content of one log file, in pieces; bytes where `encoding` is None.

    Nothing is asked or read, and nothing raised, before the first piece is taken.

    Args:
        address: As of list_actors.
        node_id: Not needed, as of list_logs.
        node_ip: Likewise; not both.
        filename: Of the file, as list_logs gives it.
        actor_id: Instead: of the worker that the actor lives in, or died in.
        task_id: Instead: of the worker that ran the task; there is other output of that worker as well.
        pid: Instead: of the worker with that pid.
        follow: Whether to wait for more at the end, until the session ends.
        tail: How many lines from the end; -1: all.
        timeout: Seconds that the session may take to say where an actor or a task is.
        suffix: "out" or "err", where the file is not named.
        encoding: Of the text.
        errors: What to do with bytes that are no text, as of bytes.decode.
        submission_id: There are no submitted jobs: a RayStateApiException.
        attempt_number: Which attempt of the task.
        _interval: Seconds between looks, with follow.
        filter_ansi_code: Whether colours are taken out.

    Raises:
        ValueError: nothing says which file, both node_id and node_ip, or a suffix that there is not.
        RayStateApiException: no such file, actor, task or worker.
    """
    if node_id and node_ip:
        raise ValueError(f"Both node_id and node_ip are given, {node_id} and {node_ip}: give one of them, or none.")
    if submission_id is not None:
        raise RayStateApiException(
            "submission_id: there are no submitted jobs in this version; name a file, an actor or a pid."
        )
    if suffix not in ("out", "err"):
        raise ValueError(f"Invalid suffix: {suffix}. Must be one of 'out' or 'err'.")
    if filename is None:
        filename = f"worker-{_pid(address, actor_id, task_id, pid, attempt_number, timeout)}.{suffix}"
    path = os.path.join(folder(address), filename)
    if os.path.dirname(os.path.abspath(path)) != os.path.abspath(folder(address)) or not os.path.isfile(path):
        raise RayStateApiException(
            f"There is no log file {filename}; those that there are: {', '.join(files(address))}"
        )
    yield from _pieces(path, follow, tail, _interval or _INTERVAL_S, encoding, errors or "strict", filter_ansi_code)


def _pid(
    address: str | None, actor_id: str | None, task_id: str | None, pid: int | None, attempt: int, timeout: int
) -> int:
    from beeline.util.state import api

    if pid is not None:
        return int(pid)
    if actor_id is not None:
        actor = api.get_actor(actor_id, address, timeout)
        if actor is None or not actor.pid:
            raise RayStateApiException(f"Actor {actor_id} is not known, or has had no process yet.")
        return actor.pid
    if task_id is not None:
        for task in api.list_tasks(address, [("task_id", "=", task_id)], timeout=timeout):
            if task.attempt_number == attempt and task.worker_pid:
                return task.worker_pid
        raise RayStateApiException(f"Attempt {attempt} of task {task_id} is not known, or has not begun.")
    raise ValueError("Say which log: filename, actor_id, task_id or pid.")


def _pieces(
    path: str, follow: bool, tail: int, interval_s: float, encoding: str | None, errors: str, plain: bool
) -> Iterator[str]:
    import codecs

    decoder = codecs.getincrementaldecoder(encoding)(errors) if encoding else None
    with open(path, "rb") as file:
        if tail >= 0:
            file.seek(_start_of_tail(file, tail))
        while True:
            piece = file.read(_CHUNK_BYTES)
            if piece:
                if decoder is None:
                    yield piece  # type: ignore[misc]
                    continue
                text = decoder.decode(piece)
                yield _TERMINAL_CODES.sub("", text) if plain else text
            elif not follow or not os.path.exists(path):
                return
            else:
                time.sleep(interval_s)


def _start_of_tail(file: object, lines: int) -> int:
    """Where the last lines of a file begin."""
    size = file.seek(0, os.SEEK_END)  # type: ignore[attr-defined]
    at, found = size, 0
    while at > 0:
        step = min(_CHUNK_BYTES, at)
        at -= step
        file.seek(at)  # type: ignore[attr-defined]
        block = file.read(step)  # type: ignore[attr-defined]
        for index in range(len(block) - 1, -1, -1):
            # The newline at the very end ends the last line, and begins none.
            if block[index : index + 1] == b"\n" and at + index != size - 1:
                found += 1
                if found == lines:
                    return at + index + 1
    return 0 if lines else size
