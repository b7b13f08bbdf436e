"""Counters as other processes see them: exact after known transfers, gone with their agent, and hostile files refused.

The commands run in processes of their own, as people run them.
"""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from beeline import exceptions
from beeline.transfer import Agent, counters, prometheus
from tests.conformance.conftest import TOKEN, beeline
from tests.conformance.paths import MISSING, OF_DEVICES

MIB = 1 << 20
FIRST_ROW = 8192  # where rows begin in a file


def top(place):
    return json.loads(beeline("top", "--json", "--interval", "0.05", "--folder", place).stdout)


def rows_of(report, name):
    (agent,) = [agent for agent in report["agents"] if agent["name"] == name]
    return {(row["path"], row["operation"], row["size"]): row for row in agent["rows"]}


def test_top_shows_exactly_what_moved(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    owner.run(f"agent.grant(kept['refs'], {reader.address!r})")
    for _ in range(3):
        reader.fetch(refs, path="shm")
    for _ in range(2):
        reader.fetch(refs[0][:256], path="cma")
    reader.fetch(refs, path="tcp")
    reader.push(refs, [torch.zeros(1 << 20)], path="cma")
    mapped = reader.map(refs[0])
    report = top(place)
    assert report["unreadable"] == {}
    rows = rows_of(report, "reader")
    assert {key: (row["transfers"], row["bytes"], row["failures"], row["failovers"]) for key, row in rows.items()} == {
        ("shm", "fetch", "<16MiB"): (3, 12 * MIB, 0, 0),
        ("cma", "fetch", "<4KiB"): (2, 2048, 0, 0),
        ("tcp", "fetch", "<16MiB"): (1, 4 * MIB, 0, 0),
        ("cma", "push", "<16MiB"): (1, 4 * MIB, 0, 0),
        ("shm", "map", "<16MiB"): (1, 4 * MIB, 0, 0),
    }
    for row in rows.values():
        assert row["peer"] == "owner" and row["seconds"] > 0
        assert sum(row["latency_ns_log2"]) == row["transfers"] and 0 < row["p50_s"] <= row["p99_s"]
    numbers = {agent["name"]: agent for agent in report["agents"]}
    assert numbers["reader"]["pid"] == os.getpid() and numbers["reader"]["peers"] == 1
    assert numbers["owner"]["visitors"] == 1 and numbers["owner"]["registrations"] == 1
    assert numbers["owner"]["rows"] == []
    shown = beeline("top", "--once", "--interval", "0.05", "--folder", place, COLUMNS="80").stdout
    assert all(len(line) <= 80 and "\N{HORIZONTAL ELLIPSIS}" not in line for line in shown.splitlines())
    assert "reader" in shown and "12 MiB" in shown and "switched" in shown
    del mapped


def test_top_on_a_terminal_shows_what_is_new_until_ctrl_c(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "beeline.cli", "top", "--interval", "0.05", "--folder", place]
    watching = subprocess.Popen(command, stdin=theirs, stdout=theirs, env={**os.environ, "COLUMNS": "180"})
    os.close(theirs)
    try:
        seen = read_until(terminal, b"nothing yet")
        assert b"12 MiB" not in seen
        for _ in range(3):
            reader.fetch(refs, path="shm")
        read_until(terminal, b"12 MiB")
    finally:
        watching.send_signal(signal.SIGINT)
        # Somebody must read what it still has to say.
        with contextlib.suppress(OSError):
            while os.read(terminal, 4096):
                pass
        assert watching.wait(30) == 0
        os.close(terminal)


def read_until(terminal, wanted):
    seen = b""
    while wanted not in seen:
        seen += os.read(terminal, 4096)  # OSError once the other side has ended
    return seen


def test_a_transfer_that_timed_out_is_a_failure(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 22)]")
    reader.fetch(refs, path="tcp")
    owner.signal(signal.SIGSTOP)
    with pytest.raises(exceptions.TransferTimeoutError):
        reader.fetch(refs, path="tcp", timeout_s=0.5)
    row = rows_of(top(place), "reader")["tcp", "fetch", ">=16MiB"]
    assert (row["transfers"], row["failures"], row["failovers"]) == (1, 1, 0)


