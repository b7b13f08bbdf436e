"""Makes one virtual environment; started by beelined as `python -m beeline.runtime_env.make_venv` before the first
worker of that environment, whose variables it has. Answers by one frame on descriptor 3 (kEnvironmentMade in
runtime/control.h); what it does is written to stderr, for the driver.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import traceback

import msgspec

from beeline.exceptions import RuntimeEnvSetupError
from beeline.runtime_env import packages, variables, venvs

_SOCKET_FD = 3
_ENVIRONMENT_MADE = 69


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _make() -> list[str]:
    session_dir = os.environ["BEELINE_SESSION"]
    name, timeout_s = os.environ[variables.VENV].split()
    env, _ = variables.taken(os.environ)
    if "working_dir" in env:
        os.environ[venvs.WORKING_DIR_VARIABLE] = packages.path_of(env["working_dir"], session_dir)
    maker = venvs.Maker(session_dir, name, float(timeout_s), _say)
    maker.make(env, os.environ)
    return [str(maker.python)]


def main() -> None:
    """The life of the process."""
    error, interpreter = "", []
    try:
        interpreter = _make()
    except RuntimeEnvSetupError as failure:
        error = str(failure.error_message)
    except Exception:
        error = traceback.format_exc()
    body = struct.pack("<H", _ENVIRONMENT_MADE) + msgspec.msgpack.encode([error, interpreter])
    with socket.socket(fileno=_SOCKET_FD) as daemon:
        daemon.sendall(struct.pack("<II", len(body), 0) + body)


if __name__ == "__main__":
    main()
