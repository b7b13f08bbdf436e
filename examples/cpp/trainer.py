"""A driver in Python for the actor of trainer.cc: its weights are mapped, not copied.

python trainer.py build/examples/trainer
"""

import sys

import torch

import beeline as ray
from beeline.cross_language import cpp_actor_class, cpp_function


def main(program: str) -> None:
    """Makes a trainer of `program` and follows its weights."""
    ray.init(num_cpus=2)
    trainer = cpp_actor_class("make_trainer", program=program).remote(1024, 256)
    weights = trainer.weights.options(tensor_transport="shm").remote()
    seen = ray.get(weights)
    print("a tensor of", tuple(seen.shape), seen.dtype)
    for _ in range(2):
        step = ray.get(trainer.step.remote(0.5))
        print("step", step, "mean", seen.mean().item())  # the trainer's own memory: it is seen as it changes
    total = cpp_function("total", program=program)
    print("total", ray.get(total.remote(weights)), "of ones", ray.get(total.remote(torch.ones(10))))
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
