"""How many threads torch uses in a worker whose zygote loaded it with one: the CPUs held, or what the user says."""

import pytest

SCRIPT = """
    import torch

    ray.init(num_cpus=4)

    def threads():
        return [torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]]

    @ray.remote
    class A:
        def threads(self):
            return threads()

    function = ray.remote(threads)
    actors = [A.remote(), A.options(num_cpus=2).remote()]
    say("actors", ray.get([actor.threads.remote() for actor in actors]))
    say("functions", ray.get([function.remote(), function.options(num_cpus=2).remote()]))
"""


@pytest.mark.parametrize(("given", "one", "two"), [(None, 1, 2), ("3", 3, 3), ("3,1", 3, 3)])
def test_torch_gets_its_threads_at_the_assignment(start_driver, monkeypatch, given, one, two):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    driver = start_driver(SCRIPT, environment={"OMP_NUM_THREADS": given} if given else None)
    expected = [[one, given or "1"], [two, given or "2"]]
    assert driver.expect("actors") == expected
    assert driver.expect("functions") == expected
