"""A zygote without imports, for tests of beelined: standard library only, and a msgpack of just what it needs.

Its workers do what an actor's spec says, a list of words: `ready`, `fail` (__init__ raises), `exit:N`, `die` (SIGKILL
to itself), `print:TEXT`, `error:TEXT` (to stderr), `child` (a sleeping child in a session of its own), `stop` (SIGSTOP
to itself), `leave` (exit_actor), `blocked` (it waits), `env:NAME` (prints its value). FAKE_ZYGOTE=broken: the zygote
ends at once; FAKE_WORKER=broken: workers end before they register.
"""

import os
import select
import signal
import socket
import struct
import subprocess
import sys


def pack(value):
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return struct.pack(">BQ", 0xCF, value) if value >= 0 else struct.pack(">Bq", 0xD3, value)
    if isinstance(value, str):
        data = value.encode()
        return struct.pack(">BI", 0xDB, len(data)) + data
    if isinstance(value, bytes):
        return struct.pack(">BI", 0xC6, len(value)) + value
    return struct.pack(">BI", 0xDD, len(value)) + b"".join(map(pack, value))


def unpack(data, at=0):
    tag, at = data[at], at + 1

    def number(fmt):
        size = struct.calcsize(fmt)
        return struct.unpack_from(fmt, data, at)[0], at + size

    def items(count, at):
        out = []
        for _ in range(count):
            value, at = unpack(data, at)
            out.append(value)
        return out, at

    if tag <= 0x7F:
        return tag, at
    if tag >= 0xE0:
        return tag - 256, at
    fixed = {0xC2: False, 0xC3: True, 0xC0: None}
    if tag in fixed:
        return fixed[tag], at
    numbers = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
               0xCA: ">f", 0xCB: ">d"}  # fmt: skip
    if tag in numbers:
        return number(numbers[tag])
    lengths = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I",
               0xDE: ">H", 0xDF: ">I"}  # fmt: skip
    if tag in lengths:
        size, at = number(lengths[tag])
    else:
        size = tag & (0x1F if 0xA0 <= tag <= 0xBF else 0x0F)
    if tag in (0xC4, 0xC5, 0xC6):
        return data[at : at + size], at + size
    if 0xA0 <= tag <= 0xBF or tag in (0xD9, 0xDA, 0xDB):
        return data[at : at + size].decode(), at + size
    if 0x80 <= tag <= 0x8F or tag in (0xDE, 0xDF):
        flat, at = items(2 * size, at)
        return dict(zip(flat[::2], flat[1::2], strict=True)), at
    return items(size, at)


class Connection:
    def __init__(self, sock):
        self.sock, self.data, self.fds = sock, b"", []

    def send(self, kind, *fields):
        body = struct.pack("<H", kind) + pack(list(fields))
        self.sock.sendall(struct.pack("<II", len(body), 0) + body)

    def receive(self):
        while True:
            if len(self.data) >= 8:
                size, count = struct.unpack_from("<II", self.data)
                if len(self.data) >= 8 + size and len(self.fds) >= count:
                    body, self.data = self.data[8 : 8 + size], self.data[8 + size :]
                    fds, self.fds = self.fds[:count], self.fds[count:]
                    return struct.unpack_from("<H", body)[0], unpack(body, 2)[0], fds
            data, fds, _, _ = socket.recv_fds(self.sock, 65536, 16)
            self.fds += fds
            if not data:
                return None
            self.data += data


def act(daemon, actor, incarnation, word):
    verb, _, argument = word.partition(":")
    if verb == "ready":
        daemon.send(6, actor, incarnation, False, "", b"")
    elif verb == "fail":
        daemon.send(6, actor, incarnation, True, "it failed", b"pickled")
    elif verb == "exit":
        sys.exit(int(argument))
    elif verb == "leave":
        daemon.send(7, actor, 3)
        sys.exit(0)
    elif verb == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "print":
        print(argument, flush=True)
    elif verb == "error":
        print(argument, file=sys.stderr, flush=True)
    elif verb == "env":
        print(f"{argument}={os.environ.get(argument)}", flush=True)
    elif verb == "child":
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    elif verb == "blocked":
        daemon.send(10, 0)
    elif verb == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)


def worker(token):
    if os.environ.get("FAKE_WORKER") == "broken":
        print("the worker is broken", file=sys.stderr, flush=True)
        sys.exit(7)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(os.environ["BEELINE_SESSION"] + "/daemon.sock")
    daemon = Connection(sock)
    daemon.send(1, 1, os.getpid(), token)
    while (frame := daemon.receive()) is not None:
        kind, fields, _ = frame
        if kind == 42:
            break
        if kind == 45 and os.environ.get("FAKE_RETIRE") != "no":
            break
        if kind == 39:
            for word in fields[2].decode().split():
                act(daemon, fields[0], fields[1], word)
        if kind == 40:
            print("lease", sorted(fields[2].items()), flush=True)
    sys.exit(0)


def zygote(sock):
    daemon = Connection(sock)
    wake = socket.socketpair()
    wake[1].setblocking(False)
    signal.set_wakeup_fd(wake[1].fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    daemon.send(68, 0)
    while True:
        ready, _, _ = select.select([daemon.sock, wake[0]], [], [])
        if wake[0] in ready:
            wake[0].recv(4096)
            try:
                while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
                    daemon.send(67, *ended)
            except ChildProcessError:
                pass
        if daemon.sock not in ready:
            continue
        frame = daemon.receive()
        if frame is None or frame[0] == 42:
            sys.exit(0)
        kind, fields, fds = frame
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            daemon.sock.close()
            if kind == 65:
                return zygote(socket.socket(fileno=fds[0]))
            os.setpgid(0, 0)
            os.dup2(fds[0], 1)
            os.dup2(fds[1], 2)
            for fd in fds:
                os.close(fd)
            os.environ.update(fields[1])
            return worker(fields[0])
        for fd in fds:
            os.close(fd)
        daemon.send(66, fields[0] if kind == 64 else 0, pid)


if os.environ.get("FAKE_ZYGOTE") == "broken":
    print("the zygote is broken", file=sys.stderr, flush=True)
    sys.exit(3)
if len(sys.argv) == 3:
    worker(int(sys.argv[2]))
else:
    zygote(socket.socket(fileno=3))
