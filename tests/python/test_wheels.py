"""What ./dev wheel accepts as a wheel, and which interpreters it finds."""

import re
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from tools import wheels

ROOT = Path(__file__).resolve().parents[2]
NAME = "beeline-0.1.0-cp311-cp311-manylinux_2_34_x86_64.whl"
COMPLETE = (
    "beeline/__init__.py",
    "beeline/_core.cpython-311-x86_64-linux-gnu.so",
    "beeline/bin/beelined",
    "beeline/lib/libbeeline_preload.so",
    "beeline/include/beeline/transport_plugin.h",
    "beeline/cpp/lib/libbeeline.so.0.1",
    "beeline/cpp/lib/cmake/beeline/beelineConfig.cmake",
    "beeline/cpp/lib/cmake/beeline/beelineTargets.cmake",
    "beeline/cpp/include/beeline/beeline.h",
    "beeline/cpp/include/beeline/transfer.h",
    "beeline/py.typed",
    "beeline-0.1.0.dist-info/licenses/LICENSE",
)


def a_wheel(folder, *names, name=NAME):
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for entry in names:
            archive.writestr(entry, "")
    return path


def test_a_complete_wheel_is_accepted(tmp_path):
    assert wheels.problems(a_wheel(tmp_path, *COMPLETE)) == []


@pytest.mark.parametrize("missing", COMPLETE[1:])
def test_a_wheel_that_lacks_something_is_refused(tmp_path, missing):
    (problem,) = wheels.problems(a_wheel(tmp_path, *(name for name in COMPLETE if name != missing)))
    assert problem.startswith("lacks ")


@pytest.mark.parametrize("stray", ["beeline.libs/libgomp-1.so", "beeline/tests/test_a.py"])
def test_a_wheel_that_brings_something_along_is_refused(tmp_path, stray):
    assert wheels.problems(a_wheel(tmp_path, *COMPLETE, stray)) == [f"brings along {stray}"]


def test_a_wheel_for_one_machine_is_refused(tmp_path):
    (problem,) = wheels.problems(a_wheel(tmp_path, *COMPLETE, name="beeline-0.1.0-cp311-cp311-linux_x86_64.whl"))
    assert "manylinux" in problem


def test_a_wheel_beyond_the_budget_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "BUDGET_BYTES", 100)
    (problem,) = wheels.problems(a_wheel(tmp_path, *COMPLETE))
    assert "MiB, more than" in problem


def an_interpreter(folder, name, answer):
    path = folder / name
    path.write_text(f"#!/bin/sh\nprintf '{answer}\\n'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def only_these(tmp_path, monkeypatch):
    """A machine whose only interpreters are those that the test makes in this folder."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    return tmp_path


def test_one_interpreter_is_found_for_each_version(only_these):
    first = an_interpreter(only_these, "python3.12", "cpython 3 12\\nTrue")
    (only_these / "pyenv" / "versions" / "3.12.9" / "bin").mkdir(parents=True)
    an_interpreter(only_these / "pyenv" / "versions" / "3.12.9" / "bin", "python3", "cpython 3 12\\nTrue")
    older = an_interpreter(only_these, "python3.11", "cpython 3 11\\nTrue")
    assert [(each.path, each.tag) for each in wheels.interpreters()] == [(older, "cp311"), (first, "cp312")]
    assert [each.tag for each in wheels.interpreters("3.12")] == ["cp312"]


@pytest.mark.parametrize("answer", ["cpython 3 10\\nTrue", "cpython 3 12\\nFalse", "pypy 3 12\\nTrue"])
def test_what_no_wheel_can_be_built_for_is_left_out(only_these, answer):
    an_interpreter(only_these, "python3.12", answer)
    assert wheels.interpreters() == []


def test_the_image_has_the_version_of_ray_that_is_compared_with():
    image = re.search(r"^ARG RAY_VERSION=(\S+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "requirements" / "bench.txt").read_text(), re.MULTILINE)
    assert image[1] == pinned[1]
