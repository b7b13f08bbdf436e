"""Remote functions: arguments, results, options, retries and wrong use."""

import os
import tempfile

from outcome import process_is_gone, raised, until


def case_positional_keyword_and_default_arguments(ray):
    @ray.remote
    def f(a, b=2, *rest, c, d=4, **others):
        return [a, b, list(rest), c, d, others]

    return ray.get([f.remote(1, c=3), f.remote(1, 9, 8, 7, c=6, d=5, e=0)])


def case_options_are_optional_in_the_decorator(ray):
    @ray.remote
    def f():
        return "bare"

    @ray.remote(num_cpus=0.5, max_retries=0)
    def g():
        return "given"

    empty = raised(ray, lambda: ray.remote()(lambda: None), "decorator")
    return [ray.get([f.remote(), g.remote()]), empty]


def case_remote_of_a_lambda(ray):
    return ray.get(ray.remote(lambda x: x + 1).remote(41))


def case_remote_of_a_lambda_with_options(ray):
    return ray.get(ray.remote(num_cpus=1)(lambda x: x + 1).remote(41))


def case_two_results(ray):
    @ray.remote(num_returns=2)
    def f():
        return "a", "b"

    refs = f.remote()
    return [type(refs).__name__, len(refs), ray.get(refs)]


def case_results_from_a_list(ray):
    @ray.remote(num_returns=3)
    def f():
        return [1, 2, 3]

    return ray.get(f.remote())


def case_no_result(ray):
    @ray.remote(num_returns=0)
    def f():
        return None

    return f.remote()


def case_num_returns_by_options(ray):
    @ray.remote
    def f():
        return 1, 2

    return [ray.get(f.remote()), ray.get(f.options(num_returns=2).remote())]


def case_too_few_results(ray):
    @ray.remote(num_returns=3)
    def stingy():
        return 1, 2

    return [raised(ray, lambda ref=ref: ray.get(ref), "stingy", "3", "2") for ref in stingy.remote()]


def case_results_that_are_no_sequence(ray):
    @ray.remote(num_returns=2)
    def f():
        return 5

    return [raised(ray, lambda ref=ref: ray.get(ref)) for ref in f.remote()]


def case_one_result_that_is_a_tuple(ray):
    @ray.remote(num_returns=1)
    def f():
        return (1, 2)

    value = ray.get(f.remote())
    return [type(value).__name__, value]


def case_result_is_none(ray):
    @ray.remote
    def f():
        pass

    return ray.get(f.remote())


def case_closure(ray):
    base, names = 10, ["x", "y"]

    def helper(x):
        return x + base

    @ray.remote
    def f(x):
        return [helper(x), names]

    return ray.get(f.remote(1))


def case_closure_is_pickled_at_the_first_call(ray):
    box = [1]

    @ray.remote
    def f():
        return list(box)

    first = ray.get(f.remote())
    box.append(2)
    return [first, ray.get(f.remote())]


def case_result_is_a_function(ray):
    @ray.remote
    def make_adder(n):
        return lambda x: x + n

    return ray.get(make_adder.remote(5))(1)


def case_class_defined_in_the_driver(ray):
    class Point:
        def __init__(self, x):
            self.x = x

        def twice(self):
            return Point(self.x * 2)

    @ray.remote
    def f(point):
        return point.twice()

    return ray.get(f.remote(Point(4))).x


def case_chain(ray):
    @ray.remote
    def add(a, b):
        return a + b

    ref = add.remote(0, 0)
    for i in range(20):
        ref = add.remote(ref, i)
    return ray.get(ref)


def case_diamond_with_keyword_refs(ray):
    @ray.remote
    def source():
        return 3

    @ray.remote
    def join(a, *, b):
        return a * b

    root = source.remote()
    return ray.get(join.remote(join.remote(root, b=root), b=join.remote(root, b=2)))


def case_tasks_submit_tasks(ray):
    @ray.remote
    def fib(n):
        return n if n < 2 else sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)]))

    return ray.get(fib.remote(4))


