"""`gpu`: a tensor on a GPU from 1 KiB to 1 GiB, from actor to actor on the same GPU, by `cuda_ipc` against the object
stores; and steps of `examples/grpo.py --device cuda`.
"""

from __future__ import annotations

from benchmarks.engines import Context
from benchmarks.registry import Contender, Limit, Row, Samples, probe
from benchmarks.rows.grpo import PLAIN, WIDTH_100M, train
from benchmarks.rows.sweep import QUICK_SIZES, SIZES, over_sizes
from benchmarks.timing import per_call

SHARE = 0.25  # of a GPU for each actor: both fit on the first one, also while the pair before them ends
OURS = Contender("beeline cuda_ipc", "beeline", "cuda_ipc")
STORE = Contender("beeline object_store", "beeline", "object_store")
RAY_STORE = Contender("ray object_store", "ray", "object_store")
RAY_CUDA_IPC = Contender("ray cuda_ipc", "ray", "cuda_ipc")


def why_not() -> str | None:
    """Why nothing of this can be measured here, or None where torch sees a GPU."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        why = f"torch {torch.__version__} of this environment was built without CUDA"
    else:
        why = f"torch {torch.__version__} finds no driver or no device"
    return f"bench gpu measures tensors on a GPU, and torch sees none here: {why}. Nothing was measured."


@probe
def gpu_sweep(ctx: Context) -> Samples:
    return over_sizes(ctx, "cuda", SHARE)


@probe
def gpu_copy(ctx: Context) -> Samples:
    """A copy on the GPU in one process, waited for."""
    import torch

    samples: Samples = {}
    for name in QUICK_SIZES if ctx.quick else SIZES:
        source = torch.ones(SIZES[name] // 4, device="cuda")
        target = torch.empty_like(source)

        def once(source=source, target=target) -> None:
            target.copy_(source)
            torch.cuda.synchronize()

        samples[name] = per_call(once, ctx.reps(20, 5), ctx.reps(5, 2), 3)
    return samples


@probe
def gpu_grpo_digits(ctx: Context) -> Samples:
    return train(ctx, ctx.reps(300, 100), "--device", "cuda")


@probe
def gpu_grpo_100m(ctx: Context) -> Samples:
    options = ("--device", "cuda", "--width", str(WIDTH_100M), "--eval-every", "1000")
    return train(ctx, ctx.reps(20, 8), *options)


def _grpo_row(key: str, measure: str, probe_name: str, pick: str, peers: tuple[Contender, ...]) -> Row:
    return Row(key, measure, "ms", "grpo", probe_name, pick, ours=OURS, peers=peers, timeout_s=600)


STORES = (STORE, RAY_STORE)

ROWS = [
    *(
        Row(
            f"gpu_{name.replace(' ', '')}",
            f"handoff on one GPU, {name}",
            "us",
            "gpu",
            "gpu_sweep",
            name,
            ours=OURS,
            peers=(*STORES, RAY_CUDA_IPC),
            limit=Limit("gpu_copy", name),
            timeout_s=600,
            note="limit: a copy on the GPU",
            with_quick=name in QUICK_SIZES,
        )
        for name in SIZES
    ),
    _grpo_row("gpu_grpo_beyond", "GRPO digits step on a GPU beyond computation", "gpu_grpo_digits", "beyond", STORES),
    _grpo_row("gpu_grpo_step", "GRPO digits step on a GPU", "gpu_grpo_digits", "step", (PLAIN, *STORES)),
    _grpo_row("gpu_grpo_100m", "GRPO step on a GPU, 100 million parameters", "gpu_grpo_100m", "step", (PLAIN, *STORES)),
]
