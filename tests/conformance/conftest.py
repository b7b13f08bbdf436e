"""Agents of the conformance suite: the test's own, and owners in processes of their own."""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
import torch

from beeline.transfer import Agent, TensorRefs, devices, get_include
from tests.conformance import emulated_gpu, owners
from tests.conformance.paths import HARMLESS, LIES, MISSING, SLOW

TOKEN = "conformance"
# Set by test_tls.py, which runs the suite once more in a process of its own.
DEFAULTS = {"token": TOKEN} | ({"tls": True} if os.environ.get("BEELINE_CONFORMANCE_TLS") else {})
ROOT = pathlib.Path(__file__).parents[2]
CUDA_SOURCES = ["tests/emulators/cuda/cuda_emulator.cc"]
NCCL_SOURCES = ["tests/emulators/nccl/nccl_emulator.cc"]
HIXL_SOURCES = ["examples/plugins/hixl/hixl_plugin.cc", "tests/emulators/hixl/hixl_emulator.cc"]


def build_hixl_plugin(folder):
    """The worked plug-in with the emulator of its engine, as a library in the folder."""
    library = folder / "libbeeline_hixl.so"
    command = ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{get_include()}"]
    command += [f"-I{ROOT / 'tests/emulators/hixl'}", *(str(ROOT / source) for source in HIXL_SOURCES)]
    subprocess.run([*command, "-o", str(library)], check=True, timeout=300)
    return library


def build_emulator(library, sources):
    command = ["c++", "-std=c++20", "-O1", "-shared", "-fPIC", *(str(ROOT / source) for source in sources)]
    subprocess.run([*command, "-o", str(library)], check=True, timeout=300)
    return library


