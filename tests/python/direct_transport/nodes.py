"""The actor of the direct transport tests, and how they call it."""

import torch

TRANSPORTS = ["auto", "shm", "object_store"]
SMALL, LARGE = 1000, 1 << 20  # elements: below and above the threshold of the arenas


class Node:
    """Produces, consumes and remembers; every actor of these tests is one."""

    def __init__(self):
        self.kept = self.got = None

    def sums(self, batch, *, again):
        """An ordinary method, called by value."""
        parts = batch["x"] if isinstance(batch, dict) else [batch]
        return [sum(float(part.sum()) for part in parts), again]

    def apply(self, function, *args, **kwargs):
        """Runs `function(self, *args, **kwargs)`: what a test needs stands in the test."""
        return function(self, *args, **kwargs)


def call(actor, function, *args, transport=None, isolation=None, num_returns=1, **kwargs):
    """Calls `function(node, ...)` in the actor, its result sent by `transport`."""
    options = {"num_returns": num_returns}
    if transport:
        options["tensor_transport"] = transport
    if isolation:
        options["isolation"] = isolation
    return actor.apply.options(**options).remote(function, *args, **kwargs)


def ones(node, n, value=1.0):
    node.kept = torch.full((n,), value)
    return node.kept


def total(node, x):
    return float(x.sum())


def tensors_of_every_kind():
    """By name: dtypes and layouts."""
    base = torch.arange(4096 * 300, dtype=torch.float32).reshape(4096, 300)
    floats = torch.linspace(-4, 4, LARGE)
    return {
        "float32": base,
        "small": torch.arange(7.0),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0),
        "empty with a shape": torch.empty(3, 0, 5, dtype=torch.int16),
        "transposed": base.t(),
        "strided": base[::3, ::2],
        "offset": base[17:, 5:],
        "expanded": torch.arange(300.0).expand(4096, 300),
        "overlapping": torch.arange(2000.0).as_strided((1500, 400), (1, 1)),
        "channels last": torch.randn(8, 3, 64, 200).to(memory_format=torch.channels_last),
        "bool": floats > 0,
        "uint8": torch.arange(LARGE).to(torch.uint8),
        "int64": torch.arange(LARGE),
        "float16": floats.half(),
        "float64": floats.double(),
        "bfloat16": floats.bfloat16(),
        "bfloat16 scalar": torch.tensor(1.5, dtype=torch.bfloat16),
        "float8_e4m3fn": floats.to(torch.float8_e4m3fn),
        "float8_e5m2": floats.to(torch.float8_e5m2),
        "complex64": torch.complex(floats, -floats),
        "complex128 conjugate": torch.complex(floats, floats).to(torch.complex128).conj(),
        "negative view": torch.complex(floats, floats).conj().imag,
    }


def bits_of(tensor):
    """The tensor's elements as bytes, in order: compares NaNs and every dtype."""
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""