def test_a_killed_agents_file_stays_and_the_next_agent_removes_it(start_owner, place):
    owner = start_owner(folder=place)
    (alive,) = counters.live(place)
    assert (alive.name, alive.pid, alive.address) == ("owner", owner.process.pid, owner.address)
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    (dead,) = counters.scan(place)[0]
    assert not dead.alive and dead.path == alive.path
    assert counters.live(place) == [] and top(place)["agents"] == []
    with Agent("next", folder=place):
        assert not os.path.exists(dead.path)
        assert [agent.name for agent in counters.live(place)] == ["next"]
    assert os.listdir(place) == []


def test_a_live_agents_file_survives_the_next_agent(start_owner, reader, place):
    owner = start_owner(folder=place)
    owner.signal(signal.SIGSTOP)  # it need not be well
    with Agent("next", folder=place):
        assert sorted(agent.name for agent in counters.live(place)) == ["next", "owner", "reader"]


def test_cut_and_hostile_files_are_refused_and_the_rest_is_shown(reader, place):
    whole = open(reader.counters_path, "rb").read()
    hostile = {
        "cut": (whole[:8000], "8000 bytes"),
        "empty": (b"", "0 bytes"),
        "other": (b"x" * len(whole), "BELcntr1"),
        "newer": (whole[:8] + b"\x02\0\0\0" + whole[12:], "version 2"),
        "boasting": (whole[:192] + b"\xff\xff\xff\x7f" + whole[196:], "rows"),
        "restless": (whole[: FIRST_ROW + 113] + b"\xff" + whole[FIRST_ROW + 114 :], "row 0 is of operation"),
        "rowless": (whole[:192] + b"\x00\x04\0\0" + whole[196:], "cut short"),
    }
    for name, (content, why) in hostile.items():
        path = os.path.join(place, f"{name}.counters")
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(ValueError, match=why) as caught:
            counters.read(path)
        assert path in str(caught.value)
    report = top(place)
    assert [agent["name"] for agent in report["agents"]] == ["reader"]
    assert {os.path.basename(path) for path in report["unreadable"]} == {f"{name}.counters" for name in hostile}
    assert "version 2" in beeline("top", "--once", "--interval", "0.05", "--folder", place, COLUMNS="300").stdout


def test_names_cannot_steer_the_terminal(place):
    with Agent("\x1b[31m[red]\N{BELL}", folder=place):
        shown = beeline("top", "--once", "--interval", "0.05", "--folder", place).stdout
        assert "\x1b" not in shown and "[red]" in shown


def test_an_agent_that_shares_no_memory_is_shown(place):
    with Agent("remote", folder=place, share_memory=False) as agent:
        assert [one.address for one in counters.live(place)] == [agent.address]
    assert os.listdir(place) == []


def test_an_agent_without_a_place_for_its_counters_says_so(tmp_path):
    folder = tmp_path / "not-private"
    folder.mkdir(mode=0o755)
    with pytest.warns(UserWarning, match="not a directory of this user alone"):
        agent = Agent("remote", folder=str(folder), share_memory=False)
    assert agent.counters_path == ""
    agent.close()


