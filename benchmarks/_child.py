"""A fresh process that runs one probe on one engine and writes the figures as JSON to a file
descriptor of its parent.

Internal: `python -m benchmarks` starts it. Whatever the probe prints goes to this process's own output.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks._child")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--probe", required=True)
    parser.add_argument("--variant", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--fd", type=int, default=1, help="where the JSON goes")
    args = parser.parse_args()
    if args.fd > 2:
        os.set_inheritable(args.fd, False)

    import benchmarks.rows  # noqa: F401  (fills PROBES)
    from benchmarks.engines import context
    from benchmarks.registry import PROBES

    try:
        measured = PROBES[args.probe]
        ctx = context(args.engine, args.variant, args.quick)
        try:
            answer = {"samples": measured(ctx)}
        finally:
            if ctx.ray is not None and ctx.ray.is_initialized():
                ctx.ray.shutdown()
    except BaseException as error:  # reported to the parent whatever it is; the exit status says it as well
        traceback.print_exc()
        answer = {"error": f"{type(error).__name__}: {error}"}
    with os.fdopen(os.dup(args.fd), "w") as out:
        json.dump(answer, out)
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
