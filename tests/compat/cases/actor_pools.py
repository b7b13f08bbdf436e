"""`ray.util.ActorPool`."""

import os
import time

from outcome import raised, until


def _actors(ray, n=2):
    @ray.remote
    class Worker:
        def double(self, x):
            return 2 * x

        def slow(self, x):
            time.sleep(x)
            return x

        def fail(self, x):
            raise ValueError(f"no {x}")

        def die(self, x):
            os._exit(1)

        @ray.method(num_returns=2)
        def pair(self, x):
            return x, -x

        def pid(self):
            return os.getpid()

    return [Worker.remote() for _ in range(n)]


def _double(actor, x):
    return actor.double.remote(x)


def _slow(actor, x):
    return actor.slow.remote(x)


def case_map_keeps_the_order(ray):
    pool = ray.util.ActorPool(_actors(ray))
    return [list(pool.map(_double, range(7))), list(pool.map(_double, [])), pool.has_next()]


def case_map_unordered(ray):
    pool = ray.util.ActorPool(_actors(ray))
    return sorted(pool.map_unordered(_double, [1, 2, 3, 4, 5]))


def case_map_takes_any_iterable(ray):
    pool = ray.util.ActorPool(_actors(ray))
    return list(pool.map(_double, (x for x in (3, 1, 2))))


def case_results_come_lazily_from_map(ray):
    pool = ray.util.ActorPool(_actors(ray, 1))
    results = pool.map(_double, [1, 2, 3])
    return [next(results), pool.has_next(), list(results), pool.has_next()]


def case_submit_and_get_next(ray):
    pool = ray.util.ActorPool(_actors(ray))
    for x in range(5):
        pool.submit(_double, x)
    got = []
    while pool.has_next():
        got.append(pool.get_next())
    return got


def case_what_is_ready_comes_first_unordered(ray):
    actors = _actors(ray)
    ray.get([actor.pid.remote() for actor in actors])
    pool = ray.util.ActorPool(actors)
    pool.submit(_slow, 1.5)
    pool.submit(_slow, 0.01)
    return [pool.get_next_unordered(), pool.get_next_unordered(), pool.has_next()]


def case_nothing_submitted(ray):
    pool = ray.util.ActorPool(_actors(ray, 1))
    outcomes = []
    for take in (pool.get_next, pool.get_next_unordered):
        try:
            take()
        except StopIteration as error:
            outcomes.append(str(error))
    return [outcomes, pool.has_next(), pool.has_free()]


def case_timeouts(ray):
    pool = ray.util.ActorPool(_actors(ray, 1))
    pool.submit(_slow, 1)
    return [
        raised(ray, lambda: pool.get_next(timeout=0.05), "Timed out waiting for result"),
        raised(ray, lambda: pool.get_next_unordered(timeout=0.05), "Timed out waiting for result"),
        pool.has_next(),
        pool.get_next(timeout=20),
        pool.has_next(),
    ]


def case_a_timed_out_result_can_be_ignored(ray):
    pool = ray.util.ActorPool(_actors(ray, 1))
    pool.submit(_slow, 0.5)
    pool.submit(_double, 4)
    return [
        raised(ray, lambda: pool.get_next(timeout=0.05, ignore_if_timedout=True), "Timed out", "has been ignored"),
        pool.get_next(),
        pool.has_next(),
        pool.has_free(),
    ]


def case_in_order_after_unordered(ray):
    actors = _actors(ray)
    ray.get([actor.pid.remote() for actor in actors])
    pool = ray.util.ActorPool(actors)
    pool.submit(_slow, 2)
    pool.submit(_slow, 0.01)
    first = pool.get_next_unordered()
    return [first, raised(ray, pool.get_next, "get_next()", "get_next_unordered()"), pool.get_next_unordered()]


def case_an_error_is_raised_and_the_actor_stays(ray):
    pool = ray.util.ActorPool(_actors(ray, 1))
    pool.submit(lambda actor, x: actor.fail.remote(x), 5)
    pool.submit(_double, 5)
    return [raised(ray, pool.get_next, "no 5"), pool.get_next(), pool.has_free()]


