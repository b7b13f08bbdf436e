"""runtime_env: folders, modules and variables of jobs, tasks and actors; who inherits what; what is refused. The cases
that make a job of their own start and end a session.
"""

import contextlib
import os
import pathlib
import tempfile

from outcome import describe, full, raised

SHARED_SESSION = False
QUIET = {"num_cpus": 2, "include_dashboard": False, "logging_level": "ERROR", "object_store_memory": 128 << 20}


@contextlib.contextmanager
def code(**files):
    """A folder with these files; `__` in a name stands for a folder."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = pathlib.Path(folder, *name.split("__")).with_suffix(".py" if text else ".log")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        yield folder


@contextlib.contextmanager
def session(ray, **arguments):
    ray.init(**QUIET, **arguments)
    try:
        yield
    finally:
        ray.shutdown()


def value_of(module):
    import importlib

    return importlib.import_module(module).VALUE


@full
def case_working_dir(ray):
    def look():
        import helper

        return [helper.VALUE, sorted(name for name in os.listdir(".") if not name.startswith("__"))]

    with code(helper="VALUE = 1", notes="", part__inner="VALUE = 2") as folder:
        with session(ray, runtime_env={"working_dir": folder, "excludes": ["*.log"]}):
            env = ray.get_runtime_context().runtime_env
            return [ray.get(ray.remote(look).remote()), sorted(env), env["working_dir"] != folder]


@full
def case_py_modules(ray):
    with code(single="VALUE = 1", pack__inner="VALUE = 2") as folder:
        with session(ray, runtime_env={"py_modules": [f"{folder}/single.py", f"{folder}/pack"]}):
            return ray.get([ray.remote(value_of).remote(module) for module in ("single", "pack.inner")])


@full
def case_variables_of_a_job_an_actor_and_a_task(ray):
    def look():
        return [os.environ.get(name) for name in ("COMPAT_A", "COMPAT_B", "COMPAT_C")]

    class Actor:
        def look(self):
            return look()

        def nested(self):
            own = {"env_vars": {"COMPAT_C": "task"}}
            return ray.get([ray.remote(look).remote(), ray.remote(look).options(runtime_env=own).remote()])

        def context(self):
            return dict(ray.get_runtime_context().runtime_env["env_vars"])

    with session(ray, runtime_env={"env_vars": {"COMPAT_A": "job", "COMPAT_B": "job"}}):
        actor = ray.remote(Actor).options(num_cpus=0, runtime_env={"env_vars": {"COMPAT_A": "actor"}}).remote()
        return ray.get([ray.remote(look).remote(), actor.look.remote(), actor.nested.remote(), actor.context.remote()])


@full
def case_variables_refer_to_others(ray):
    os.environ["COMPAT_BASE"] = "/base"
    env = {"env_vars": {"COMPAT_REFERS": "${COMPAT_BASE}/more:${COMPAT_NOT_SET}"}}
    with session(ray, runtime_env=env):
        return ray.get(ray.remote(lambda: os.environ["COMPAT_REFERS"]).remote())


@full
def case_setup_hook(ray):
    def hook():
        os.environ["COMPAT_HOOK"] = "ran"

    with session(ray, runtime_env={"worker_process_setup_hook": hook}):
        return ray.get(ray.remote(lambda: os.environ.get("COMPAT_HOOK")).remote())


@full
def case_what_cannot_be_installed(ray):
    @ray.remote(runtime_env={"pip": ["--no-index", "no-such-package-anywhere"]}, max_retries=0)
    def f():
        return 1

    with session(ray):
        try:
            return ray.get(f.remote(), timeout=100)
        except ray.exceptions.RuntimeEnvSetupError as error:
            return describe(ray, error)


def case_bad_fields(ray):
    f = ray.remote(lambda: 1)
    given = {
        "working_dir": {"working_dir": 5},
        "no folder": {"working_dir": "/no/such/folder"},
        "modules": {"py_modules": "not a list"},
        "variables": {"env_vars": {"A": 1}},
        "pip": {"pip": 5},
        "pip field": {"pip": {"packages": ["a"], "pip_chek": True}},
        "no packages": {"pip": {"pip_check": True}},
        "pip check": {"pip": {"packages": ["a"], "pip_check": "yes"}},
        "uv check": {"uv": {"packages": ["a"], "uv_check": 1}},
        "both": {"pip": ["a"], "uv": ["a"]},
        "timeout": {"config": {"setup_timeout_seconds": 0}},
        "timeout type": {"config": {"setup_timeout_seconds": "1"}},
        "eager": {"config": {"eager_install": 1}},
    }
    return {name: raised(ray, lambda env=env: f.options(runtime_env=env)) for name, env in given.items()}


def case_the_class(ray):
    from importlib import import_module

    module = import_module(f"{ray.__name__}.runtime_env")
    env = module.RuntimeEnv(env_vars={"A": "1"}, pip=["one", "one"], config={"setup_timeout_seconds": 5})
    config = module.RuntimeEnvConfig(eager_install=False)
    return [
        isinstance(env, dict),
        env["pip"]["packages"],
        env.env_vars(),
        env.has_pip(),
        env.has_uv(),
        dict(env["config"])["setup_timeout_seconds"],
        dict(config),
        module.RuntimeEnv.deserialize(env.serialize())["env_vars"],
        raised(ray, lambda: module.RuntimeEnvConfig(setup_timeout_seconds=-2)),
    ]
