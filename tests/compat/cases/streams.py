"""Tasks that yield: a stream of references."""

import asyncio
import os
import pickle
import tempfile
import time
import warnings

from outcome import full, raised, until
from stream_helpers import counting, dynamic, fails, still_at, stops, taken

# ----- streams of tasks


def case_task_streams(ray):
    stream = counting(ray).remote(4)
    return [isinstance(stream, ray.ObjectRefGenerator), [ray.get(ref) for ref in stream], stops(stream)]


def case_nothing_is_yielded(ray):
    stream = counting(ray).remote(0)
    return [taken(ray, stream), stops(stream), ray.get(stream.completed())]


def case_streaming_by_name(ray):
    return taken(ray, counting(ray, num_returns="streaming").remote(2))


def case_streaming_in_options(ray):
    return taken(ray, counting(ray).options(num_returns="streaming").remote(2))


def case_an_exception_is_the_last_item(ray):
    stream = counting(ray).remote(1, True)
    first = ray.get(next(stream))
    return [first, raised(ray, lambda: ray.get(next(stream)), "midway"), stops(stream)]


def case_completed_after_an_exception_of_user_code(ray):
    stream = counting(ray).remote(2, True)
    return [len(list(stream)), ray.get(stream.completed()), stream.is_finished(), stream.next_ready()]


def case_completed_before_anything_was_taken(ray):
    stream = counting(ray).remote(3)
    return [ray.get(stream.completed()), stream.is_finished(), stream.next_ready(), taken(ray, stream)]


def case_is_finished_when_all_is_taken(ray):
    stream = counting(ray).remote(1)
    before = stream.is_finished()
    list(stream)
    return [before, stream.is_finished(), stream.next_ready()]


def case_next_ready_says_whether_next_returns_at_once(ray):
    @ray.remote
    def late(path):
        while not os.path.exists(path):
            time.sleep(0.01)
        yield 1

    path = tempfile.mktemp()
    stream = late.remote(path)
    before = stream.next_ready()
    open(path, "w").close()
    return [before, until(stream.next_ready), ray.get(next(stream))]


def case_an_item_comes_before_the_task_ends(ray):
    @ray.remote
    def waits(path):
        yield "early"
        while not os.path.exists(path):
            time.sleep(0.01)
        yield "late"

    path = tempfile.mktemp()
    stream = waits.remote(path)
    first = ray.get(next(stream))
    open(path, "w").close()
    return [first, taken(ray, stream)]


def case_items_outlive_their_stream(ray):
    refs = list(counting(ray).remote(3))
    return ray.get(refs)


def case_items_are_arguments(ray):
    @ray.remote
    def add(a, b):
        return a + b

    first, second = counting(ray).remote(2)
    return ray.get(add.remote(first, second))


def case_items_may_be_large(ray):
    import numpy as np

    @ray.remote
    def arrays():
        for i in range(3):
            yield np.full(200_000, i)

    return [int(ray.get(ref).sum()) for ref in arrays.remote()]


def case_references_may_be_yielded(ray):
    @ray.remote
    def inner():
        yield ray.put(7)

    return ray.get(ray.get(next(inner.remote())))


def case_a_stream_within_a_task(ray):
    @ray.remote
    def outer():
        return [ray.get(ref) for ref in counting(ray).remote(3)]

    return ray.get(outer.remote())


def case_a_stream_of_a_stream(ray):
    @ray.remote
    def outer():
        for ref in counting(ray).remote(3):
            yield ray.get(ref) + 1

    return taken(ray, outer.remote())


def case_a_failed_argument_is_the_only_item(ray):
    @ray.remote
    def bad():
        raise RuntimeError("bad")

    @ray.remote
    def gen(value):
        yield value

    stream = gen.remote(bad.remote())
    return [taken(ray, stream), fails(ray, stream.completed())["caught_as"]]


def case_a_value_that_does_not_pickle_ends_the_stream(ray):
    import threading

    @ray.remote
    def gen():
        yield 1
        yield threading.Lock()
        yield 3

    stream = gen.remote()
    return [ray.get(next(stream)), "TypeError" in fails(ray, next(stream))["caught_as"], stops(stream)]


def case_a_generator_given_back_by_get(ray):
    stream = counting(ray).remote(1)
    return ray.get(stream) is stream


def case_its_iterator_is_itself(ray):
    stream = counting(ray).remote(1)
    return [iter(stream) is stream, stream == stream, len({stream, stream})]


# ----- numbers of returns


def case_a_number_of_returns_takes_as_many_items(ray):
    count = counting(ray)
    return [ray.get(count.options(num_returns=1).remote(1)), ray.get(count.options(num_returns=2).remote(2))]


def case_returns_that_were_not_yielded_fail(ray):
    refs = counting(ray).options(num_returns=3).remote(2)
    return [ray.get(refs[:2]), raised(ray, lambda: ray.get(refs[2]), "num_returns=3", "2 objects")]


def case_returns_after_an_exception_fail(ray):
    refs = counting(ray).options(num_returns=3).remote(1, True)
    return [ray.get(refs[0]), *(raised(ray, lambda ref=ref: ray.get(ref), "midway") for ref in refs[1:])]


def case_an_exception_before_the_first_return(ray):
    refs = counting(ray).options(num_returns=2).remote(0, True)
    return [raised(ray, lambda ref=ref: ray.get(ref), "midway") for ref in refs]


