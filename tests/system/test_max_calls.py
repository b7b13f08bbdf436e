"""Workers of functions with max_calls exit in time, and nothing is lost with them."""

import processes


def test_nothing_is_lost_with_workers_that_leave(start_driver):
    driver = start_driver(
        """
    import numpy as np

    ray.init(num_cpus=2)

    @ray.remote(max_calls=3, max_retries=0)
    def fill(i):
        return [os.getpid(), np.full(1 << 17, i)]

    results = ray.get([fill.remote(i) for i in range(60)])
    say("right", all((value == i).all() for i, (_, value) in enumerate(results)))
    pids = [pid for pid, _ in results]
    say("most", max(pids.count(pid) for pid in pids))
    again = ray.get([ray.remote(lambda x: int(x[1].sum())).remote(fill.remote(1)) for _ in range(20)])
    say("passed on", again == [1 << 17] * 20)
    direct = fill.options(tensor_transport="shm").remote(7)
    while ray.get(fill.remote(0))[0] == ray.get(direct)[0]:  # until its worker has had its calls
        pass
    say("direct", int(ray.get(direct)[1].sum()))
    del results, direct
    hear()
    """
    )
    assert driver.expect("right", 90) is True
    assert driver.expect("most") <= 3
    assert driver.expect("passed on", 90) is True
    assert driver.expect("direct") == 7 << 17
    # A few idle ones, for what comes next.
    assert processes.until(lambda: len([p for p in driver.servants() if "worker" in p.command]) <= 6)


def test_a_worker_that_others_need_holds_no_cpu(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=1)

    @ray.remote(max_calls=1)
    def own(i):
        return [ray.put(i), os.getpid()]

    owned = [ray.get(own.remote(i)) for i in range(5)]
    say("kept", ray.get([ref for ref, _ in owned]))
    say("pids", [pid for _, pid in owned])
    hear()
    del owned
    say("dropped")
    hear()
    """
    )
    assert driver.expect("kept") == [0, 1, 2, 3, 4]
    pids = driver.expect("pids")
    assert len(set(pids)) == 5
    owners = [p for p in driver.processes() if p.pid in pids]
    assert len(owners) == 5
    driver.tell()
    driver.expect("dropped")
    assert processes.still_alive(owners, 10) == []
