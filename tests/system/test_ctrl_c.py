"""Ctrl-C at any point: KeyboardInterrupt in the driver at once, nothing lost, workers untouched.

SIGINT goes to the whole process group, as from a terminal.
"""

import signal

import processes
import pytest

PRELUDE = """
    ray.init(num_cpus=2)

    @ray.remote(max_concurrency=8)
    class Gate:
        def __init__(self):
            self.event = threading.Event()

        def wait(self, value):
            self.event.wait(60)
            return value

        def open(self):
            self.event.set()

        def pid(self):
            return os.getpid()

    gate = Gate.remote()
    pid = ray.get(gate.pid.remote())
    ref = gate.wait.remote("kept")
"""
NOTHING_LOST = """
    gate.open.remote()
    say("kept", ray.get(ref))
    say("same worker", ray.get(gate.pid.remote()) == pid)
    say("usable", ray.get(ray.remote(lambda: 1).remote()))
"""
BLOCKING_CALLS = {
    "get": "ray.get(ref)",
    "get with a timeout": "ray.get(ref, timeout=50)",
    "get of several": "ray.get([ray.put(1), ref])",
    "wait": "ray.wait([ref])",
    "wait with a timeout": "ray.wait([ref], timeout=50)",
    "future": "ref.future().result()",
    "await": "__import__('asyncio').run(awaits(ref))",
    "get of a dependent": "ray.get(gate.wait.remote(ref))",
}


def interrupt_blocking(driver):
    """Ctrl-C once the script says that it is blocking; what it says of the interrupt."""
    driver.expect("blocking")
    driver.interrupt()
    return driver.expect("interrupted", 10)


def expect_nothing_lost(driver):
    """What a script says that ends with NOTHING_LOST."""
    assert driver.expect("kept") == "kept"
    assert driver.expect("same worker") is True
    assert driver.expect("usable") == 1


@pytest.mark.parametrize("call", BLOCKING_CALLS.values(), ids=BLOCKING_CALLS.keys())
def test_during_a_blocking_call(start_driver, call):
    driver = start_driver(
        PRELUDE
        + f"""
    async def awaits(ref):
        return await ref

    for _ in range(3):
        try:
            say("blocking")
            {call}
            say("returned")
        except KeyboardInterrupt:
            say("interrupted")
    """
        + NOTHING_LOST
    )
    for _ in range(3):
        interrupt_blocking(driver)
    expect_nothing_lost(driver)


def test_during_calls_and_python_code(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    refs, interrupted = [gate.pid.remote()], 0
    while interrupted < 5:
        try:
            say("looping")  # inside: the signal may come before say() returns
            while True:
                refs.append(gate.pid.remote())
                ray.get(refs[-1])
        except KeyboardInterrupt:
            interrupted += 1
    say("pids", len(set(ray.get(refs))))
    """
        + NOTHING_LOST
    )
    for _ in range(5):
        driver.expect("looping", 10)
        driver.interrupt()
    assert driver.expect("pids", 10) == 1
    expect_nothing_lost(driver)


def test_while_many_threads_are_in_get(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    got = []
    threads = [threading.Thread(target=lambda i=i: got.append(ray.get([ref, ray.put(i)])[1])) for i in range(16)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        try:
            say("blocking")
            ray.get(ref)
        except KeyboardInterrupt:
            say("interrupted", sum(thread.is_alive() for thread in threads))
    gate.open.remote()
    for thread in threads:
        thread.join(30)
    say("threads", sorted(got))
    """
        + NOTHING_LOST
    )
    for _ in range(3):
        assert interrupt_blocking(driver) == 16
    assert driver.expect("threads") == list(range(16))
    expect_nothing_lost(driver)