def test_a_total_names_what_its_rows_have_in_common(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    for path in ("shm", "cma", "tcp"):
        reader.fetch(refs, path=path)
    (agent,) = [agent for agent in counters.live(place) if agent.name == "reader"]
    total = counters.total(agent.rows)
    assert (total.peer, total.path, total.operation, total.transfers) == ("owner", "*", "fetch", 3)
    assert total.nbytes == 12 * MIB and counters.total([]) is None


def test_a_quantile_lies_in_its_bucket():
    latency = counters.Latency((0, 0, 0, 98, 0, 0, 2))
    assert 8e-9 <= latency.quantile(0.5) <= 16e-9
    assert 64e-9 <= latency.quantile(0.99) <= 128e-9
    assert counters.Latency((0, 0)).quantile(0.5) is None


def test_a_scrape_has_exactly_what_moved(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    for _ in range(5):
        reader.fetch(refs, path="shm")
    server = subprocess.Popen(
        [sys.executable, "-m", "beeline.cli", "metrics", "--port", "0", "--folder", place],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        samples = scrape(url)
        labels = dict(agent="reader", peer="owner", path="shm", operation="fetch", size="<16MiB")
        assert value(samples, "beeline_transfer_transfers_total", **labels) == 5
        assert value(samples, "beeline_transfer_bytes_total", **labels) == 20 * MIB
        assert value(samples, "beeline_transfer_failures_total", **labels) == 0
        assert value(samples, "beeline_transfer_duration_seconds_count", **labels) == 5
        assert value(samples, "beeline_transfer_duration_seconds_sum", **labels) > 0
        buckets = [s.value for s in samples if s.name.endswith("_bucket") and labels.items() <= s.labels.items()]
        assert buckets == sorted(buckets) and buckets[-1] == 5
        assert value(samples, "beeline_agent_visitors", agent="owner") == 1
        reader.fetch(refs, path="shm")
        assert value(scrape(url), "beeline_transfer_transfers_total", **labels) == 6
        owner.end()
        assert not [s for s in scrape(url) if s.labels.get("agent") == "owner"]
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        server.stdout.close()


def scrape(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(samples, name, **labels):
    (found,) = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
    return found


def test_a_program_exports_its_own_agents_alone(start_owner, reader, place):
    start_owner(folder=place)
    registry = CollectorRegistry()
    registry.register(prometheus.collector(place, pid=os.getpid()))
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    agents = [sample.labels["agent"] for sample in families["beeline_agent_start_time_seconds"].samples]
    assert agents == ["reader"]


def test_a_port_that_is_taken(place):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = beeline("metrics", "--port", str(taken.getsockname()[1]), "--folder", place, check=False)
    assert done.returncode == 1 and "cannot listen" in done.stderr


@pytest.mark.full
def test_paths_by_name_and_by_address(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    reader.fetch(refs, path="cma")
    for who in ("owner", owner.address, owner.address.partition("id=")[2][:8]):
        report = json.loads(beeline("paths", who, "--json", "--folder", place, BEELINE_TOKEN=TOKEN).stdout)
        assert report["to"] == owner.address
        assert report["paths"]["arena"]["chosen"] == "shm" and report["paths"]["other"]["chosen"] == "cma"
        by_path = {candidate["path"]: candidate for candidate in report["paths"]["other"]["candidates"]}
        assert by_path["tcp"]["usable"] and not by_path["shm"]["usable"] and "arena" in by_path["shm"]["reason"]
    between = json.loads(beeline("paths", "reader", "owner", "--json", "--folder", place, BEELINE_TOKEN=TOKEN).stdout)
    (measured,) = between["measured"]
    assert (measured["path"], measured["transfers"], measured["bytes"]) == ("cma", 1, 4 * MIB) and measured["gbps"] > 0
    shown = beeline("paths", "reader", "owner", "--folder", place, BEELINE_TOKEN=TOKEN, COLUMNS="200").stdout
    assert "taken" in shown and "What reader has measured" in shown


def test_paths_without_the_token_say_so(start_owner, place):
    start_owner(folder=place)
    report = json.loads(beeline("paths", "owner", "--json", "--folder", place).stdout)
    by_path = {candidate["path"]: candidate for candidate in report["paths"]["arena"]["candidates"]}
    assert by_path["shm"]["usable"] and not by_path["tcp"]["usable"] and "token" in by_path["tcp"]["reason"]


def test_paths_to_nobody(reader, place):
    done = beeline("paths", "nobody", "--folder", place, check=False)
    assert done.returncode == 1 and "those that run: reader" in done.stderr
    gone = "beeline://gone?id=" + "0" * 32 + "&tcp=127.0.0.1:1"
    done = beeline("paths", gone, "--folder", place, check=False)
    assert done.returncode == 1 and "nobody is there" in done.stderr
    with Agent("reader", folder=place):
        done = beeline("paths", "reader", "--folder", place, check=False)
        assert done.returncode == 1 and "2 agents are called 'reader'" in done.stderr


@pytest.mark.full
def test_bench_against_a_fresh_peer(place):
    options = ("--size", "1KiB", "--size", "1MiB", "--seconds", "0.01", "--folder", place)
    report = json.loads(beeline("bench", "transfer", *options, "--json").stdout)
    assert set(report["refused"]) == {*MISSING, *OF_DEVICES} and {"shm", "cma", "tcp"} <= set(report["paths"])
    assert [row["size"] for row in report["rows"]] == [1024, MIB]
    for row in report["rows"]:
        for path in ("copy", *report["paths"]):
            assert row[path]["runs"] >= 5 and row[path]["gbps"] > 0 and row[path]["p50_s"] <= row[path]["p99_s"]
    assert os.listdir(place) == []
    shown = beeline("bench", "transfer", *options, COLUMNS="80").stdout
    assert "1 KiB" in shown and "1 MiB" in shown and shown.count("shm") == 2


def test_bench_against_a_live_agent(reader, place):
    reader.publish("beeline.bench", np.zeros(2 * MIB, np.uint8))
    options = ("--path", "shm", "--seconds", "0.01", "--folder", place, "--json")
    report = json.loads(beeline("bench", "transfer", "reader", *options).stdout)
    assert report["too_large"] == [16 * MIB, 256 * MIB] and report["paths"] == ["shm"]
    done = beeline("bench", "transfer", "reader", "--path", "tcp", *options[2:])
    assert "tcp" in json.loads(done.stdout)["refused"]


@pytest.mark.full
def test_bench_between_two_agents_also_shows_what_the_first_has_measured(start_owner, reader, place):
    owner = start_owner(folder=place)
    owner.run("agent.publish('beeline.bench', np.zeros(1 << 20, np.uint8))")
    refs = owner.register("[torch.ones(1 << 20)]")
    reader.fetch(refs, path="cma")
    options = ("--size", "1KiB", "--size", "16MiB", "--seconds", "0.01", "--folder", place)
    report = json.loads(beeline("bench", "transfer", "reader", "owner", *options, "--json").stdout)
    assert report["peer"] == owner.address and report["measured_by"] == "reader"
    assert [(row["path"], row["operation"], row["transfers"]) for row in report["measured"]] == [("cma", "fetch", 1)]
    shown = beeline("bench", "transfer", "reader", "owner", *options, COLUMNS="200").stdout
    assert "Not measured: path tcp." in shown  # without its token
    assert "Not measured: 16 MiB. beeline://owner has published a buffer of 1 MiB" in shown
    assert "What reader has measured with owner" in shown
    elsewhere = beeline("bench", "transfer", "beeline://far?id=" + "0" * 32, "owner", *options, check=False)
    assert elsewhere.returncode == 1 and "run this command where it runs" in elsewhere.stderr
    assert beeline("bench", "transfer", "a", "b", "c", check=False).returncode == 2


@pytest.mark.full
def test_bench_against_an_agent_that_has_published_nothing(reader, place):
    done = beeline("bench", "transfer", "reader", "--folder", place, check=False)
    assert done.returncode == 1 and 'agent.publish("beeline.bench"' in done.stderr


def test_one_file_that_is_none_hides_no_agent(start_owner, place):
    start_owner(folder=place)
    (whole,) = (os.path.join(place, name) for name in os.listdir(place) if name.endswith(".counters"))
    bad = {name: os.path.join(place, f"{name}.counters") for name in ("link", "folder")}
    os.symlink(whole, bad["link"])
    os.mkdir(bad["folder"])
    report = top(place)
    assert [agent["name"] for agent in report["agents"]] == ["owner"]
    assert set(report["unreadable"]) == set(bad.values())
