"""Pools of actors under what goes wrong at random: nothing hangs, nothing is lost that ran."""

import gc
import os
import random
import threading

import pytest

import beeline as ray
from beeline.util.executor import ActorPoolExecutor
from beeline.util.multiprocessing import Pool
from tests.python.util.waiting import until

ROUNDS = 6


def _make_run():  # pickled by value: a worker need not import this file, and pytest
    def run(x):
        if x % 17 == 3:
            os._exit(1)
        if x % 11 == 4:
            raise ValueError(x)
        return 2 * x

    return run


run = _make_run()


def expected(x):
    return ray.exceptions.ActorDiedError if x % 17 == 3 else ValueError if x % 11 == 4 else 2 * x


def outcome(take):
    try:
        return take()
    except (ValueError, ray.exceptions.ActorDiedError) as error:
        return type(error)


@pytest.fixture
def random_sizes():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return random.Random(seed)


def test_pools(random_sizes):
    for _ in range(ROUNDS):
        pool = Pool(random_sizes.randint(1, 4), maxtasksperchild=random_sizes.choice([None, 1, 2, 5]))
        results = [pool.apply_async(run, (x,)) for x in range(random_sizes.randrange(40))]
        end = random_sizes.choice(["close", "drop", "keep"])
        if end == "close":
            pool.close()
            pool.join()
        elif end == "drop":
            del pool
        assert [outcome(lambda r=r: r.get(60)) for r in results] == [expected(x) for x in range(len(results))]


def test_iterators(random_sizes):
    for _ in range(ROUNDS):
        pool = Pool(random_sizes.randint(1, 4), maxtasksperchild=random_sizes.choice([None, 1, 3]))
        count, is_ordered = random_sizes.randrange(40), random_sizes.random() < 0.5
        results = (pool.imap if is_ordered else pool.imap_unordered)(run, iter(range(count)))
        got = [outcome(lambda it=results: it.next(60)) for _ in range(count)]
        wanted = [expected(x) for x in range(count)]
        assert got == wanted if is_ordered else sorted(map(str, got)) == sorted(map(str, wanted))
        with pytest.raises(StopIteration):
            results.next(60)
        pool.terminate()
        pool.join()


def test_executors(random_sizes):
    for _ in range(ROUNDS):
        limit = random_sizes.choice([None, 1, 2])
        with ActorPoolExecutor(random_sizes.randint(1, 4), max_tasks_per_child=limit) as executor:
            futures = [executor.submit(run, x) for x in range(random_sizes.randrange(40))]
            for future in futures:
                if random_sizes.random() < 0.2:
                    future.cancel()
            for x, future in enumerate(futures):
                assert future.cancelled() or outcome(lambda f=future: f.result(60)) == expected(x)


@pytest.mark.full
def test_shutdown_at_any_time(random_sizes):
    try:
        for _ in range(ROUNDS):
            ray.init(num_cpus=4, ignore_reinit_error=True)
            pool = Pool(2, maxtasksperchild=random_sizes.choice([None, 1]))
            results = [pool.apply_async(run, (x,)) for x in range(40)]
            results[random_sizes.randrange(40)].wait(60)
            ray.shutdown()
            for result in results:
                result.wait(60)
                assert result.ready()
            pool.join()
            assert not ray.is_initialized()
    finally:
        ray.init(num_cpus=4, ignore_reinit_error=True)


def test_terminate_at_any_time(random_sizes):
    for _ in range(ROUNDS):
        pool = Pool(2)
        results = [pool.apply_async(run, (x,)) for x in range(20)]
        if random_sizes.random() < 0.5:
            outcome(lambda r=results: r[random_sizes.randrange(20)].get(60))
        pool.terminate()
        for x, result in enumerate(results):
            assert outcome(lambda r=result: r.get(60)) in (expected(x), ray.exceptions.ActorDiedError)
        pool.join()
    gc.collect()  # errors that were raised here hold the frames, and with them the pools, of earlier tests
    until(lambda: not any(t.name == "beeline-worker-pool" for t in threading.enumerate()))
