"""The zygote against a daemon played by the test, with a worker module that tells what it sees."""

import array
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beeline import _core

msgspec = pytest.importorskip("msgspec")

ZYGOTE = Path(__file__).parents[2] / "python" / "beeline" / "_zygote.py"
EXIT, FORK, FORK_ZYGOTE, FORKED, CHILD_EXITED, READY = 42, 64, 65, 66, 67, 68

WORKER = """
import os, random, signal, sys, time
def main(session_dir, token):
    word = os.environ.get("WORD", "")
    if word == "raise":
        raise RuntimeError("from the worker")
    if word == "sleep":
        print("asleep", flush=True)
        time.sleep(1000)
    print(session_dir, token, os.environ.get("OMP_NUM_THREADS"), random.random(), sep="|")
    print("sigint ignored", signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
    print("open", sorted(int(fd) for fd in os.listdir("/proc/self/fd")))
    print("modules", "colorsys" in sys.modules)
    print("group", os.getpgid(0) == os.getpid())
    print("numpy", "numpy" in sys.modules, len(os.listdir("/proc/self/task")))
    sys.exit(3)
"""


class Daemon:
    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.data = sock, b""
        sock.settimeout(30)

    def send(self, kind: int, *fields: object, fds: tuple[int, ...] = ()) -> None:
        body = struct.pack("<H", kind) + msgspec.msgpack.encode(fields)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([struct.pack("<II", len(body), len(fds)) + body], rights)

    def receive(self, wanted: int) -> list:
        """The next frame of this type; others are dropped."""
        while True:
            while len(self.data) < 8 or len(self.data) < 8 + struct.unpack_from("<I", self.data)[0]:
                data = self.sock.recv(65536)
                assert data, "the zygote closed its connection"
                self.data += data
            (size,) = struct.unpack_from("<I", self.data)
            body, self.data = self.data[8 : 8 + size], self.data[8 + size :]
            if struct.unpack_from("<H", body)[0] == wanted:
                return msgspec.msgpack.decode(body[2:])

    def fork(self, token: int, **env: str) -> tuple[int, int, int]:
        """(pid, read end of stdout, of stderr)"""
        out, err = os.pipe(), os.pipe()
        self.send(FORK, token, env, fds=(out[1], err[1]))
        os.close(out[1])
        os.close(err[1])
        forked, pid = self.receive(FORKED)
        assert forked == token
        return pid, out[0], err[0]


@pytest.fixture
def session(tmp_path):
    """A started zygote: (daemon, process, session directory)."""
    package = tmp_path / "modules" / "beeline"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "_zygote.py").write_text(ZYGOTE.read_text())
    (package / "_worker.py").write_text(WORKER)
    core = Path(_core.__file__)
    (package / core.name).symlink_to(core)
    session_dir = tmp_path / "sessions" / "session-1"
    session_dir.mkdir(parents=True)
    ours, theirs = socket.socketpair()

    def place() -> None:
        os.dup2(theirs.fileno(), 3)

    env = {**os.environ, "PYTHONPATH": str(package.parent), "BEELINE_SESSION": str(session_dir)}
    env.pop("OMP_NUM_THREADS", None)
    process = subprocess.Popen([sys.executable, "-m", "beeline._zygote"], env=env, preexec_fn=place, pass_fds=(3,))
    theirs.close()
    try:
        yield Daemon(ours), process, session_dir
    finally:
        process.kill()
        process.wait()
        ours.close()


def read_all(fd: int) -> str:
    with open(fd) as file:
        return file.read()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_worker_gets_its_pipes_environment_and_clean_state(session):
    daemon, process, session_dir = session
    daemon.receive(READY)
    pid, out, err = daemon.fork(7)
    text = read_all(out)
    assert text.startswith(f"{session_dir}|7|None|"), text
    assert "sigint ignored True" in text
    assert "group True" in text
    # 0, 1, 2, and the directory that is being listed: none of the zygote's own.
    fds = text.split("open [")[1].split("]")[0].split(", ")
    assert len(fds) <= 4, text
    assert read_all(err) == ""
    assert daemon.receive(CHILD_EXITED) == [pid, 3 << 8]


def test_children_differ_in_random_numbers_and_share_nothing_else(session):
    daemon, _, _ = session
    daemon.receive(READY)
    first, second = (read_all(daemon.fork(token, OMP_NUM_THREADS="3")[1]) for token in (1, 2))
    assert first.split("|")[2] == "3"
    assert first.split("|")[3] != second.split("|")[3]


def test_left_alone_it_imports_numpy_for_later_workers(session):
    pytest.importorskip("numpy")
    daemon, process, _ = session
    daemon.receive(READY)
    assert "numpy False" in read_all(daemon.fork(1)[1])
    wait_until(lambda: "openblas" in Path(f"/proc/{process.pid}/maps").read_text())
    assert "numpy True" in read_all(daemon.fork(2)[1])
    # One BLAS thread in the zygote, or the next fork would have been refused.
    assert len(os.listdir(f"/proc/{process.pid}/task")) == 1


def test_an_exception_of_the_worker_is_its_stderr_and_exit_code(session):
    daemon, _, _ = session
    daemon.receive(READY)
    pid, _, err = daemon.fork(1, WORD="raise")
    assert "RuntimeError: from the worker" in read_all(err)
    assert daemon.receive(CHILD_EXITED) == [pid, 1 << 8]


def test_a_signal_is_reported_as_such(session):
    daemon, _, _ = session
    daemon.receive(READY)
    pid, out, _ = daemon.fork(1, WORD="sleep")
    assert os.read(out, 100) == b"asleep\n"
    os.kill(pid, signal.SIGKILL)
    assert daemon.receive(CHILD_EXITED) == [pid, 9]


def test_a_second_zygote_imports_more_and_outlives_nothing(session):
    daemon, _, _ = session
    daemon.receive(READY)
    ours, theirs = socket.socketpair()
    daemon.send(FORK_ZYGOTE, ["colorsys", "no_such_module"], fds=(theirs.fileno(),))
    theirs.close()
    _, second_pid = daemon.receive(FORKED)
    second = Daemon(ours)
    second.receive(READY)
    assert "modules True" in read_all(second.fork(1)[1])
    assert "modules False" in read_all(daemon.fork(2)[1])
    second.sock.close()
    wait_until(lambda: not alive(second_pid))


def test_told_to_exit_it_exits(session):
    daemon, process, session_dir = session
    daemon.receive(READY)
    daemon.send(EXIT, 0)
    assert process.wait(30) == 0
    assert session_dir.exists()


def test_without_its_daemon_it_leaves_nothing(session):
    daemon, process, session_dir = session
    daemon.receive(READY)
    pid, out, _ = daemon.fork(1, WORD="sleep")
    assert os.read(out, 100) == b"asleep\n"
    os.kill(pid, signal.SIGSTOP)
    daemon.sock.close()
    assert process.wait(30) == 0
    wait_until(lambda: not alive(pid))
    assert not session_dir.exists()


def test_a_worker_that_ends_together_with_the_daemon(session):
    """The news of the worker has nobody to go to any more: the end of the session comes all the same."""
    daemon, process, session_dir = session
    daemon.receive(READY)
    pid, out, _ = daemon.fork(1, WORD="sleep")
    assert os.read(out, 100) == b"asleep\n"
    os.kill(process.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))
    daemon.sock.close()
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == 0
    assert not session_dir.exists()


def test_started_by_hand_it_says_what_it_is():
    env = {name: value for name, value in os.environ.items() if name != "BEELINE_SESSION"}
    result = subprocess.run([sys.executable, str(ZYGOTE)], env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "started by beelined" in result.stderr