def case_an_error_in_the_middle_of_map(ray):
    pool = ray.util.ActorPool(_actors(ray))
    results = pool.map(lambda a, x: a.fail.remote(x) if x == 1 else a.double.remote(x), range(4))
    first = next(results)
    error = raised(ray, lambda: next(results), "no 1")
    rest = []
    while pool.has_next():
        rest.append(pool.get_next())
    return [first, error, rest]


def case_an_error_of_the_function_itself(ray):
    pool = ray.util.ActorPool(_actors(ray, 1))

    def refuse(actor, x):
        raise KeyError("never submitted")

    return [raised(ray, lambda: pool.submit(refuse, 1), "never submitted"), pool.has_next()]


def case_a_dead_actor_leaves_the_pool(ray):
    actors = _actors(ray, 2)
    pool = ray.util.ActorPool(actors)
    pool.submit(lambda actor, x: actor.die.remote(x), 0)
    dead = raised(ray, pool.get_next)
    results = list(pool.map(_double, range(6)))
    idle = [pool.pop_idle() is not None, pool.pop_idle()]
    return [dead, results, idle]


def case_what_waited_for_a_dead_actor_runs_on_the_next(ray):
    pool = ray.util.ActorPool(_actors(ray, 1))
    pool.submit(lambda actor, x: actor.die.remote(x), 0)
    pool.submit(_double, 21)
    dead = raised(ray, pool.get_next)
    pool.push(_actors(ray, 1)[0])
    return [dead, pool.has_next(), pool.get_next()]


def case_a_killed_idle_actor(ray):
    actors = _actors(ray, 2)
    pids = ray.get([actor.pid.remote() for actor in actors])
    pool = ray.util.ActorPool(actors)
    ray.kill(actors[1])
    outcomes = until(lambda: _until_death(ray, pool))
    return [outcomes, len(set(pids)), list(pool.map(_double, [1, 2, 3]))]


def _until_death(ray, pool):
    pool.submit(_double, 1)
    outcome = raised(ray, pool.get_next)
    return outcome != "returned" and outcome


def case_push_and_pop_idle(ray):
    one, two = _actors(ray, 2)
    pool = ray.util.ActorPool([one])
    popped = [pool.pop_idle() == one, pool.pop_idle(), pool.has_free()]
    pool.push(two)
    pool.push(one)
    return [popped, pool.has_free(), list(pool.map(_double, range(4)))]


def case_an_actor_is_pushed_once(ray):
    one, two = _actors(ray, 2)
    pool = ray.util.ActorPool([one])
    idle = raised(ray, lambda: pool.push(one), "already belongs")
    pool.submit(_slow, 0.3)
    busy = raised(ray, lambda: pool.push(one), "already belongs")
    pool.submit(_double, 2)
    pool.push(two)
    return [idle, busy, [pool.get_next(), pool.get_next()]]


def case_busy_actors_are_not_free(ray):
    pool = ray.util.ActorPool(_actors(ray, 1))
    before = pool.has_free()
    pool.submit(_slow, 0.2)
    busy = [pool.has_free(), pool.pop_idle()]
    pool.submit(_double, 1)
    got = [pool.get_next(), pool.has_free(), pool.get_next(), pool.has_free()]
    return [before, busy, got]


def case_map_drops_what_was_submitted_before(ray):
    pool = ray.util.ActorPool(_actors(ray))
    for _ in range(3):
        pool.submit(_slow, 0.01)
    first = list(pool.map(_double, range(3)))
    for _ in range(3):
        pool.submit(_slow, 0.01)
    return [first, sorted(pool.map_unordered(_double, range(3)))]


def case_methods_with_two_results(ray):
    pool = ray.util.ActorPool(_actors(ray))
    return list(pool.map(lambda actor, x: actor.pair.remote(x), [1, 2, 3]))


def case_a_pool_in_a_task(ray):
    actors = _actors(ray, 2)

    @ray.remote
    def use(handles):
        return list(ray.util.ActorPool(handles).map(_double, range(4)))

    return ray.get(use.remote(actors))


def case_actor_pool_by_its_module(ray):
    import importlib

    return importlib.import_module(f"{ray.__name__}.util.actor_pool").ActorPool is ray.util.ActorPool
