"""Runs cases on one engine, in one process, and reports each outcome as a line of JSON.

python child.py ENGINE GROUP.CASE...        (reports into the file COMPAT_REPORT)
"""

import faulthandler
import gc
import importlib
import json
import os
import sys
import time
import traceback

CASE_TIMEOUT_S = 60
INIT = {
    "num_cpus": 4,
    "num_gpus": 2,
    "resources": {"slot": 2},
    "object_store_memory": 512 << 20,
    "include_dashboard": False,
    "logging_level": "ERROR",
    "namespace": "compat",
}


def plain(value):
    """What the value looks like after JSON, so that both engines' outcomes have passed the same conversion."""
    return json.loads(json.dumps(value))


def main():
    engine_name, *names = sys.argv[1:]
    report = open(os.environ.pop("COMPAT_REPORT"), "a", buffering=1)
    ray = importlib.import_module(engine_name)
    for name in names:
        group_name, case_name = name.split(".")
        group = importlib.import_module(f"cases.{group_name}")
        shares = getattr(group, "SHARED_SESSION", True)
        if shares and not ray.is_initialized():
            ray.init(**INIT)
        elif not shares and ray.is_initialized():
            ray.shutdown()
        report.write(json.dumps({"case": name, "started": True}) + "\n")
        faulthandler.dump_traceback_later(CASE_TIMEOUT_S, exit=True)
        began = time.monotonic()
        try:
            line = {"outcome": plain(getattr(group, f"case_{case_name}")(ray))}
        except BaseException:
            line = {"broke": traceback.format_exc()}
        faulthandler.cancel_dump_traceback_later()
        report.write(json.dumps({"case": name, "seconds": time.monotonic() - began, **line}) + "\n")
        gc.collect()
    ray.shutdown()


if __name__ == "__main__":
    main()
