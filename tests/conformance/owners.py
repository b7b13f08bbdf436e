"""Processes of owners (owner.py), forked from one that has imported what they need."""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

SCRIPT = pathlib.Path(__file__).with_name("owner.py")
PR_SET_CHILD_SUBREAPER = 36
START_TIMEOUT_S = 60
_libc = ctypes.CDLL(None, use_errno=True)


class ForkedProcess:
    """As far as tests use it, a subprocess.Popen of a child that another process made for this one."""

    def __init__(self, pid, stdin, stdout):
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode = None

    def poll(self):
        return self._reap(os.WNOHANG)

    def wait(self, timeout=None):
        deadline = time.monotonic() + (timeout or float("inf"))
        while timeout is not None and self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(SCRIPT), timeout)
            time.sleep(0.001)
        return self._reap(0)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def _reap(self, flags):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Zygote:
    def __init__(self, environment):
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.settimeout(START_TIMEOUT_S)
        with theirs:
            self._process = subprocess.Popen([sys.executable, str(SCRIPT), "--zygote"], stdin=theirs, env=environment)

    def start(self, options, environment):
        commands_read, commands_write = os.pipe()
        answers_read, answers_write = os.pipe()
        message = json.dumps({"options": options, "environ": environment}).encode()
        with adopting():
            socket.send_fds(self._requests, [message], [commands_read, answers_write, 2])
            pid = int(self._requests.recv(32))
        os.close(commands_read)
        os.close(answers_write)
        return ForkedProcess(pid, open(commands_write, "w"), open(answers_read))

    def end(self):
        self._requests.close()
        self._process.wait(START_TIMEOUT_S)


@contextlib.contextmanager
def adopting():
    """Processes below this one whose parents end become its children meanwhile."""
    _be_subreaper(True)
    try:
        yield
    finally:
        _be_subreaper(False)


def _be_subreaper(value):
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, int(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


_zygotes = {}


def start(options, environment):
    """An owner with these options in this environment."""
    preloaded = environment.get("LD_PRELOAD")
    if preloaded not in _zygotes:
        _zygotes[preloaded] = Zygote(environment)
    return _zygotes[preloaded].start(options, environment)


def end():
    """Of all zygotes: their owners live on."""
    while _zygotes:
        _zygotes.popitem()[1].end()
