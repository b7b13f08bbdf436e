"""Where the ranks of a group find each other while it is made: files in the session's folder, the user's alone.

Rank 0 makes a folder and announces it by a file that has the group's name; the others wait for that file. Rank 0 holds
a lock on it: one that nobody locks is of a rank 0 that was killed. Files of the folder are the keys of a store. Once
all have come, rank 0 removes both.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from typing import Any

from beeline.api import session
from beeline.api.session_folder import place, put_file, writing

# Nobody is told of a file that comes: one looks as often.
LOOK_EVERY_S = 0.002


def path_of(group_name: str) -> str:
    """A path in the session's folder that is this group's in this namespace."""
    digest = hashlib.sha256(f"{session.current.namespace}\0{group_name}".encode()).hexdigest()
    return place("collective", digest[:32])


class Meeting:
    """One rank's part in it; a context manager, within which the group is made.

    Raises RuntimeError for a rank that another living process has taken, a group of another size, a rank 0 that died
    meanwhile; TimeoutError (which says who is missing) where not all come in time.
    """

    def __init__(self, group_name: str, world_size: int, rank: int, timeout_s: float) -> None:
        self._name, self._size, self._rank = group_name, world_size, rank
        self._timeout_s = timeout_s
        self._until = time.monotonic() + timeout_s
        self._announcement = path_of(group_name)
        self._lock_file: Any = None  # of rank 0
        self._folder = ""

    def __enter__(self) -> Meeting:
        with writing(f"the meeting of the collective group {self._name!r}"):
            os.makedirs(os.path.dirname(self._announcement), 0o700, exist_ok=True)
            if self._rank == 0:
                self._announce()
            else:
                self._folder = self._find()
        self._take_rank()
        return self

    def __exit__(self, kind: Any, *rest: object) -> None:
        try:
            if kind is None:
                self.set(f"came-{self._rank}", b"")
                if self._rank == 0:
                    for rank in range(1, self._size):
                        self.get(f"came-{rank}")
        finally:
            if self._lock_file is not None:
                with contextlib.suppress(FileNotFoundError):  # the session has ended
                    os.unlink(self._announcement)
                shutil.rmtree(self._folder, ignore_errors=True)
                self._lock_file.close()

    def left_s(self) -> float:
        """Seconds until the meeting is over, at least a little."""
        return max(0.001, self._until - time.monotonic())

    def set(self, key: str, value: bytes) -> None:
        """For all ranks to read."""
        with writing(f"the meeting of the collective group {self._name!r}"):
            put_file(self._path(key), value)

    def get(self, key: str) -> bytes:
        """What some rank sets, or has set, under the key."""
        path = self._path(key)
        while True:
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                return file.read()
            self._check()
            time.sleep(LOOK_EVERY_S)

    def _path(self, key: str) -> str:
        return os.path.join(self._folder, hashlib.sha256(key.encode()).hexdigest())

    def _announce(self) -> None:
        if _is_locked(self._announcement):
            raise RuntimeError(f"Rank 0 of the collective group {self._name!r} is another process, which waits for it.")
        token = secrets.token_hex(8)
        self._folder = f"{self._announcement}.{token}"
        os.mkdir(self._folder, 0o700)
        made = os.path.join(self._folder, "announcement")
        self._lock_file = open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        json.dump({"token": token, "world_size": self._size}, self._lock_file)
        self._lock_file.flush()
        os.replace(made, self._announcement)

    def _find(self) -> str:
        while True:
            if _is_locked(self._announcement):
                with contextlib.suppress(FileNotFoundError), open(self._announcement) as file:
                    told = json.load(file)
                    if told["world_size"] != self._size:
                        raise RuntimeError(
                            f"The collective group {self._name!r} has {told['world_size']} ranks at rank 0, but "
                            f"{self._size} at rank {self._rank}."
                        )
                    return f"{self._announcement}.{told['token']}"
            if time.monotonic() > self._until:
                raise TimeoutError(
                    f"Rank 0 of the collective group {self._name!r} did not come within {self._timeout_s:g} s; rank "
                    f"{self._rank} of {self._size} waited for it. Every rank has to call init_collective_group."
                )
            time.sleep(LOOK_EVERY_S)

    def _take_rank(self) -> None:
        with writing(f"the meeting of the collective group {self._name!r}"):
            try:
                os.close(os.open(self._path(f"rank-{self._rank}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except FileExistsError:
                raise RuntimeError(
                    f"Rank {self._rank} of the collective group {self._name!r} is another process."
                ) from None
            except FileNotFoundError:
                raise self._gone() from None

    def _check(self) -> None:
        if self._lock_file is None and not _is_locked(self._announcement):
            raise self._gone()
        if time.monotonic() <= self._until:
            return
        came = [rank for rank in range(self._size) if os.path.exists(self._path(f"rank-{rank}"))]
        missing = [rank for rank in range(self._size) if rank not in came]
        raise TimeoutError(
            f"The collective group {self._name!r} of {self._size} ranks did not come to be within "
            f"{self._timeout_s:g} s: rank {self._rank} waits, "
            + (f"rank(s) {', '.join(map(str, missing))} did not come." if missing else "all have come, one is stuck.")
        )

    def _gone(self) -> RuntimeError:
        return RuntimeError(
            f"Rank 0 of the collective group {self._name!r} gave up, or ended, before rank {self._rank} had joined."
        )


def _is_locked(path: str) -> bool:
    """Whether somebody who lives has announced there."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
