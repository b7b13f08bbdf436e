"""The zygote: a Python process that has its imports done and waits to be forked into workers.

Started by beelined as `python -m beeline._zygote`, its connection to beelined as descriptor 3; with `--worker TOKEN` it
is one worker in an interpreter of its own instead. It has exactly one thread, always: fork() copies no other. Frames
are those of os/unix_socket.cc (u32 size, u32 number of descriptors, then a u16 type and a msgpack array).
"""

import array
import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn

_CONTROL_FD = 3
_HEADER = struct.Struct("<II")
_TYPE = struct.Struct("<H")
_EXIT, _FORK, _FORK_ZYGOTE, _FORKED, _CHILD_EXITED, _READY = 42, 64, 65, 66, 67, 68
_MAX_FDS = 16
# Read by OpenBLAS, OpenMP and MKL when they are loaded: with 1 they start no thread that fork() would lose.
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# How long a killed daemon may take to be followed by another one, and how often to look for that.
_DAEMON_WAIT_S = 10.0
_LOOK_PERIOD_S = 0.01
_ENDS_KEPT = 31
# When no daemon comes, how long workers may take to leave by themselves.
_ORPHANS_WAIT_S = 0.5
# After as long without a request the zygote does what takes time.
_IDLE_MS = 100


# The part of msgpack that the daemon's frames to us use. A library would cost a quarter of the start-up time.
_NUMBERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_LENGTHS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I", 0xDE: ">H", 0xDF: ">I"}


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    """The value at `at`, and where the next one begins."""
    tag = data[at]
    at += 1
    if tag < 0x80:
        return tag, at
    if tag in _NUMBERS:
        (value,) = struct.unpack_from(_NUMBERS[tag], data, at)
        return value, at + struct.calcsize(_NUMBERS[tag])
    if tag in _LENGTHS:
        (size,) = struct.unpack_from(_LENGTHS[tag], data, at)
        at += struct.calcsize(_LENGTHS[tag])
    else:
        size = tag & (0x1F if 0xA0 <= tag < 0xC0 else 0x0F)
    if 0xA0 <= tag < 0xC0 or 0xD9 <= tag <= 0xDB:
        return data[at : at + size].decode(), at + size
    is_map = tag < 0x90 or tag >= 0xDE
    if not is_map and not 0x90 <= tag < 0xA0 and tag not in (0xDC, 0xDD):
        raise ValueError(f"a frame from beelined holds a value of unknown kind 0x{tag:02x}")
    items = []
    for _ in range(2 * size if is_map else size):
        value, at = _unpack(data, at)
        items.append(value)
    return (dict(zip(items[::2], items[1::2], strict=True)) if is_map else items), at


