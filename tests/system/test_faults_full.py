"""A full disk under the session's folder costs log files, counters and what needs a file, and nothing else."""

import processes
import pytest

from tests.conformance.paths import MISSING
from tests.conformance.small_disk import mounted

SCRIPT = """
    from beeline import _core

    ray.init(num_cpus=2)

    @ray.remote
    class Speaker:
        def speak(self, n):
            for i in range(n):
                print(f"line {i:05d} " + "x" * 100)
            return n

    for _ in range(2):
        say("spoken", ray.get(Speaker.remote().speak.remote(5000)))
    say("lost", _core.node_state()["counters"]["log_bytes_lost"])
    hear()
    ray.shutdown()
    say("down")
"""

TENSORS_SCRIPT = """
    import os
    import torch
    from beeline.api import session

    ray.init(num_cpus=2)
    folder = session.current.info["session_dir"]

    @ray.remote(num_cpus=0)
    class Node:
        def make(self):
            return torch.ones(1 << 18)

        def total(self, tensor):
            return float(tensor.sum())

    producer, consumer = Node.remote(), Node.remote()
    ray.get([producer.make.remote(), consumer.total.remote(torch.ones(1))])

    def total_by(path):
        try:
            ref = producer.make.options(tensor_transport=path).remote()
            return ray.get(consumer.total.remote(ref), timeout=30)
        except ray.exceptions.OutOfDiskError as error:
            return str(error)

    filler = os.path.join(folder, "filler")
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass
    say("full", {{path: total_by(path) for path in {paths}}})
    os.unlink(filler)
    say("free", {{path: total_by(path) for path in {paths}}})
    hear()
    ray.shutdown()
    say("down")
"""


@pytest.fixture
def full_disk(session_folder):
    with mounted(session_folder, "128k"):
        yield


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_for_log_files(start_driver):
    driver = start_driver(SCRIPT)
    for _ in range(2):
        assert driver.expect("spoken") == 5000
    assert driver.expect("lost") > 100 << 10
    assert processes.until(lambda: driver.output().count("line 04999") == 2)
    driver.tell()
    driver.expect("down")
    assert driver.wait() == 0
    output = driver.output()
    assert output.count("log files under") == 1  # the journal, say, has no room either
    assert output.count(" line ") == 10000


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(
    "paths",
    [["auto", "cma", "tcp"], pytest.param(["auto", "ucx", "nixl", "gloo", "tcp"], marks=pytest.mark.full)],
    ids=" ".join,
)
def test_a_full_disk_for_what_tensors_need(start_driver, session_folder, paths):
    pytest.importorskip("torch")
    paths = [path for path in paths if path not in MISSING]
    driver = start_driver(TENSORS_SCRIPT.format(paths=paths))
    full = driver.expect("full")
    assert 'No room for the token of tensor_transport="tcp"' in full["tcp"]
    assert full == dict.fromkeys(paths, 1 << 18) | {"tcp": full["tcp"]}
    assert driver.expect("free") == dict.fromkeys(full, 1 << 18)
    driver.tell()
    driver.expect("down")
    assert driver.wait() == 0
    output = driver.output()
    assert "keeps no counters: reserve space for counters: No space left on device" in output
    assert "keeps no counters that others can read" in output
    assert [str(path) for path in session_folder.rglob("*") if not path.is_dir()] == []
