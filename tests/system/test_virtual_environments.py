"""Virtual environments of workers (runtime_env's pip and uv): made once, in sight of the session's own packages; what
cannot be made, was killed or takes too long is an error that says so.
"""

import os

import processes
import pytest
import wheels

SESSION = """
    import pathlib
    from beeline import _core

    wheels = os.environ["WHEELS"]

    def pip(*packages, **more):
        return {"pip": {"packages": ["--no-index", f"--find-links={wheels}", *packages]}, **more}

    def counters():
        return _core.node_state()["counters"]

    def look():
        import beeline, numpy
        import gadget
        return [gadget.VALUE, sys.prefix != sys.base_prefix, os.path.basename(os.path.dirname(sys.prefix))]
"""


@pytest.fixture
def found_wheels(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        wheels.write_wheel(folder, "gadget", version, {"gadget.py": f"VALUE = {version!r}\n"})
    return folder


def test_packages_are_installed_once_for_all_workers(start_driver, found_wheels):
    driver = start_driver(
        SESSION
        + """
    ray.init(num_cpus=4)
    f = ray.remote(look).options(runtime_env=pip("gadget==1.0"))
    say("tasks", ray.get([f.remote() for _ in range(3)]))

    @ray.remote(runtime_env=pip("gadget==1.0", env_vars={"A": "1"}))
    class Actor:
        def look(self):
            return look()

        def nested(self):
            return ray.get(ray.remote(look).remote())

    actors = [Actor.remote() for _ in range(2)]
    say("actors", ray.get([actor.look.remote() for actor in actors]))
    say("nested", ray.get(actors[0].nested.remote()))
    say("made", counters()["environments_made"])
    other = ray.remote(look).options(runtime_env=pip("gadget==2.0"))
    say("other", ray.get(other.remote())[0])
    say("made", counters()["environments_made"])
    say("outside", ray.get(ray.remote(lambda: "gadget" in sys.modules).remote()))
    say("zygotes", len([row for row in _core.node_state()["processes"] if row["what"].startswith("zygote of")]))
    """,
        environment={"WHEELS": str(found_wheels)},
    )
    expected = ["1.0", True, "venvs"]
    assert driver.expect("tasks") == [expected] * 3
    assert driver.expect("actors") == [expected] * 2
    assert driver.expect("nested") == expected
    assert driver.expect("made") == 1
    assert driver.expect("other") == "2.0"
    assert driver.expect("made") == 2
    assert driver.expect("outside") is False
    assert driver.expect("zygotes") == 2
    assert "(runtime_env" in driver.output()


def test_the_jobs_environment_is_made_before_anybody_asks(start_driver, found_wheels):
    driver = start_driver(
        SESSION
        + """
    ray.init(num_cpus=2, runtime_env=pip("gadget"))
    say("up")
    while not counters()["environments_made"]:
        time.sleep(0.02)
    say("made")
    say("task", ray.get(ray.remote(look).remote()))
    say("made once", counters()["environments_made"])
    """,
        environment={"WHEELS": str(found_wheels)},
    )
    driver.expect("up")
    driver.expect("made")
    assert driver.expect("task") == ["2.0", True, "venvs"]
    assert driver.expect("made once") == 1


def test_a_package_that_there_is_not_is_told_with_pips_own_words(start_driver, found_wheels):
    driver = start_driver(
        SESSION
        + """
    ray.init(num_cpus=2)
    env = pip("no-such-gadget")
    say("task", tried(lambda: ray.get(ray.remote(look).options(runtime_env=env).remote())))

    @ray.remote(runtime_env=env)
    class Actor:
        def look(self):
            return 1

    say("actor", tried(lambda: ray.get(Actor.remote().look.remote())))
    say("failures", counters()["environment_failures"])
    say("others", ray.get(ray.remote(lambda: 5).remote()))
    say("good", ray.get(ray.remote(look).options(runtime_env=pip("gadget")).remote())[0])
    """,
        environment={"WHEELS": str(found_wheels)},
    )
    for event in ("task", "actor"):
        names, message = driver.expect(event)
        assert "RuntimeEnvSetupError" in names
        assert "No matching distribution found for no-such-gadget" in message
        assert "logs/venv-" in message
    assert driver.expect("failures") == 2
    assert driver.expect("others") == 5
    assert driver.expect("good") == "2.0"


# A uv that says that it runs, and then does what it is told by the file `behaviour`.
FAKE_UV = """\
#!/bin/sh
. {folder}/behaviour
"""
UV_SESSION = """
    import pathlib
    folder = pathlib.Path(os.environ["UV"])
    ray.init(num_cpus=2)
    f = ray.remote(lambda: sys.prefix != sys.base_prefix)

    def attempt(**config):
        env = {"uv": ["anything"], "env_vars": {"PATH": f"{folder}:${{PATH}}"}, "config": config}
        return tried(lambda: ray.get(f.options(runtime_env=env).remote()))
"""


@pytest.fixture
def fake_uv(tmp_path):
    folder = tmp_path / "uv"
    folder.mkdir()
    (folder / "uv").write_text(FAKE_UV.format(folder=folder))
    (folder / "uv").chmod(0o755)
    os.mkfifo(folder / "started")
    return folder


def test_making_one_is_killed_and_the_next_attempt_repairs_it(start_driver, fake_uv):
    (fake_uv / "behaviour").write_text(f"echo now > {fake_uv}/started; exec sleep 1000\n")
    driver = start_driver(
        UV_SESSION
        + """
    say("first", attempt())
    (folder / "behaviour").write_text("exit 0\\n")
    say("second", attempt())
    hear()
    """,
        environment={"UV": str(fake_uv)},
    )
    with open(fake_uv / "started") as started:
        assert started.read() == "now\n"
    maker = driver._named("make_venv")
    maker.kill()
    names, message = driver.expect("first")
    assert "RuntimeEnvSetupError" in names
    assert "signal 9" in message
    assert driver.expect("second") == ["returned", "True"]
    assert [p for p in driver.servants() if "sleep" in p.command] == []


@pytest.mark.full
def test_making_one_that_takes_too_long_is_ended(start_driver, fake_uv):
    (fake_uv / "behaviour").write_text("exec sleep 1000\n")
    driver = start_driver(
        UV_SESSION
        + """
    say("first", attempt(setup_timeout_seconds=3))
    (folder / "behaviour").write_text("exit 0\\n")
    say("second", attempt())
    hear()
    """,
        environment={"UV": str(fake_uv)},
    )
    names, message = driver.expect("first")
    assert "RuntimeEnvSetupError" in names
    assert "setup_timeout_seconds" in message
    assert driver.expect("second") == ["returned", "True"]
    assert [p for p in driver.servants() if "sleep" in p.command] == []


def test_the_end_of_the_session_ends_what_is_being_made(start_driver, fake_uv):
    (fake_uv / "behaviour").write_text(f"echo now > {fake_uv}/started; exec sleep 1000\n")
    driver = start_driver(
        UV_SESSION
        + """
    env = {"uv": ["anything"], "env_vars": {"PATH": f"{folder}:${{PATH}}"}}
    ref = f.options(runtime_env=env).remote()
    say("asked")
    hear()
    ray.shutdown()
    say("down")
    hear()
    """,
        environment={"UV": str(fake_uv)},
    )
    driver.expect("asked")
    with open(fake_uv / "started") as started:
        assert started.read() == "now\n"
    servants = driver.servants()
    driver.tell()
    driver.expect("down")
    assert processes.still_alive(servants) == []
