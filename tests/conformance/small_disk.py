"""File systems of a few pages, for the time of a test, and what makes them full."""

import contextlib
import pathlib
import shutil
import subprocess

import pytest


@contextlib.contextmanager
def mounted(folder, size):
    """A tmpfs of that size ("128k") in the place of the folder; the test is skipped where none can be mounted."""
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield pathlib.Path(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=60)


def fill(folder):
    """Takes all the room that is left there; the file that has it, which gives it back when it is removed."""
    filler = pathlib.Path(folder, "filler")
    with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    return filler
