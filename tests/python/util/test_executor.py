"""`ActorPoolExecutor` keeps what `concurrent.futures` promises."""

import concurrent.futures
import os
import threading

import pytest

import beeline as ray
from beeline.util.executor import ActorPoolExecutor
from tests.python.util.waiting import is_gone, until


@pytest.fixture
def executor():
    with ActorPoolExecutor(2) as one:
        yield one


def test_it_is_an_executor(executor):
    assert isinstance(executor, concurrent.futures.Executor)
    future = executor.submit(pow, 2, 5)
    assert isinstance(future, concurrent.futures.Future)
    assert [future.result(60), future.done(), future.exception()] == [32, True, None]
    assert executor.submit(dict, a=1).result(60) == {"a": 1}


def test_calls_run_elsewhere(executor):
    assert executor.submit(os.getpid).result(60) != os.getpid()


def test_map(executor):
    assert list(executor.map(pow, [1, 2, 3], [2, 2, 2])) == [1, 4, 9]
    assert list(executor.map(abs, range(-10, 0), chunksize=3)) == list(range(10, 0, -1))
    assert list(executor.map(abs, [])) == []
    assert list(executor.map(pow, [1, 2, 3], [2])) == [1]
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)


def test_errors(executor):
    future = executor.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        future.result(60)
    assert "in <lambda>" in str(future.exception().__cause__)
    results = executor.map(lambda x: 1 // x, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(TypeError):
        executor.submit(abs, threading.Lock())


def test_an_actor_that_dies_costs_its_call(executor):
    dead = executor.submit(os._exit, 1)
    with pytest.raises(ray.exceptions.ActorDiedError):
        dead.result(60)
    assert list(executor.map(abs, range(5))) == list(range(5))


def test_timeouts(executor, gate):
    future = executor.submit(lambda: ray.get(gate.pass_through.remote("late")))
    with pytest.raises(TimeoutError):
        future.result(0.05)
    results = executor.map(lambda _: ray.get(gate.pass_through.remote()), [1], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(results)
    ray.get(gate.open.remote())
    assert future.result(60) == "late"


def test_a_call_can_be_cancelled_until_it_begins(gate):
    with ActorPoolExecutor(1) as executor:
        running = executor.submit(lambda: ray.get(gate.pass_through.remote("ran")))
        until(running.running)
        waiting, after = executor.submit(abs, -1), executor.submit(abs, -2)
        assert [running.cancel(), waiting.cancel(), waiting.cancelled()] == [False, True, True]
        ray.get(gate.open.remote())
        assert [running.result(60), after.result(60)] == ["ran", 2]
        with pytest.raises(concurrent.futures.CancelledError):
            waiting.result(60)


def test_waiting_for_several(executor):
    futures = [executor.submit(abs, -i) for i in range(6)]
    done, missing = concurrent.futures.wait(futures, timeout=60)
    assert [len(done), len(missing)] == [6, 0]
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, timeout=60)) == list(range(6))


def test_shutdown_does_what_it_has(gate):
    executor = ActorPoolExecutor(1)
    pid = executor.submit(os.getpid).result(60)
    futures = [
        executor.submit(lambda: ray.get(gate.pass_through.remote(0))),
        *(executor.submit(abs, -i) for i in (1, 2)),
    ]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(abs, 1)
    ray.get(gate.open.remote())
    assert [future.result(60) for future in futures] == [0, 1, 2]
    executor.shutdown()
    until(lambda: is_gone(pid))


def test_shutdown_can_cancel(gate):
    executor = ActorPoolExecutor(1)
    running = executor.submit(lambda: ray.get(gate.pass_through.remote("ran")))
    until(running.running)
    waiting = [executor.submit(abs, i) for i in range(3)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    ray.get(gate.open.remote())
    executor.shutdown()
    assert running.result(60) == "ran"


def test_options():
    with ActorPoolExecutor(
        1, initializer=lambda name: setattr(os, name, "yes"), initargs=("executor_test",), max_tasks_per_child=2
    ) as executor:
        assert executor.submit(lambda: os.executor_test).result(60) == "yes"
        pids = [executor.submit(os.getpid).result(60) for _ in range(3)]
        assert [pids[0] == pids[1], pids[1] == pids[2]] == [False, True]
    with ActorPoolExecutor(1, actor_options={"num_cpus": 2}) as executor:
        held = executor.submit(lambda: ray.get_runtime_context().get_assigned_resources()).result(60)
        assert held["CPU"] == 2


def test_as_many_actors_as_the_session_has_cpus():
    with ActorPoolExecutor() as executor:
        assert executor._workers.size == 4


def test_bad_arguments():
    with pytest.raises(ValueError, match="max_workers"):
        ActorPoolExecutor(0)
    with pytest.raises(ValueError, match="max_tasks_per_child"):
        ActorPoolExecutor(1, max_tasks_per_child=0)
    with pytest.raises(TypeError, match="initializer"):
        ActorPoolExecutor(1, initializer=5)
    with pytest.raises(ValueError, match="no_such"):
        ActorPoolExecutor(1, actor_options={"no_such": 1})


def test_a_callback_of_a_future_may_submit(executor):
    later = []
    first = executor.submit(abs, -1)
    first.add_done_callback(lambda future: later.append(executor.submit(abs, -2)))
    first.result(60)
    assert until(lambda: later)[0].result(60) == 2


async def test_in_an_event_loop(executor):
    import asyncio

    loop = asyncio.get_running_loop()
    assert await asyncio.gather(*(loop.run_in_executor(executor, abs, -i) for i in range(5))) == [0, 1, 2, 3, 4]
