"""A prefill actor hands its KV cache to a decode actor by ray-ascend's YRTensorTransport, through openYuanrong's store.

python two_actors.py                 # on Beeline
python two_actors.py --engine ray    # on Ray
python two_actors.py --as-it-is      # as ray-ascend registers it: its receivers get nothing. See yr_transport.py
"""

import argparse
import os
import socket
import tempfile
from typing import Any

import ray_is_beeline
import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["beeline", "ray"], default="beeline")
    parser.add_argument("--as-it-is", action="store_true")
    options = parser.parse_args()
    if options.engine == "beeline":
        ray_is_beeline.install()  # ray-ascend imports ray
        environment = {"worker_process_setup_hook": ray_is_beeline.install}
    else:
        environment = {"env_vars": {"PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}}

    import ray
    from ray_ascend.utils.yr_utils import cleanup_yr_resources

    with tempfile.TemporaryDirectory(prefix="yuanrong-") as folder:
        os.chdir(folder)  # the store's files
        os.environ |= {"YR_DS_WORKER_PORT": free_port(), "YR_DS_METASTORE_PORT": free_port()}
        os.environ["YR_DS_WORKER_ARGS"] = "--shared_memory_size_mb 256"
        ray.init(num_cpus=2, runtime_env=environment)
        try:
            register(as_it_is=options.as_it_is)
            hand_over(ray)
        finally:
            cleanup_yr_resources()  # its actors are detached: they would keep the session
            ray.shutdown()
            os.chdir("/")


def register(as_it_is: bool) -> None:
    """Has an actor of ray-ascend start the store, whose worker stands in for etcd, and names the transport."""
    if as_it_is:
        from ray_ascend import register_yr_tensor_transport

        register_yr_tensor_transport(["cpu"])
    else:
        from ray.experimental import register_tensor_transport
        from ray_ascend.utils.yr_utils import ensure_yr_backend_initialized
        from yr_transport import ArrivingYRTensorTransport

        ensure_yr_backend_initialized()
        register_tensor_transport("YR", ["cpu"], ArrivingYRTensorTransport, torch.Tensor)


def hand_over(ray: Any) -> None:
    """From one actor to another one, and to the driver."""

    @ray.remote(num_cpus=0.5, enable_tensor_transport=True)
    class Prefill:
        """Computes the cache of a prompt, layer by layer."""

        @ray.method(tensor_transport="YR")
        def run(self, tokens: int) -> dict[str, list[torch.Tensor]]:
            return {"kv": [torch.full((2, 8, tokens, 64), float(layer)) for layer in range(4)]}

    @ray.remote(num_cpus=0.5, enable_tensor_transport=True)
    class Decode:
        """Goes on from there."""

        def run(self, cache: dict[str, list[torch.Tensor]]) -> float:
            return sum(float(layer.sum()) for layer in cache["kv"])

    prefill, decode = Prefill.remote(), Decode.remote()
    tokens = 1024
    cache = prefill.run.remote(tokens)
    print("decode has summed up", ray.get(decode.run.remote(cache)), "of", 6.0 * 2 * 8 * tokens * 64)
    print("the driver has", [list(layer.shape) for layer in ray.get(cache)["kv"]])


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return str(listener.getsockname()[1])


if __name__ == "__main__":
    main()
