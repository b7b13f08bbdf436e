"""jax arrays of the CPU, by DLPack: published where they are, and arrays again at the consumer without a copy.

jax is imported where the program has imported it, or where such an array arrives.
"""

from __future__ import annotations

import sys
from typing import Any

# What DLPack and numpy say of arrays that they cannot show: on a GPU, in several shards, of a dtype of jax's own.
_NOT_SHOWN = (BufferError, RuntimeError, TypeError, ValueError)


def is_array(value: Any) -> bool:
    """Whether it is a jax array. Cheap, and False where nobody has imported jax."""
    jax = sys.modules.get("jax")
    return jax is not None and hasattr(jax, "Array") and isinstance(value, jax.Array)


def reduce(value: Any) -> Any:
    """What pickle is told of one; NotImplemented leaves it to jax's own pickling, which copies."""
    import numpy

    try:
        view = numpy.from_dlpack(value)
    except _NOT_SHOWN:
        return NotImplemented
    return _of_numpy, (view,)


def shown(value: Any) -> Any:
    """A torch tensor of the array's memory. Raises TypeError for one that is not on the CPU, or not in one piece."""
    import torch

    try:
        return torch.from_dlpack(value)
    except _NOT_SHOWN as error:
        raise TypeError(f"A jax array of shape {list(value.shape)} cannot be shown by DLPack: {error}") from error


def of_tensor(tensor: Any) -> Any:
    """A jax array of the tensor's memory."""
    import jax.dlpack

    return jax.dlpack.from_dlpack(tensor)


def _of_numpy(array: Any) -> Any:
    import jax.numpy

    return jax.numpy.asarray(array)
