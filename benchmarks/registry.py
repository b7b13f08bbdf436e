"""What a benchmark row is: whose time is taken, against what, and which ratio has to hold.

Probes (functions that measure) register under a name; rows refer to probes by that name and pick one of the
figures a probe returns. Probes return SI base values (seconds, bytes, 1/s); a row's unit scales them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

SCALE = {
    "ns": 1e9,
    "us": 1e6,
    "ms": 1e3,
    "s": 1.0,
    "1/s": 1.0,
    "B": 1.0,
    "MiB": 1 / 2**20,
    "MiB/s": 1 / 2**20,
    "x": 1.0,
}

Samples = dict[str, list[float]]
Probe = Callable[..., Samples]
PROBES: dict[str, Probe] = {}


def probe(function: Probe) -> Probe:
    """Registers a measuring function under its own name; a child process finds it there."""
    if function.__name__ in PROBES:
        raise ValueError(f"two probes are named {function.__name__}")
    PROBES[function.__name__] = function
    return function


@dataclass(frozen=True)
class Contender:
    """One column of a row: an engine, how it is set up, and the environment its processes get."""

    name: str
    engine: str  # "beeline", "ray", or "none" for a limit of the machine
    variant: str = ""  # for example the transport
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Limit:
    """What the machine itself takes for the same work: a probe that uses no engine."""

    probe: str
    pick: str


@dataclass(frozen=True)
class Bound:
    """The ratio that has to hold: (beeline - slack) / base, compared with `value`.

    against: "best peer", "peer NAME", "best of NAME, NAME", "limit", or "value" (no ratio: the figure itself, in the
        row's unit).
    slack: in the row's unit, taken off Beeline's figure before the division.
    """

    sense: str  # "<=" or ">="
    value: float
    against: str = "best peer"
    slack: float = 0.0

    def __post_init__(self) -> None:
        if self.sense not in ("<=", ">="):
            raise ValueError(f"a bound is <= or >=, not {self.sense!r}")

    def names(self) -> list[str]:
        """The peers that `against` names."""
        for words in ("peer ", "best of "):
            if self.against.startswith(words):
                return self.against.removeprefix(words).split(", ")
        return []

    def base(self, peers: dict[str, float | None], limit: float | None) -> float | None:
        if self.against == "value":
            return 1.0
        if self.against == "limit":
            return limit
        named = self.names() or list(peers)
        known = [value for name in named if (value := peers.get(name)) is not None]
        if not known or (self.names() and len(known) < len(named)):
            return None  # nothing is better than the best of some that were asked for
        return max(known) if self.sense == ">=" else min(known)

    def ratio(self, ours: float | None, peers: dict[str, float | None], limit: float | None) -> float | None:
        """None where either side of the division has no figure."""
        base = self.base(peers, limit)
        if ours is None or not base:
            return None
        return (ours - self.slack) / base

    def holds(self, ratio: float | None) -> bool | None:
        if ratio is None:
            return None
        return ratio <= self.value if self.sense == "<=" else ratio >= self.value

    def text(self, unit: str) -> str:
        number = f"1/{1 / self.value:g}" if 0 < self.value < 0.2 else f"{self.value:g}"
        if self.against == "value":
            return f"{self.sense} {number} {unit}"
        slack = f" + {self.slack:g} {unit}" if self.slack else ""
        return f"{self.sense} {number}{slack} ({self.against})"


BEELINE = Contender("beeline", "beeline", "auto")
RAY = (Contender("ray", "ray"),)
RAY_TRANSPORTS = tuple(Contender(f"ray {name}", "ray", name) for name in ("object_store", "gloo", "nixl"))


@dataclass(frozen=True)
class Row:
    key: str
    measure: str
    unit: str
    group: str
    probe: str
    pick: str
    bound: Bound | None = None
    ours: Contender = BEELINE
    peers: tuple[Contender, ...] = RAY
    limit: Limit | None = None
    timeout_s: float = 180.0
    note: str = ""
    quick_measure: str = ""  # what the measure is with --quick, where that is something smaller
    with_quick: bool = True  # whether --quick measures it at all

    def __post_init__(self) -> None:
        if self.unit not in SCALE:
            raise ValueError(f"row {self.key}: unknown unit {self.unit!r}; known: {', '.join(SCALE)}")

    def measured_as(self, quick: bool) -> str:
        """The measure as a table has to name it."""
        return self.quick_measure if quick and self.quick_measure else self.measure


@dataclass
class Measured:
    """All samples of one contender in one row, in the row's unit, or why there are none."""

    samples: list[float] = field(default_factory=list)
    error: str | None = None

    @property
    def value(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    @property
    def spread(self) -> list[float] | None:
        return [min(self.samples), max(self.samples)] if self.samples else None


def result(row: Row, figures: dict[str, Measured], quick: bool = False) -> dict:
    """The JSON form of a measured row. `figures` is keyed by contender name; the limit's key is "limit"."""
    ours = figures.get(row.ours.name, Measured())
    limit = figures.get("limit", Measured())
    peers = {peer.name: figures[peer.name].value for peer in row.peers if peer.name in figures}
    ratio = row.bound.ratio(ours.value, peers, limit.value) if row.bound else None
    return {
        "key": row.key,
        "group": row.group,
        "measure": row.measured_as(quick),
        "quick": quick,
        "unit": row.unit,
        "ours": row.ours.name,
        "beeline": ours.value,
        "peers": peers,
        "limit": limit.value,
        "ratio": ratio,
        "bound": row.bound.value if row.bound else None,
        "sense": row.bound.sense if row.bound else None,
        "against": row.bound.against if row.bound else None,
        "slack": row.bound.slack if row.bound else None,
        "holds": row.bound.holds(ratio) if row.bound else None,
        "note": row.note,
        "spread": {name: measured.spread for name, measured in figures.items()},
        "samples": {name: measured.samples for name, measured in figures.items()},
        "errors": {name: measured.error for name, measured in figures.items() if measured.error},
    }


def select(rows: list[Row], only: tuple[str, ...]) -> list[Row]:
    """Rows whose key, group or measure contains one of `only`; all rows where it is empty.

    Raises KeyError with the word that names nothing.
    """
    if not only:
        return rows
    chosen = []
    for word in only:
        found = [r for r in rows if word.lower() in f"{r.key}\n{r.group}\n{r.measure}".lower()]
        if not found:
            raise KeyError(word)
        chosen.extend(found)
    return [r for r in rows if r in chosen]
