"""The C++ package as a program finds it: installed, found by CMake and pkg-config, used between real processes."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from beeline.transfer import Agent, TensorRefs
from tools import cpp_package

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "cpp"
WEIGHTS = torch.arange(1024 * 256, dtype=torch.float32).reshape(1024, 256)
HISTORY = torch.tensor([1, 2, 3])
CONTENT = WEIGHTS.numpy().tobytes() + HISTORY.numpy().tobytes()


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpp-package")
    cpp_package.install(folder / "first")
    # What was installed does not know where: a package is often unpacked elsewhere.
    return (folder / "first").rename(folder / "prefix")


@pytest.fixture(scope="module")
def programs(prefix, tmp_path_factory):
    """The examples' programs, built from a copy: no header of the checkout is beside them."""
    source = shutil.copytree(EXAMPLES, tmp_path_factory.mktemp("examples") / "source")
    folder = source.with_name("build")
    cpp_package.build(source, prefix, folder)
    return folder


class Line:
    """A process that is spoken to line by line."""

    def __init__(self, *command):
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline()
        assert line, f"it has ended: {self.process.wait()}"
        return line.rstrip("\n")

    def hear_until_done(self):
        lines = [self.hear()]
        while lines[-1] != "done" and not lines[-1].startswith("failed"):
            lines.append(self.hear())
        return lines

    def close(self):
        """Ends its stdin; returns its exit status."""
        self.process.stdin.close()
        return self.process.wait(20)

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def start():
    lines = []

    def start_one(*command):
        lines.append(Line(*command))
        return lines[-1]

    yield start_one
    for line in lines:
        line.end()


def owners(programs):
    return {"C++": [programs / "owner"], "Python": [sys.executable, EXAMPLES / "owner.py"]}


@pytest.mark.parametrize("language", ["C++", "Python"])
def test_a_reader_in_cpp_fetches_what_an_owner_has(programs, start, tmp_path, language):
    owner = start(*owners(programs)[language])
    reader = start(programs / "reader", tmp_path / "fetched")
    reader.tell(owner.hear())
    heard = reader.hear_until_done()
    assert heard[-1] == "done", heard
    assert heard[0] == "weights: 1048576 bytes by shm"
    assert heard[1].startswith("history: 24 bytes by ")
    assert heard[2:4] == ["last value fetched: 262143", "last value mapped: 262143"]
    assert (tmp_path / "fetched").read_bytes() == CONTENT
    assert reader.close() == 0
    assert owner.close() == 0


def test_a_reader_in_python_fetches_what_an_owner_in_cpp_has(programs, start):
    owner = start(programs / "owner")
    refs = TensorRefs.from_json(owner.hear())
    with Agent("reader") as agent:
        fetched = agent.fetch(refs)
        assert fetched["weights"].equal(WEIGHTS)
        assert fetched["history"].equal(HISTORY)
        assert agent.map(refs["weights"]).equal(WEIGHTS)


@pytest.mark.parametrize("language", ["C++", "Python"])
def test_a_killed_owner_is_an_error_that_says_so(programs, start, language):
    owner = start(*owners(programs)[language])
    reader = start(programs / "reader")
    refs = owner.hear()
    reader.tell(refs)
    assert reader.hear_until_done()[-1] == "done"
    owner.process.send_signal(signal.SIGKILL)
    owner.process.wait()
    # The reader may look before the kernel has told it that the connection ended: the memory is still there then.
    deadline = time.monotonic() + 20
    heard = ["done"]
    while heard[-1] == "done" and time.monotonic() < deadline:
        reader.tell(refs)
        heard = reader.hear_until_done()
    assert re.match("failed: peer lost: .*owner", heard[-1]), heard
    assert reader.close() == 1
    # So does one that has never met it.
    stranger = start(programs / "reader")
    stranger.tell(refs)
    assert re.match("failed: peer lost: .*owner", stranger.hear_until_done()[-1])
    assert stranger.close() == 1


@pytest.mark.full
def test_what_are_no_references_is_refused(programs, start):
    reader = start(programs / "reader")
    for line in ("", "{}", json.dumps({"owner": 1, "regions": [], "tensors": [{}]})):
        reader.tell(line)
        assert reader.hear().startswith("failed: corrupt: ")
    assert reader.close() == 1


def test_a_follower_in_cpp_maps_what_python_publishes(programs, start):
    with Agent("publisher") as agent:
        follower = start(programs / "follower", agent.address, "bytes")
        for version in (1, 2, 3):
            assert agent.publish("bytes", torch.full((1 << 16,), version * 10, dtype=torch.uint8)) == version
            assert follower.hear() == f"version {version}, first byte {version * 10}"
    assert follower.hear() == "peer lost"
    assert follower.close() == 0


def test_pkg_config_says_how_to_compile(prefix, tmp_path):
    source = tmp_path / "program.cc"
    source.write_text(
        '#include <beeline/transfer.h>\nint main() { return beeline::transfer::Agent::open({.name = "a"}) ? 0 : 1; }\n'
    )
    environment = os.environ | {"PKG_CONFIG_PATH": str(prefix / "lib" / "pkgconfig")}
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "beeline"], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    # The headers are the program's to warn of: here they are no system headers.
    warnings = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-pedantic", "-Werror"]
    subprocess.run(["g++", *warnings, source, "-o", tmp_path / "program", *flags], check=True, timeout=100)
    found = os.environ | {"LD_LIBRARY_PATH": str(prefix / "lib")}
    assert subprocess.run([tmp_path / "program"], env=found, check=False).returncode == 0


def test_the_package_holds_nothing_of_the_internals(prefix):
    headers = sorted(str(path.relative_to(prefix / "include")) for path in (prefix / "include").rglob("*.h"))
    assert headers == [
        "beeline/api/agent.h",
        "beeline/api/fault.h",
        "beeline/api/references.h",
        "beeline/api/started.h",
        "beeline/api/target.h",
        "beeline/api/tensor.h",
        "beeline/api/wait.h",
        "beeline/base/export.h",
        "beeline/base/status.h",
        "beeline/beeline.h",
        "beeline/program/convert.h",
        "beeline/program/remote.h",
        "beeline/program/session.h",
        "beeline/program/value.h",
        "beeline/transfer.h",
        "beeline/transport_plugin.h",
    ]
    # Nothing but the public API is exported, and no library is needed but those of the compiler and the C library.
    library = prefix / "lib" / "libbeeline.so"
    symbols = subprocess.run(
        ["nm", "-DC", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = [line.split(maxsplit=2)[2] for line in symbols]
    assert any(name.startswith("beeline::api::Agent::fetch(") for name in names)
    allowed = (
        "beeline::api::",
        "beeline::program::",
        "beeline::Status::",
        "beeline::code_name(",
        "beeline::check_failed(",
    )
    assert [name for name in names if not name.startswith(allowed)] == []
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"NEEDED.*\[([^.\]]+)", needed))
    assert libraries <= {"libstdc++", "libgcc_s", "libm", "libc", "ld-linux-x86-64"}
