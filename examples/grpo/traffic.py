"""How many bytes went from actor to actor, and by which path: read from Beeline's own counters, in the actors.

Ray has no such counters: there the figure is computed from the tensors' sizes, and the path is the one asked for.
"""

import os
from collections import Counter

# What a process does with a value that it sends: by these names of `beeline.experimental.transfer_stats`.
SENT = {
    "mapped_bytes": "shared memory, in place",
    "copied_bytes": "shared memory, copied once",
    "inline_bytes": "messages",
}
SENDERS_OF = {"weights": ("Learner",), "rollouts": ("Generator", "Scorer", "ReplayBuffer")}
READERS_OF = {"weights": ("Generator",), "rollouts": ("Scorer", "ReplayBuffer", "Learner")}


def moved(actor) -> dict[str, dict[str, int]]:
    """What this process, an actor of Beeline, has sent and has read so far: {"sent": {path: bytes}, "read": ...}."""
    from beeline.experimental import transfer_stats
    from beeline.transfer import counters

    stats = transfer_stats()
    read: Counter = Counter()
    for agent in counters.live():
        if agent.pid == os.getpid():
            for row in agent.rows:
                read[f"{row.path} {row.operation}"] += row.nbytes
    return {"sent": {path: stats[name] for name, path in SENT.items()}, "read": dict(read)}


def sent_by_path(start: dict[str, dict], now: dict[str, dict]) -> dict[str, dict[str, int]]:
    """{"weights": {path: bytes}, "rollouts": ...} between two times, each with what `moved` said of every actor.

    What travels by a path that copies (cma, cuda_ipc, ...) is counted by who reads it, all else by who sends it. The
    few hundred bytes of figures in an actor's other results are among the messages.
    """
    return {
        what: _sum(
            *(_grown(start[name]["sent"], now[name]["sent"]) for name in SENDERS_OF[what]),
            # What is mapped was counted where it was sent.
            {path: count for path, count in read.items() if not path.startswith("shm ")},
        )
        for what, read in read_by_path(start, now).items()
    }


def read_by_path(start: dict[str, dict], now: dict[str, dict]) -> dict[str, dict[str, int]]:
    """The same of what was read of other processes' memory; "shm map" is read where it is, without a copy."""
    return {
        what: _sum(*(_grown(start[name]["read"], now[name]["read"]) for name in names))
        for what, names in READERS_OF.items()
    }


def _grown(start: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {path: count - start.get(path, 0) for path, count in now.items()}


def _sum(*counts: dict[str, int]) -> dict[str, int]:
    """By path; those by which nothing went are left out."""
    total: Counter = Counter()
    for each in counts:
        total.update(each)
    return {path: count for path, count in total.items() if count}