def test_while_the_main_thread_is_elsewhere(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    got = []
    threads = [threading.Thread(target=lambda: got.append(ray.get(ref))) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        say("blocking")
        time.sleep(60)
    except KeyboardInterrupt:
        say("interrupted")
    gate.open.remote()
    for thread in threads:
        thread.join(30)
    say("threads", got)
    """
        + NOTHING_LOST
    )
    interrupt_blocking(driver)
    assert driver.expect("threads") == ["kept"] * 4
    expect_nothing_lost(driver)


IMPORT_INTERRUPTED_AT = """
    import importlib.abc

    class InterruptAt(importlib.abc.MetaPathFinder):
        '''Raises SIGINT when the import system looks for the n-th module of the package.'''

        seen = 0

        def find_spec(self, name, path, target=None):
            if name.split(".")[0] == ENGINE:
                self.seen += 1
                if self.seen == NUMBER:
                    signal.raise_signal(signal.SIGINT)
            return None

    finder = InterruptAt()
    sys.meta_path.insert(0, finder)
    try:
        __import__(ENGINE)
        say("imported", finder.seen)
    except KeyboardInterrupt:
        say("interrupted")
    sys.meta_path.remove(finder)
    ray = __import__(ENGINE)
"""


@pytest.mark.parametrize("number", [1, 2, 4, 8, 12])
def test_during_import(start_driver, number):
    driver = start_driver(f"    NUMBER = {number}\n" + IMPORT_INTERRUPTED_AT + processes.NEW_SESSION, imports=False)
    driver.expect("interrupted")
    processes.expect_a_new_session(driver)


@pytest.mark.parametrize("delay_ms", [0, 3, 10, 30, 100])
def test_during_init(start_driver, delay_ms):
    driver = start_driver(
        f"""
    def interrupt():
        time.sleep({delay_ms} / 1000)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        ray.init(num_cpus=1)
        time.sleep(60)
    except KeyboardInterrupt:
        say("interrupted")
    thread.join()
    ray.shutdown()
    """
        + processes.NEW_SESSION
    )
    driver.expect("interrupted")
    processes.expect_a_new_session(driver)


SHUTDOWN_STEPS = ["beeline.api.summary.before_end", "beeline._core.stop", "beeline.api.summary.after_end"]


@pytest.mark.parametrize("step", SHUTDOWN_STEPS)
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_during_shutdown(start_driver, step, is_after):
    module, name = step.rsplit(".", 1)
    driver = start_driver(
        f"""
    import importlib

    module = importlib.import_module({module!r})
    real = getattr(module, {name!r})

    def interrupted(*arguments):
        setattr(module, {name!r}, real)
        if not {is_after}:
            os.kill(os.getpid(), signal.SIGINT)
        try:
            return real(*arguments)
        finally:
            if {is_after}:
                os.kill(os.getpid(), signal.SIGINT)

    setattr(module, {name!r}, interrupted)
    ray.init(num_cpus=1)

    @ray.remote
    def one():
        return 1

    ray.get(one.remote())
    try:
        ray.shutdown()
        time.sleep(60)
    except KeyboardInterrupt:
        say("interrupted", ray.is_initialized())
    ray.shutdown()
    ray.init(num_cpus=1)
    say("again", ray.get(one.remote()))
    ray.shutdown()
    """
        + processes.NEW_SESSION
    )
    assert driver.expect("interrupted") is False
    assert driver.expect("again") == 1
    processes.expect_a_new_session(driver)


@pytest.mark.parametrize("delay_ms", [0, 1, 3, 10, 30])
def test_soon_after_shutdown_began(start_driver, delay_ms):
    driver = start_driver(
        f"""
    def interrupt():
        began.wait()
        time.sleep({delay_ms} / 1000)
        os.kill(os.getpid(), signal.SIGINT)

    began = threading.Event()
    thread = threading.Thread(target=interrupt)
    ray.init(num_cpus=1)
    try:
        thread.start()
        began.set()
        ray.shutdown()
        time.sleep(60)
    except KeyboardInterrupt:
        say("interrupted")
    thread.join()
    """
        + processes.NEW_SESSION
    )
    driver.expect("interrupted")
    processes.expect_a_new_session(driver)


def test_uncaught_it_ends_everything(start_driver):
    driver = start_driver(
        PRELUDE
        + """
    say("blocking")
    ray.get(ref)
    """
    )
    driver.expect("blocking")
    everyone, files = driver.servants(), processes.files_of(driver.processes())
    driver.interrupt()
    assert driver.wait() in (130, -signal.SIGINT, 1)
    assert "KeyboardInterrupt" in driver.output()
    assert processes.still_alive(everyone) == []
    assert processes.still_there(files) == []


def test_users_own_handler_is_kept(start_driver):
    driver = start_driver(
        """
    handled = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: handled.set())
"""
        + PRELUDE
        + """
    say("blocking")
    handled.wait(30)
    say("handled", handled.is_set())
    """
        + NOTHING_LOST
    )
    driver.expect("blocking")
    driver.interrupt()
    assert driver.expect("handled") is True
    expect_nothing_lost(driver)
