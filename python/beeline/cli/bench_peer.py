"""The other side of `beeline bench transfer`: an agent that has published a buffer, until its stdin ends.

The buffer's size in bytes and the agent's folder are its arguments; the token comes by the environment.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from beeline.transfer import Agent

BUFFER = "beeline.bench"
TOKEN_VARIABLE = "BEELINE_BENCH_TOKEN"
_PERIOD = 251  # a prime: no two parts of a page are alike


def pattern(size: int) -> np.ndarray:
    """What the buffer begins with: `size` bytes, uint8."""
    return np.resize(np.arange(_PERIOD, dtype=np.uint8), size)


def main() -> None:
    """Publishes, says its address, and waits."""
    size, folder = int(sys.argv[1]), sys.argv[2]
    with Agent("beeline-bench", tcp="127.0.0.1:0", token=os.environ[TOKEN_VARIABLE], folder=folder) as agent:
        agent.publish(BUFFER, pattern(size))
        print(agent.address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