def case_no_returns_of_a_generator(ray):
    return counting(ray).options(num_returns=0).remote(2) is None


def case_streaming_of_what_does_not_yield(ray):
    def plain():
        return 5

    return [
        raised(ray, lambda: ray.remote(num_returns="streaming")(plain), "generator"),
        raised(ray, lambda: ray.remote(plain).options(num_returns="streaming"), "generator"),
        raised(ray, lambda: ray.remote(plain).options(num_returns="dynamic"), "generator"),
    ]


# ----- dynamic


def case_dynamic_returns_are_a_collection(ray):
    value = ray.get(dynamic(counting(ray)).remote(3))
    return [isinstance(value, ray.DynamicObjectRefGenerator), len(value), [ray.get(ref) for ref in value], len(value)]


def case_dynamic_returns_with_an_exception(ray):
    value = ray.get(dynamic(counting(ray)).remote(2, True))
    return [len(value), taken(ray, value)]


def case_dynamic_returns_may_be_passed_on(ray):
    @ray.remote
    def total(collection):
        return sum(ray.get(list(collection)))

    return ray.get(total.remote(dynamic(counting(ray)).remote(4)))


def case_dynamic_is_warned_of(ray):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        counting(ray).options(num_returns="dynamic")
    return [
        issubclass(warning.category, DeprecationWarning) or "deprecated" in str(warning.message) for warning in caught
    ][:1]


# ----- dying and trying again


@full
def case_a_worker_that_dies_midway(ray):
    @ray.remote(max_retries=0)
    def dies():
        yield 1
        yield 2
        time.sleep(0.3)
        os._exit(1)

    stream = dies.remote()
    return [taken(ray, stream), fails(ray, stream.completed())["caught_as"]]


@full
def case_a_worker_that_dies_once(ray):
    @ray.remote(max_retries=2)
    def dies_once(path):
        yield 1
        yield 2
        if not os.path.exists(path):
            open(path, "w").close()
            time.sleep(0.3)
            os._exit(1)
        yield 3

    return taken(ray, dies_once.remote(tempfile.mktemp()))


def case_an_exception_that_is_tried_again(ray):
    @ray.remote(max_retries=2, retry_exceptions=True)
    def raises_once(path):
        yield 1
        yield 2
        if not os.path.exists(path):
            open(path, "w").close()
            raise KeyError("once")
        yield 3

    return taken(ray, raises_once.remote(tempfile.mktemp()))


# ----- backpressure


def case_a_task_pauses_until_its_items_are_taken(ray):
    @ray.remote
    class Made:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1

        def get(self):
            return self.n

    @ray.remote(_generator_backpressure_num_objects=2)
    def paced(made, n):
        for i in range(n):
            ray.get(made.add.remote())
            yield i

    made = Made.remote()
    stream = paced.remote(made, 8)
    at = [still_at(lambda: ray.get(made.get.remote()), 2)]
    next(stream)
    at.append(still_at(lambda: ray.get(made.get.remote()), 3))
    return [at, taken(ray, stream)]


@full
def case_a_task_that_pauses_and_whose_worker_dies_once(ray):
    @ray.remote(max_retries=2, _generator_backpressure_num_objects=1)
    def dies_once(path):
        for i in range(5):
            if i == 3 and not os.path.exists(path):
                open(path, "w").close()
                time.sleep(0.3)
                os._exit(1)
            yield i

    return taken(ray, dies_once.remote(tempfile.mktemp()))


def case_a_stream_that_is_dropped_goes_on_to_its_end(ray):
    @ray.remote
    class Made:
        def __init__(self):
            self.n = 0

        def add(self):
            self.n += 1

        def get(self):
            return self.n

    @ray.remote(_generator_backpressure_num_objects=1)
    def paced(made, n):
        for i in range(n):
            ray.get(made.add.remote())
            yield i

    made = Made.remote()
    stream = paced.remote(made, 5)
    next(stream)
    del stream
    return until(lambda: ray.get(made.get.remote()) == 5)


def case_backpressure_that_is_no_number_of_objects(ray):
    count = counting(ray)
    return [
        raised(ray, lambda: count.options(_generator_backpressure_num_objects=0), "not allowed"),
        raised(
            ray, lambda: count.options(_generator_backpressure_num_objects="x"), "_generator_backpressure_num_objects"
        ),
        taken(ray, count.options(_generator_backpressure_num_objects=-1).remote(2)),
    ]


# ----- what cannot be done


def case_a_stream_cannot_be_pickled(ray):
    @ray.remote
    def take(value):
        return value

    stream = counting(ray).remote(1)
    return [
        raised(ray, lambda: pickle.dumps(stream), "generator"),
        raised(ray, lambda: take.remote(stream)),
        raised(ray, lambda: take.remote([stream])),
        raised(ray, lambda: ray.put(stream)),
    ]


def case_a_stream_takes_no_values(ray):
    stream = counting(ray).remote(1)
    calls = [lambda: stream.send(1), lambda: stream.throw(ValueError), stream.close]
    coroutines = [stream.aclose, lambda: stream.asend(1), lambda: stream.athrow(ValueError)]
    calls += [lambda make=make: asyncio.run(make()) for make in coroutines]
    return [raised(ray, call, "not supported") for call in calls]