def case_more_waiting_tasks_than_cpus(ray):
    @ray.remote
    def leaf(i):
        return i

    @ray.remote
    def parent(i):
        return ray.get(leaf.remote(i))

    return ray.get([parent.remote(i) for i in range(6)])


def case_many_tasks(ray):
    @ray.remote
    def square(i):
        return i * i

    return sum(ray.get([square.remote(i) for i in range(300)]))


def case_argument_is_a_copy(ray):
    @ray.remote
    def grow(items):
        items.append(3)
        return items

    items = [1, 2]
    return [ray.get(grow.remote(items)), items]


def case_arguments_are_taken_at_the_call(ray):
    @ray.remote
    def read(items):
        return items

    items = [1]
    ref = read.remote(items)
    items.append(2)
    return ray.get(ref)


def case_large_arguments_and_results(ray):
    @ray.remote
    def echo(data, text, *, more):
        return [data[::-1], text * 2, more]

    data, text, more = bytes(range(256)) * 20000, "ab" * 100000, {"k": b"z" * 300000}
    back = ray.get(echo.remote(data, text, more=more))
    return [back[0] == data[::-1], back[1] == text * 2, back[2] == more]


def case_attributes_of_a_remote_function(ray):
    def original(x):
        return x

    remote = ray.remote(original)
    return [remote._function is original, remote._function_name.endswith("original")]


def case_runs_in_another_process(ray):
    @ray.remote
    def pid():
        return os.getpid()

    return ray.get(pid.remote()) != os.getpid()


def case_environment_and_folder_of_the_driver(ray):
    @ray.remote
    def look():
        return [os.getcwd() == folder, "PYTHONPATH" in os.environ]

    folder = os.getcwd()
    return ray.get(look.remote())


def case_direct_call(ray):
    @ray.remote
    def lonely():
        pass

    return raised(ray, lambda: lonely(), "lonely", "cannot be called directly", ".remote()")


def case_too_many_arguments(ray):
    @ray.remote
    def f(a):
        pass

    return raised(ray, lambda: f.remote(1, 2), "too many positional arguments")


def case_missing_argument(ray):
    @ray.remote
    def f(a, needed):
        pass

    return raised(ray, lambda: f.remote(1), "missing", "needed")


def case_unexpected_keyword(ray):
    @ray.remote
    def f(a):
        pass

    return raised(ray, lambda: f.remote(1, wrong=2), "unexpected keyword", "wrong")


def case_unknown_option(ray):
    def f():
        pass

    return [
        raised(ray, lambda: ray.remote(no_such_option=1)(f), "no_such_option"),
        raised(ray, lambda: ray.remote(f).options(no_such_option=1).remote(), "no_such_option"),
    ]


def case_options_of_a_wrong_type_or_value(ray):
    def f():
        pass

    return [
        raised(ray, lambda: ray.remote(num_cpus="two")(f), "num_cpus"),
        raised(ray, lambda: ray.remote(num_cpus=-1)(f), "num_cpus"),
        raised(ray, lambda: ray.remote(num_gpus=-1)(f), "num_gpus"),
        raised(ray, lambda: ray.remote(num_returns=-1)(f), "num_returns"),
        raised(ray, lambda: ray.remote(max_retries=-2)(f), "max_retries"),
        raised(ray, lambda: ray.remote(resources={"CPU": 1})(f), "num_cpus"),
        raised(ray, lambda: ray.remote(resources=["slot"])(f), "resources"),
        raised(ray, lambda: ray.remote(max_restarts=1)(f), "max_restarts"),
    ]


def case_remote_of_something_else(ray):
    return [
        raised(ray, lambda: ray.remote(5)),
        raised(ray, lambda: ray.remote(1, 2)),
    ]


def case_async_function_is_no_task(ray):
    async def f():
        return 1

    return raised(ray, lambda: ray.get(ray.remote(f).remote()), "async")


