"""Tensors and references as callers give them: one, a list, or a dict; and what they are to become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beeline import _core
from beeline.transfer.references import TensorRef, TensorRefs, dtype_row


def named(tensors: Any) -> tuple[list[str], list[Any]]:
    if isinstance(tensors, Mapping):
        names = [str(name) for name in tensors]
        if len(set(names)) < len(names):
            raise ValueError("two tensors of one name")
        return names, list(tensors.values())
    return [], list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]


# The structure of several: None for one, a list of names for a dict, else how many.
Keys = None | list[str] | int


def core_ref(ref: Any) -> _core.TensorRef:
    if isinstance(ref, TensorRef):
        return ref._ref
    hint = ": TensorRefs.from_json(text) or TensorRefs.from_bytes(data) first" if isinstance(ref, (str, bytes)) else ""
    raise TypeError(f"expected a TensorRef, got {type(ref).__name__}{hint}")


def flatten(refs: Any) -> tuple[Keys, list[_core.TensorRef]]:
    if isinstance(refs, (TensorRef, str, bytes)):
        return None, [core_ref(refs)]
    if isinstance(refs, Mapping):
        return list(refs), [core_ref(ref) for ref in refs.values()]
    parts = [core_ref(ref) for ref in refs]
    names = refs.names if isinstance(refs, TensorRefs) else []
    return names or len(parts), parts


def matching(keys: Keys, tensors: Any) -> list[Any]:
    if keys is None:
        return [tensors]
    if isinstance(keys, list) and isinstance(tensors, Mapping):
        missing = [name for name in keys if name not in tensors]
        if missing:
            raise ValueError(f"no tensor is given for {missing[0]!r}; nothing was written")
        return [tensors[name] for name in keys]
    count = len(keys) if isinstance(keys, list) else keys
    if not isinstance(tensors, Sequence) or len(tensors) != count:
        raise ValueError(f"{count} references, but not as many tensors; nothing was written")
    return list(tensors)


# (dtype code, bits, lanes) of what each tensor becomes, None for one that stays; and the shape of blocks.
DTypes = list[tuple[int, int, int] | None] | None


def conversions(
    keys: Keys, count: int, dtype: Any, block: tuple[int, int] | None
) -> tuple[DTypes, tuple[int, int] | None]:
    if dtype is None:
        if block is not None:
            raise ValueError("block= needs dtype=torch.float8_e4m3fn; nothing was written")
        return None, None
    if isinstance(dtype, Mapping):
        known = keys if isinstance(keys, list) else []
        unknown = [name for name in dtype if name not in known]
        if unknown:
            raise ValueError(f"a dtype for {unknown[0]!r}, which is not among the references; nothing was written")
        wanted = [dtype.get(name) for name in known]
    elif isinstance(dtype, (list, tuple)):
        if len(dtype) != count:
            raise ValueError(f"{count} references, but {len(dtype)} dtypes; nothing was written")
        wanted = list(dtype)
    else:
        wanted = [dtype] * count
    rows = [None if each is None else dtype_row(each) for each in wanted]
    if block is None:
        return rows, None
    if dtype_row("float8_e4m3fn") not in rows:
        raise ValueError("block= needs dtype=torch.float8_e4m3fn; nothing was written")
    if not isinstance(block, (tuple, list)) or len(block) != 2:
        raise ValueError(f"block= is (rows, columns), not {block!r}; nothing was written")
    rows_high, columns_wide = block
    return rows, (rows_high, columns_wide)


def structure(keys: Keys, tensors: list[Any], out: Any) -> Any:
    if out is not None:
        return out
    if keys is None:
        return tensors[0]
    return dict(zip(keys, tensors, strict=True)) if isinstance(keys, list) else tensors
