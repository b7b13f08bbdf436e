"""Which session `init(address=...)` means."""

from __future__ import annotations

import logging
import os

from beeline import _core

_log = logging.getLogger("beeline")
# By Ray's name: what an address that is left out, or "auto", stands for.
VARIABLE = "RAY_ADDRESS"
# Of a session that waits for drivers (`beeline start`); kLastingFile in runtime/launch.h.
_LASTING_FILE = "lasting"


def session_to_join(address: str | None) -> str | None:
    """The folder of the session that the address means; None where a session is to be started.

    As on Ray: a session's address is taken as it is (here its folder, or the folder's name); None or "auto" stand for
    what RAY_ADDRESS says, then for the latest session that `beeline start` started, "auto" then for the only one that
    runs; None then, and "local" always, for a new one.

    Raises ConnectionError where no such session runs, or "auto" could mean several; ValueError for Ray Client's.
    """
    if address in (None, "auto") and (named := os.environ.get(VARIABLE)):
        _log.info("Using the address %s, as the variable %s says", named, VARIABLE)
        address = named
    if address == "local":
        return None
    if address is not None and "://" in address:
        raise ValueError(
            f"address={address!r}: there is no Ray Client. Pass None, 'local', 'auto' or a session's folder "
            "(`beeline status` shows them)."
        )
    if address in (None, "auto"):
        return _waiting() or (_only() if address == "auto" else None)
    return _named(address)


def _user_folder() -> str:
    return os.path.join(os.environ.get("BEELINE_TMPDIR") or "/tmp", f"beeline-{os.getuid()}")


def _waiting() -> str | None:
    """The latest session of `beeline start`."""
    try:
        entries = [entry.path for entry in os.scandir(_user_folder()) if entry.name.startswith("session-")]
    except OSError:  # there is none, or it cannot be read: starting a session says so
        return None
    since = {folder: time for folder in entries if (time := _waiting_since(folder)) is not None}
    if not since:
        return None
    live = [folder for folder in _core.live_sessions() if folder in since]
    return max(live, key=since.__getitem__, default=None)


def _waiting_since(folder: str) -> float | None:
    """When it was marked as one that waits for drivers; None where it was not, or ends just now."""
    try:
        return os.stat(os.path.join(folder, _LASTING_FILE)).st_mtime
    except OSError:
        return None


def _only() -> str:
    live = _core.live_sessions()
    if len(live) == 1:
        return live[0]
    if not live:
        raise ConnectionError(
            f"Could not find any running session of yours in {_user_folder()}. Start one with `beeline start` (or "
            f"init() in another program), name one by `address` or the variable {VARIABLE}, or leave the address out "
            "to start one."
        )
    raise ConnectionError(
        f"{len(live)} sessions are running; say which one is meant by `address` or the variable {VARIABLE}: "
        f"{', '.join(sorted(live))}"
    )


def _named(address: str) -> str:
    live = _core.live_sessions()
    wanted = os.path.realpath(address) if os.sep in address else os.path.realpath(os.path.join(_user_folder(), address))
    for folder in live:
        if os.path.realpath(folder) == wanted:
            return folder
    raise ConnectionError(
        f"address={address!r}: no session of yours runs there. An address is a session's folder or its name; "
        + (f"there are {', '.join(sorted(live))}" if live else f"none runs in {_user_folder()}")
        + ". `beeline status` shows them; `beeline start` starts one."
    )