def case_unpicklable_argument(ray):
    import threading

    @ray.remote
    def f(x):
        return 1

    return [raised(ray, lambda: f.remote(threading.Lock()), "lock"), ray.get(f.remote(0))]


def case_unpicklable_closure(ray):
    import threading

    lock = threading.Lock()

    @ray.remote
    def closes_over():
        return lock

    return raised(ray, lambda: closes_over.remote(), "lock", "closes_over")


def case_unpicklable_result(ray):
    @ray.remote
    def f(bad):
        import threading

        return threading.Lock() if bad else 1

    return [raised(ray, lambda: ray.get(f.remote(True)), "lock"), ray.get(f.remote(False))]


def case_generator_as_an_argument(ray):
    @ray.remote
    def total(items):
        return sum(items)

    return raised(ray, lambda: total.remote(i for i in range(3)), "generator")


def case_crashed_worker_is_retried(ray):
    @ray.remote(max_retries=2)
    def crash_first(folder):
        attempts = len(os.listdir(folder))
        open(os.path.join(folder, str(attempts)), "w").close()
        if attempts < 2:
            os._exit(1)
        return attempts

    with tempfile.TemporaryDirectory() as folder:
        return ray.get(crash_first.remote(folder))


def case_crashed_worker_without_retries(ray):
    @ray.remote(max_retries=0)
    def crash():
        os._exit(1)

    @ray.remote
    def fine():
        return "fine"

    return [raised(ray, lambda: ray.get(crash.remote())), ray.get(fine.remote())]


def case_exceptions_are_not_retried(ray):
    @ray.remote(max_retries=3)
    def fail(folder):
        open(os.path.join(folder, str(len(os.listdir(folder)))), "w").close()
        raise ValueError

    with tempfile.TemporaryDirectory() as folder:
        return [raised(ray, lambda: ray.get(fail.remote(folder))), len(os.listdir(folder))]


def _attempts(ray, error, **options):
    """How the call ended and how often it ran, for a task that raises `error` twice and then returns."""

    @ray.remote(**options)
    def fail_twice(folder):
        attempts = len(os.listdir(folder))
        open(os.path.join(folder, str(attempts)), "w").close()
        if attempts < 2:
            raise error
        return "done"

    with tempfile.TemporaryDirectory() as folder:
        return [raised(ray, lambda: ray.get(fail_twice.remote(folder))), len(os.listdir(folder))]


def case_retry_exceptions(ray):
    return _attempts(ray, ValueError("x"), retry_exceptions=True, max_retries=2)


def case_retry_exceptions_until_retries_end(ray):
    return _attempts(ray, ValueError("x"), retry_exceptions=True, max_retries=1)


def case_retry_listed_exceptions(ray):
    return [
        _attempts(ray, KeyError("x"), retry_exceptions=[KeyError], max_retries=2),
        _attempts(ray, KeyError("x"), retry_exceptions=[OSError], max_retries=2),
    ]


def case_workers_exit_after_max_calls(ray):
    @ray.remote(max_calls=2)
    def pid():
        return os.getpid()

    @ray.remote(max_calls=1)
    def owns():
        return [ray.put("kept")]

    pids = [ray.get(pid.remote()) for _ in range(6)]
    together = ray.get([pid.remote() for _ in range(20)])
    nested = ray.get(owns.remote())[0]
    return [
        max(pids.count(p) for p in pids) <= 2,
        max(together.count(p) for p in together) <= 2,
        bool(until(lambda: all(process_is_gone(p) for p in set(pids[:-2])))),
        ray.get(nested, timeout=20),
        raised(ray, lambda: pid.options(max_calls=3), "max_calls"),
    ]


def case_workers_that_held_a_gpu_exit(ray):
    def pid():
        return os.getpid()

    once, always = ray.remote(num_gpus=1)(pid), ray.remote(num_gpus=1, max_calls=0)(pid)
    gone = ray.get(once.remote())
    stays = ray.get(always.remote())
    return [bool(until(lambda: process_is_gone(gone))), process_is_gone(stays)]
