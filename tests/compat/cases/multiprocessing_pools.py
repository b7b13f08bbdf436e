"""`ray.util.multiprocessing.Pool`."""

import importlib
import itertools
import multiprocessing
import os
import threading
import time

from outcome import process_is_gone, raised, until


def _module(ray):
    return importlib.import_module(f"{ray.__name__}.util.multiprocessing")


def _pool(ray, *args, **kwargs):
    return _module(ray).Pool(*args, **kwargs)


def _double(x):
    return 2 * x


def _fail_at_three(x):
    if x == 3:
        raise KeyError(f"three: {x}")
    return x


def case_apply(ray):
    with _pool(ray, 2) as pool:
        return [
            pool.apply(_double, (4,)),
            pool.apply(dict, kwargs={"a": 1}),
            pool.apply(lambda x, y=1: x + y, (1,), {"y": 5}),
            pool.apply(lambda: "closure"),
        ]


def case_apply_async(ray):
    with _pool(ray, 2) as pool:
        results = [pool.apply_async(_double, (i,)) for i in range(6)]
        got = [result.get() for result in results]
        return [got, [result.ready() for result in results], [result.successful() for result in results]]


def case_map(ray):
    with _pool(ray, 2) as pool:
        return [
            pool.map(_double, range(11)),
            pool.map(_double, range(11), chunksize=3),
            pool.map(_double, (x for x in (5, 6))),
            pool.map(_double, []),
        ]


def case_map_async(ray):
    with _pool(ray, 2) as pool:
        result = pool.map_async(_double, range(5), chunksize=2)
        return [result.get(timeout=30), result.ready(), result.successful()]


def case_starmap(ray):
    with _pool(ray, 2) as pool:
        pairs = [(1, 2), (3, 4), (5, 6)]
        return [
            pool.starmap(pow, pairs),
            pool.starmap(pow, iter(pairs), chunksize=2),
            pool.starmap_async(pow, pairs).get(),
        ]


def case_imap(ray):
    with _pool(ray, 2) as pool:
        ordered = pool.imap(_double, range(9))
        first = next(ordered)
        return [
            first,
            list(ordered),
            list(pool.imap(_double, range(9), chunksize=4)),
            list(pool.imap(_double, iter(range(7)), chunksize=3)),
            raised(ray, lambda: pool.imap(_double, 5)),
        ]


def case_imap_unordered(ray):
    with _pool(ray, 2) as pool:
        return [
            sorted(pool.imap_unordered(_double, range(9))),
            sorted(pool.imap_unordered(_double, iter(range(9)), chunksize=2)),
        ]


def case_imap_unordered_gives_what_is_ready(ray):
    with _pool(ray, 2) as pool:
        results = pool.imap_unordered(lambda x: time.sleep(x) or x, [2, 0.01])
        return [next(results), next(results)]


def case_imap_is_lazy(ray):
    with _pool(ray, 2) as pool:
        results = pool.imap(_double, itertools.count())
        return [next(results) for _ in range(5)]


def case_imap_next_with_a_timeout(ray):
    with _pool(ray, 1) as pool:
        results = pool.imap(lambda x: time.sleep(1) or x, iter([7]))
        try:
            results.next(timeout=0.05)
            early = "returned"
        except multiprocessing.TimeoutError:
            early = "timed out"
        return [early, results.next(timeout=30)]


def case_errors(ray):
    with _pool(ray, 2) as pool:
        result = pool.apply_async(_fail_at_three, (3,))
        return [
            raised(ray, lambda: pool.apply(_fail_at_three, (3,)), "three: 3"),
            raised(ray, result.get, "three: 3"),
            result.successful(),
            raised(ray, lambda: pool.map(_fail_at_three, range(6)), "three: 3"),
            raised(ray, lambda: pool.starmap(_fail_at_three, [(1,), (3,)]), "three: 3"),
            pool.map(_double, [1]),
        ]


def case_the_class_of_an_error_is_its_own(ray):
    with _pool(ray, 1) as pool:
        try:
            pool.apply(_fail_at_three, (3,))
        except KeyError as error:
            return [type(error) is KeyError, list(error.args)]


def case_exceptions_as_values(ray):
    with _pool(ray, 1) as pool:
        value = pool.apply(lambda: ["in a list", ValueError("not raised")])
        return [value[0], str(value[1])]


def case_a_wrong_call(ray):
    with _pool(ray, 1) as pool:
        return [
            raised(ray, lambda: pool.apply(_double, (1, 2))),
            raised(ray, lambda: pool.apply(5), "not callable"),
            raised(ray, lambda: pool.map(_double, 5), "not iterable"),
            raised(ray, lambda: pool.apply_async(_double, (threading.Lock(),))),
        ]


def case_timeouts(ray):
    with _pool(ray, 1) as pool:
        result = pool.apply_async(time.sleep, (1,))
        try:
            result.get(timeout=0.05)
            early = "returned"
        except _module(ray).TimeoutError as error:
            early = isinstance(error, multiprocessing.TimeoutError)
        result.wait(timeout=0.05)
        not_ready = [result.ready(), raised(ray, result.successful, "not ready")]
        result.wait()
        return [early, not_ready, result.ready(), result.get()]


def case_callbacks(ray):
    with _pool(ray, 2) as pool:
        got, errors = [], []
        one = pool.apply_async(_double, (1,), callback=got.append, error_callback=errors.append)
        one.get()
        many = pool.map_async(_double, range(3), callback=lambda x: got.append(sorted(x)), error_callback=errors.append)
        many.get()
        star = pool.starmap_async(pow, [(2, 3)], callback=got.append)
        star.get()
        empty = pool.map_async(_double, [], callback=got.append)
        empty.get()
        return [got, errors]


