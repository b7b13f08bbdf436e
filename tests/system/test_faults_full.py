"""A full disk under the session's folder costs the workers' log files, and nothing else."""

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
