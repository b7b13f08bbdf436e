"""fork() and multiprocessing inside an actor keep their meaning: both sides have copies of their own."""

import processes
import pytest

from tests.conformance.paths import MISSING

PRELUDE = """
    import numpy as np

    ray.init(num_cpus=2)
"""


def test_fork_in_an_actor_copies_its_memory(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    @ray.remote
    class Forker:
        def __init__(self):
            self.array = np.zeros(4 << 20)

        def run(self):
            self.array[:] = 1
            down, up = os.pipe(), os.pipe()
            child = os.fork()
            if child == 0:
                try:
                    os.read(down[0], 1)  # until the parent has written
                    seen = float(self.array.sum())
                    self.array[:] = 5
                    os.write(up[1], json.dumps([seen, float(self.array.sum())]).encode())
                finally:
                    os._exit(0)
            self.array[:] = 2
            os.write(down[1], b"x")
            seen_by_child = json.loads(os.read(up[0], 1000))
            os.waitpid(child, 0)
            return [seen_by_child, float(self.array.sum()), self.array]

    forker = Forker.remote()
    for transport in ("object_store", "auto"):
        seen_by_child, total, array = ray.get(forker.run.options(tensor_transport=transport).remote())
        say("seen", [seen_by_child, total, float(array.sum())])
    """
    )
    n = 4 << 20
    for _ in range(2):
        assert driver.expect("seen") == [[1.0 * n, 5.0 * n], 2.0 * n, 2.0 * n]


def test_child_of_a_fork_does_not_change_what_was_published(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    @ray.remote
    class Producer:
        def make(self):
            self.array = np.full(1 << 20, 7.0)
            return self.array

        def fork_and_write(self):
            child = os.fork()
            if child == 0:
                self.array[:] = 0
                os._exit(0)
            os.waitpid(child, 0)
            return float(self.array.sum())

    producer = Producer.remote()
    ref = producer.make.options(tensor_transport="auto").remote()
    kept = ray.get(ref)
    say("producer", ray.get(producer.fork_and_write.remote()))
    say("consumer", float(kept.sum()))
    say("again", float(ray.get(ref).sum()))
    """
    )
    for event in ("producer", "consumer", "again"):
        assert driver.expect(event) == 7.0 * (1 << 20), event


def test_multiprocessing_in_an_actor(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    def square_sum(n):
        return float((np.arange(n, dtype=np.float64) ** 2).sum())

    @ray.remote
    class Pooler:
        def run(self):
            import multiprocessing
            context = multiprocessing.get_context("fork")
            with context.Pool(2) as pool:
                return pool.map(int, ["1", "2", "3"])

        def queue(self):
            import multiprocessing
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            big = np.ones(1 << 20)
            process = context.Process(target=lambda: queue.put(float(big.sum())))
            process.start()
            value = queue.get(timeout=30)
            process.join()
            return [value, process.exitcode]

        def after(self):
            return "usable"

    pooler = Pooler.remote()
    say("pool", ray.get(pooler.run.remote()))
    say("queue", ray.get(pooler.queue.remote()))
    say("after", ray.get(pooler.after.remote()))
    """
    )
    assert driver.expect("pool") == [1, 2, 3]
    assert driver.expect("queue") == [float(1 << 20), 0]
    assert driver.expect("after") == "usable"


def test_data_loader_in_an_actor(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    @ray.remote
    class Loader:
        def run(self, workers):
            import torch

            data = torch.arange(1 << 20, dtype=torch.float32).reshape(64, -1)
            loader = torch.utils.data.DataLoader(
                torch.utils.data.TensorDataset(data), batch_size=8, num_workers=workers
            )
            return float(sum(batch.double().sum() for (batch,) in loader)), float(data.double().sum())

    loader = Loader.remote()
    say("totals", [ray.get(loader.run.remote(workers)) for workers in (0, 2, 2)])
    """
    )
    for total, expected in driver.expect("totals"):
        assert total == expected


def test_subprocess_in_an_actor_and_a_fork_in_the_driver(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    @ray.remote
    class Caller:
        def run(self):
            import subprocess
            return subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout.strip()

    caller = Caller.remote()
    say("subprocess", ray.get(caller.run.remote()))
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    say("after fork", ray.get(caller.run.remote()))
    """
    )
    assert driver.expect("subprocess") == "hello"
    assert driver.expect("after fork") == "hello"


def test_child_of_a_driver_that_exits_normally_does_not_end_the_session(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    @ray.remote
    class A:
        def f(self):
            return 1

    a = A.remote()
    ray.get(a.f.remote())
    child = os.fork()
    if child == 0:
        sys.exit(0)  # runs exit handlers, which belong to the parent's session
    say("child", os.waitpid(child, 0)[1])
    say("session", ray.get(a.f.remote()))
    """
    )
    assert driver.expect("child") == 0
    assert driver.expect("session") == 1


PATHS = [
    pytest.param(path, marks=pytest.mark.skipif(path in MISSING, reason=MISSING.get(path, "")))
    for path in ("cma", "tcp", "ucx", "nixl", "gloo")
]

# Each takes a while: all but one of them are for `./dev test --full`.
PATHS_IN_TURN = PATHS[:1] + [pytest.param(*path.values, marks=[pytest.mark.full, *path.marks]) for path in PATHS[1:]]

