"""The `beeline` command, as far as it needs no session."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from beeline.cli import agents, doctor, main


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
    for path in ("nixl", "gloo", "ucx", "cuda_ipc", "nccl"):
        assert levels[f"transport {path}"] == levels[f"path {path}"]
    assert levels["path ucx"] in {"ok", "absent"}  # as the machine has it


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
    monkeypatch.setattr(preload, "LIBRARY", library)
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
