"""The checks of the repository find what they are for, and leave the rest alone."""

import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tools import check_layers, check_links, check_size, environment, site, steps, suites

ROOT = Path(__file__).resolve().parents[2]


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Layers.


@pytest.mark.parametrize(
    ("source", "included"),
    [
        ("ring/ring.cc", "beeline/base/status.h"),
        ("ring/ring.cc", "beeline/memory/arena.h"),
        ("ring/ring.cc", "beeline/ring/ring.h"),
        ("runtime/worker.cc", "beeline/plan/reshard.h"),
        ("runtime/node/main.cc", "beeline/runtime/node/server.h"),
        ("memory/preload/exports.cc", "beeline/memory/preload/family.h"),
        ("transport/builtin.cc", "beeline/transport/tcp/tcp_transport.h"),
        ("transport/tcp/tcp.cc", "beeline/transport/transport.h"),
        ("plan/reshard.cc", "beeline/base/status.h"),
        ("api/agent.cc", "beeline/transfer/agent.h"),
    ],
)
def test_an_include_that_points_down_is_allowed(tmp_path, source, included):
    write(tmp_path, f"src/beeline/{source}", f'#include "{included}"\n#include <vector>\n')
    assert check_layers.check(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "included", "reason"),
    [
        ("base/status.cc", "beeline/os/fd.h", "not below"),
        ("memory/arena.cc", "beeline/ring/ring.h", "not below"),
        ("store/table.h", "beeline/runtime/worker.h", "not below"),
        ("plan/reshard.cc", "beeline/os/fd.h", "not below"),
        ("transfer/agent.cc", "beeline/plan/reshard.h", "not below"),
        ("api/agent.cc", "beeline/store/table.h", "not below"),
        ("runtime/worker.cc", "beeline/api/agent.h", "not below"),
        ("runtime/worker.cc", "beeline/runtime/node/server.h", "private"),
        ("memory/arena.cc", "beeline/memory/preload/family.h", "private"),
        ("transfer/agent.cc", "beeline/transport/tcp/tcp.h", "back end"),
        ("transport/shm/shm.cc", "beeline/transport/tcp/tcp.h", "back end"),
        ("os/fd.cc", "beeline/common/fd.h", "no layer"),
        ("os/fd.cc", "Python.h", "Python"),
        ("os/fd.cc", "torch/extension.h", "torch"),
    ],
)
def test_an_include_that_points_up_or_inside_is_reported_with_its_line(tmp_path, source, included, reason):
    write(tmp_path, f"src/beeline/{source}", f"#pragma once\n\n  #  include <{included}>\n")
    (problem,) = check_layers.check(tmp_path)
    assert problem.startswith(f"src/beeline/{source}:3: ")
    assert reason in problem


def test_an_include_by_relative_path_is_resolved(tmp_path):
    write(tmp_path, "src/beeline/ring/ring.h", "")
    write(tmp_path, "src/beeline/os/fd.cc", '#include "../ring/ring.h"\n#include "nowhere.h"\n')
    (problem,) = check_layers.check(tmp_path)
    assert problem.startswith("src/beeline/os/fd.cc:1: ")


def test_an_include_in_a_comment_does_not_count(tmp_path):
    write(tmp_path, "src/beeline/base/a.cc", '// #include "beeline/os/fd.h"\n')
    assert check_layers.check(tmp_path) == []


def test_a_source_outside_every_layer_is_reported(tmp_path):
    write(tmp_path, "src/beeline/utils/strings.h", "")
    (problem,) = check_layers.check(tmp_path)
    assert problem.startswith("src/beeline/utils/strings.h:1: is in no layer")


def test_the_layers_of_the_check_are_those_that_cmake_links():
    text = (ROOT / "src" / "beeline" / "CMakeLists.txt").read_text()
    built = text.partition("foreach(layer ")[2].partition(")")[0].split()
    assert built == [*check_layers.STACK, "plan"]


# Links.


def test_a_link_that_leads_somewhere_is_left_alone(tmp_path):
    write(tmp_path, "docs/memory.md", "# Memory\n\n## Leases\n")
    write(tmp_path, "docs/a picture.png", "")
    page = "[m](docs/memory.md#leases) ![p](docs/a%20picture.png) [d](docs) [w](https://nowhere.invalid/x.md) "
    page += "[h](#here)\n# Here\n"
    write(tmp_path, "README.md", page)
    write(tmp_path, "docs/other.md", "[up](../README.md) [root](/docs/memory.md)")
    assert check_links.check(tmp_path) == []


def test_a_dead_link_is_reported_with_its_line(tmp_path):
    write(tmp_path, "docs/memory.md", "one\n\nsee [rings](rings.md#frames) and [this](memory.md)\n")
    assert check_links.check(tmp_path) == ["docs/memory.md:3: link to rings.md#frames: no such file"]