SHIPPED = """
    import torch

    torch.set_num_threads(1)  # a child of fork() waits for ever for its parent's threads of OpenMP
    N = 1 << 18
    path = {path!r}

    @ray.remote(num_cpus=0)
    class Node:
        def make(self, value):
            self.kept = torch.full((N,), value)
            return self.kept

        def look(self, tensor):
            return tensor.unique().tolist()

    class Exchange:
        def __init__(self, value):
            self.producer, self.consumer = Node.remote(), Node.remote()
            self.made = self.producer.make.options(tensor_transport=path).remote(value)
            try:
                self.own = [ray.put(torch.full((N,), value), _tensor_transport=path)]
            except ray.exceptions.TransportUnavailableError as error:
                self.refusal, self.own = error, []

        def look_own(self):
            if not self.own:
                raise self.refusal
            return ray.get(self.consumer.look.remote(*self.own))

        def look(self):  # from actor to actor, from this process, and to it
            calls = [
                lambda: ray.get(self.consumer.look.remote(self.made)),
                self.look_own,
                lambda: ray.get(self.made).unique().tolist(),
            ]
            return [tried(call)[1] for call in calls]

    ray.init(num_cpus=1)
    exchange = Exchange(1.0)
    say("parent", exchange.look())
    child = os.fork()
    if child == 0:
        ray.init(num_cpus=1)
        say("child", Exchange(2.0).look())
        ray.shutdown()
        {end}
    say("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    say("parent", exchange.look())
    say("anew", Exchange(3.0).look())
    hear()
    ray.shutdown()
    say("down")
    hear()
"""


# What a child is told of a library that does not bear fork(), of which its parent has made use.
REFUSALS = {"ucx": "forked from one that had used UCX, which does not bear that"}


def _is_seen(seen, path, value):
    return REFUSALS.get(path, repr([value])) in seen


@pytest.mark.parametrize("end", ["os._exit(0)", pytest.param("sys.exit(0)", marks=pytest.mark.full)])
@pytest.mark.parametrize("path", PATHS_IN_TURN)
def test_child_of_a_driver_that_has_shipped_tensors_opens_a_session_of_its_own(start_driver, session_folder, path, end):
    driver = start_driver(SHIPPED.format(path=path, end=end))
    assert driver.expect("parent") == ["[1.0]"] * 3
    between_actors, *others = driver.expect("child")
    assert between_actors == "[2.0]"
    assert all(_is_seen(seen, path, 2.0) for seen in others), others
    assert driver.expect("ended") == 0
    assert driver.expect("parent") == ["[1.0]"] * 3
    assert driver.expect("anew") == ["[3.0]"] * 3
    servants = driver.servants()
    driver.tell()
    driver.expect("down")
    assert processes.still_alive(servants) == []
    assert [str(file) for file in session_folder.rglob("*") if not file.is_dir()] == []


AGENTS = """
    import torch
    from beeline.transfer import Agent, TensorRefs

    torch.set_num_threads(1)  # as above
    N = 1 << 18
    path = {path!r}
    token = "of both"

    def look(agent, text, path=path):
        fetch = lambda: agent.fetch(TensorRefs.from_json(text), path=path, timeout_s=30)[0].unique().tolist()
        return tried(fetch)[1]

    owner, reader = Agent("owner", tcp="127.0.0.1:0", token=token), Agent("reader", token=token)
    kept = owner.register([torch.full((N,), 1.0)])
    say("parent", look(reader, kept.to_json()))
    for number in (2.0, 3.0):
        (from_parent, to_child), (from_child, to_parent) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            with Agent("child", tcp="127.0.0.1:0", token=token) as own:
                refs = own.register([torch.full((N,), number)])
                say("child", [look(own, kept.to_json()), look(own, kept.to_json(), path="")])
                os.write(to_parent, refs.to_json().encode() + b"\\n")
                os.read(from_parent, 1)  # until the parent has looked
            {end}
        os.close(from_parent), os.close(to_parent)
        with open(from_child) as lines:
            say("of the child", look(reader, lines.readline()))
            os.write(to_child, b"x")
        os.close(to_child)
        say("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        say("parent", look(reader, kept.to_json()))
    reader.close()
    owner.close()
    say("closed")
    hear()
"""


@pytest.mark.parametrize("end", ["os._exit(0)", pytest.param("sys.exit(0)", marks=pytest.mark.full)])
@pytest.mark.parametrize("path", PATHS_IN_TURN)
def test_child_of_a_program_that_has_moved_tensors_opens_an_agent_of_its_own(start_driver, session_folder, path, end):
    driver = start_driver(AGENTS.format(path=path, end=end))
    assert driver.expect("parent") == "[1.0]"
    for number in (2.0, 3.0):
        seen, by_any_path = driver.expect("child")
        assert _is_seen(seen, path, 1.0) and by_any_path == "[1.0]", seen
        assert _is_seen(driver.expect("of the child"), path, number)
        assert driver.expect("ended") == 0
        assert driver.expect("parent") == "[1.0]"
    driver.expect("closed")
    assert [str(file) for file in session_folder.rglob("*") if not file.is_dir()] == []
    driver.tell()
    assert driver.wait() == 0
