"""What workers print reaches the driver, with a prefix that says who printed it, as on Ray."""

import re

import processes

SCRIPT = """
    ray.init(num_cpus=2, log_to_driver=LOG)

    @ray.remote
    class Speaker:
        def speak(self):
            print("from an actor")
            print("on stderr", file=sys.stderr)
            os.system("echo from a child process")
            print("unfinished line", end="")
            return os.getpid()

        def many(self, n):
            for i in range(n):
                print(f"line {i:05d}")

    @ray.remote
    def talking_task():
        print("from a task")
        return os.getpid()

    speaker = Speaker.remote()
    say("actor", ray.get(speaker.speak.remote()))
    say("task", ray.get(talking_task.remote()))
    ray.get(speaker.many.remote(2000))
    say("spoken")
    hear()
    ray.shutdown()
    say("down")
"""


def _run(start_driver, log, complete):
    driver = start_driver(f"    LOG = {log}\n" + SCRIPT)
    actor, task = driver.expect("actor"), driver.expect("task")
    driver.expect("spoken")
    processes.until(lambda: complete(driver.output()), 15)
    driver.tell()
    driver.expect("down")
    driver.wait()
    return actor, task, re.sub(r"\x1b\[[0-9;]*m", "", driver.output())


def test_lines_carry_the_name_and_the_process(start_driver):
    actor, task, output = _run(start_driver, True, lambda text: "line 01999" in text)
    assert f"(Speaker pid={actor}) from an actor\n" in output
    assert f"(Speaker pid={actor}) on stderr\n" in output
    assert f"(Speaker pid={actor}) from a child process\n" in output
    assert f"(talking_task pid={task}) from a task\n" in output
    lines = re.findall(r"\(Speaker pid=\d+\) (?:unfinished line)?line (\d{5})\n", output)
    assert lines == [f"{i:05d}" for i in range(2000)]


def test_it_can_be_switched_off(start_driver):
    _, _, output = _run(start_driver, False, lambda text: True)
    assert "from an actor" not in output
    assert "from a task" not in output


def test_last_words_of_a_crash_arrive(start_driver):
    driver = start_driver(
        """
    ray.init(num_cpus=2)

    @ray.remote
    class Doomed:
        def die(self):
            print("last words", flush=True)
            os._exit(1)

    say("died", tried(lambda: ray.get(Doomed.remote().die.remote())))
    hear()
    """
    )
    driver.expect("died")
    assert processes.until(lambda: "last words" in driver.output(), 15), driver.output()
