"""put, get and references: values, identity, read-only arrays, awaiting and time-outs."""

import asyncio
import concurrent.futures
import pickle
import threading
import time

import numpy as np
from outcome import full, raised


def case_put_and_get(ray):
    values = [None, True, 3, 2.5, "text", [1, [2]], {"k": (1, 2)}, list(b"bytes"), ""]
    return [ray.get(ray.put(value)) for value in values]


def case_types_survive(ray):
    # No bytearray: Ray gives bytes for it.
    values = [(1,), {1, 2}, frozenset([1]), b"x", 1j, range(3), slice(1, 2), Ellipsis, np.float32(1.5)]
    back = [ray.get(ray.put(value)) for value in values]
    return [[type(b).__name__, bool(b == v)] for b, v in zip(back, values, strict=True)]


def case_get_a_list(ray):
    refs = [ray.put(i) for i in range(5)]
    return [ray.get(refs), ray.get([]), ray.get([refs[1], refs[1]]), type(ray.get(refs)).__name__]


def case_get_something_else(ray):
    ref = ray.put(1)
    return [
        raised(ray, lambda: ray.get(5)),
        raised(ray, lambda: ray.get([ref, 5])),
        raised(ray, lambda: ray.get({"a": ref})),
        raised(ray, lambda: ray.get([[ref]])),
        raised(ray, lambda: ray.get(None)),
        raised(ray, lambda: ray.get("x" * 40)),
    ]


def case_get_a_tuple(ray):
    return raised(ray, lambda: ray.get((ray.put(1), ray.put(2))))


def case_put_a_ref(ray):
    return raised(ray, lambda: ray.put(ray.put(1)), "ObjectRef", "put")


def case_get_times_out(ray):
    @ray.remote
    def slow(go):
        time.sleep(1.0)
        return "done"

    ref = slow.remote(0)
    return [
        raised(ray, lambda: ray.get(ref, timeout=0.05)),
        raised(ray, lambda: ray.get([ref], timeout=0)),
        ray.get(ref, timeout=30),
        ray.get(ref, timeout=0),
    ]


def case_get_with_a_negative_timeout(ray):
    return raised(ray, lambda: ray.get(ray.put(1), timeout=-5))


def case_get_time_out_names_no_user_error(ray):
    @ray.remote
    class A:
        def slow(self):
            time.sleep(0.5)
            return 1

    ref = A.remote().slow.remote()
    try:
        ray.get(ref, timeout=0.01)
    except ray.exceptions.GetTimeoutError as error:
        return [isinstance(error, TimeoutError), ray.get(ref)]


def case_put_takes_a_copy(ray):
    value = {"a": [1]}
    ref = ray.put(value)
    value["a"].append(2)
    return ray.get(ref)


def case_each_get_of_a_plain_value_is_fresh(ray):
    ref = ray.put([1])
    ray.get(ref).append(2)
    return ray.get(ref)


def case_arrays_come_back_read_only(ray):
    array = np.arange(100000.0).reshape(100, 1000)
    back = ray.get(ray.put(array))
    small = ray.get(ray.put(np.arange(3)))

    def write():
        back[0, 0] = 5

    return [
        back.flags.writeable,
        small.flags.writeable,
        back.flags.owndata,
        bool((back == array).all()),
        raised(ray, write, "read-only"),
        array.flags.writeable,
    ]


def case_arrays_in_results_and_arguments_are_read_only(ray):
    @ray.remote
    def look(array, boxed):
        return [array.flags.writeable, boxed["a"].flags.writeable, float(array.sum())]

    @ray.remote
    def make(n):
        return np.ones(n)

    array = np.ones(50000)
    return [
        ray.get(look.remote(array, {"a": array})),
        ray.get(look.remote(ray.put(array), {"a": array})),
        ray.get(make.remote(50000)).flags.writeable,
        ray.get(make.remote(5)).flags.writeable,
    ]


def case_arrays_of_every_layout(ray):
    base = np.arange(24000, dtype=np.int32).reshape(40, 600)
    arrays = {
        "contiguous": base,
        "transposed": base.T,
        "fortran": np.asfortranarray(base),
        "strided": base[::2, ::3],
        "negative": base[::-1],
        "broadcast": np.broadcast_to(base[0], (4, 600)),
        "empty": np.empty((0, 3), np.float32),
        "scalar": np.array(3.5),
        "structured": np.array([(1, 2.0)] * 20000, dtype=[("a", "i4"), ("b", "f8")]),
        "objects": np.array([{"a": 1}, None, "x"], dtype=object),
        "text": np.array(["ab", "cde"]),
        "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
        "bool": np.array([True, False] * 50000),
        "complex": np.ones(20000, np.complex64) * 1j,
        "half": np.ones(60000, np.float16),
        "big_endian": np.arange(20000, dtype=">i4"),
    }
    return {
        name: [str(back.dtype), list(back.shape), bool(np.array_equal(back, arrays[name]))]
        for name, back in ((name, ray.get(ray.put(array))) for name, array in arrays.items())
    }


