"""Tries an installed Beeline as its user would: actors, a tensor that travels directly, agents, the command line.

Needs nothing but what the wheel requires. Run with the interpreter of the environment, `-P`, from any folder.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

import beeline as ray
from beeline.transfer import Agent

ELEMENTS = 1 << 20


@ray.remote
class Producer:
    """Publishes an array."""

    def __init__(self) -> None:
        self.array = np.arange(ELEMENTS, dtype=np.float32)

    @ray.method(tensor_transport="auto")
    def publish(self) -> np.ndarray:
        """All of it, where it lies."""
        return self.array


@ray.remote
class Consumer:
    """Reads what it is given."""

    def total(self, array: np.ndarray) -> tuple[int, float]:
        """How many elements there are, and their sum."""
        return array.size, float(array.sum(dtype=np.float64))


@ray.remote
def increment(x: int) -> int:
    """A task."""
    return x + 1


def main() -> None:
    """Ends with an exception where something is not as it should be."""
    assert "site-packages" in ray.__file__, f"{ray.__file__} is not an installed package"
    ray.init(num_cpus=2)
    assert ray.get(increment.remote(increment.remote(1))) == 3
    producer, consumer = Producer.remote(), Consumer.remote()
    assert ray.get(consumer.total.remote(producer.publish.remote())) == (ELEMENTS, ELEMENTS * (ELEMENTS - 1) / 2)
    ray.shutdown()
    with Agent("owner") as owner, Agent("reader") as reader:
        target = np.zeros(8, dtype=np.int64)
        reader.fetch(owner.register([np.arange(8)]), [target])  # tensors of its own making would be torch's
        assert target.tolist() == list(range(8))
    command = Path(sys.executable).with_name("beeline")
    for arguments in (["--version"], ["doctor"], ["status"]):
        subprocess.run([command, *arguments], check=True, timeout=120)
    print(f"beeline {ray.__version__} on Python {sys.version.split()[0]}: works")


if __name__ == "__main__":
    main()
