"""Whether path `cma` works here, tried as agents take it.

`python -m beeline.cli.cma_probe` prints "True" or "False", and what was found. The reader is a child of the owner,
never the other way round: Yama lets ancestors read their descendants anyway.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from beeline.exceptions import BeelineError
from beeline.transfer import Agent, TensorRefs

_ELEMENTS = 1024
_TIMEOUT_S = 20.0


def own() -> None:
    """The owner: registers memory outside the arena, and has the reader tell what became of it."""
    with Agent("doctor's owner") as owner:
        numbers = np.arange(_ELEMENTS)
        command = [sys.executable, "-P", "-m", "beeline.cli.cma_probe", "read"]
        refs = owner.register([numbers])  # which lasts as long as these
        subprocess.run(command, input=refs.to_json(), text=True, timeout=_TIMEOUT_S, check=True)


def read() -> None:
    """The reader: prints the verdict."""
    refs = TensorRefs.from_json(sys.stdin.read())
    target = np.zeros(_ELEMENTS, dtype=np.int64)
    try:
        with Agent("doctor's reader") as reader:
            reader.fetch(refs, [target], path="cma", timeout_s=_TIMEOUT_S)
    except BeelineError as error:
        print("False", " ".join(str(error).split()))
        return
    is_right = bool((target == np.arange(_ELEMENTS)).all())
    print(is_right, "process_vm_readv between two processes" if is_right else "other bytes arrived than were there")


if __name__ == "__main__":
    read() if sys.argv[1:] == ["read"] else own()
