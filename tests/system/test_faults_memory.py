"""Memory that runs out: the quota, and the cgroup that the whole program is in."""

import os
import uuid
from pathlib import Path

import pytest

MIB = 1 << 20

WITHIN_A_CGROUP = """
    hear()  # until this process is in its cgroup
    ray.init(num_cpus=2)
    import numpy as np

    say("memory", ray.cluster_resources()["memory"])
    kept = ray.put(np.ones(100 << 20, np.uint8))
    say("too much", tried(lambda: ray.put(np.ones(300 << 20, np.uint8))))

    @ray.remote(max_retries=0)
    def eats():
        return len(b"x" * (2 << 30))

    @ray.remote
    class A:
        def total(self, array):
            return int(array.sum())

    a = A.remote()
    say("before", ray.get(a.total.remote(kept)))
    say("eaten", tried(lambda: ray.get(eats.remote())))
    say("after", ray.get(A.remote().total.remote(kept)))
    ray.shutdown()
    say("down")
"""


@pytest.fixture
def limited_cgroup():
    """A memory cgroup of 512 MiB: the file that takes processes."""
    version_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    root = Path("/sys/fs/cgroup" if version_2 else "/sys/fs/cgroup/memory")
    folder = root / f"beeline-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        (folder / ("memory.max" if version_2 else "memory.limit_in_bytes")).write_text(str(512 * MIB))
    except OSError as error:
        pytest.skip(f"a memory cgroup cannot be made here: {error}")
    yield folder / "cgroup.procs"
    folder.rmdir()


def test_a_cgroups_limit(limited_cgroup, start_driver):  # in this order: the cgroup goes after its processes
    driver = start_driver(WITHIN_A_CGROUP)
    limited_cgroup.write_text(str(driver.pid))
    driver.tell()
    assert driver.expect("memory") < 512 * MIB
    kinds, message = driver.expect("too much")
    assert "ObjectStoreFullError" in kinds and "object_store_memory" in message, (kinds, message)
    assert driver.expect("before") == 100 * MIB
    kinds, message = driver.expect("eaten")
    assert "WorkerCrashedError" in kinds and "memory ran out" in message, (kinds, message)
    assert driver.expect("after") == 100 * MIB
    driver.expect("down")
    assert driver.wait() == 0
    assert not [pid for pid in limited_cgroup.read_text().split() if int(pid) != os.getpid()]
