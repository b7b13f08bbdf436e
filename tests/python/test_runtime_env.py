"""What a runtime_env may say, what becomes of its folders, and what a worker is told of it."""

import io
import os
import stat
import subprocess
import sys
import tarfile
import textwrap
import threading
import zipfile

import pytest

import beeline as ray
from beeline.exceptions import RuntimeEnvSetupError
from beeline.runtime_env import RuntimeEnv, RuntimeEnvConfig, packages, variables, venvs
from beeline.runtime_env.runtime_env import checked
from tests.conformance.small_disk import mounted


def written(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def content(uri, session):
    root = packages.path_of(uri, str(session))
    found = []
    for folder, folders, files in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
        found += [os.path.relpath(os.path.join(folder, name), root) + "/" for name in folders]
    return sorted(found)


@pytest.fixture
def session(tmp_path):
    folder = tmp_path / "session"
    (folder / "logs").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("given", "error", "mentioned"),
    [
        ({"working_dir": 5}, TypeError, "working_dir"),
        ({"working_dir": "/no/such/folder"}, ValueError, "/no/such/folder"),
        ({"working_dir": __file__}, ValueError, ".zip"),
        ({"working_dir": "https://host/code.zip"}, ValueError, "Download"),
        ({"working_dir": "local://relative"}, ValueError, "absolute"),
        ({"py_modules": "a"}, TypeError, "list"),
        ({"py_modules": [3]}, TypeError, "modules"),
        ({"py_modules": ["/no/such/module"]}, ValueError, "/no/such/module"),
        ({"excludes": "*.log"}, TypeError, "excludes"),
        ({"env_vars": ["A"]}, TypeError, "env_vars"),
        ({"env_vars": {"A": 1}}, TypeError, "'A'"),
        ({"env_vars": {"BEELINE_SESSION": "x"}}, ValueError, "BEELINE_SESSION"),
        ({"pip": 5}, TypeError, "pip"),
        ({"pip": {"pip_check": True}}, ValueError, "packages"),
        ({"pip": {"packages": [], "pip_chek": True}}, ValueError, "pip_chek"),
        ({"pip": {"packages": ["a"], "pip_check": "yes"}}, TypeError, "bool"),
        ({"pip": {"packages": ["a"], "pip_install_options": [1]}}, TypeError, "pip_install_options"),
        ({"pip": "/no/such/requirements.txt"}, ValueError, "requirements.txt"),
        ({"uv": {"packages": ["a"], "uv_check": 1}}, TypeError, "uv_check"),
        ({"pip": ["a"], "uv": ["b"]}, ValueError, "'uv' field"),
        ({"conda": "base"}, ValueError, "py_executable"),
        ({"image_uri": "x"}, ValueError, "container"),
        ({"working_directory": "."}, ValueError, "working_dir"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "setup_timeout_seconds"),
        ({"config": {"setup_timeout_seconds": 1.5}}, TypeError, "setup_timeout_seconds"),
        ({"config": {"eager_install": 1}}, TypeError, "eager_install"),
        ({"config": 5}, TypeError, "config"),
        ({"py_executable": ""}, ValueError, "py_executable"),
        ({"worker_process_setup_hook": 3}, TypeError, "function"),
        ({"worker_process_setup_hook": "main"}, ValueError, "module.function"),
    ],
    ids=str,
)
def test_bad_fields_are_refused(given, error, mentioned):
    with pytest.raises(error, match=mentioned.replace(".", r"\.")):
        RuntimeEnv(**given)
    with pytest.raises(error):
        ray.remote(lambda: 1).options(runtime_env=given)


def test_fields_come_in_their_full_form(tmp_path):
    (tmp_path / "requirements.txt").write_text("one\ntwo==2\n")
    env = RuntimeEnv(
        pip=str(tmp_path / "requirements.txt"), env_vars={}, working_dir=None, config={"eager_install": False}
    )
    assert env == {
        "pip": {"packages": ["one", "two==2"], "pip_check": False},
        "config": RuntimeEnvConfig(eager_install=False),
    }
    assert env.has_pip() and not env.has_uv() and env.pip_config()["packages"] == ["one", "two==2"]
    assert RuntimeEnv(pip=["a", "a", "b"])["pip"]["packages"] == ["a", "b"]
    assert RuntimeEnv(pip=[]) == {}
    env.set("uv", ["three"])
    assert env.uv_config() == {"packages": ["three"], "uv_check": False}
    assert RuntimeEnv(py_modules=[textwrap])["py_modules"] == [textwrap.__file__]
    assert checked(None) == {}
    with pytest.raises(TypeError):
        checked(["pip"])


