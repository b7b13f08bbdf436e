"""Drivers in processes of their own, and all that belongs to their session: processes, files, memory, CPU time.

A session's processes are found by a mark in their environment, so that several sessions (and other users of the
machine) do not disturb a test. The scripts are plain Ray programs: BEELINE_SYSTEM_ENGINE=ray tries them on Ray.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid

ENGINE = os.environ.get("BEELINE_SYSTEM_ENGINE", "beeline")
GONE_WITHIN_S = 2.0  # what the design promises after any kill -9
PATIENCE_S = 60.0
_MARK = "BEELINE_TEST_SESSION"

PRELUDE = f"""\
import json, os, signal, sys, threading, time

_events = open(int(os.environ.pop("BEELINE_TEST_EVENTS")), "w", buffering=1)
os.set_inheritable(_events.fileno(), False)

def say(event, value=None):
    _events.write(json.dumps([event, value]) + "\\n")

def hear():
    return sys.stdin.readline().strip()

def tried(call):
    try:
        return ["returned", repr(call())]
    except BaseException as error:
        names = {{kind.__name__ for kind in type(error).__mro__}}
        for name, kind in vars(ray.exceptions).items():  # an error may have an alias: the name that Ray uses
            if isinstance(kind, type) and issubclass(kind, BaseException) and isinstance(error, kind):
                names.add(name)
        return [sorted(names), str(error)]

ENGINE = "{ENGINE}"
"""
IMPORT = f"import {ENGINE} as ray\n"
# The end of a script: a new session works. `expect_a_new_session` expects what it says.
NEW_SESSION = """
    ray.init(num_cpus=1)
    say("usable", ray.get(ray.remote(lambda: 1).remote()))
    ray.shutdown()
    say("done")
    hear()
"""


def expect_a_new_session(driver):
    """After NEW_SESSION: it worked, and with it ended whatever the script had started."""
    assert driver.expect("usable") == 1
    driver.expect("done")
    assert still_alive(driver.servants()) == []


def until(condition, timeout_s=PATIENCE_S):
    """Polls `condition` until it gives something true, which is returned; on a deadline, what it gave last."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.02)


@dataclasses.dataclass(frozen=True)
class Process:
    """One process, told apart from a later one with the same id by its start time."""

    pid: int
    started: str
    command: str

    def alive(self):
        return _state(self.pid)[1] == self.started

    def stopped(self):
        return _state(self.pid) == ("T", self.started)

    def kill(self, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def __str__(self):
        return f"{self.pid} ({self.command[:120]})"


class Driver:
    """A script with `ray` imported, run in a process group of its own.

    The script tells events with `say(name, value)` and reads lines that `tell` sends with `hear()`.
    """

    def __init__(self, script, path, *, imports=True, environment=None):
        self.path = path
        path.write_text(PRELUDE + (IMPORT if imports else "") + textwrap.dedent(script))
        self.mark = uuid.uuid4().hex
        read_fd, write_fd = os.pipe()
        settings = {_MARK: self.mark, "BEELINE_TEST_EVENTS": str(write_fd), "RAY_USAGE_STATS_ENABLED": "0"}
        with path.with_suffix(".output").open("w") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-u", str(path)],
                env={**os.environ, **settings, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[write_fd],
                text=True,
                start_new_session=True,
            )
        os.close(write_fd)
        self.pid = self._popen.pid
        self._events = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=[read_fd], daemon=True)
        self._reader.start()

    def _read(self, events_fd):
        with open(events_fd) as events:
            for line in events:
                self._events.put(tuple(json.loads(line)))
        self._events.put(("end of the script", None))

    def expect(self, event, timeout_s=PATIENCE_S):
        """The value of the next event, which must have this name."""
        try:
            name, value = self._events.get(timeout=timeout_s)
        except queue.Empty:
            name, value = f"nothing for {timeout_s} s", None
        assert name == event, f"waited for {event!r}, got {name}: {value}\n{self.output()}"
        return value

    def tell(self, line=""):
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def output(self):
        """What the script has printed so far, to stdout and stderr."""
        return self.path.with_suffix(".output").read_text(errors="replace")

    def interrupt(self):
        """What a terminal does at Ctrl-C: SIGINT to the whole foreground process group."""
        os.killpg(self.pid, signal.SIGINT)

    def kill(self):
        self._popen.kill()
        self._popen.wait()

    def wait(self, timeout_s=PATIENCE_S):
        """The exit status of the script."""
        return self._popen.wait(timeout_s)

    def processes(self):
        """All living processes of the session, the driver first."""
        found = [_process(pid) for pid in _pids() if _marked(pid, self.mark)]
        return sorted((p for p in found if p), key=lambda p: (p.pid != self.pid, p.pid))

    def servants(self):
        """The session's processes without the driver."""
        return [process for process in self.processes() if process.pid != self.pid]

    def daemon(self):
        """The session's node daemon."""
        return self._named("beelined")

    def zygote(self):
        return self._named("zygote")

    def _named(self, word):
        found = [p for p in self.servants() if word in p.command]
        assert found, f"no {word} among {[str(p) for p in self.servants()]}"
        return found[0]

    def end(self):
        """Kills all that is left."""
        for process in self.processes():
            process.kill()
        self._popen.kill()
        self._popen.wait()
        self._reader.join(5)
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()


