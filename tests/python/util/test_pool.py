"""What `multiprocessing.Pool` does where Ray's differs from the standard library's or from what is wished."""

import importlib.util
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time

import pytest

import beeline as ray
from beeline.api import notices
from beeline.util.multiprocessing import Pool
from tests.python.util.waiting import is_gone, until


@pytest.fixture
def make_pool():
    pools = []

    def make(*args, **kwargs):
        pools.append(Pool(*args, **kwargs))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()


def threads():
    return {thread.name for thread in threading.enumerate()}


def test_a_worker_that_dies_is_replaced(make_pool):
    pool = make_pool(1)
    dead = pool.apply_async(os._exit, (3,))
    rest = [pool.apply_async(abs, (-i,)) for i in range(5)]
    with pytest.raises(ray.exceptions.ActorDiedError):
        dead.get(60)
    assert [result.get(60) for result in rest] == [0, 1, 2, 3, 4]
    assert pool.map(abs, [-5]) == [5]


def test_death_in_a_map_costs_its_chunk(make_pool):
    pool = make_pool(2)
    results = pool.imap(lambda x: os._exit(1) if x == 2 else x, range(5))
    got = [next(results), next(results)]
    with pytest.raises(ray.exceptions.ActorDiedError):
        next(results)
    assert [*got, *results] == [0, 1, 3, 4]


def test_a_replacement_starts_with_the_initializer(make_pool):
    pool = make_pool(1, initializer=lambda name: setattr(os, name, "set"), initargs=("pool_test",))
    with pytest.raises(ray.exceptions.ActorDiedError):
        pool.apply(os._exit, (1,))
    assert pool.apply(lambda: os.pool_test) == "set"


def test_replacements_that_cannot_start_cost_a_task_each(make_pool, tmp_path):
    start_once = tmp_path / "started"
    pool = make_pool(1, initializer=lambda: start_once.touch(exist_ok=False))
    results = [pool.apply_async(os._exit, (1,)), pool.apply_async(abs, (1,)), pool.apply_async(abs, (2,))]
    for result in results:
        with pytest.raises(ray.exceptions.ActorDiedError):
            result.get(60)


def test_no_task_waits_behind_a_busy_worker(make_pool, gate):
    pool = make_pool(2)
    slow = pool.apply_async(lambda: ray.get(gate.pass_through.remote("slow")))
    assert [pool.apply(abs, (-i,)) for i in range(5)] == [0, 1, 2, 3, 4]
    assert not slow.ready()
    ray.get(gate.open.remote())
    assert slow.get(60) == "slow"


