"""What `ActorPool` does where Ray's loses values or fails."""

import os

import pytest

import beeline as ray
from beeline.util import ActorPool


@ray.remote(num_cpus=0)
class Worker:
    def echo(self, x):
        return x

    def die(self, x):
        os._exit(1)

    def fail(self, x):
        raise ValueError(x)

    def through(self, gate, x):
        return ray.get(gate.pass_through.remote(x))

    @ray.method(num_returns=2)
    def pair(self, x):
        return x, -x

    @ray.method(num_returns=2)
    def pair_through(self, gate, x):
        ray.get(gate.pass_through.remote())
        return x, -x

    def ask(self, other):
        return ray.get(other.echo.remote(1))


def echo(actor, x):
    return actor.echo.remote(x)


def die(actor, x):
    return actor.die.remote(x)


def test_without_a_living_actor_every_value_raises():
    pool = ActorPool([Worker.remote()])
    results = pool.map(lambda a, x: a.die.remote(x) if x == 0 else a.echo.remote(x), range(3))
    with pytest.raises(ray.exceptions.ActorDiedError):
        next(results)
    for _ in range(2):
        assert pool.has_next()
        with pytest.raises(ray.exceptions.ActorDiedError, match="all died"):
            pool.get_next()
    assert not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()


def test_an_actor_that_is_pushed_takes_up_what_waits():
    pool = ActorPool([Worker.remote()])
    pool.submit(die, 0)
    for x in (1, 2):
        pool.submit(echo, x)
    with pytest.raises(ray.exceptions.ActorDiedError):
        pool.get_next()
    pool.push(Worker.remote())
    assert [pool.get_next(), pool.get_next_unordered()] == [1, 2]


def test_a_pool_that_never_had_actors_is_as_in_ray():
    pool = ActorPool([])
    pool.submit(echo, 1)
    assert not pool.has_next()
    with pytest.raises(StopIteration):
        pool.get_next()
    pool.push(Worker.remote())
    assert pool.get_next() == 1


def test_one_that_asked_a_dead_actor_stays():
    dead = Worker.remote()
    ray.kill(dead)
    pool = ActorPool([Worker.remote()])
    pool.submit(lambda actor, other: actor.ask.remote(other), dead)
    with pytest.raises(ray.exceptions.ActorDiedError):
        pool.get_next()
    assert pool.has_free()


def test_unordered_can_ignore_what_is_late(gate):
    pool = ActorPool([Worker.remote(), Worker.remote()])
    pool.submit(lambda a, x: a.through.remote(gate, x), "late")
    with pytest.raises(TimeoutError, match="ignored"):
        pool.get_next_unordered(timeout=0.05, ignore_if_timedout=True)
    assert not pool.has_next()
    ray.get(gate.open.remote())


def test_several_returns_with_timeouts_and_unordered(gate):
    pool = ActorPool([Worker.remote(), Worker.remote()])
    pool.submit(lambda a, x: a.pair_through.remote(gate, x), 1)
    pool.submit(lambda a, x: a.pair.remote(x), 2)
    assert pool.get_next_unordered() == [2, -2]
    with pytest.raises(TimeoutError):
        pool.get_next_unordered(timeout=0.05)
    ray.get(gate.open.remote())
    assert pool.get_next_unordered(timeout=60) == [1, -1]
    pool.submit(lambda a, x: a.pair.remote(x), 3)
    assert pool.get_next(timeout=60) == [3, -3]


def test_map_drops_earlier_results_and_errors(gate):
    pool = ActorPool([Worker.remote(), Worker.remote()])
    pool.submit(lambda a, x: a.fail.remote(x), 0)
    pool.submit(lambda a, x: a.through.remote(gate, x), 1)
    pool.submit(echo, 2)
    ray.get(gate.open.remote())
    assert list(pool.map(echo, [3, 4])) == [3, 4]
    pool.submit(echo, 5)
    pool.submit(echo, 6)
    pool.get_next_unordered()
    assert list(pool.map(echo, [7])) == [7]
