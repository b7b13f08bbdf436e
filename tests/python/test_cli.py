"""The `beeline` command, as far as it needs no session."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from beeline.cli import agents, doctor, main

ROOT = Path(__file__).resolve().parents[2]


def beeline(*arguments, **environment):
    command = [sys.executable, "-m", "beeline.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_version_and_help():
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0 and "beeline" in result.output
    result = CliRunner().invoke(main, ["--help"])
    for command in (
        "status",
        "start",
        "stop",
        "doctor",
        "run",
        "top",
        "paths",
        "timeline",
        "bench",
        "metrics",
        "list",
        "get",
    ):
        assert command in result.output
    for command in ("summary", "memory", "transfers", "logs", "config"):
        assert command in result.output
    assert "..." not in result.output.partition("Commands:")[2]  # no summary is cut off


def test_doctor_as_json():
    result = CliRunner().invoke(main, ["doctor", "--json"])
    report = json.loads(result.output)
    assert result.exit_code == (0 if report["ok"] else 1)
    names = {check["name"] for check in report["checks"]}
    assert {"kernel", "memory", "overcommit", "locked memory (ulimit -l)", "preload library"} <= names
    assert {
        "transport shm",
        "transport nixl",
        "path nixl",
        "path gloo",
        "path ucx",
        "path cuda_ipc",
        "path nccl",
    } <= names
    levels = {check["name"]: check["level"] for check in report["checks"]}
    assert set(levels.values()) <= {"ok", "warning", "error", "absent"}
    assert levels["transport shm"] == "ok"
    for path in ("cma", "nixl", "gloo", "ucx", "cuda_ipc", "nccl"):
        assert levels[f"transport {path}"] == levels[f"path {path}"]
    assert levels["path ucx"] in {"ok", "absent"}  # as the machine has it


def test_doctor_has_a_line_for_every_path_of_the_documents():
    section = (ROOT / "docs" / "transports.md").read_text().partition("\n## Paths\n")[2].partition("\n## ")[0]
    paths = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert {"shm", "cma", "gloo", "tcp"} <= paths
    assert {f"transport {path}" for path in paths} <= {check.name for check in doctor.run_all()}


def found_with(monkeypatch, scope, capabilities="0000000000000000", tried="True it was read"):
    """What doctor says of ptrace and of cma on a machine that is as told."""
    files = {doctor.PTRACE_SCOPE: scope, "/proc/self/status": f"Name:\tx\nCapEff:\t{capabilities}\nSeccomp:\t0"}
    monkeypatch.setattr(doctor, "_read", lambda path: files[path])
    program = ["-c", f"print({tried!r})"]
    probe = doctor._probe
    monkeypatch.setattr(doctor, "_probe", lambda path, *_: probe(path, *program))
    setting = doctor._ptrace()
    return setting, doctor._cma(setting)


@pytest.mark.parametrize(("scope", "shown"), [("", "no Yama"), ("0", "0")])
def test_where_all_may_read_each_other_doctor_has_no_advice(monkeypatch, scope, shown):
    setting, path = found_with(monkeypatch, scope)
    assert setting == ("ptrace scope", "ok", shown, "")
    assert path == ("path cma", "ok", "it was read", "")


def test_yama_lets_one_reader_in_by_default(monkeypatch):
    setting, path = found_with(monkeypatch, "1")
    assert (setting.level, path.level) == ("warning", "warning")
    assert "connected last" in setting.found and "ptrace_scope=0" in setting.advice and "ptrace" in path.advice


@pytest.mark.parametrize("scope", ["2", "3"])
def test_what_yama_forbids_is_a_warning_with_advice(monkeypatch, scope):
    setting, path = found_with(monkeypatch, scope, tried="False the kernel does not permit it")
    assert (setting.level, path.level) == ("warning", "warning")
    assert "does not permit" in path.found and "ptrace_scope=0" in path.advice
    assert ("boot" in setting.advice) == (scope == "3")


@pytest.mark.parametrize("scope", ["1", "2"])
def test_yama_does_not_hold_for_those_with_the_capability(monkeypatch, scope):
    setting, path = found_with(monkeypatch, scope, capabilities="0000000000080000")
    assert (setting.level, path.level) == ("ok", "ok")
    assert found_with(monkeypatch, "3", capabilities="0000000000080000")[0].level == "warning"


# Installs a seccomp filter that denies process_vm_readv, and becomes the program that it is given.
DENYING = """
import ctypes, os, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 310, "aarch64": 270}[os.uname().machine]
rows = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rows), ctypes.addressof(program)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, filter, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def of_cma(*launcher):
    command = [*launcher, sys.executable, "-m", "beeline.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    return checks["ptrace scope"], checks["path cma"], checks["transport cma"]


def test_doctor_tries_to_read_another_process():
    setting, path, transport = of_cma()
    assert path["level"] == transport["level"]
    if path["level"] == "ok":
        assert "process_vm_readv" in path["found"] and path["advice"] == ""
    else:
        assert setting["level"] != "ok" or "does not permit" in path["found"]
    denied = of_cma(sys.executable, "-c", DENYING)
    assert denied[0] == setting
    assert [check["level"] for check in denied[1:]] == ["warning", "warning"]
    assert "does not permit" in denied[1]["found"] and "process_vm_readv" in denied[1]["advice"] + denied[1]["found"]


def test_doctor_for_people():
    result = CliRunner().invoke(main, ["doctor"])
    assert "kernel" in result.output and "object_store" in result.output


def test_doctor_fails_where_beeline_cannot_work(monkeypatch):
    monkeypatch.setattr(doctor.platform, "release", lambda: "4.19.0-ancient")
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == 1
    kernel = json.loads(result.output)["checks"][0]
    assert kernel["level"] == "error" and "5.14" in kernel["advice"]


@pytest.mark.parametrize(
    ("release", "version"), [("6.12.8-amd64", (6, 12)), ("5.14", (5, 14)), ("custom", (0, 0)), ("6.7rc1", (6, 7))]
)
def test_kernel_versions(release, version):
    assert doctor.kernel_version(release) == version


def test_run_replaces_itself_by_the_program(tmp_path):
    script = tmp_path / "prog.py"
    script.write_text("import sys\nprint(sys.argv[1:])\nsys.exit(3)\n")
    result = beeline("run", str(script), "--flag", "-x", "value")
    assert result.returncode == 3
    assert result.stdout.strip() == "['--flag', '-x', 'value']"


def test_run_of_a_missing_program():
    result = beeline("run", "no-such-program-anywhere")
    assert result.returncode == 1 and "no such program" in result.stderr


def test_run_preloads_the_library_once(monkeypatch, tmp_path):
    from beeline.engines import preload

    library = tmp_path / "lib.so"
    library.touch()
    monkeypatch.setattr(preload, "LIBRARY", str(library))
    monkeypatch.delenv("BEELINE_PRELOAD", raising=False)
    monkeypatch.setenv("LD_PRELOAD", f"/other.so:{library}")
    assert preload.environment() == {"LD_PRELOAD": f"{library}:/other.so"}
    monkeypatch.setenv("BEELINE_PRELOAD", "0")
    assert preload.environment() == {}


@pytest.mark.parametrize(
    ("seconds", "one", "two"),
    [
        (None, "-", "-"),
        (0.0, "0 ns", "0 ns"),
        (334e-9, "300 ns", "330 ns"),
        (999.6e-9, "1 us", "1 us"),
        (0.000123, "100 us", "120 us"),
        (0.0999, "100 ms", "100 ms"),
        (12.34, "10 s", "12 s"),
    ],
)
def test_times_have_no_more_digits_than_they_are_worth(seconds, one, two):
    assert (agents.time_text(seconds, 1), agents.time_text(seconds)) == (one, two)


def test_help_says_what_every_column_is():
    for command, columns in {
        "top": ("peer", "path", "op", "size", "GB/s now", "GB/s", "count", "bytes", "p50, p99", "failed", "switched"),
        "bench transfer": ("size", "path", "GB/s", "p50, p99", "count"),
    }.items():
        shown = CliRunner().invoke(main, [*command.split(), "--help"]).output
        described = [line.strip() for line in shown.splitlines()]
        for column in columns:
            assert any(line.startswith(f"{column}  ") for line in described), (command, column)
