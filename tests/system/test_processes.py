"""The fault tests see what they look for: left processes, files, memory and CPU time are found."""

import os

import processes

LEAVES_MUCH_BEHIND = """
    import socket, subprocess, tempfile

    folder = tempfile.mkdtemp()
    path = os.path.join(folder, "listens")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    memory = os.memfd_create("left")
    os.write(memory, bytes(8 << 20))
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, pass_fds=[memory]
    )
    say("ready", [orphan.pid, path])
    order = hear()
    if order == "spin":
        say("spinning")
        while True:
            pass
    hear()
"""


def test_what_is_left_is_found(start_driver):
    driver = start_driver(LEAVES_MUCH_BEHIND, imports=False)
    orphan, path = driver.expect("ready")
    assert [p.pid for p in driver.processes()] == [driver.pid, orphan]
    files = processes.files_of(driver.processes())
    assert files == {path, os.path.dirname(path)}
    assert processes.shared_memory_bytes(driver.processes()) == 8 << 20
    servants = driver.servants()
    driver.kill()
    assert len(processes.still_alive(servants, 0.2)) == 1
    assert set(processes.still_there(files, 0.2)) == files
    assert processes.shared_memory_bytes(servants) == 8 << 20
    driver.end()
    assert processes.still_alive(servants) == []
    os.remove(path)
    os.rmdir(os.path.dirname(path))
    assert processes.still_there(files) == []


def test_cpu_time_is_seen(start_driver):
    driver = start_driver(LEAVES_MUCH_BEHIND, imports=False)
    driver.expect("ready")
    everyone = driver.processes()
    driver.tell("spin")
    driver.expect("spinning")
    before = processes.cpu_time_s(everyone)
    assert processes.until(lambda: processes.cpu_time_s(everyone) > before + 0.05, 30)


def test_mapped_memory_without_a_descriptor_is_seen(start_driver):
    driver = start_driver(
        """
    import mmap

    memory = os.memfd_create("mapped")
    os.ftruncate(memory, 8 << 20)
    mapping = mmap.mmap(memory, 8 << 20)
    mapping[:] = bytes(8 << 20)
    os.close(memory)
    for fd in os.listdir("/proc/self/fd"):  # mmap keeps a duplicate of its own
        try:
            if "memfd:mapped" in os.readlink(f"/proc/self/fd/{fd}"):
                os.close(int(fd))
        except OSError:
            pass
    say("ready")
    hear()
    """,
        imports=False,
    )
    driver.expect("ready")
    assert processes.shared_memory_bytes(driver.processes()) == 8 << 20


def test_unexpected_events_are_told_with_the_output(start_driver):
    driver = start_driver("raise SystemExit('last words')", imports=False)
    try:
        driver.expect("ready", 20)
    except AssertionError as error:
        assert "end of the script" in str(error)
        assert "last words" in str(error)
    else:
        raise AssertionError("a script that ended was taken for ready")
