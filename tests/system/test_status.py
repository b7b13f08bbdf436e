"""`beeline status`: what a session holds, as a program and as a person reads it."""

import json
import os
import signal

import processes

SESSION = """
    import numpy as np

    ray.init(num_cpus=4, resources={"robot": 2})

    @ray.remote(num_cpus=1)
    class Producer:
        def __init__(self):
            self.array = np.ones(4 << 20, np.uint8)

        @ray.method(tensor_transport="auto")
        def share(self):
            return self.array

        def pid(self):
            return os.getpid()

    @ray.remote
    class Consumer:
        def keep(self, array):
            self.kept = array
            return float(array[0])

    producer = Producer.options(name="the one", resources={"robot": 1}).remote()
    consumer = Consumer.remote()
    shared = producer.share.remote()
    ray.get(consumer.keep.remote(shared))
    stored = ray.put(np.ones(2 << 20, np.uint8))
    say("pids", [os.getpid(), ray.get(producer.pid.remote())])
    hear()
"""


def status(*flags):
    code, output = processes.beeline_command("status", *flags)
    assert code == 0, output
    return output


def the_session():
    (state,) = json.loads(status("--json"))
    return state


def test_status_shows_resources_actors_objects_transfers_and_memory(start_driver, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    driver = start_driver(SESSION)
    pid, producer_pid = driver.expect("pids")
    state = the_session()
    assert (state["total"]["robot"], state["available"]["robot"]) == (2, 1)
    producer = next(row for row in state["actors"] if row["name"] == "the one")
    assert (producer["class_name"], producer["pid"]) == ("Producer", producer_pid)
    rows = {row["pid"]: row for row in state["processes"]}
    assert all(row["pss_bytes"] > 0 for row in rows.values())
    own, theirs = rows[pid]["usage"], rows[producer_pid]["usage"]
    assert own["objects_owned"] >= 4  # two actors, what one of them returned, what was put
    assert (own["copied_objects"], own["copied_bytes"]) == (1, 2 << 20)
    assert own["arena_used_bytes"] >= 2 << 20
    assert (theirs["mapped_objects"], theirs["mapped_bytes"]) == (1, 4 << 20)
    assert theirs["publications"] == 1
    consumer = next(row for row in state["processes"] if row["what"] == "actor Consumer")
    assert (consumer["usage"]["fetched_objects"], consumer["usage"]["fetched_bytes"]) == (1, 4 << 20)
    text = status()
    for part in ("the one", "Producer", "robot", "1: 4.0 MiB", "1: 2.0 MiB", "objects owned", "published in place"):
        assert part in text, part
    assert "no answer" not in text
    assert "values on disk" not in text


def test_status_shows_what_lies_on_disk(start_driver, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    driver = start_driver(
        """
    import numpy as np

    ray.init(num_cpus=1, object_store_memory=32 << 20)
    refs = [ray.put(np.full(1 << 20, i)) for i in range(8)]  # twice as much as there is room for
    say("values", [int(ray.get(ref)[-1]) for ref in refs])
    hear()
    """
    )
    assert driver.expect("values") == list(range(8))
    usage = next(row["usage"] for row in the_session()["processes"] if row["pid"] == driver.pid)
    spilled, restored = usage["spilled_objects"], usage["restored_objects"]
    assert spilled >= 4 <= restored
    assert [usage["spilled_bytes"], usage["restored_bytes"]] == [8 * spilled << 20, 8 * restored << 20]
    assert usage["spill_stalled_us"] > 0
    text = status()
    (row,) = [line for line in text.split("values on disk, of")[1].splitlines() if str(driver.pid) in line]
    for part in (f"{spilled}: {8 * spilled}.0 MiB", f"{restored}: {8 * restored}.0 MiB"):
        assert part in row, (part, text)


def test_a_process_that_does_not_answer_holds_up_nobody(start_driver, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    driver = start_driver(SESSION)
    pid, producer_pid = driver.expect("pids")
    os.kill(producer_pid, signal.SIGSTOP)
    try:
        state = the_session()
        text = status()
    finally:
        os.kill(producer_pid, signal.SIGCONT)
    rows = {row["pid"]: row for row in state["processes"]}
    assert rows[producer_pid]["usage"] == {} and rows[pid]["usage"]
    assert state["counters"]["usage_unanswered"] >= 1
    assert "no answer" in text
    assert all(row["usage"] for row in the_session()["processes"] if row["what"].startswith("actor"))
