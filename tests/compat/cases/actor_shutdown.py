"""`__ray_shutdown__`: what an actor does before it goes, when it goes by itself."""

import os
import sys
import tempfile

from outcome import process_is_gone, raised, until


class _Journal:
    """A file that outlives actors."""

    def __init__(self):
        descriptor, self.path = tempfile.mkstemp()
        os.close(descriptor)

    def write(self, line):
        with open(self.path, "a") as file:
            file.write(line + "\n")

    def lines(self):
        with open(self.path) as file:
            return file.read().split()


def _actor(ray, journal, **options):
    class A:
        def __init__(self):
            journal.write("init")

        def pid(self):
            return os.getpid()

        def leave(self):
            ray.actor.exit_actor()

        def end(self):
            sys.exit(0)

        def __ray_shutdown__(self):
            journal.write("shutdown")

    return (ray.remote(**options)(A) if options else ray.remote(A)).remote()


def _gone(ray, actor_pid):
    return until(lambda: process_is_gone(actor_pid))


def case_when_the_last_handle_goes(ray):
    journal = _Journal()
    a = _actor(ray, journal)
    pid = ray.get(a.pid.remote())
    del a
    return [_gone(ray, pid), journal.lines()]


def case_by_terminate(ray):
    journal = _Journal()
    a = _actor(ray, journal)
    pid = ray.get(a.pid.remote())
    a.__ray_terminate__.remote()
    return [_gone(ray, pid), journal.lines()]


def case_by_exit_actor(ray):
    journal = _Journal()
    a = _actor(ray, journal)
    pid = ray.get(a.pid.remote())
    left = raised(ray, lambda: ray.get(a.leave.remote()))
    return [left, _gone(ray, pid), journal.lines()]


def case_not_by_kill(ray):
    journal = _Journal()
    a = _actor(ray, journal)
    pid = ray.get(a.pid.remote())
    ray.kill(a)
    return [_gone(ray, pid), journal.lines()]


def case_an_error_in_it_is_no_obstacle(ray):
    journal = _Journal()

    class A:
        def pid(self):
            return os.getpid()

        def __ray_shutdown__(self):
            journal.write("shutdown")
            raise ValueError("too late")

    a = ray.remote(A).remote()
    pid = ray.get(a.pid.remote())
    del a
    return [_gone(ray, pid), journal.lines()]


def case_inherited(ray):
    journal = _Journal()

    class Base:
        def __ray_shutdown__(self):
            journal.write("base")

    class A(Base):
        def pid(self):
            return os.getpid()

    a = ray.remote(A).remote()
    pid = ray.get(a.pid.remote())
    del a
    return [_gone(ray, pid), journal.lines()]


def case_of_an_async_actor(ray):
    journal = _Journal()

    class A:
        async def pid(self):
            return os.getpid()

        def __ray_shutdown__(self):
            journal.write("shutdown")

    a = ray.remote(A).remote()
    pid = ray.get(a.pid.remote())
    del a
    return [_gone(ray, pid), journal.lines()]


def case_of_a_threaded_actor(ray):
    journal = _Journal()
    a = _actor(ray, journal, max_concurrency=3)
    pid = ray.get(a.pid.remote())
    a.__ray_terminate__.remote()
    return [_gone(ray, pid), journal.lines()]


def case_before_what_atexit_does(ray):
    journal = _Journal()

    class A:
        def __init__(self):
            import atexit

            atexit.register(lambda: journal.write("atexit"))

        def pid(self):
            return os.getpid()

        def __ray_shutdown__(self):
            journal.write("shutdown")

    a = ray.remote(A).remote()
    pid = ray.get(a.pid.remote())
    del a
    return [_gone(ray, pid), journal.lines()]