def test_a_runtime_env_survives_json_and_pickle(tmp_path):
    import cloudpickle

    env = RuntimeEnv(working_dir=str(tmp_path), env_vars={"A": "1"}, config={"setup_timeout_seconds": 5})
    assert RuntimeEnv.deserialize(env.serialize()).to_dict() == env.to_dict()
    blob = cloudpickle.dumps(env)
    tmp_path.rmdir()  # where it is unpickled its folders need not exist
    again = cloudpickle.loads(blob)
    assert type(again) is RuntimeEnv and again == env


def test_unknown_entries_of_the_config_are_warned_of(caplog):
    assert RuntimeEnv(config={"no_such": 1})["config"] == RuntimeEnvConfig.default_config()
    assert "no_such" in caplog.text


def test_a_working_dir_is_packaged_without_what_is_excluded(tmp_path, session):
    source = written(
        tmp_path / "code",
        {
            "main.py": "x = 1",
            ".git/config": "",
            "__pycache__/main.pyc": "",
            ".gitignore": "*.log\nbuild/\n!keep.log",
            "a.log": "",
            "keep.log": "",
            "build/out": "",
            "part/.rayignore": "secret",
            "part/secret": "",
            "part/open": "",
            "data/large.bin": "",
        },
    )
    (tmp_path / "code" / "empty").mkdir()
    os.symlink(tmp_path / "code" / "main.py", tmp_path / "code" / "link.py")
    uri = packages.of_working_dir(source, ["data/*.bin"], str(session))
    assert content(uri, session) == [
        ".gitignore",
        "data/",
        "empty/",
        "keep.log",
        "link.py",
        "main.py",
        "part/",
        "part/.rayignore",
        "part/open",
    ]
    assert os.path.isfile(packages.path_of(uri, str(session)) + "/link.py")


def test_gitignore_and_the_default_excludes_can_be_switched_off(tmp_path, session, monkeypatch):
    source = written(tmp_path / "code", {".gitignore": "a", "a": "", "venv/b": ""})
    monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    monkeypatch.setenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    uri = packages.of_working_dir(source, [], str(session))
    assert content(uri, session) == [".gitignore", "a", "venv/", "venv/b"]


def test_a_package_is_named_by_its_content(tmp_path, session):
    first = packages.of_working_dir(written(tmp_path / "one", {"a": "1", "b/c": "2"}), [], str(session))
    same = packages.of_working_dir(written(tmp_path / "two", {"a": "1", "b/c": "2"}), [], str(session))
    other = packages.of_working_dir(written(tmp_path / "three", {"a": "1", "b/c": "3"}), [], str(session))
    assert first == same != other
    (tmp_path / "two" / "a").chmod(0o755)
    assert packages.of_working_dir(str(tmp_path / "two"), [], str(session)) != first
    assert packages.of_py_module(str(tmp_path / "one"), [], str(session)) != first
    assert len([name for name in os.listdir(session / "packages") if not name.startswith(".")]) == 4


def test_packages_of_modules(tmp_path, session):
    package = written(tmp_path / "shapes", {"__init__.py": "", "round/__init__.py": "", "data.log": ""})
    uri = packages.of_py_module(package, ["*.log"], str(session))
    assert content(uri, session) == ["shapes/", "shapes/__init__.py", "shapes/round/", "shapes/round/__init__.py"]
    (tmp_path / "single.py").write_text("x = 1")
    assert content(packages.of_py_module(str(tmp_path / "single.py"), [], str(session)), session) == ["single.py"]


