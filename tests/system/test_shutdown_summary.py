"""At its end a session says what went otherwise than asked, and is silent where nothing did."""

import json
import os
import signal

import processes
import pytest
from lineage_script import SCRIPT as LINEAGE

SILENT = """
    import numpy as np

    ray.init(num_cpus=2)

    @ray.remote
    class Producer:
        @ray.method(tensor_transport="auto")
        def make(self):
            return np.ones(1 << 20)

    producer = Producer.remote()
    assert ray.get(producer.make.remote()).sum() == 1 << 20
    ray.kill(producer)
    refs = [ray.put(np.ones(1 << 18)) for _ in range(2)]  # still held at the end
    END
    say("down")
"""
NOTICED = """
    ray.init(num_cpus=1, include_dashboard=True)

    @ray.remote(_labels={"a": "b"})
    def f():
        return 1

    assert ray.get(f.remote()) == 1
    END
    say("down")
"""


@pytest.mark.parametrize("end", ["ray.shutdown()", "", "with ray.init(ignore_reinit_error=True): pass"])
def test_a_session_in_which_all_went_as_asked_ends_in_silence(start_driver, end):
    driver = start_driver(SILENT.replace("END", end))
    driver.expect("down")
    assert driver.wait() == 0
    output = driver.output()
    # Of a machine so busy that no worker starts within ten seconds the daemon rightly complains.
    assert output == "" or "no worker has started" in output


@pytest.mark.parametrize("end", ["ray.shutdown()", ""])
def test_what_had_no_effect_is_summed_up(start_driver, end):
    driver = start_driver(NOTICED.replace("END", end))
    driver.expect("down")
    assert driver.wait() == 0
    summary = driver.output().partition("The session has ended")[2]
    assert "without effect: include_dashboard of init, asked for once" in summary
    assert "without effect: _labels of remote functions, asked for" in summary


def test_what_the_daemon_complained_of_is_summed_up(start_driver):
    driver = start_driver(
        """
        ray.init(num_cpus=1)
        say("ready")
        hear()
        ray.get(ray.remote(lambda: 1).remote())  # by the zygote that was started again
        ray.shutdown()
        say("down")
        """
    )
    driver.expect("ready")
    zygote = driver.zygote()
    os.kill(zygote.pid, signal.SIGKILL)

    def started_again():
        (state,) = json.loads(processes.beeline_command("status", "--json")[1])
        return state["counters"]["zygote_restarts"]

    assert processes.until(started_again) == 1
    driver.tell()
    driver.expect("down")
    assert driver.wait() == 0
    assert "zygote has ended and is started again" in driver.output()


def summary_of(driver):
    driver.expect("down")
    assert driver.wait() == 0
    return driver.output().partition("The session has ended")[2]


def test_calls_that_ran_again_for_a_lost_value_are_summed_up(start_driver):
    driver = start_driver(
        LINEAGE
        + """
    ray.init(num_cpus=2)
    refs = [make.remote(i) for i in range(3)]
    lose(*refs)
    say("values", [first(ray.get(ref)) for ref in refs[:2]])
    ray.shutdown()
    say("down")
    """
    )
    assert driver.expect("values") == [[0.0, 100_000], [1.0, 100_000]]
    assert "values: calls ran again 2 times, as what they had made was lost" in summary_of(driver)


def test_values_that_went_to_disk_are_summed_up(start_driver):
    driver = start_driver(
        """
    import numpy as np

    ray.init(num_cpus=1, object_store_memory=64 << 20)
    refs = [ray.put(np.ones(8 << 20, np.uint8)) for _ in range(12)]
    from beeline import _core
    say("moved", _core.transfer_stats()["spilled_objects"])
    ray.shutdown()
    say("down")
    """
    )
    moved = driver.expect("moved")
    assert moved > 0
    assert f"values: {moved} ({moved * 8} MiB) were moved to disk" in summary_of(driver)


def test_series_of_metrics_without_room_are_summed_up(start_driver):
    driver = start_driver(
        """
    from beeline.util.metrics import Counter

    ray.init(num_cpus=1)
    counter = Counter("ids", tag_keys=("id",))
    for i in range(40_000):
        counter.inc(tags={"id": f"{i:0100d}"})
    ray.shutdown()
    say("down")
    """
    )
    assert f"metrics: series of process {driver.pid} found no room " in summary_of(driver)
