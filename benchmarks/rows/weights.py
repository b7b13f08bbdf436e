"""Weights of a Qwen3-0.6B by direct transport into parameters that exist: 310 tensors, 1136.9 MiB of bfloat16."""

from __future__ import annotations

from benchmarks.engines import Context
from benchmarks.registry import RAY_TRANSPORTS, Bound, Contender, Limit, Row, Samples, probe
from benchmarks.rows.handoff import STORE_MIB
from benchmarks.timing import each

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, LAYERS = 1024, 3072, 16, 8, 128, 151936, 28


def shapes() -> dict[str, tuple[int, ...]]:
    """The model's parameters by their Hugging Face names; the output layer is tied to the embedding."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        found |= {
            f"{at}.self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"{at}.self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{at}.self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{at}.self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"{at}.self_attn.q_norm.weight": (HEAD_DIM,),
            f"{at}.self_attn.k_norm.weight": (HEAD_DIM,),
            f"{at}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{at}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{at}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
            f"{at}.input_layernorm.weight": (HIDDEN,),
            f"{at}.post_attention_layernorm.weight": (HIDDEN,),
        }
    return found | {"model.norm.weight": (HIDDEN,)}


def parameters(value: float) -> dict:
    import torch

    return {name: torch.full(shape, value, dtype=torch.bfloat16) for name, shape in shapes().items()}


def trainer_class(ctx: Context) -> type:
    class Trainer:
        def __init__(self):
            import torch

            torch.set_num_threads(1)
            self.weights = parameters(1.0)

        @ctx.returns
        def get_weights(self):
            return self.weights

        def put_weights(self):
            """A nested reference; Ray allows one only to what its owner has put."""
            return [ctx.ray.put(list(self.weights.values()), _tensor_transport=ctx.variant)]

        def ready(self):
            return True

    return Trainer


def engine_class(ctx: Context) -> type:
    class Engine:
        def __init__(self):
            import torch

            torch.set_num_threads(1)
            self.weights = parameters(0.0)

        def update(self, weights):
            for name, target in self.weights.items():
                target.copy_(weights[name])
            return float(self.weights["model.norm.weight"][0])

        def update_in_place(self, nested):
            """Ray's way around the copy: the transport writes into the parameters themselves."""
            ctx.ray.experimental.set_target_for_ref(nested[0], list(self.weights.values()))
            ctx.ray.get(nested[0])
            return float(self.weights["model.norm.weight"][0])

        def ready(self):
            return True

    return Engine


def _sync(ctx: Context, in_place: bool) -> Samples:
    ctx.init(num_cpus=4, store_mib=STORE_MIB)
    ray = ctx.ray
    trainer = ctx.actor(trainer_class(ctx)).remote()
    engine = ctx.actor(engine_class(ctx)).remote()
    ray.get([trainer.ready.remote(), engine.ready.remote()])
    ctx.link([trainer, engine])

    def once():
        if in_place:
            done = engine.update_in_place.remote(trainer.put_weights.remote())
        else:
            done = engine.update.remote(trainer.get_weights.remote())
        if ray.get(done) != 1.0:
            raise AssertionError("wrong weights arrived")

    return {"seconds": each(once, ctx.reps(5, 3), 2)}


@probe
def weights(ctx: Context) -> Samples:
    """A variant that ends in "+target" writes into the parameters without the copy loop."""
    transport, _, target = ctx.variant.partition("+")
    ctx.variant = transport
    return _sync(ctx, target == "target")


@probe
def local_weights(ctx: Context) -> Samples:
    """The copy_ loop alone, in one process."""
    import torch

    torch.set_num_threads(1)
    source, target = parameters(1.0), parameters(0.0)

    def once():
        for name, tensor in target.items():
            tensor.copy_(source[name])

    return {"seconds": each(once, ctx.reps(7, 3), 2)}


ROWS = [
    Row(
        "weights_310",
        "310 tensors, 1136.9 MiB, into existing parameters",
        "ms",
        "weights",
        "weights",
        "seconds",
        Bound("<=", 1.2, "limit"),
        peers=(*RAY_TRANSPORTS, Contender("ray nixl+target", "ray", "nixl+target")),
        limit=Limit("local_weights", "seconds"),
    )
]
