"""What programs record by ray.util.metrics, as `beeline metrics` and other processes see it while they run."""

import os
import signal

import processes
import pytest
from prometheus_client.parser import text_string_to_metric_families

from beeline.util import metrics_files

pytestmark = pytest.mark.skipif(processes.ENGINE != "beeline", reason="Ray exports by agents of its own")

SCRIPT = """
    from beeline.util.metrics import Counter, Gauge, Histogram

    before = Counter("before_init", description="what was counted before there was a session")
    before.inc(3)
    ray.init(num_cpus=2)

    @ray.remote
    class Worker:
        def __init__(self):
            self.steps = Counter("steps", description="steps made", tag_keys=("phase",))
            self.depth = Gauge("depth")
            self.seconds = Histogram("seconds", boundaries=[0.1, 1.0])

        def step(self, phase):
            self.steps.inc(2, tags={"phase": phase})
            self.depth.set(-1.5)
            for value in (0.05, 0.1, 0.5, 7):
                self.seconds.observe(value)
            return os.getpid()

    workers = [Worker.remote() for _ in range(2)]
    pids = ray.get([worker.step.remote(phase) for worker, phase in zip(workers, ("warm-up", "training"))])
    say("recorded", pids)
    hear()
    ray.get(workers[1].step.remote("training"))
    say("again")
    hear()
    ray.shutdown()
    before.inc()
    say("down")
    hear()
    ray.init(num_cpus=1)
    say("up again")
    hear()
    ray.shutdown()
"""


def exported():
    code, output = processes.beeline_command("metrics", "--once")
    assert code == 0, output
    return {family.name: family for family in text_string_to_metric_families(output)}


def values(families, name, *labels):
    """The values of one name by the given labels, of all processes."""
    samples = [sample for family in families.values() for sample in family.samples if sample.name == name]
    return sorted((*(sample.labels.get(label) for label in labels), sample.value) for sample in samples)


def test_metrics_of_all_processes_are_there_while_the_program_runs(start_driver):
    driver = start_driver(SCRIPT)
    pids = driver.expect("recorded")
    families = exported()
    by_pid = dict(zip(("warm-up", "training"), map(str, pids), strict=True))
    assert values(families, "ray_steps_total", "phase", "Pid") == sorted(
        (phase, pid, 2.0) for phase, pid in by_pid.items()
    )
    assert families["ray_steps"].documentation == "steps made"
    assert values(families, "ray_depth") == [(-1.5,), (-1.5,)]
    assert values(families, "ray_seconds_bucket", "le", "Pid") == sorted(
        (bound, pid, count) for pid in by_pid.values() for bound, count in (("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0))
    )
    assert values(families, "ray_seconds_count") == [(4.0,), (4.0,)]
    assert values(families, "ray_before_init_total", "Pid") == [(str(driver.pid), 3.0)]
    sessions = {sample.labels["SessionName"] for sample in families["ray_steps"].samples}
    assert len(sessions) == 1 and sessions.pop().startswith(f"session-{driver.pid}-")
    driver.tell()
    driver.expect("again")
    assert values(exported(), "ray_steps_total", "phase") == [("training", 4.0), ("warm-up", 2.0)]


def test_metrics_of_a_killed_worker_go_with_it(start_driver):
    driver = start_driver(SCRIPT)
    pids = driver.expect("recorded")
    os.kill(pids[0], signal.SIGKILL)
    left = processes.until(
        lambda: (found := values(exported(), "ray_steps_total", "phase")) == [("training", 2.0)] and found
    )
    assert left == [("training", 2.0)]
    # The daemon removes the file as well.
    assert processes.until(lambda: pids[0] not in {process.pid for process in metrics_files.scan()[0]})


def test_metrics_outlive_sessions(start_driver):
    driver = start_driver(SCRIPT)
    driver.expect("recorded")
    driver.tell()
    driver.expect("again")
    driver.tell()
    driver.expect("down")
    assert metrics_files.scan() == ([], {})
    driver.tell()
    driver.expect("up again")
    assert values(exported(), "ray_before_init_total") == [(4.0,)]


def test_without_a_session_there_is_nothing_but_the_heads(session_folder):
    families = exported()
    assert values(families, "beeline_metrics_unreadable") == [(0.0,)]
    assert not [name for name in families if name.startswith("ray_")]


def test_a_file_that_is_none_is_counted(start_driver, session_folder):
    driver = start_driver(SCRIPT)
    driver.expect("recorded")
    (folder,) = session_folder.glob("beeline-*/session-*/agents")
    (folder / "p99.metrics").write_text("nonsense")
    found, unreadable = metrics_files.scan()
    assert [path for path in unreadable if path.endswith("p99.metrics")] and found
    families = exported()
    assert values(families, "beeline_metrics_unreadable") == [(1.0,)]
    assert len(values(families, "ray_steps_total")) == 2


SPILLING = """
    import numpy as np

    MIB = 1 << 20
    ray.init(num_cpus=1, object_store_memory=64 * MIB)

    @ray.remote
    class Bystander:
        def pid(self):
            return os.getpid()

    bystander = Bystander.remote()
    pid = ray.get(bystander.pid.remote())
    say("before", pid)
    hear()
    refs = [ray.put(np.full(8 * MIB // 8, i)) for i in range(20)]
    total = sum(int(ray.get(ref)[0]) for ref in refs)
    say("spilled", total)
    hear()
"""


def test_what_is_moved_to_disk_is_counted(start_driver):
    driver = start_driver(SPILLING)
    bystander = driver.expect("before")

    def of(families, name, pid):
        return [value for by, value in values(families, f"beeline_store_{name}", "Pid") if by == str(pid)]

    families = exported()
    for name in ("spilled_objects_total", "restored_bytes_total", "spill_stalled_seconds_total"):
        assert of(families, name, driver.pid) == of(families, name, bystander) == [0.0]
    assert of(families, "quota_bytes", driver.pid) == [64.0 * 2**20]
    assert "values on disk" not in processes.beeline_command("top", "--once", "--interval", "0.05")[1]
    driver.tell()
    assert driver.expect("spilled") == sum(range(20))
    families = exported()
    (objects,) = of(families, "spilled_objects_total", driver.pid)
    assert objects >= 12
    assert of(families, "spilled_bytes_total", driver.pid)[0] >= objects * 8 * 2**20
    assert of(families, "restored_objects_total", driver.pid)[0] >= objects
    assert 0 < of(families, "spill_stalled_seconds_total", driver.pid)[0] < 60
    assert 0 < of(families, "used_bytes", driver.pid)[0] <= 64 * 2**20
    assert of(families, "spilled_objects_total", bystander) == [0.0]
    _, shown = processes.beeline_command("top", "--once", "--interval", "0.05")
    assert "values on disk" in shown and str(driver.pid) in shown.partition("values on disk")[2]
    assert str(bystander) not in shown.partition("values on disk")[2]
    os.kill(bystander, signal.SIGSTOP)
    try:
        families = exported()
    finally:
        os.kill(bystander, signal.SIGCONT)
    assert values(families, "beeline_session_unanswered") == [(1.0,)]
    assert of(families, "spilled_objects_total", driver.pid) == [objects]
    assert of(families, "spilled_objects_total", bystander) == []