class _Connection:
    """Frames and descriptors over a stream socket; blocking, one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()
        self._fds: list[int] = []

    def send(self, kind: int, *fields: int) -> None:
        body = _TYPE.pack(kind) + bytes([0x90 | len(fields)]) + b"".join(struct.pack(">Bq", 0xD3, n) for n in fields)
        # A daemon that is gone is seen, and another one looked for, at the next read.
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(_HEADER.pack(len(body), 0) + body)

    def fill(self) -> bool:
        """Reads what is there, waiting for the first byte; False at the end of the stream."""
        try:
            data, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return False
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        self._buffer += data
        return bool(data)

    def next_frame(self) -> tuple[int, list[Any], list[int]] | None:
        """The next whole frame of what was read: (type, fields, descriptors)."""
        if len(self._buffer) < _HEADER.size:
            return None
        size, fd_count = _HEADER.unpack_from(self._buffer)
        end = _HEADER.size + size
        if len(self._buffer) < end or len(self._fds) < fd_count:
            return None
        (kind,) = _TYPE.unpack_from(self._buffer, _HEADER.size)
        fields, _ = _unpack(bytes(self._buffer[_HEADER.size + _TYPE.size : end]), 0)
        fds, self._fds = self._fds[:fd_count], self._fds[fd_count:]
        del self._buffer[:end]
        return kind, fields, fds

    def close(self) -> None:
        self.sock.close()
        for fd in self._fds:
            os.close(fd)


class _Zygote:
    def __init__(self, sock: socket.socket, session_dir: str, user_threads: dict[str, str | None]) -> None:
        self._session_dir = session_dir
        self._user_threads = user_threads
        self._children: set[int] = set()
        # The last ends of children, for a daemon to come: the one before may not have lived to hear of them.
        self._ends: list[tuple[int, int]] = []
        self._daemon_wait_s = float(os.environ.get("BEELINE_DAEMON_WAIT_S") or _DAEMON_WAIT_S)
        # What remains to be done when nobody is in a hurry: the first actor does not wait for it.
        self._idle_steps = [self._import_numpy, _let_go_of_code]
        self._attach(sock)

    def _attach(self, sock: socket.socket) -> None:
        self._daemon = _Connection(sock)
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        self._wake = (wake_read, wake_write)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _detach(self) -> None:
        """In a child: lets go of what is the parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._daemon.close()
        for end in self._wake:
            end.close()
        self._children.clear()
        self._ends.clear()

    def run(self) -> None:
        """Serves the daemon until it says so or is gone."""
        self._daemon.send(_READY, 0)
        poll = self._new_poll()
        while True:
            ready = {fd for fd, _ in poll.poll(_IDLE_MS if self._idle_steps else None)}
            if not ready:
                self._idle_steps.pop(0)()
                continue
            if self._wake[0].fileno() in ready:
                self._reap()
            if self._daemon.sock.fileno() not in ready:
                continue
            if not self._daemon.fill():
                if not self._find_another_daemon():
                    return self._end_orphans()
                poll = self._new_poll()
                continue
            while (frame := self._daemon.next_frame()) is not None:
                kind, fields, fds = frame
                if kind == _EXIT:
                    return None
                if kind == _FORK:
                    self._fork_worker(fields[0], fields[1], fds)
                elif kind == _FORK_ZYGOTE and self._fork_zygote(fields[0], fds):
                    poll = self._new_poll()
                    self._daemon.send(_READY, 0)
                    break

    def _new_poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._daemon.sock, select.POLLIN)
        poll.register(self._wake[0], select.POLLIN)
        return poll

    def _import_numpy(self) -> None:
        try:
            importlib.import_module("numpy.random")  # numpy leaves it to its first use: 20 ms in every worker
        except ImportError as error:
            print(f"import numpy: {error}", file=sys.stderr, flush=True)
            return
        _find_openblas_setters()
        gc.freeze()

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake[0].recv(4096):
                pass
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._children.discard(pid)
            self._daemon.send(_CHILD_EXITED, pid, status)
            self._ends = [*self._ends[-_ENDS_KEPT:], (pid, status)]

    def _fork(self) -> int:
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            raise RuntimeError(f"the zygote has {threads} threads: a fork would lose all but one of them")
        return os.fork()

    def _fork_worker(self, token: int, env: dict[str, str], fds: list[int]) -> None:
        try:
            pid = self._fork()
        except (OSError, RuntimeError) as error:
            print(f"fork failed: {error}", file=sys.stderr, flush=True)
            pid = -1
        if pid == 0:
            self._become_worker(token, env, fds)
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._children.add(pid)
        self._daemon.send(_FORKED, token, pid)

    def _become_worker(self, token: int, env: dict[str, str], fds: list[int]) -> NoReturn:
        status = 1
        try:
            self._detach()
            gc.enable()
            for target, fd in zip((1, 2), fds, strict=True):
                os.dup2(fd, target)
                os.close(fd)
            for name, value in self._user_threads.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            os.environ.update(env)
            _run_worker(self._session_dir, token)
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            _flush_and_exit(status)

    def _fork_zygote(self, modules: list[str], fds: list[int]) -> bool:
        """True in the new zygote, which has imported the modules."""
        pid = self._fork()
        if pid == 0:
            self._detach()
            self._attach(socket.socket(fileno=fds[0]))
            _set_name("beeline-zyg-pt")
            for name in modules:
                # A worker that needs it imports it again and sees the error where it can be understood.
                try:
                    importlib.import_module(name)
                except Exception as error:
                    print(f"import {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            if self._import_numpy in self._idle_steps:
                self._import_numpy()
            self._idle_steps = [_let_go_of_code]
            gc.freeze()
            return True
        for fd in fds:
            os.close(fd)
        self._children.add(pid)
        self._daemon.send(_FORKED, 0, pid)
        return False

    def _find_another_daemon(self) -> bool:
        """The daemon is gone without a word. Drivers and workers start another one, for which this zygote goes on."""
        deadline = time.monotonic() + self._daemon_wait_s
        path = os.path.join(self._session_dir, "daemon.sock")
        while time.monotonic() < deadline:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(path)
            except OSError:
                sock.close()
                # One that is there may have given up its journal; without either none will come.
                if not os.path.exists(os.path.join(self._session_dir, "journal")):
                    return False
                self._reap()
                time.sleep(_LOOK_PERIOD_S)
                continue
            self._daemon.close()
            self._daemon = _Connection(sock)
            self._daemon.send(_READY, 0)
            for pid, status in self._ends:
                self._daemon.send(_CHILD_EXITED, pid, status)
            return True
        return False

    def _end_orphans(self) -> None:
        """Nobody has started another daemon: nothing of its session is left behind."""
        deadline = time.monotonic() + _ORPHANS_WAIT_S
        while self._children and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                pid, _ = os.waitpid(-1, os.WNOHANG)
                self._children.discard(pid)
                if pid != 0:
                    continue
            time.sleep(0.01)
        # The other zygote of the session comes to this at the same time: one of the two does it.
        importlib.import_module("beeline._core").end_lost_session(self._session_dir)


def _run_worker(session_dir: str, token: int) -> None:
    """What is the same in a forked worker and in one with an interpreter of its own."""
    # Its own group: what it starts can be ended with it.
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    # Until the worker takes it up: an interrupt cancels tasks, it does not end processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    _set_name("beeline-worker")
    _reseed()
    _restore_openblas()
    worker = importlib.import_module("beeline._worker")
    worker.main(session_dir, token)


def _reseed() -> None:
    if (random := sys.modules.get("random")) is not None:
        random.seed()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "seed"):
        torch.seed()


