"""What the preload library costs ordinary code inside an actor: the same work with it and without."""

from __future__ import annotations

from benchmarks.engines import Context
from benchmarks.registry import RAY, Bound, Contender, Row, Samples, probe
from benchmarks.timing import clock

WITH = Contender("beeline", "beeline", "auto", (("BEELINE_PRELOAD", "1"),))
WITHOUT = Contender("without preload", "beeline", "auto", (("BEELINE_PRELOAD", "0"),))


class Work:
    """Runs inside the worker and times itself, so that no call is part of the figure."""

    def train(self, steps):
        """A step of a 4-million-parameter network on a batch of 512; activations and gradients are megabytes."""
        import torch
        from torch import nn

        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 1024), nn.GELU(), nn.Linear(1024, 512))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        batch, target = torch.randn(512, 512), torch.randn(512, 512)
        samples = []
        for _ in range(steps):
            start = clock()
            loss = nn.functional.mse_loss(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            samples.append(clock() - start)
        return samples[steps // 4 :]

    def lists(self, rounds):
        """Growing lists by append to a million elements: realloc through every size."""
        samples = []
        for _ in range(rounds):
            start = clock()
            for _ in range(4):
                grown = []
                append = grown.append
                for i in range(1_000_000):
                    append(i)
            samples.append(clock() - start)
        return samples[1:]

    def bytes(self, rounds):
        """Growing a bytearray to 64 MiB by 16 KiB, and bytes to 8 MiB by concatenation of 256 KiB."""
        chunk, large = b"x" * 2**14, b"y" * 2**18
        samples = []
        for _ in range(rounds):
            start = clock()
            grown = bytearray()
            for _ in range(4096):
                grown += chunk
            joined = b""
            for _ in range(32):
                joined = joined + large
            samples.append(clock() - start)
        return samples[1:]


def _run(ctx: Context, method: str, count: int) -> Samples:
    ctx.init(num_cpus=2)
    worker = ctx.ray.remote(Work).remote()
    return {"seconds": ctx.ray.get(getattr(worker, method).remote(count))}


@probe
def preload_train(ctx: Context) -> Samples:
    return _run(ctx, "train", ctx.reps(80, 24))


@probe
def preload_lists(ctx: Context) -> Samples:
    return _run(ctx, "lists", ctx.reps(10, 4))


@probe
def preload_bytes(ctx: Context) -> Samples:
    return _run(ctx, "bytes", ctx.reps(20, 6))


ROWS = [
    Row(
        name,
        measure,
        "ms",
        "preload",
        name,
        "seconds",
        Bound("<=", 1.03, "peer without preload"),
        ours=WITH,
        peers=(WITHOUT, *RAY),
    )
    for name, measure in (
        ("preload_train", "torch training step in an actor, with the preload library"),
        ("preload_lists", "growth of lists in an actor, with the preload library"),
        ("preload_bytes", "growth of bytes in an actor, with the preload library"),
    )
]