def case_shared_arrays_stay_shared(ray):
    array = np.ones(100000)
    first, second = ray.get(ray.put([array, array]))
    return first is second


def case_big_array(ray):
    array = np.arange(8 << 20, dtype=np.int64)
    back = ray.get(ray.put(array))
    return [int(back[0]), int(back[-1]), bool(np.array_equal(back, array))]


def case_array_outlives_its_ref(ray):
    ref = ray.put(np.arange(1 << 20))
    array = ray.get(ref)
    expected = int(array.sum())
    del ref
    for i in range(5):
        ray.put(np.full(1 << 20, i))
    return int(array.sum()) == expected


def case_torch_tensor(ray):
    import torch

    tensors = [torch.arange(6.0).reshape(2, 3), torch.ones(300000), torch.tensor(2)]
    tensors.append(torch.ones(3, dtype=torch.bfloat16))
    back = ray.get(ray.put(tensors))
    return [[str(b.dtype), list(b.shape), bool((a == b).all())] for a, b in zip(tensors, back, strict=True)]


def case_torch_parameter_and_module(ray):
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3)
    back = ray.get(ray.put(layer))
    x = torch.ones(2, 4)
    return [
        bool(torch.equal(layer(x), back(x))),
        [p.requires_grad for p in back.parameters()],
        type(back.weight).__name__,
    ]


def case_identity_of_references(ray):
    a, b = ray.put(1), ray.put(1)
    again = ray.get(ray.put([a]))[0]
    return [a == a, a == b, a != b, again == a, hash(again) == hash(a), len({a, b, again}), a == "x", a is not again]


def case_names_of_references(ray):
    ref = ray.put(1)
    return [
        ref.hex() in repr(ref),
        ref.hex() == ref.binary().hex(),
        bytes.fromhex(ref.hex()) == ref.binary(),
        len(ref.binary()),
        isinstance(ref, ray.ObjectRef),
        type(ref).__name__,
        ref.is_nil(),
        type(ref.task_id()).__name__,
    ]


def case_references_by_plain_pickle(ray):
    ref = ray.put(1)
    return raised(ray, lambda: pickle.dumps(ref))


def case_future(ray):
    @ray.remote
    def double(x):
        return 2 * x

    future = double.remote(4).future()
    return [isinstance(future, concurrent.futures.Future), future.result(20), future.done()]


def case_futures_of_errors_and_callbacks(ray):
    @ray.remote
    def fail():
        raise ValueError("in a future")

    called = threading.Event()
    future = fail.remote().future()
    future.add_done_callback(lambda _: called.set())
    return [raised(ray, lambda: future.result(20), "in a future"), called.wait(20)]


def case_futures_complete_in_any_order(ray):
    @ray.remote
    class A:
        async def f(self, s):
            await asyncio.sleep(s)
            return s

    a = A.remote()
    ray.get(a.f.remote(0))
    futures = [a.f.remote(s).future() for s in (0.6, 0.01)]
    return [future.result() for future in concurrent.futures.as_completed(futures)]


def case_await(ray):
    @ray.remote
    def double(x):
        return 2 * x

    async def main():
        return [await double.remote(1), await ray.put(5), await asyncio.gather(*(double.remote(i) for i in range(3)))]

    return asyncio.run(main())


def case_await_errors(ray):
    @ray.remote
    def fail():
        raise KeyError("awaited")

    async def main():
        await fail.remote()

    return raised(ray, lambda: asyncio.run(main()), "awaited", "fail")


def case_await_from_many_loops(ray):
    @ray.remote
    def double(x):
        return 2 * x

    async def main(x):
        return await double.remote(x)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda x: asyncio.run(main(x)), range(8)))


def case_get_from_many_threads(ray):
    @ray.remote
    def double(x):
        return 2 * x

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return sum(pool.map(lambda x: ray.get(double.remote(x)), range(40)))


def case_same_ref_from_many_threads(ray):
    @ray.remote
    def slow():
        time.sleep(0.2)
        return "same"

    ref = slow.remote()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        return list(pool.map(lambda _: ray.get(ref), range(6)))


def case_custom_reducer(ray):
    class Odd:
        def __init__(self, x):
            self.x = x

        def __reduce__(self):
            return (Odd, (self.x + 1,))

    return ray.get(ray.put(Odd(1))).x


def case_value_that_fails_to_unpickle(ray):
    class Bad:
        def __reduce__(self):
            return (int, ("not a number",))

    ref = ray.put(Bad())
    return [raised(ray, lambda: ray.get(ref), "not a number"), ray.get(ray.put(1))]


def case_put_of_an_unpicklable_value(ray):
    return [raised(ray, lambda: ray.put(threading.Lock()), "lock"), ray.get(ray.put(1))]


def case_put_inside_a_task(ray):
    @ray.remote
    def make():
        return ray.get(ray.put("inside"))

    return ray.get(make.remote())


@full
def case_many_small_objects(ray):
    refs = [ray.put(i) for i in range(5000)]
    return sum(ray.get(refs))
