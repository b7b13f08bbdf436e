"""`examples/plugins/hixl`: actors without a collective group, over the emulator of the engine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import build_hixl_plugin

EXAMPLE = Path(__file__).parents[2] / "examples/plugins/hixl"
SUM = 6.0 * 2 * 8 * 1024 * 64

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    return build_hixl_plugin(tmp_path_factory.mktemp("plugins"))


@pytest.mark.full
@pytest.mark.parametrize("engine", ["beeline", "ray"])
def test_two_actors_and_a_driver_in_no_group(plugin, engine):
    command = [sys.executable, str(EXAMPLE / "two_actors.py"), "--engine", engine, "--device", "cpu"]
    environment = os.environ | {"BEELINE_HIXL_PLUGIN": str(plugin), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment.pop("BEELINE_TRANSPORT_PLUGINS", None)  # of the conformance suite
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"summed up {SUM} of {SUM}", done.stdout), done.stdout
    assert f"the driver has {[[2, 8, 1024, 64]] * 4}" in done.stdout