def case_error_callbacks(ray):
    with _pool(ray, 2) as pool:
        got, errors = [], []
        one = pool.apply_async(_fail_at_three, (3,), callback=got.append, error_callback=errors.append)
        many = pool.map_async(_fail_at_three, range(6), callback=got.append, error_callback=errors.append)
        for result in (one, many):
            result.wait()
        return [got, len(errors), all(isinstance(error, Exception) for error in errors)]


def case_initializer(ray):
    def start(*values):
        os.environ["POOL_STARTED_WITH"] = repr(values)

    with _pool(ray, 2, initializer=start, initargs=(1, "b")) as pool:
        return sorted(set(pool.map(lambda _: os.environ.get("POOL_STARTED_WITH"), range(4))))


def case_initializer_that_fails(ray):
    def start():
        raise ValueError("bad start")

    return raised(ray, lambda: _pool(ray, 1, initializer=start), "bad start")


def case_as_many_processes_as_asked_for(ray):
    with _pool(ray, 3) as pool:
        pids = set(pool.map(lambda _: (time.sleep(0.05), os.getpid())[1], range(12), chunksize=1))
        default = _pool(ray)
        count = len(set(default.map(lambda _: (time.sleep(0.05), os.getpid())[1], range(16), chunksize=1)))
        default.terminate()
        return [len(pids), os.getpid() in pids, count]


def case_bad_numbers_of_processes(ray):
    return [
        raised(ray, lambda: _pool(ray, 0), "processes", ">0"),
        raised(ray, lambda: _pool(ray, -1), "processes", ">0"),
        raised(ray, lambda: _pool(ray, 5), "5 processes", "4 CPUs"),
    ]


def case_maxtasksperchild(ray):
    with _pool(ray, 1, maxtasksperchild=2) as pool:
        pids = [pool.apply(os.getpid) for _ in range(6)]
    return [len(set(pids)), [pids[0] == pids[1], pids[1] == pids[2], pids[2] == pids[3]]]


def case_options_of_the_actors(ray):
    with _pool(ray, 2, ray_remote_args={"num_cpus": 1, "resources": {"slot": 0.5}}) as pool:
        held = pool.map(lambda _: ray.get_runtime_context().get_assigned_resources(), range(2))
    return [held[0]["CPU"], held[0]["slot"], raised(ray, lambda: _pool(ray, 1, ray_remote_args={"no_such": 1}))]


def case_close_and_join(ray):
    pool = _pool(ray, 2)
    pids = set(pool.map(lambda _: os.getpid(), range(4)))
    open_yet = raised(ray, pool.join, "still running")
    result = pool.map_async(lambda x: time.sleep(0.05) or x, range(6))
    pool.close()
    refused = [
        raised(ray, lambda: pool.apply(_double, (1,)), "not running"),
        raised(ray, lambda: pool.map_async(_double, [1]), "not running"),
        raised(ray, lambda: pool.imap(_double, [1]), "not running"),
        raised(ray, pool.__enter__, "not running"),
    ]
    pool.join()
    return [open_yet, refused, result.get(), until(lambda: all(map(process_is_gone, pids)))]


def case_terminate(ray):
    pool = _pool(ray, 1)
    pid = pool.apply(os.getpid)
    running, waiting = pool.apply_async(time.sleep, (60,)), pool.apply_async(_double, (1,))
    pool.terminate()
    pool.terminate()
    pool.join()
    return [
        until(lambda: process_is_gone(pid)),
        raised(ray, lambda: running.get(timeout=20)),
        raised(ray, lambda: waiting.get(timeout=20)),
        raised(ray, lambda: pool.apply(_double, (1,)), "not running"),
    ]


def case_with_terminates(ray):
    with _pool(ray, 1) as pool:
        pid = pool.apply(os.getpid)
    return [until(lambda: process_is_gone(pid)), raised(ray, lambda: pool.apply(_double, (1,)), "not running")]


def case_a_worker_that_dies(ray):
    with _pool(ray, 1) as pool:
        return raised(ray, lambda: pool.apply(os._exit, (1,)))


def case_a_dead_worker_does_not_touch_the_other_ones(ray):
    with _pool(ray, 2) as pool:
        dead = pool.apply_async(os._exit, (1,))
        fine = pool.apply_async(_double, (1,))
        return [raised(ray, lambda: dead.get(timeout=30)), fine.get(timeout=30)]


def case_state_of_a_worker_lasts(ray):
    def count(_):
        import builtins

        builtins.pool_counter = getattr(builtins, "pool_counter", 0) + 1
        return builtins.pool_counter

    with _pool(ray, 1) as pool:
        return pool.map(count, range(4))


def case_large_arrays(ray):
    import numpy

    with _pool(ray, 2) as pool:
        arrays = [numpy.full(200_000, i) for i in range(3)]
        return [
            pool.map(lambda a: int(a.sum()), arrays),
            [a.shape[0] for a in pool.map(numpy.zeros, [10, 300_000])],
        ]


def case_references_as_arguments(ray):
    with _pool(ray, 1) as pool:
        ref = ray.put(20)
        return pool.apply(lambda ref: ray.get(ref) + 1, (ref,))


def case_a_pool_in_a_task(ray):
    @ray.remote
    def use():
        with _pool(ray, 2) as pool:
            return pool.map(_double, range(3))

    return ray.get(use.remote())


def case_names_of_the_module(ray):
    module = _module(ray)
    return [sorted(module.__all__), module.TimeoutError is multiprocessing.TimeoutError]
