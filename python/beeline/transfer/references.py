"""References to registered tensors, as values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from beeline import _core

_CODES = ["int", "uint", "float", "opaque", "bfloat", "complex", "bool"]
_FLOAT8 = {
    7: "float8_e3m4",
    8: "float8_e4m3",
    9: "float8_e4m3b11fnuz",
    10: "float8_e4m3fn",
    11: "float8_e4m3fnuz",
    12: "float8_e5m2",
    13: "float8_e5m2fnuz",
    14: "float8_e8m0fnu",
}


def dtype_name(code: int, bits: int) -> str:
    """torch's name of DLPack's dtype, without `torch.`."""
    if code in _FLOAT8:
        return _FLOAT8[code]
    if code >= len(_CODES):
        return f"dtype {code} of {bits} bits"
    return "bool" if _CODES[code] == "bool" else f"{_CODES[code]}{bits}"


def dtype_row(dtype: Any) -> tuple[int, int, int]:
    """(code, bits, lanes) of a torch or numpy dtype, or of a name as `TensorRef.dtype` gives it."""
    name = str(getattr(dtype, "__name__", dtype)).removeprefix("torch.")
    for code, known in _FLOAT8.items():
        if name == known:
            return code, 8, 1
    if name == "bool":
        return _CODES.index("bool"), 8, 1
    word = name.rstrip("0123456789")
    bits = name[len(word) :]
    if word not in _CODES or not bits or int(bits) > 255:
        raise ValueError(f'{dtype!r} is no dtype: write torch.bfloat16 or "bfloat16"')
    return _CODES.index(word), int(bits), 1


class TensorRef:
    """A tensor, or a part of one, where its owner has it. Immutable; indexing gives a part without moving a byte.

    `ref[2:4, ::2]` takes integers, slices (steps of either sign) and `...`, as a tensor does; a fetch then moves only
    what the part holds.
    """

    __slots__ = ("_ref",)

    def __init__(self, ref: _core.TensorRef) -> None:
        self._ref = ref

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements in each dimension."""
        return tuple(self._ref.shape)

    @property
    def dtype(self) -> str:
        """torch's name of it without `torch.`: "bfloat16"."""
        code, bits, *_ = self._ref.row()
        return dtype_name(code, bits)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._ref.nbytes

    @property
    def device(self) -> str:
        """Where its owner has it: "cpu", or "cuda:0" by the owner's numbers."""
        kind, index = self._ref.device
        return {1: "cpu", 2: f"cuda:{index}"}.get(kind, f"device {index} of DLPack's type {kind}")

    @property
    def owner(self) -> str:
        """The address of the agent that registered it."""
        return self._ref.owner

    def __getitem__(self, index: Any) -> TensorRef:
        index = index if isinstance(index, tuple) else (index,)
        if index.count(Ellipsis) > 1:
            raise IndexError("an index holds at most one `...`")
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index = index[:at] + (slice(None),) * (len(self.shape) - len(index) + 1) + index[at + 1 :]
        if len(index) > len(self.shape):
            raise IndexError(f"{len(index)} indices for a tensor of {len(self.shape)} dimensions")
        pieces, dropped = [], []
        for dimension, (size, item) in enumerate(zip(self.shape, index, strict=False)):
            if isinstance(item, slice):
                start, stop, step = item.indices(size)
                pieces.append((start, step, len(range(start, stop, step))))
            elif isinstance(item, int):
                if not -size <= item < size:
                    raise IndexError(f"index {item} is out of range for dimension {dimension} of size {size}")
                pieces.append((item % size, 1, 1))
                dropped.append(dimension)
            else:
                raise TypeError(f"a reference is indexed by integers, slices and `...`, not {type(item).__name__}")
        return TensorRef(self._ref.part(pieces, dropped))

    def to_bytes(self) -> bytes:
        """As `TensorRefs.to_bytes`, of this one."""
        return TensorRefs(self._ref.alone()).to_bytes()

    @staticmethod
    def from_bytes(data: bytes) -> TensorRef:
        """What `to_bytes` gave."""
        (ref,) = TensorRefs.from_bytes(data)
        return ref

    def to_json(self) -> str:
        """As `TensorRefs.to_json`, of this one."""
        return TensorRefs(self._ref.alone()).to_json()

    @staticmethod
    def from_json(text: str) -> TensorRef:
        """What `to_json` gave."""
        (ref,) = TensorRefs.from_json(text)
        return ref

    def __reduce__(self) -> tuple:
        return TensorRef.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"TensorRef({self.dtype}{list(self.shape)} of {self.owner.partition('?')[0]})"


class TensorRefs:
    """References to tensors that were registered together: by position, or by name. Immutable.

    Iterating gives references, of named ones as well; `keys`, `values` and `items` are those of a mapping.

    The one who registered them holds the registration with it: when this object and all that were taken from it are
    gone, the registration is undone. Copies that have travelled hold nothing.
    """

    __slots__ = ("_names", "_refs")

    def __init__(self, refs: _core.TensorRefs) -> None:
        self._refs = refs
        self._names = {name: at for at, name in enumerate(refs.names)}

    @property
    def owner(self) -> str:
        """The address of the agent that registered them."""
        return self._refs.owner

    @property
    def names(self) -> list[str]:
        """In order; empty where they have none."""
        return list(self._names)

    def keys(self) -> list[str]:
        """The names, as of a mapping. Raises TypeError for references without names, as the two below."""
        if len(self) and not self._names:
            raise TypeError(f"these {len(self)} references have no names: they are a sequence")
        return list(self._names)

    def values(self) -> list[TensorRef]:
        """References in the order of the names."""
        return [self[name] for name in self.keys()]

    def items(self) -> list[tuple[str, TensorRef]]:
        """Names with their references."""
        return list(zip(self.keys(), self.values(), strict=True))

    def __len__(self) -> int:
        return len(self._refs)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._names

    def __iter__(self) -> Iterator[TensorRef]:
        return (TensorRef(self._refs.at(at)) for at in range(len(self)))

    def __getitem__(self, key: int | str) -> TensorRef:
        if isinstance(key, str):
            if key not in self._names:
                raise KeyError(f"{key!r} is not among {', '.join(self._names) or 'references without names'}")
            return TensorRef(self._refs.at(self._names[key]))
        if not -len(self) <= key < len(self):
            raise IndexError(f"{key} of {len(self)} references")
        return TensorRef(self._refs.at(key % len(self)))

    def to_bytes(self) -> bytes:
        """As msgpack: a few bytes for each tensor, names apart (docs/wire_format.md)."""
        return self._refs.encode(True)

    @staticmethod
    def from_bytes(data: bytes) -> TensorRefs:
        """What `to_bytes` gave. Raises ValueError for anything else; nothing is unpickled."""
        return TensorRefs(_core.TensorRefs.decode(data))

    def to_json(self) -> str:
        """As a JSON object that a person can read."""
        return self._refs.to_json()

    @staticmethod
    def from_json(text: str) -> TensorRefs:
        """What `to_json` gave. Raises ValueError for anything else."""
        return TensorRefs(_core.TensorRefs.from_json(text))

    def __reduce__(self) -> tuple:
        return TensorRefs.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        total = sum(ref.nbytes for ref in self)
        return f"TensorRefs({len(self)} tensors, {total} bytes of {self.owner.partition('?')[0]})"


def as_given(refs: _core.TensorRefs) -> TensorRef | TensorRefs:
    """References to what was published: of one tensor that was given by itself, or of several."""
    return TensorRef(refs.at(0)) if refs.single else TensorRefs(refs)
