"""A full disk under the session's folder costs log files, counters and what needs a file, and nothing else."""

import shutil
import subprocess

import processes
import pytest

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
    say("full", {path: total_by(path) for path in ("auto", "cma", "tcp")})
    os.unlink(filler)
    say("free", {path: total_by(path) for path in ("auto", "cma", "tcp")})
    hear()
    ray.shutdown()
    say("down")
"""


@pytest.fixture
def full_disk(session_folder):
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(session_folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield
    subprocess.run(["umount", "-l", str(session_folder)], check=True)


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
    assert output.count("No space left on device") == 1
    assert output.count(" line ") == 10000


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_for_what_tensors_need(start_driver):
    pytest.importorskip("torch")
    driver = start_driver(TENSORS_SCRIPT)
    full = driver.expect("full")
    assert [full["auto"], full["cma"]] == [1 << 18] * 2
    assert 'No room for the token of tensor_transport="tcp"' in full["tcp"]
    assert driver.expect("free") == dict.fromkeys(full, 1 << 18)
    driver.tell()
    driver.expect("down")
    assert driver.wait() == 0
    output = driver.output()
    assert "keeps no counters: reserve space for counters: No space left on device" in output
    assert "keeps no counters that others can read" in output
