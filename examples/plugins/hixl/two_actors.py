"""A prefill actor hands its KV cache to a decode actor by HiXL, without a collective group.

    python two_actors.py                 # on Beeline
    python two_actors.py --engine ray    # on Ray
    python two_actors.py --device cpu    # where there is no NPU: tensors of the host, which HiXL moves as well

BEELINE_HIXL_PLUGIN is the library that was built of hixl_plugin.cc.
"""

import argparse
import importlib
import os

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["beeline", "ray"], default="beeline")
    parser.add_argument("--device", default="npu")
    options = parser.parse_args()
    if "BEELINE_HIXL_PLUGIN" not in os.environ:
        parser.error("BEELINE_HIXL_PLUGIN must be the library that was built of hixl_plugin.cc: see README.md")
    ray = importlib.import_module(options.engine)
    experimental = importlib.import_module(f"{options.engine}.experimental")

    from hixl_tensor_transport import HiXLTensorTransport

    experimental.register_tensor_transport("hixl", [options.device], HiXLTensorTransport, torch.Tensor)

    @ray.remote(num_cpus=0.5, enable_tensor_transport=True)
    class Prefill:
        """Computes the cache of a prompt, layer by layer."""

        @ray.method(tensor_transport="hixl")
        def run(self, tokens: int) -> dict[str, list[torch.Tensor]]:
            layers = [torch.full((2, 8, tokens, 64), float(layer), device=options.device) for layer in range(4)]
            return {"kv": layers}

    @ray.remote(num_cpus=0.5, enable_tensor_transport=True)
    class Decode:
        """Goes on from there."""

        def run(self, cache: dict[str, list[torch.Tensor]]) -> float:
            return sum(float(layer.sum()) for layer in cache["kv"])

    environment = {"env_vars": {name: value for name, value in os.environ.items() if name.startswith("BEELINE_HIXL")}}
    environment["env_vars"]["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))
    ray.init(num_cpus=2, **({"runtime_env": environment} if options.engine == "ray" else {}))
    prefill, decode = Prefill.remote(), Decode.remote()
    tokens = 1024
    cache = prefill.run.remote(tokens)
    print("decode has summed up", ray.get(decode.run.remote(cache)), "of", 6.0 * 2 * 8 * tokens * 64)
    # The driver is in no group, and reads the cache all the same.
    print("the driver has", [list(layer.shape) for layer in ray.get(cache)["kv"]])
    ray.shutdown()


if __name__ == "__main__":
    main()