@pytest.mark.parametrize("link", ["#gone", "other.md#gone", "other.md#in-code"])
def test_a_link_to_a_heading_that_is_not_there_is_reported(tmp_path, link):
    write(tmp_path, "other.md", "# There\n```\n# In code\n```\n")
    write(tmp_path, "a.md", f"# A\n[x]({link}) [y](other.md#there)\n")
    assert check_links.check(tmp_path) == [f"a.md:2: link to {link}: no such heading"]


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("## What is `ray.util`?", "what-is-rayutil"),
        ("# Ctrl-C, and more", "ctrl-c-and-more"),
        ("### See [the page](x.md) ##", "see-the-page"),
        ("## snake_case", "snake_case"),
    ],
)
def test_headings_get_the_anchors_that_github_gives_them(tmp_path, heading, anchor):
    assert check_links.anchors(write(tmp_path, "a.md", heading + "\n")) == {anchor}


def test_headings_of_one_name_are_told_apart(tmp_path):
    assert check_links.anchors(write(tmp_path, "a.md", "# A\n# A\n# A\n")) == {"a", "a-1", "a-2"}


def test_code_is_not_searched_for_links(tmp_path):
    write(tmp_path, "a.md", "```\n[x](gone.md)\n```\n`[y](gone.md)`\n~~~\n```\n[z](gone.md)\n~~~\n")
    assert check_links.check(tmp_path) == []


def test_pages_of_the_build_and_of_installed_packages_are_skipped(tmp_path):
    write(tmp_path, ".venv/lib/README.md", "[x](gone.md)")
    write(tmp_path, "build/docs/README.md", "[x](gone.md)")
    assert check_links.check(tmp_path) == []


# Size.


def test_long_files_are_warned_about_and_very_long_ones_fail(tmp_path):
    write(tmp_path, "src/beeline/base/fits.cc", "\n" * 600)
    write(tmp_path, "python/beeline/long.py", "\n" * 601)
    write(tmp_path, "tests/cpp/base/longer.h", "\n" * 901)
    write(tmp_path, "docs/long.md", "\n" * 2000)
    warnings, failures = check_size.check(tmp_path)
    assert [line.split(":")[0] for line in warnings] == ["python/beeline/long.py"]
    assert [line.split(":")[0] for line in failures] == ["tests/cpp/base/longer.h"]


