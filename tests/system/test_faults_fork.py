"""fork() and multiprocessing inside an actor keep their meaning: both sides have copies of their own."""

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
