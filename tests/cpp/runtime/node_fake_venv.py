"""Makes no virtual environment, and says what a test wants to hear of it. FAKE_VENV: `made` (the environment's
interpreter is the test's own), `fail`, `die` (SIGKILL to itself), `wait` (for ever).

It appends a line to $FAKE_VENV_LOG at each start.
"""

import os
import signal
import socket
import struct
import sys
import time


def text(value):
    data = value.encode()
    return struct.pack(">BI", 0xDB, len(data)) + data


def answer(error, *interpreter):
    words = b"".join(map(text, interpreter))
    body = struct.pack("<H", 69) + b"\x92" + text(error) + bytes([0x90 | len(interpreter)]) + words
    socket.socket(fileno=3).sendall(struct.pack("<II", len(body), 0) + body)


with open(os.environ["FAKE_VENV_LOG"], "a") as log:
    log.write(os.environ["BEELINE_VENV"] + "\n")
match os.environ["FAKE_VENV"]:
    case "made":
        answer("", sys.executable)
    case "fail":
        answer("there is no such package")
    case "die":
        print("about to die", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    case "wait":
        print("waits", file=sys.stderr, flush=True)
        time.sleep(1000)