@pytest.mark.parametrize(("text", "status"), [("", 0), ('#include "beeline/os/fd.h"\n', 1)])
def test_the_check_exits_with_one_when_it_found_something(tmp_path, text, status):
    write(tmp_path, "src/beeline/base/a.cc", text)
    command = [sys.executable, "-m", "tools.check_layers", str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == status


# Steps, stamps and reports of ./dev.


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setattr(steps, "BUILD", tmp_path / "build")
    monkeypatch.setattr(steps, "LOGS", tmp_path / "build" / "logs")
    return tmp_path


def test_a_step_keeps_all_output_in_its_log(checkout, capsys):
    script = "print('out'); import sys; print('err', file=sys.stderr)"
    log = steps.step("say both", [sys.executable, "-u", "-c", script], timeout_s=60)
    assert log.read_text().splitlines()[-2:] == ["out", "err"]
    assert "out" not in capsys.readouterr().out.splitlines()


def test_a_failed_step_prints_the_end_of_its_log(checkout, capsys):
    script = "print('a.cc:1: error: no'); [print('line', i) for i in range(1000)]; raise SystemExit(3)"
    with pytest.raises(steps.StepError, match="count"):
        steps.step("count", [sys.executable, "-c", script], timeout_s=60)
    printed = capsys.readouterr().out
    assert "| line 999" in printed
    assert "> a.cc:1: error: no" in printed
    assert "| line 5\n" not in printed
    assert "exit status 3" in printed


def test_a_step_past_its_limit_ends_with_its_children(checkout):
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    before = set(children())
    with pytest.raises(steps.StepError):
        steps.step("hang", [sys.executable, "-c", script], timeout_s=0.5)
    assert set(children()) <= before


def children() -> list[str]:
    listed = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
    return listed.split()


def test_commands_do_not_see_the_callers_python_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    env = steps.environment(EXTRA="1")
    assert "PYTHONPATH" not in env
    assert env["EXTRA"] == "1"
    assert env["PATH"].split(os.pathsep)[0] == str(steps.VENV / "bin")


def test_a_builder_waits_for_those_who_run_and_says_for_whom(checkout, monkeypatch):
    entered = threading.Event()
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(steps, "say", said.put)  # reading captured output beside its writer can lose a line
    with steps.Lock("build").building():
        pass
    builder = steps.Lock("lint")

    def build():
        with builder.building():
            entered.set()

    with steps.Lock("test").running(), steps.Lock("demo").running():
        waiting = threading.Thread(target=build)
        waiting.start()
        line = said.get()
        assert not entered.is_set()
    waiting.join()
    assert entered.is_set()
    assert "waiting for another ./dev" in line
    assert "./dev build" in line


def test_the_digest_changes_with_a_name_and_with_a_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    one, other = write(tmp_path, "a.txt", "x"), write(tmp_path, "b.txt", "x")
    first = environment.digest([one])
    assert environment.digest([other]) != first
    one.write_text("y")
    assert environment.digest([one]) != first
    one.write_text("x")
    assert environment.digest([one]) == first


def test_a_report_is_counted_by_case(tmp_path):
    report = write(
        tmp_path,
        "report.xml",
        """<testsuites><testsuite>
        <testcase name="a"/><testcase name="b" status="run"/>
        <testcase name="c"><failure/></testcase><testcase name="d"><error/></testcase>
        <testcase name="e"><skipped/></testcase><testcase name="f" status="disabled"/>
        </testsuite></testsuites>""",
    )
    outcome = suites.count(suites.Outcome("x", clean_exit=True), report)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (2, 2, 2)
    assert not outcome.good


@pytest.mark.parametrize(
    "outcome",
    [
        suites.Outcome("did not run", clean_exit=True),
        suites.Outcome("ran nothing", ran=True, clean_exit=True),
        suites.Outcome("crashed at exit", ran=True, passed=3),
    ],
)
def test_a_suite_that_proves_nothing_fails_the_run(outcome, capsys):
    good = suites.Outcome("good", ran=True, passed=1, clean_exit=True)
    assert suites.summarize([good]) == 0
    assert suites.summarize([good, outcome]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith(" passed, 0 failed")


def test_without_root_the_missing_packages_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "APT_LIST", write(tmp_path, "apt.txt", "# why\nno-such-package-a\nlibc6\n"))
    monkeypatch.setattr(environment.os, "geteuid", lambda: 1000)
    if not environment.shutil.which("dpkg-query"):
        pytest.skip("no Debian")
    with pytest.raises(steps.StepError):
        environment.install_packages()
    assert "apt-get install no-such-package-a\n" in capsys.readouterr().out


def test_what_full_tests_need_is_installed_once(tmp_path, monkeypatch):
    page = write(tmp_path, "full.txt", "fine==2\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environment, "FULL_STAMP", tmp_path / "stamp")
    asked: list[list[object]] = []
    monkeypatch.setattr(environment, "step", lambda title, command, **_: asked.append(command[-3:]))
    environment.setup_full()
    environment.setup_full()
    assert asked == [["--no-deps", "-r", page]]
    page.write_text("fine==3\n")
    environment.setup_full()
    assert len(asked) == 2


def test_a_peer_that_cannot_be_installed_keeps_no_other_one_away(tmp_path, monkeypatch, capsys):
    write(tmp_path, "transfer_peers.txt", "# why\nno-such==1\n\nfine==2  # what for\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environment, "TRANSFER_PEERS_STAMP", tmp_path / "stamp")
    monkeypatch.setattr(environment, "TRANSFER_PEERS_APT_LIST", write(tmp_path, "apt.txt", "# none\n"))
    asked: list[str] = []

    def step(title, command, **_):
        asked.append(command[-1])
        if refused and command[-1] == "no-such==1":
            raise steps.StepError(title)

    monkeypatch.setattr(environment, "step", step)
    refused = True
    environment.setup_transfer_peers()
    assert asked == ["no-such==1", "fine==2"]
    assert "without no-such==1" in capsys.readouterr().out
    refused = False
    environment.setup_transfer_peers()  # tried again
    environment.setup_transfer_peers()
    assert asked == ["no-such==1", "fine==2"] * 2


def test_every_pinned_requirement_is_exact():
    for page in (ROOT / "requirements").glob("*.txt"):
        for line in page.read_text().splitlines():
            if line and not line.startswith(("#", "-r ")):
                assert "==" in line, f"{page.name}: {line}"


def test_the_help_of_dev_names_every_command():
    shown = subprocess.run([sys.executable, "dev", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ("setup", "build", "demo", "test", "lint", "bench", "docs", "asan", "tsan", "clean"):
        assert f"./dev {command}" in shown.stdout or f"| {command}" in shown.stdout


# The site.


@pytest.mark.parametrize(
    ("html", "address"),
    [
        ('<script async src="https://cdn.invalid/x.js">', "https://cdn.invalid/x.js"),
        ('<link rel="stylesheet" type="text/css" href="//fonts.invalid/f.css" />', "//fonts.invalid/f.css"),
        ('<img alt="" src="http://images.invalid/i.png">', "http://images.invalid/i.png"),
    ],
)
def test_what_a_page_of_the_site_would_fetch_from_elsewhere_is_reported(tmp_path, html, address):
    write(tmp_path, "docs/page.html", f"<html>{html}</html>")
    assert site.loaded_from_elsewhere(tmp_path) == [f"docs/page.html: loads {address}"]


def test_links_and_what_lies_beside_the_page_are_left_alone(tmp_path):
    html = '<a href="https://elsewhere.invalid">x</a><script src="../_static/a.js"></script>'
    write(tmp_path, "page.html", html + '<link rel="stylesheet" href="_static/a.css"><link rel="index" href="//x/y">')
    assert site.loaded_from_elsewhere(tmp_path) == []