def test_archives_are_unpacked(tmp_path, session):
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("top/a.txt", "a")
        script = zipfile.ZipInfo("run.sh")
        script.external_attr = 0o755 << 16
        archive.writestr(script, "#!/bin/sh")
    uri = packages.of_working_dir(str(tmp_path / "code.zip"), [], str(session))
    assert content(uri, session) == ["run.sh", "top/", "top/a.txt"]
    assert os.stat(packages.path_of(uri, str(session)) + "/run.sh").st_mode & stat.S_IXUSR
    with tarfile.open(tmp_path / "code.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("b.txt")
        archive.addfile(entry, io.BytesIO(b""))
    assert content(packages.of_working_dir(str(tmp_path / "code.tar.gz"), [], str(session)), session) == ["b.txt"]
    with zipfile.ZipFile(tmp_path / "tools-1-py3-none-any.whl", "w") as archive:
        archive.writestr("tools/__init__.py", "")
        archive.writestr("tools-1.data/purelib/more.py", "")
    unpacked = content(packages.of_py_module(str(tmp_path / "tools-1-py3-none-any.whl"), [], str(session)), session)
    assert {"tools/__init__.py", "more.py"} <= set(unpacked)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_an_archive_does_not_write_outside_of_its_folder(tmp_path, session, name):
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(RuntimeEnvSetupError, match="outside"):
        packages.of_working_dir(str(tmp_path / "code.zip"), [], str(session))
    with tarfile.open(tmp_path / "code.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    if not name.startswith("/"):  # tarfile takes the slash off
        with pytest.raises(RuntimeEnvSetupError):
            packages.of_working_dir(str(tmp_path / "code.tgz"), [], str(session))
    assert not (tmp_path / "outside").exists()
    assert [entry for entry in os.listdir(session / "packages") if entry.startswith(".new-")] == []


def test_what_is_no_archive_is_an_error(tmp_path, session):
    for name in ("code.zip", "code.tar.gz", "code.tar.xz"):
        (tmp_path / name).write_bytes(b"neither")
        with pytest.raises(RuntimeEnvSetupError, match=name):
            packages.of_working_dir(str(tmp_path / name), [], str(session))
    assert os.listdir(session / "packages") == []


def test_a_link_to_a_folder_around_it_is_an_error(tmp_path, session):
    source = written(tmp_path / "code", {"a/b": ""})
    os.symlink(tmp_path / "code", tmp_path / "code" / "a" / "again")
    with pytest.raises(RuntimeEnvSetupError, match="again"):
        packages.of_working_dir(source, [], str(session))
    assert content(packages.of_working_dir(source, ["again"], str(session)), session) == ["a/", "a/b"]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, session):
    source = written(tmp_path / "code", {"large": "x" * (1 << 20)})
    (session / "packages").mkdir()
    with mounted(session / "packages", "256k"):
        with pytest.raises(RuntimeEnvSetupError, match="No space left.*BEELINE_TMPDIR"):
            packages.of_working_dir(source, [], str(session))
        assert os.listdir(session / "packages") == []
        assert content(packages.of_working_dir(source, ["large"], str(session)), session) == []


def test_two_who_package_the_same_agree(tmp_path, session):
    source = written(tmp_path / "code", {f"file{i}": "x" * 10000 for i in range(50)})
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(packages.of_working_dir(source, [], str(session))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert len(content(found[0], session)) == 50
    assert len(os.listdir(session / "packages")) == 1


def test_a_child_has_its_parents_environment_and_its_own():
    parent = {"working_dir": "package://1", "env_vars": {"A": "parent", "B": "b"}, "pip": {"packages": ["x"]}}
    child = {"env_vars": {"A": "own"}, "py_modules": ["package://2"]}
    assert variables.merged(parent, child) == {
        "working_dir": "package://1",
        "env_vars": {"A": "own", "B": "b"},
        "pip": {"packages": ["x"]},
        "py_modules": ["package://2"],
    }
    assert variables.merged(parent, {"uv": {"packages": ["y"]}}).keys() == {"working_dir", "env_vars", "uv"}
    assert variables.merged(parent, {}) == parent


def test_variables_tell_a_worker_all_of_it(monkeypatch):
    monkeypatch.setenv("SOME_FOLDER", "/opt")
    env = {
        "env_vars": {"A": "${SOME_FOLDER}/a:${NOT_SET_AT_ALL}"},
        "pip": {"packages": ["x"]},
        "py_executable": "a 'b c'",
    }
    found = variables.variables_of(env)
    assert found["A"] == "/opt/a:"
    assert found[variables.PY_EXECUTABLE] == "a\nb c"
    assert found[variables.VENV].split()[1] == "600"
    assert variables.taken(found) == (env, True)
    assert found == {"A": "/opt/a:"}
    assert variables.taken(found) == ({}, False)
    assert variables.variables_of({}) == {}
    with pytest.raises(ValueError, match="bytes"):
        variables.variables_of({"env_vars": {"A": "x" * 200_000}})


def test_an_environments_name_is_that_of_what_is_asked_for():
    def name(**env):
        return venvs.name_of(env)

    assert name(pip={"packages": ["x"]}) == name(pip={"packages": ["x"]}, working_dir="package://1")
    assert name(pip={"packages": ["x"]}) != name(uv={"packages": ["x"]})
    refers = {"packages": ["${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/x"]}
    assert name(pip=refers, working_dir="package://1") != name(pip=refers, working_dir="package://2")


def test_requirements_files_are_read_where_they_are_named(tmp_path):
    written(
        tmp_path, {"a.txt": "one\n-r more/b.txt\ntwo", "more/b.txt": "three\n--requirement=c.txt", "more/c.txt": "four"}
    )
    asked = ["zero", f"-r {tmp_path}/a.txt", "-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/d.txt"]
    assert venvs.expanded(asked) == ["zero", "one", "three", "four", "two", asked[2]]
    (tmp_path / "more" / "c.txt").write_text("-r b.txt")
    with pytest.raises(ValueError, match="names itself"):
        venvs.expanded(asked)


# A uv that installs nothing, notes that it ran, and does what the file `behaviour` beside it says.
FAKE_UV = """\
#!/bin/sh
echo "$@" >> {folder}/runs
. {folder}/behaviour
"""


@pytest.fixture
def fake_uv(tmp_path):
    folder = tmp_path / "uv"
    folder.mkdir()
    (folder / "uv").write_text(FAKE_UV.format(folder=folder))
    (folder / "uv").chmod(0o755)
    (folder / "behaviour").write_text("exit 0\n")
    (folder / "runs").touch()
    return folder


def runs(folder):
    return (folder / "runs").read_text().splitlines()


MAKE = """
    import os, sys
    from beeline.runtime_env import venvs
    session, timeout_s = sys.argv[1], float(sys.argv[2])
    env = {"uv": {"packages": ["anything"], "uv_pip_install_options": ["--offline"]}}
    maker = venvs.Maker(session, venvs.name_of(env), timeout_s, lambda text: print(text, flush=True))
    maker.make(env, os.environ)
    print("made", maker.python, flush=True)
"""


@pytest.fixture
def make(session, fake_uv):
    """`make(timeout_s)` makes the environment in a process of its own."""
    started = []

    def start(timeout_s=-1):
        command = [sys.executable, "-P", "-c", textwrap.dedent(MAKE), str(session), str(timeout_s)]
        path = f"{fake_uv}:{os.environ['PATH']}"
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env={**os.environ, "PATH": path}, start_new_session=True)  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_an_environment_is_made_once_by_two_at_once(make, fake_uv):
    both = [make(), make()]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert len(runs(fake_uv)) == 1 and "--offline" in runs(fake_uv)[0]
    python = outputs[0].split("made ")[1].strip()
    assert outputs[1].split("made ")[1].strip() == python
    probe = "import beeline, numpy, sys; print(sys.prefix != sys.base_prefix, sys.prefix in sys.executable)"
    done = subprocess.run([python, "-P", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_what_was_killed_in_the_middle_is_made_anew(make, fake_uv, tmp_path):
    os.mkfifo(tmp_path / "started")
    (fake_uv / "behaviour").write_text(f"echo now > {tmp_path}/started; sleep 1000\n")
    first = make()
    with open(tmp_path / "started") as started:
        assert started.read() == "now\n"
    os.killpg(first.pid, 9)
    first.communicate()
    (fake_uv / "behaviour").write_text("exit 0\n")
    second = make()
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert "unfinished" in output
    assert len(runs(fake_uv)) == 2


def test_a_failure_shows_the_end_of_the_log_and_leaves_nothing(make, fake_uv, session):
    (fake_uv / "behaviour").write_text("for i in $(seq 2000); do echo line $i; done; echo no such package; exit 3\n")
    process = make()
    output, _ = process.communicate()
    assert process.returncode != 0
    for part in ("RuntimeEnvSetupError", "exit code 3", "no such package", "line 1999"):
        assert part in output
    assert "line 1000\n" not in output
    assert [name for name in os.listdir(session / "venvs") if not name.endswith(".lock")] == []


def test_making_one_has_a_deadline(make, fake_uv, session):
    (fake_uv / "behaviour").write_text("echo still at it; exec sleep 1000\n")
    process = make(timeout_s=2)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "setup_timeout_seconds" in output
    assert [name for name in os.listdir(session / "venvs") if not name.endswith(".lock")] == []


def test_uv_that_is_not_there_is_an_error(session):
    env = {"uv": {"packages": ["anything"]}}
    maker = venvs.Maker(str(session), venvs.name_of(env), -1, print)
    with pytest.raises(RuntimeEnvSetupError, match="pip install uv"):
        maker.make(env, {"PATH": "/no/such/folder"})