def _pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _marked(pid, mark):
    try:
        return f"{_MARK}={mark}".encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _state(pid):
    """(state letter, start time) of a process; (None, None) when there is none or only its exit status."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None, None
    return (None, None) if fields[0] in "ZX" else (fields[0], fields[19])


def _process(pid):
    _, started = _state(pid)
    if started is None:
        return None
    try:
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    return Process(pid, started, command.strip())


def still_alive(processes, timeout_s=GONE_WITHIN_S):
    """Those that have not ended when the time is over; empty as soon as all have."""
    until(lambda: not any(p.alive() for p in processes), timeout_s)
    return [str(process) for process in processes if process.alive()]


def files_of(processes):
    """Paths outside of installations that belong to these processes: sockets they listen on with their folder,
    mapped and open files in /dev/shm, /tmp and /run."""
    sockets = _listening_sockets()
    paths = set()
    for process in processes:
        for link in _links(process.pid):
            if match := re.fullmatch(r"socket:\[(\d+)\]", link):
                path = sockets.get(match.group(1))
                if path and not path.startswith("@"):
                    paths.update({path, os.path.dirname(path)})
            elif link.startswith(("/dev/shm/", "/run/")):
                paths.add(link)
    return {path for path in paths if os.path.exists(path) and path not in ("/tmp", "/run", "/dev/shm")}


def _links(pid):
    """Targets of the open file descriptors of a process."""
    links = []
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return links


def _listening_sockets():
    """{inode: path} of bound unix sockets."""
    lines = pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]
    return {fields[6]: fields[7] for line in lines if len(fields := line.split()) > 7}


def still_there(paths, timeout_s=GONE_WITHIN_S):
    """Those paths that exist when the time is over; empty as soon as none does."""
    until(lambda: not any(os.path.exists(path) for path in paths), timeout_s)
    return [path for path in paths if os.path.exists(path)]


def shared_memory_bytes(processes):
    """Pages of all memfds that these processes hold open or mapped, each counted once."""
    sizes = {}
    for process in processes:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{process.pid}/fd"):
                with contextlib.suppress(OSError):
                    path = f"/proc/{process.pid}/fd/{fd}"
                    if "memfd:" in os.readlink(path):
                        status = os.stat(path)
                        sizes[status.st_ino] = max(sizes.get(status.st_ino, 0), status.st_blocks * 512)
            for inode, rss in _mapped_memfds(process.pid):
                sizes[inode] = max(sizes.get(inode, 0), rss)
    return sum(sizes.values())


def _mapped_memfds(pid):
    """(inode, resident bytes) of each mapping of a memfd."""
    inode = None
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inode = int(line.split()[4]) if "memfd:" in line else None
        elif inode is not None and line.startswith("Rss:"):
            yield inode, int(line.split()[1]) * 1024


def cpu_time_s(processes):
    """CPU time that all threads of these processes have used so far."""
    total_ns = 0
    for process in processes:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{process.pid}/task"):
                with contextlib.suppress(OSError):
                    total_ns += int(pathlib.Path(f"/proc/{process.pid}/task/{task}/schedstat").read_text().split()[0])
    return total_ns * 1e-9


def beeline_command(*arguments, timeout_s=PATIENCE_S):
    """Runs the command line tool: (exit status, output)."""
    command = [sys.executable, "-m", "beeline.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    return done.returncode, done.stdout + done.stderr
