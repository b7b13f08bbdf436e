"""Fixtures of the fault tests: drivers in processes of their own, ended with everything they started."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import processes


@pytest.fixture
def start_driver(tmp_path):
    """`start_driver(script)` runs a script (see processes.Driver); whatever is left of it is killed at the end."""
    drivers = []

    def start(script, **options):
        driver = processes.Driver(script, tmp_path / f"driver{len(drivers)}.py", **options)
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        driver.end()
