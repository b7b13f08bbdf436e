"""Files that processes of a session leave for each other in its folder, which is the user's alone."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator

from beeline.api import session
from beeline.exceptions import OutOfDiskError


def place(*names: str) -> str:
    """A path in the folder. Needs a session."""
    return os.path.join(session.current.info["session_dir"], *names)


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Around writes. Raises OutOfDiskError, which names `what`, where there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutOfDiskError(f"No room for {what} in {place()}: {error.strerror}") from None


def put_file(path: str, data: bytes) -> None:
    """A file, whole or not at all; in place of one that there was. Makes its folder."""
    temporary = f"{path}.{os.getpid()}-{secrets.token_hex(4)}"
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