@pytest.fixture(scope="session")
def emulated_gpus(tmp_path_factory):
    """What makes processes see GPUs: an emulator of NVIDIA's driver, as environment."""
    folder = tmp_path_factory.mktemp("cuda")
    library = build_emulator(folder / "libcuda_emulator.so", CUDA_SOURCES)
    environment = {"BEELINE_CUDA_LIBRARY": str(library), "CUDA_EMULATOR_FOLDER": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture(scope="session")
def nccl_emulator(tmp_path_factory):
    return build_emulator(tmp_path_factory.mktemp("nccl") / "libnccl_emulator.so", NCCL_SOURCES)


@pytest.fixture(scope="module")
def emulated_nccl(emulated_gpus, nccl_emulator):
    """And an emulator of NCCL over it, for the processes that the tests of a module start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEELINE_NCCL_LIBRARY", str(nccl_emulator))
        yield {**emulated_gpus, "BEELINE_NCCL_LIBRARY": str(nccl_emulator)}


@pytest.fixture(scope="package", autouse=True)
def plugins(tmp_path_factory):
    """Agents of these tests, in whatever process, have the plug-in."""
    library = build_hixl_plugin(tmp_path_factory.mktemp("plugins"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEELINE_TRANSPORT_PLUGINS", str(library))
        patch.setenv("HIXL_EMULATOR_LIBRARY", str(library))  # whose memory of an NPU arrays lie in
        yield library


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Runs under reorderings, and lies, of paths that take long for them are for `./dev test --full`."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if params.get("path") in SLOW and (params.get("agent") == "reordered" or params.get("kind") in LIES):
            item.add_marker(pytest.mark.full)


# Modules whose readers run under each of HARMLESS as well.
FAULTY_MODULES = ("test_fetch", "test_convert", "test_integrity", "test_publish", "test_notifications")


def pytest_generate_tests(metafunc):
    """All but reorderings of what is fetched is for `./dev test --full`."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in FAULTY_MODULES and "agent" in metafunc.fixturenames:
        is_full = {name: name == "delayed" or (name != "well" and module != "test_fetch") for name in HARMLESS}
        values = [pytest.param(name, marks=[pytest.mark.full] * is_full[name]) for name in HARMLESS]
        metafunc.parametrize("agent", values, indirect=True, scope="module")


@pytest.fixture(scope="session", autouse=True)
def _zygotes():
    yield
    owners.end()


@pytest.fixture(autouse=True)
def _path_that_is_here(request):
    path = request.node.callspec.params.get("path") if hasattr(request.node, "callspec") else None
    if path in MISSING:
        pytest.skip(MISSING[path])
    if path in ("ucx", "nixl"):
        open_library(path)


@functools.cache
def open_library(path):
    """In the tests' own process, where that takes half a second or more: tests that come first have no other bounds."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Agent("first", folder=folder) as owner,
        Agent("second", folder=folder) as reader,
    ):
        kept = owner.register([torch.ones(1)])
        reader.fetch(kept, path=path)


def within(namespace: str | None, boot_id: pathlib.Path | None = None, shm: pathlib.Path | None = None) -> list[str]:
    """What starts a program in a network namespace, as if on the machine with the boot id in that file, and with that
    folder as /dev/shm."""
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    for own, place in ((boot_id, "/proc/sys/kernel/random/boot_id"), (shm, "/dev/shm")):
        if own is not None:
            hidden = f'mount --bind "$0" {place} && exec "$@"'
            prefix = ["unshare", "--mount", "sh", "-c", hidden, str(own), *prefix]
    return prefix


NOBODY = 65534


@functools.cache
def limited() -> list[str]:
    """What starts a program as a user whose threads the kernel limits, which it does not for root; it reads what root
    reads."""
    if os.geteuid() != 0:
        return []
    kept = "-all,+dac_override"
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={kept}"]
    command += [f"--ambient-caps={kept}", "--"]
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], check=False, timeout=60).returncode != 0:
        pytest.skip("a program cannot be started as another user here, and root's threads have no limit")
    return command


def beeline(*arguments, check=True, **environment):
    """The command, run as people run it."""
    command = [sys.executable, "-m", "beeline.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **environment})
    assert not check or done.returncode == 0, done.stderr
    return done


class Owner:
    """An agent in another process; see owner.py."""

    def __init__(
        self,
        *,
        preload: bool = True,
        namespace: str | None = None,
        boot_id: pathlib.Path | None = None,
        shm: pathlib.Path | None = None,
        is_limited: bool = False,
        environ=(),
        **options,
    ):
        environment = os.environ | dict(environ)
        if preload:
            from beeline.engines import preload as preloading

            environment |= preloading.environment()
        options = {**DEFAULTS, **options}
        prefix = [*within(namespace, boot_id, shm), *(limited() if is_limited else ())]
        if prefix or environ:
            command = [*prefix, sys.executable, str(owners.SCRIPT), json.dumps(options)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.process = subprocess.Popen(command, **pipes, text=True, env=environment)
        else:
            self.process = owners.start(options, environment)
        self.address = self._hear()

    def _hear(self):
        line = self.process.stdout.readline()
        assert line, f"the owner has ended: {self.process.wait()}"
        return json.loads(line)

    def tell(self, code):
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def run(self, code):
        """What the code assigned to `answer`."""
        self.tell(code)
        heard = self._hear()
        assert "error" not in heard, heard["error"]
        return heard["answer"]

    def register(self, expression, *, checksum=False):
        """References to what the expression gives: a list or dict of tensors, kept by the owner."""
        code = f"kept['tensors'] = {expression}; kept['refs'] = agent.register(kept['tensors'], checksum={checksum})"
        return TensorRefs.from_json(self.run(code + "; answer = kept['refs'].to_json()"))

    def signal(self, number):
        self.process.send_signal(number)
        status = pathlib.Path(f"/proc/{self.process.pid}/status")
        while number == signal.SIGSTOP and "T (stopped)" not in status.read_text():
            time.sleep(0.001)  # its threads go on until they have seen it

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def folder():
    with tempfile.TemporaryDirectory(prefix="bl-", dir="/tmp") as name:
        yield name


@pytest.fixture
def start_owner(folder):
    started = []

    def start(**options):
        started.append(Owner(**{"folder": folder, "tcp": "127.0.0.1:0", **options}))
        return started[-1]

    yield start
    for owner in started:
        owner.end()


@pytest.fixture(scope="module")
def owner(folder):
    """An owner that the tests of a module share: they leave it as it was."""
    shared = Owner(folder=folder, tcp="127.0.0.1:0")
    yield shared
    shared.end()


@pytest.fixture(scope="module")
def emulation(emulated_gpus):
    """What the GPUs of a module's tests are; a module may say otherwise."""
    return emulated_gpus


# What an owner on emulated GPUs has at hand besides.
IMPORT_GPU = "import ctypes, os; from emulated_gpu import DeviceTensor, driver, poisoned; answer = 1"


@pytest.fixture(scope="module")
def gpu_owner(folder, emulation):
    """As `owner`, on emulated GPUs."""
    shared = Owner(folder=folder, tcp="127.0.0.1:0", preload=False)
    shared.run(IMPORT_GPU)
    yield shared
    shared.end()


@pytest.fixture
def start_gpu_owner(start_owner, emulation):
    def start(**options):
        owner = start_owner(preload=False, **options)
        owner.run(IMPORT_GPU)
        return owner

    return start


@pytest.fixture
def arrays(monkeypatch):
    """Where torch would make tensors on a GPU, arrays of the emulator's; which devices were asked for."""
    asked = []

    def make(shape, strides, dtype, device):
        asked.append(device)
        like = torch.empty_strided(tuple(shape), tuple(strides), dtype=getattr(torch, dtype))
        return emulated_gpu.poisoned(like, int(device.partition(":")[2] or 0), keeps_strides=True)

    monkeypatch.setattr(devices, "empty", make)
    return asked


class Pair:
    """An owner and a reader, each in a process of its own; the reader has `refs` once `register` was called."""

    def __init__(self, owner, reader):
        self.owner, self.reader = owner, reader

    def register(self, expression):
        """As Owner.register; the owner has the tensors as kept['t'], and its references as kept['r']."""
        text = self.owner.run(
            f"kept['t'] = {expression}; kept['r'] = agent.register(kept['t']); answer = kept['r'].to_json()"
        )
        self.reader.run(f"kept['refs'] = TensorRefs.from_json({text!r})")
        return TensorRefs.from_json(text)


@pytest.fixture(scope="module")
def agent(request, folder):
    """The reader; a parameter names what goes wrong on its paths."""
    with Agent("reader", folder=folder, token=TOKEN, faults=HARMLESS[getattr(request, "param", "well")]) as own:
        yield own


@pytest.fixture
def place(tmp_path_factory):
    """A folder of agents that no other test looks at; short, for it holds sockets."""
    folder = tmp_path_factory.mktemp("c")
    folder.chmod(0o700)
    return str(folder)


@pytest.fixture
def reader(place):
    with Agent("reader", folder=place, token=TOKEN) as agent:
        yield agent


def descriptors():
    """Those that this process has open."""
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
