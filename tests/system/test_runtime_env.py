"""Workers in the environment that runtime_env describes: folders, modules, hooks; who inherits what."""

import processes

PRELUDE = """
    import importlib, pathlib
    code = pathlib.Path(os.environ["CODE"])

    @ray.remote
    def here():
        return [os.path.basename(os.getcwd()), sorted(os.listdir("."))]

    @ray.remote
    def value_of(module):
        return importlib.import_module(module).VALUE

    @ray.remote
    def importable(module):
        return importlib.util.find_spec(module) is not None
"""


def test_workers_start_in_a_copy_of_the_working_dir(start_driver, tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    for name, text in {"helper.py": "VALUE = 1", "notes.log": "", ".gitignore": "*.log", "large": "x"}.items():
        (code / name).write_text(text)
    driver = start_driver(
        PRELUDE
        + """
    ray.init(num_cpus=2, runtime_env={"working_dir": str(code), "excludes": ["large"]})
    (code / "helper.py").write_text("VALUE = 2")  # what comes later is not seen
    say("task", ray.get([here.remote(), value_of.remote("helper")]))

    @ray.remote
    class Actor:
        def value(self):
            import helper
            return [helper.VALUE, os.listdir(".").count("helper.py")]

        def child(self):
            import subprocess
            return subprocess.check_output([sys.executable, "-c", "import helper; print(helper.VALUE)"], text=True)

        def nested(self):
            return ray.get(value_of.remote("helper"))

    actor = Actor.remote()
    say("actor", ray.get([actor.value.remote(), actor.child.remote(), actor.nested.remote()]))
    env = ray.get_runtime_context().runtime_env
    say("context", [type(env).__name__, sorted(env), env["working_dir"].startswith("package://")])
    say("driver", os.getcwd() == str(code))
    session_dir = ray.get_runtime_context().get_temp_dir()
    ray.shutdown()
    say("left", os.path.exists(session_dir))
    """,
        environment={"CODE": str(code)},
    )
    (folder, names), value = driver.expect("task")
    assert (names, value) == ([".gitignore", "helper.py"], 1)
    assert folder != "code"
    assert driver.expect("actor") == [[1, 1], "1\n", 1]
    assert driver.expect("context") == ["RuntimeEnv", ["working_dir"], True]
    assert driver.expect("driver") is False
    assert driver.expect("left") is False


def test_modules_come_from_folders_files_wheels_and_imported_modules(start_driver, tmp_path):
    (tmp_path / "code").mkdir()
    driver = start_driver(
        PRELUDE
        + """
    import zipfile
    for name in ("folder", "imported"):
        (code / name).mkdir()
        (code / name / "__init__.py").write_text(f"VALUE = {name!r}")
    (code / "file.py").write_text("VALUE = 'file'")
    with zipfile.ZipFile(code / "wheel-1-py3-none-any.whl", "w") as archive:
        archive.writestr("from_wheel.py", "VALUE = 'wheel'")
    with zipfile.ZipFile(code / "more.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "VALUE = 'zip'")
    sys.path.insert(0, str(code))
    import imported
    del sys.path[0]
    modules = [code / "folder", imported, code / "file.py", code / "wheel-1-py3-none-any.whl", code / "more.zip"]
    names = ["folder", "imported", "file", "from_wheel", "zipped"]
    ray.init(num_cpus=2)
    say("without", ray.get([importable.remote(name) for name in names]))
    with_modules = value_of.options(runtime_env={"py_modules": modules})
    say("with", ray.get([with_modules.remote(name) for name in names]))
    say("again", ray.get([importable.remote(name) for name in names]))
    """,
        environment={"CODE": str(tmp_path / "code")},
    )
    assert driver.expect("without") == [False] * 5
    assert driver.expect("with") == ["folder", "imported", "file", "wheel", "zip"]
    assert driver.expect("again") == [False] * 5


def test_what_an_actor_calls_has_its_environment_and_its_own(start_driver, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "which.py").write_text(f"VALUE = {folder!r}")
    driver = start_driver(
        PRELUDE
        + """
    ray.init(num_cpus=4, runtime_env={"working_dir": str(code / "one"), "env_vars": {"A": "job", "B": "job"}})

    @ray.remote
    def look():
        import which
        return [which.VALUE, os.environ["A"], os.environ.get("B"), os.environ.get("C")]

    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"A": "actor"}})
    class Actor:
        def look(self):
            return ray.get([look.remote(), look.options(runtime_env={"env_vars": {"C": "task"}}).remote()])

        def context(self):
            return dict(ray.get_runtime_context().runtime_env)["env_vars"]

    say("task", ray.get(look.remote()))
    actor = Actor.remote()
    say("nested", ray.get(actor.look.remote()))
    say("context", ray.get(actor.context.remote()))
    other = Actor.options(runtime_env={"working_dir": str(code / "two")}).remote()
    say("replaced", ray.get(other.look.remote())[0])
    marks = [name for name in ("BEELINE_RUNTIME_ENV", "BEELINE_VENV") if name in os.environ]
    say("marks", [marks, ray.get(ray.remote(lambda: "BEELINE_RUNTIME_ENV" in os.environ).remote())])
    """,
        environment={"CODE": str(tmp_path)},
    )
    assert driver.expect("task") == ["one", "job", "job", None]
    assert driver.expect("nested") == [["one", "actor", "job", None], ["one", "actor", "job", "task"]]
    assert driver.expect("context") == {"A": "actor", "B": "job"}
    assert driver.expect("replaced") == ["two", "job", "job", None]
    assert driver.expect("marks") == [[], False]


def test_a_hook_runs_first_in_each_worker(start_driver, tmp_path):
    (tmp_path / "hooks.py").write_text("def mark():\n    import os\n    os.environ['MARK'] = 'by module'\n")
    driver = start_driver(
        PRELUDE
        + """
    def hook():
        os.environ["MARK"] = "by function"

    def broken():
        raise OSError("the hook is broken")

    ray.init(num_cpus=2, runtime_env={"worker_process_setup_hook": hook})
    mark = ray.remote(lambda: os.environ.get("MARK"))
    say("function", ray.get(mark.remote()))
    env = {"working_dir": str(code), "worker_process_setup_hook": "hooks.mark"}
    say("module", ray.get(mark.options(runtime_env=env).remote()))
    say("context", ray.get_runtime_context().runtime_env["worker_process_setup_hook"])
    failing = mark.options(runtime_env={"worker_process_setup_hook": broken}, max_retries=0)
    say("broken", tried(lambda: ray.get(failing.remote()))[0])
    say("others", ray.get(mark.remote()))
    """,
        environment={"CODE": str(tmp_path)},
    )
    assert driver.expect("function") == "by function"
    assert driver.expect("module") == "by module"
    assert driver.expect("context") == "hook"
    assert "WorkerCrashedError" in driver.expect("broken")
    assert driver.expect("others") == "by function"
    assert processes.until(lambda: "the hook is broken" in driver.output())


def test_a_command_starts_the_interpreter(start_driver, tmp_path):
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nWRAPPED=yes exec "$@"\n')
    wrapper.chmod(0o755)
    outer = tmp_path / "outer"  # one that waits for the interpreter, as `uv run` does
    outer.write_text('#!/bin/sh\n"$@"\nexit $?\n')
    outer.chmod(0o755)
    driver = start_driver(
        """
    wrapper, outer = os.environ["WRAPPER"], os.environ["OUTER"]
    ray.init(num_cpus=2)

    @ray.remote(max_restarts=1, max_task_retries=1)
    class Actor:
        def look(self):
            return [os.environ.get("WRAPPED"), sys.flags.dev_mode]

        def pid(self):
            return os.getpid()

    env = {"py_executable": f"{wrapper} {sys.executable} -X dev"}
    say("exec", ray.get(Actor.options(runtime_env=env).remote().look.remote()))
    inner = Actor.options(runtime_env={"py_executable": f"{outer} {sys.executable}"}).remote()
    pid = ray.get(inner.pid.remote())
    os.kill(pid, signal.SIGKILL)
    say("restarted", ray.get(inner.pid.remote()) != pid)
    missing = Actor.options(runtime_env={"py_executable": "/no/such/python"}).remote()
    say("missing", tried(lambda: ray.get(missing.pid.remote())))
    """,
        environment={"WRAPPER": str(wrapper), "OUTER": str(outer)},
    )
    assert driver.expect("exec") == ["yes", True]
    assert driver.expect("restarted") is True
    names, message = driver.expect("missing")
    assert "RuntimeEnvSetupError" in names
    assert "/no/such/python" in message


def test_a_folder_that_cannot_be_packaged_starts_nothing(start_driver, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "again").symlink_to(tmp_path / "code")
    driver = start_driver(
        """
    say("init", tried(lambda: ray.init(num_cpus=1, runtime_env={"working_dir": os.environ["CODE"]})))
    say("initialized", ray.is_initialized())
    hear()
    """
        + processes.NEW_SESSION,
        environment={"CODE": str(tmp_path / "code")},
    )
    names, message = driver.expect("init")
    assert "RuntimeEnvSetupError" in names and "again" in message
    assert driver.expect("initialized") is False
    assert processes.still_alive(driver.servants()) == []
    driver.tell()
    processes.expect_a_new_session(driver)
