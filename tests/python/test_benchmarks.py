"""The benchmark command: its arithmetic, JSON, choice of rows, and that no failure vanishes. Few need an engine."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import engines, processes, report, runner  # noqa: E402
from benchmarks.registry import PROBES, Bound, Contender, Limit, Measured, Row, result, select  # noqa: E402
from benchmarks.rows import CORE, SUITES, gpu, sweep, weights  # noqa: E402

ROW = Row(
    "key",
    "a measure",
    "us",
    "group",
    "futex",
    "round_trip",
    Bound("<=", 1 / 40),
    peers=(Contender("slow", "ray"), Contender("fast", "ray")),
    limit=Limit("futex", "round_trip"),
)


def measured(**values):
    return {name: Measured(samples=list(samples)) for name, samples in values.items()}


def test_a_time_is_compared_with_the_fastest_peer():
    row = result(ROW, measured(beeline=[9, 10, 11], slow=[900], fast=[500, 400, 600], limit=[5]))
    assert row["beeline"] == 10
    assert row["peers"] == {"slow": 900, "fast": 500}
    assert row["ratio"] == pytest.approx(10 / 500)
    assert row["holds"] is True
    assert row["spread"]["fast"] == [400, 600]
    assert row["limit"] == 5


def test_a_rate_is_compared_with_the_highest_peer():
    rate = Row("k", "m", "1/s", "g", "futex", "x", Bound(">=", 40), peers=ROW.peers)
    row = result(rate, measured(beeline=[39_000], slow=[500], fast=[1000]))
    assert row["ratio"] == 39
    assert row["holds"] is False
    assert report.missed([row]) == ["k"]


@pytest.mark.parametrize(
    ("bound", "ours", "ratio", "holds"),
    [
        (Bound("<=", 1.2, "limit", slack=20), 140, 1.2, True),  # (140 - 20) / 100
        (Bound("<=", 1.2, "limit", slack=20), 141, 1.21, False),
        (Bound("<=", 1.2, "limit"), 100, 1.0, True),
        (Bound("<=", 8, "value"), 9, 9, False),
        (Bound("<=", 0.5, "peer b"), 20, 0.1, True),
        (Bound("<=", 0.5, "peer a"), 20, 2, False),
        (Bound("<=", 0.5, "peer missing"), 20, None, None),
        (Bound("<=", 0.5, "best of b, c"), 90, None, None),  # c has no figure: nobody knows
        (Bound("<=", 0.5, "best of a, b"), 90, 9, False),
        (Bound("<=", 0.5), 90, 9, False),  # of those that have one
        (Bound("<=", 0.5), None, None, None),
    ],
)
def test_bounds_divide_by_what_they_name(bound, ours, ratio, holds):
    got = bound.ratio(ours, {"a": 10, "b": 200, "c": None}, 100)
    assert got == (None if ratio is None else pytest.approx(ratio))
    assert bound.holds(got) is holds


def test_no_base_gives_no_ratio_rather_than_a_verdict():
    assert Bound("<=", 2).ratio(1, {"ray": None}, None) is None
    assert Bound("<=", 2, "limit").ratio(1, {"ray": 5}, None) is None
    assert Bound("<=", 2, "limit").ratio(1, {"ray": 5}, 0.0) is None


def test_mistyped_rows_are_refused():
    with pytest.raises(ValueError, match="=="):
        Bound("==", 1)
    with pytest.raises(ValueError, match="furlongs"):
        Row("k", "m", "furlongs", "g", "futex", "x")


def test_the_rows_are_consistent():
    for rows in SUITES.values():
        keys = [row.key for row in rows]
        assert len(keys) == len(set(keys))
        for row in rows:
            assert row.probe in PROBES
            assert row.limit is None or row.limit.probe in PROBES
            names = {row.ours.name, *(peer.name for peer in row.peers)}
            assert len(names) == 1 + len(row.peers)
            if row.bound:
                assert set(row.bound.names()) <= names
            if row.bound and row.bound.against == "limit":
                assert row.limit
    assert "sweep_1GiB" in {row.key for row in SUITES["handoff"]}


def test_the_weights_have_the_published_size():
    shapes = weights.shapes()
    elements = 0
    for shape in shapes.values():
        product = 1
        for length in shape:
            product *= length
        elements += product
    assert len(shapes) == 310
    assert round(elements * 2 / 2**20, 1) == 1136.9


def test_list_shows_every_row_and_measures_nothing(monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *a, **k: pytest.fail("measured"))
    listed = CliRunner().invoke(command.main, ["core", "--list"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == [row.key for row in CORE]
    one = CliRunner().invoke(command.main, ["core", "--list", "--only", "CALL_round"])
    assert len(one.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["core", "--only", "no_such_row"], "no_such_row"),
        (["core", "--only", "init", "--only", "no_such_row"], "no_such_row"),
        (["core", "--engines", "dask"], "dask"),
        (["nothing"], "nothing"),
    ],
)
def test_an_unknown_name_is_an_error_that_says_it(arguments, word):
    failed = CliRunner().invoke(command.main, arguments)
    assert failed.exit_code == 2
    assert word in failed.output


def test_only_keeps_the_order_of_the_table():
    chosen = select(CORE, ("weights", "call_round_trip"))
    assert [row.key for row in chosen] == ["call_round_trip", "weights_310"]


def finished(key, ours, **errors):
    row = result(ROW, measured(beeline=ours, slow=[100], fast=[100]))
    return {**row, "key": key, "errors": errors}


def test_json_schema_and_exit_status(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "run", lambda *a, **k: [finished("good", [1]), finished("bad", [50])])
    target = tmp_path / "out" / "core.json"
    run = CliRunner().invoke(command.main, ["core", "--json", str(target)])
    assert run.exit_code == 0, run.output
    written = json.loads(target.read_text())
    assert set(written) == {"machine", "commit", "rows"}
    assert {"cpu", "cores", "kernel"} <= set(written["machine"])
    needed = {"measure", "unit", "beeline", "peers", "limit", "ratio", "bound", "holds"}
    assert all(needed <= set(row) for row in written["rows"])
    assert [row["holds"] for row in written["rows"]] == [True, False]
    assert "misses" in run.output
    assert "holds" in run.output
    checked = CliRunner().invoke(command.main, ["core", "--check"])
    assert checked.exit_code == 1
    assert "bad" in checked.output


def shown(rows):
    from rich.console import Console

    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    console.print(report.table("t", rows))
    return console.export_text()


def test_a_row_that_failed_is_in_the_table_with_its_error():
    row = result(ROW, {"beeline": Measured(error="ActorDiedError: gone"), "fast": Measured(samples=[3])})
    assert row["holds"] is None
    assert row["errors"] == {"beeline": "ActorDiedError: gone"}
    assert report.missed([row]) == ["key"]
    text = shown([row])
    assert "ActorDiedError: gone" in text
    assert "failed" in text


def job(probe="futex", timeout_s=60.0, **env):
    return runner.Job(probe, Contender("some", "none", "", tuple(env.items())), timeout_s)


def test_a_probe_that_raises_is_reported():
    answer = runner.run_child(job("actor_calls"), quick=True)
    assert answer["error"].startswith("AttributeError")


def test_an_unknown_probe_is_reported():
    assert "no_such_probe" in runner.run_child(job("no_such_probe"), quick=True)["error"]


def test_a_child_that_dies_without_an_answer_is_reported_with_its_output():
    answer = runner.run_child(job(PYTHONHOME="/nowhere"), quick=True)
    assert "gave no figures" in answer["error"]
    assert "/nowhere" in answer["error"] or "encodings" in answer["error"]


def test_a_child_that_hangs_is_ended_and_reported():
    answer = runner.run_child(job("import_torch", timeout_s=0.05), quick=True)
    assert "no answer within 0.05 s" in answer["error"]


def test_processes_that_a_child_leaves_are_found_and_ended():
    import subprocess

    left = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        env={**os.environ, processes.TAG: "left-behind"},
        start_new_session=True,
    )
    try:
        # An interpreter, once it has started: until then the fork has next to no memory of its own.
        while left.pid not in processes.tagged("left-behind") or processes.pss_bytes({left.pid}) <= 2**20:
            assert left.poll() is None
        assert processes.end("left-behind", grace_s=0) == [left.pid]
        assert left.wait(timeout=30) == -9
        assert processes.tagged("left-behind") == set()
    finally:
        left.kill()
        left.wait()


def test_a_failure_in_a_later_round_is_not_hidden_by_earlier_figures(monkeypatch, tmp_path):
    answers = iter([{"samples": {"x": [1.0]}}, {"error": "second round"}])
    monkeypatch.setattr(runner, "run_child", lambda job, quick: next(answers))
    monkeypatch.setattr(runner, "LOCK", tmp_path / "lock")
    outcome = runner.run_group([job()], 2, True, lambda job: None)[job()]
    assert runner.measured(outcome, "x", "us").error == "second round"


def test_processes_left_running_are_reported_beside_the_figures(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "run_child", lambda job, quick: {"samples": {"x": [1.0]}, "left": 2})
    monkeypatch.setattr(runner, "LOCK", tmp_path / "lock")
    outcome = runner.run_group([job()], 2, True, lambda job: None)[job()]
    figure = runner.measured(outcome, "x", "s")
    assert figure.value == 1.0
    assert "left 2 processes" in figure.error


def test_rounds_interleave_the_contenders(monkeypatch, tmp_path):
    order = []
    monkeypatch.setattr(runner, "run_child", lambda job, quick: order.append(job.probe) or {"samples": {}})
    monkeypatch.setattr(runner, "LOCK", tmp_path / "lock")
    runner.run_group([job("a"), job("b"), job("c")], 3, True, lambda job: None)
    assert order == list("abcbcacab")


def test_rows_with_one_probe_share_their_children_and_the_limit_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "LOCK", tmp_path / "lock")  # figures do not matter here; do not wait for a benchmark
    none, python = Contender("beeline", "none"), Limit("start_python", "seconds")
    rows = [
        Row(key, key, unit, "g", "futex", "round_trip", Bound("<=", 1e9, "limit"), none, (), python)
        for key, unit in (("a", "us"), ("b", "ms"))
    ]
    assert runner.children(rows, ("beeline",), rounds=2) == 4
    started = []
    a, b = runner.run(rows, ("beeline",), rounds=1, quick=True, step=started.append)
    assert len(started) == 2
    assert a["errors"] == {}
    assert a["beeline"] == pytest.approx(b["beeline"] * 1e3)
    assert a["limit"] > 0
    assert a["holds"] is True


def test_a_row_is_named_by_what_was_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "LOCK", tmp_path / "lock")
    row = Row("k", "500 of them", "us", "g", "futex", "x", quick_measure="50 of them, scaled", note="a remark")
    monkeypatch.setattr(runner, "run_child", lambda job, quick: {"samples": {"x": [1.0]}})
    for quick, measure in ((False, "500 of them"), (True, "50 of them, scaled")):
        (answer,) = runner.run([row], ("beeline",), rounds=1, quick=quick)
        assert (answer["measure"], answer["quick"], answer["note"]) == (measure, quick, "a remark")
        for text in (shown([answer]), report.markdown([answer])):
            assert measure in text
            assert "a remark" in text


def test_the_range_of_ours_is_shown_whatever_its_name():
    row = Row("k", "m", "us", "g", "futex", "x", ours=Contender("beeline cma", "none", "cma"), peers=())
    answer = result(row, {"beeline cma": Measured(samples=[1, 2, 3])})
    assert "2 [1..3]" in shown([answer])
    assert "2 [1..3]" in report.markdown([answer])
    del answer["ours"]  # files of before
    assert "| 2 |" in report.markdown([answer])


def test_quick_rows_say_their_own_counts():
    rows = {row.key: row.measured_as(quick=True) for rows in SUITES.values() for row in rows}
    assert rows["actors_500"].startswith("50 actors")
    assert "20,000" in rows["queued_bytes"]
    assert "50,000" in rows["objects_growth"]
    assert rows["many_tensors"].startswith("10,000 tensors")
    assert "500 actors" in {row.key: row.measure for row in CORE}["actors_500"]


def test_the_quick_sweep_leaves_sizes_out():
    quick = CliRunner().invoke(command.main, ["handoff", "--list", "--quick"])
    assert len(quick.output.splitlines()) == len(sweep.QUICK_SIZES) < len(sweep.SIZES)
    left_out = CliRunner().invoke(command.main, ["handoff", "--quick", "--only", "sweep_4KiB"])
    assert left_out.exit_code == 2
    assert "sweep_4KiB" in left_out.output


def test_the_sweep_has_every_transport_for_the_cpu():
    from beeline.tensors import registered

    named = {peer.variant for peer in sweep.ROWS[0].peers if peer.engine == "beeline"}
    assert named == {*registered.BUILTIN, "shm", "object_store"} - {"cuda_ipc", "nccl"}


def test_two_processes_in_python_set_a_limit():
    samples = runner.run_child(job("ring"), quick=True)["samples"]
    assert set(samples) == {"round_trip", "pipelined", "one_way"}
    assert all(value > 0 for figures in samples.values() for value in figures)


@pytest.mark.parametrize("cuda", [None, "12.6"])
def test_without_a_gpu_the_suite_says_so_and_measures_nothing(monkeypatch, tmp_path, cuda):
    monkeypatch.setattr(runner, "run", lambda *a, **k: pytest.fail("measured"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    target = tmp_path / "gpu.json"
    refused = CliRunner().invoke(command.main, ["gpu", "--json", str(target)])
    assert refused.exit_code == command.UNAVAILABLE
    assert "torch sees none here" in refused.output
    assert ("without CUDA" if cuda is None else "no driver or no device") in refused.output
    assert "Traceback" not in refused.output
    assert not target.exists()
    listed = CliRunner().invoke(command.main, ["gpu", "--list"])
    assert listed.exit_code == 0
    assert {"gpu_1KiB", "gpu_1GiB", "gpu_grpo_step"} <= {line.split()[0] for line in listed.output.splitlines()}


def test_with_a_gpu_the_suite_runs(monkeypatch):
    monkeypatch.setattr(runner, "run", lambda rows, *a, **k: [finished(rows[0].key, [1])])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert CliRunner().invoke(command.main, ["gpu"]).exit_code == 0


def test_both_actors_of_a_sweep_are_on_one_gpu(monkeypatch):
    """With a GPU that is only declared, and tensors on the CPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(sweep, "QUICK_SIZES", ("1 KiB", "16 KiB"))
    ctx = engines.context("beeline", "auto", quick=True)
    try:
        samples = sweep.over_sizes(ctx, "cpu", gpu.SHARE)
        assert set(samples) == {"1 KiB", "16 KiB"}
        assert ctx.ray.cluster_resources()["GPU"] == 1
        ctx.ray.shutdown()
        with pytest.raises(AssertionError, match="arrived on cpu"):
            sweep.over_sizes(ctx, "cpu:0", gpu.SHARE)
    finally:
        ctx.ray.shutdown()


def test_engines_that_are_not_asked_for_do_not_run():
    assert set(runner.jobs_of(ROW, ("ray",))) == {"slow", "fast", "limit"}
    assert set(runner.jobs_of(ROW, ("beeline",))) == {"beeline", "limit"}


def test_the_sweep_draws_every_series(tmp_path):
    rows = [
        {"measure": f"handoff, {name}", "beeline": size / 1e3, "peers": {"ray gloo": size / 1e2, "ray nixl": None}}
        for name, size in sweep.SIZES.items()
    ]
    series = sweep.points(rows)
    assert set(series) == {"beeline auto", "ray gloo"}
    assert series["ray gloo"][0] == (1024, 10.24)
    sweep.draw(rows, str(tmp_path / "p.png"), "a machine")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