def _restore_openblas() -> None:
    """OpenBLAS, loaded with one thread, gets more only when asked by variable: its setter starts the threads at once
    (10 ms and their memory, in every worker), and on Ray one is the default. torch is told at each assignment
    (`this_worker.use_threads`)."""
    openblas = _positive(os.environ.get("OPENBLAS_NUM_THREADS")) or _positive(os.environ.get("OMP_NUM_THREADS"))
    for set_threads in _openblas_setters if openblas > 1 else ():
        set_threads(openblas)


def _positive(text: str | None) -> int:
    """The first number of a thread variable; 0 when there is none."""
    value = (text or "").split(",")[0]
    return int(value) if value.isdigit() else 0


# numpy's setters of OpenBLAS's thread count, found by the zygote.
_openblas_setters: list[Any] = []


def _find_openblas_setters() -> None:
    import ctypes

    _openblas_setters.clear()

    with open("/proc/self/maps") as maps:
        paths = {line.rsplit(None, 1)[-1] for line in maps if "openblas" in line}
    for path in paths:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(path)
            for name in (
                "scipy_openblas_set_num_threads64_",
                "openblas_set_num_threads64_",
                "openblas_set_num_threads",
            ):
                if (setter := getattr(library, name, None)) is not None:
                    _openblas_setters.append(setter)
                    break


def _set_name(name: str) -> None:
    """What ps and top show as the command."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(name)


def _let_go_of_code() -> None:
    """Unmaps what was only read of libraries: 60 MiB after importing torch. It stays in the page cache, a child would
    not have inherited it, and what is used again comes back by a minor fault.
    """
    import ctypes

    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
    with open("/proc/self/smaps") as smaps:
        start = end = 0
        for line in smaps:
            name, _, rest = line.partition(" ")
            if not name.endswith(":"):
                fields = rest.split(None, 4)
                clean = "w" not in fields[0] and len(fields) == 5 and fields[4].startswith("/")
                start, end = (int(part, 16) for part in name.split("-")) if clean else (0, 0)
            elif name == "Anonymous:" and end > start and rest.split()[0] == "0":
                madvise(start, end - start, 4)  # MADV_DONTNEED: pages of the file alone, none was written


def _flush_and_exit(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _import_for_workers() -> dict[str, str | None]:
    """Imports what workers need; returns the thread variables as the user has them."""
    user_threads = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    for name in _THREAD_VARIABLES:
        os.environ[name] = "1"
    for name in ("cloudpickle", "beeline._worker"):
        importlib.import_module(name)
    return user_threads


def _session_of_parent() -> str:
    session_dir = os.environ.get("BEELINE_SESSION")
    if not session_dir:
        sys.exit("beeline._zygote is started by beelined (BEELINE_SESSION is not set)")
    return session_dir


def main() -> None:
    """The entry point of both forms."""
    session_dir = _session_of_parent()
    if len(sys.argv) == 3 and sys.argv[1] == "--worker":
        status = 0
        try:
            _run_worker(session_dir, int(sys.argv[2]))
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
            status = 1
        _flush_and_exit(status)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sock = socket.socket(fileno=_CONTROL_FD)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            sys.exit("beeline._zygote is started by beelined (descriptor 3 is no socket)")
        raise
    os.set_inheritable(_CONTROL_FD, False)
    _set_name("beeline-zygote")
    # Imports make objects that stay: looking through them for garbage meanwhile costs a tenth of the time.
    gc.disable()
    user_threads = _import_for_workers()
    gc.freeze()
    _Zygote(sock, session_dir, user_threads).run()
    os._exit(0)


if __name__ == "__main__":
    main()