def test_imap_raises_in_place_and_goes_on(make_pool):
    pool = make_pool(2)
    results = pool.imap(lambda x: 1 // x, [1, 0, -1], chunksize=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == [-1]
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("is_ordered", [True, False])
def test_imap_raises_what_its_arguments_raise(make_pool, is_ordered):
    def arguments():
        yield from range(3)
        raise LookupError("no more arguments")

    pool = make_pool(1)
    results = (pool.imap if is_ordered else pool.imap_unordered)(abs, arguments(), 2)
    got = []
    with pytest.raises(LookupError, match="no more arguments"):
        for result in results:
            got.append(result)
    if is_ordered:
        assert got == [0, 1, 2]
    assert sorted([*got, *results]) == [0, 1, 2]


def test_imap_raises_for_what_cannot_be_pickled_in_place(make_pool):
    pool = make_pool(1)
    results = pool.imap(type, iter([1, threading.Lock(), "a"]))
    assert next(results) is int
    with pytest.raises(TypeError):
        next(results)
    assert list(results) == [str]


def test_imap_without_a_chunksize(make_pool):
    pool = make_pool(2)
    assert list(pool.imap(abs, range(100), None)) == list(range(100))
    assert sorted(pool.imap_unordered(abs, iter(range(5)), None)) == list(range(5))
    assert sorted(pool.imap(abs, {1, 2})) == [1, 2]


def test_close_takes_what_is_left_of_imap(make_pool):
    pool = make_pool(2)
    results = pool.imap(abs, iter(range(50)))
    pool.close()
    pool.join()
    assert list(results) == list(range(50))


def test_imap_after_terminate_raises(make_pool):
    pool = make_pool(2)
    results = pool.imap(abs, itertools.count())
    assert next(results) == 0
    pool.terminate()
    with pytest.raises((ValueError, ray.exceptions.ActorDiedError)):
        for _ in results:
            pass


@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunks_have_a_size(make_pool, chunksize):
    pool = make_pool(1)
    for method in (pool.map, pool.map_async, pool.starmap, pool.imap, pool.imap_unordered):
        with pytest.raises(ValueError, match="Chunksize must be 1"):
            method(abs, [(1,)], chunksize=chunksize)
    with pytest.raises(ValueError, match="Chunksize must be 1"):
        pool.starmap_async(abs, [(1,)], chunksize=chunksize)


def test_error_callbacks_are_given_what_was_raised(make_pool):
    pool = make_pool(1)
    errors = []
    pool.apply_async(lambda: 1 // 0, error_callback=errors.append).wait()
    pool.map_async(int, ["1", "x", "y"], error_callback=errors.append).wait()
    pool.apply_async(os._exit, (1,), error_callback=errors.append).wait()
    assert [type(error) for error in errors] == [ZeroDivisionError, ValueError, ray.exceptions.ActorDiedError]


def test_errors_say_where_they_were_raised(make_pool):
    def deep():
        raise KeyError("deep down")

    with pytest.raises(KeyError) as raised:
        make_pool(1).apply(deep)
    assert "in deep" in str(raised.value.__cause__)
    assert "worker_pool.py" not in str(raised.value.__cause__)


def test_errors_that_cannot_be_pickled(make_pool):
    def fail():
        error = ValueError("holds a lock")
        error.lock = threading.Lock()
        raise error

    with pytest.raises(ray.exceptions.UnserializableException, match="holds a lock"):
        make_pool(1).apply(fail)


def test_callbacks_have_run_when_the_result_is_there(make_pool):
    pool = make_pool(2)
    for i in range(20):
        got = []
        result = pool.apply_async(abs, (-i,), callback=lambda x, got=got: (time.sleep(0.001), got.append(x)))
        assert [result.get(), got] == [i, [i]]


def test_a_callback_may_use_the_pool(make_pool):
    pool = make_pool(1)
    got = []
    pool.apply_async(abs, (-1,), callback=lambda x: got.append(pool.apply(abs, (-2 * x,)))).get(60)
    assert got == [2]


def test_a_callback_that_raises_is_logged(make_pool, caplog):
    pool = make_pool(1)
    assert pool.apply_async(abs, (-1,), callback=lambda x: 1 // 0).get(60) == 1
    assert pool.apply_async(abs, (-1,), callback=lambda x: None).get(60) == 1
    assert "callback" in caplog.text


def test_a_pool_that_is_dropped_does_what_it_has(make_pool):
    pool = Pool(2)
    pids = set(pool.map(lambda _: os.getpid(), range(8), chunksize=1))
    results = pool.map_async(abs, range(30), chunksize=1)
    del pool
    assert results.get(60) == list(range(30))
    until(lambda: all(map(is_gone, pids)))


def test_pools_leave_no_thread():
    before = threads()
    pool = Pool(2)
    pool.map_async(abs, [1], callback=lambda x: None).get()
    pool.close()
    pool.join()
    until(lambda: threads() <= before)


def test_maxtasksperchild_counts_chunks(make_pool):
    pool = make_pool(1, maxtasksperchild=1)
    pids = pool.map(lambda _: os.getpid(), range(6), chunksize=2)
    assert pids[0::2] == pids[1::2]
    assert len(set(pids)) == 3
    assert len(set(make_pool(1, maxtasksperchild=-1).map(lambda _: os.getpid(), range(3), 1))) == 1
    with pytest.raises(ValueError, match="maxtasksperchild"):
        Pool(1, maxtasksperchild=-5)


def test_arguments_are_those_of_the_submission(make_pool, gate):
    pool = make_pool(1)
    pool.apply_async(lambda: ray.get(gate.pass_through.remote()))
    value = [1]
    later = pool.apply_async(list, (value,))
    value.append(2)
    ray.get(gate.open.remote())
    assert later.get(60) == [1]


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_a_program_with_torch_has_workers_with_torch():
    code = """
import sys, types
sys.modules["torch"] = types.ModuleType("torch")  # torch itself takes a second
import beeline as ray
from beeline.util.multiprocessing import Pool
ray.init(num_cpus=1)

def has_torch():
    return "torch" in sys.modules

print(Pool(1).apply(has_torch))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == "True", done.stderr


def test_a_pool_cannot_be_passed_on(make_pool):
    with pytest.raises(NotImplementedError):
        pickle.dumps(make_pool(1))


def test_what_has_no_effect_is_warned_of(make_pool):
    before = notices.counts.get("context of Pool", 0)
    make_pool(1, context=multiprocessing.get_context("spawn"))
    assert notices.counts["context of Pool"] == before + 1


def test_an_address_where_no_session_runs_is_an_error():
    ray.shutdown()
    try:
        with pytest.raises(ConnectionError, match="address"):
            Pool(1, ray_address="10.0.0.1:6379")
        assert not ray.is_initialized()
        with Pool(3, ray_address="local") as pool:
            assert pool.map(abs, [-1]) == [1]
            assert ray.cluster_resources()["CPU"] == 3
    finally:
        ray.shutdown()
        ray.init(num_cpus=4)


def test_the_end_of_the_session_settles_everything(gate):
    pool = Pool(1)
    running = pool.apply_async(lambda: ray.get(gate.pass_through.remote()))
    waiting = pool.apply_async(abs, (1,))
    results = pool.imap(abs, [1, 2])
    ray.shutdown()
    try:
        for result in (running, waiting):
            with pytest.raises(ray.exceptions.RayError):
                result.get(60)
        with pytest.raises(ray.exceptions.RayError):
            next(results)
        pool.join()
        pool.terminate()
        assert not ray.is_initialized()
    finally:
        ray.init(num_cpus=4)


def _twice(x):
    return 2 * x


def test_results_come_of_a_pool_that_nobody_holds():
    assert list(Pool(2).imap(_twice, range(50))) == [2 * x for x in range(50)]
    assert sorted(Pool(2).imap_unordered(_twice, range(50))) == [2 * x for x in range(50)]


def test_a_callback_that_wants_to_exit_leaves_the_others(make_pool):
    pool = make_pool(1)

    def leave(_):
        raise SystemExit

    pool.apply_async(_twice, (1,), callback=leave).get(30)
    seen = []
    pool.apply_async(_twice, (2,), callback=seen.append).get(30)
    until(lambda: seen == [4])
