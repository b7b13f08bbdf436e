"""Spans as other processes see them: one for each operation, with what it moved and what came of it."""

import json
import os
import signal
import threading

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, timeline
from tests.conformance.conftest import beeline

MIB = 1 << 20


def spans_of(place, name="reader"):
    found = timeline.read(place)
    assert found.unreadable == {}
    return [span for span in found.spans if span.agent == name]


def test_each_operation_is_a_span(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    owner.run(f"agent.grant(kept['refs'], {reader.address!r})")
    for path in ("shm", "cma", "tcp"):
        reader.fetch(refs, path=path)
    reader.fetch(refs[0][:256], path="cma")
    reader.push(refs, [torch.zeros(1 << 20)], path="cma")
    mapped = reader.map(refs[0])
    reader.publish("weights", {"a": torch.ones(1000), "b": torch.ones(24)})
    owner.run("del kept['refs']")
    with pytest.raises(exceptions.StaleReferenceError):
        reader.fetch(refs)
    spans = spans_of(place)
    assert [(span.operation, span.path, span.peer, span.name, span.nbytes, span.outcome) for span in spans] == [
        ("fetch", "shm", "owner", "", 4 * MIB, "ok"),
        ("fetch", "cma", "owner", "", 4 * MIB, "ok"),
        ("fetch", "tcp", "owner", "", 4 * MIB, "ok"),
        ("fetch", "cma", "owner", "", 1024, "ok"),
        ("push", "cma", "owner", "", 4 * MIB, "ok"),
        ("map", "shm", "owner", "", 4 * MIB, "ok"),
        ("publish", "", "", "weights", 4096, "ok"),
        ("fetch", "none", "owner", "", 4 * MIB, "stale"),
    ]
    for span in spans:
        assert (span.pid, span.thread) == (os.getpid(), threading.get_native_id())
        assert (span.gbps is not None) == (span.outcome == "ok" and span.operation != "map")
    assert spans_of(place, "owner") == []
    del mapped


def test_a_trace_opens_as_chrome_has_it(start_owner, reader, place, tmp_path):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    reader.fetch(refs, path="shm")
    shared = reader.register([torch.ones(5)])
    owner.run(f"agent.fetch(TensorRefs.from_json({shared.to_json()!r}))")
    target = tmp_path / "out.json"
    done = beeline("timeline", "--json", str(target), "--folder", place)
    trace = json.loads(target.read_text())
    names = {event["pid"]: event["args"]["name"] for event in trace["traceEvents"] if event["ph"] == "M"}
    assert names == {os.getpid(): "reader", owner.process.pid: "owner"}
    (event,) = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["pid"] == os.getpid()]
    assert event["name"] == "fetch owner" and event["tid"] == threading.get_native_id()
    assert event["ts"] > 0 and event["dur"] > 0
    assert event["args"]["bytes"] == 4 * MIB and event["args"]["path"] == "shm" and event["args"]["outcome"] == "ok"
    assert "transfer" in done.stderr
    assert json.loads(beeline("timeline", "--json", "-", "--folder", place).stdout) == trace


def test_only_the_last_seconds_are_shown_if_asked(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    reader.fetch(refs, path="shm")
    assert timeline.read(place, last_s=3600).spans == timeline.read(place).spans != ()
    assert timeline.read(place, last_s=0.0).spans == ()
    shown = beeline("timeline", "--last", "1h", "--folder", place, COLUMNS="120").stdout
    assert "reader" in shown and "4 MiB" in shown and "1 transfer of 1 agent." in shown
    assert beeline("timeline", "--last", "1ms", "--folder", place).stdout.strip() == "0 transfers of 0 agents."
    assert beeline("timeline", "--last", "soon", "--folder", place, check=False).returncode == 2


def test_what_was_overwritten_is_counted(start_owner, reader, place):
    owner = start_owner(folder=place)
    refs = owner.register("[torch.ones(1 << 20)]")
    reader.fetch(refs, path="tcp")
    batch = reader.prepare(refs[0][:256], torch.zeros(256), path="shm")
    for _ in range(10_000):
        batch.run()
    found = timeline.read(place)
    (agent_id,) = {span.agent_id for span in found.spans}
    assert found.overwritten[agent_id] >= 10_000 - 2 * 2048
    # However many short ones there were, the long one is still there.
    assert [span.path for span in found.spans if span.nbytes == 4 * MIB] == ["tcp"]
    assert "overwritten" in beeline("timeline", "--folder", place).stdout


def test_a_killed_agents_spans_stay_until_the_next_one_opens(start_owner, place):
    owner = start_owner(folder=place)
    owner.run("agent.publish('weights', torch.ones(1000))")
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    assert [(span.operation, span.name) for span in spans_of(place, "owner")] == [("publish", "weights")]
    with Agent("next", folder=place):
        assert spans_of(place, "owner") == []
    assert os.listdir(place) == []


def test_what_is_no_file_of_spans_is_told_and_hides_no_other(start_owner, reader, place):
    owner = start_owner(folder=place)
    reader.fetch(owner.register("[torch.ones(1 << 20)]"), path="shm")
    bad = owner.address.partition("id=")[2][:32] + ".spans"
    with open(os.path.join(place, bad), "r+b") as file:
        file.write(b"x" * 64)
    found = timeline.read(place)
    assert [span.agent for span in found.spans] == ["reader"]
    assert [os.path.basename(path) for path in found.unreadable] == [bad]
    assert "BELspan1" in beeline("timeline", "--folder", place, COLUMNS="300").stdout
