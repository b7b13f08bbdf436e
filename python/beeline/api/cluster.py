"""What the machine offers and what is left of it."""

from __future__ import annotations

import os
from typing import Any

from beeline import _core
from beeline.api import session, this_worker


def cluster_resources() -> dict[str, float]:
    """Amounts of all resources of the session, by name. Raises CoreError where none was started."""
    session.require()
    return dict(_core.node_state()["total"])


def available_resources() -> dict[str, float]:
    """Amounts that no task or actor holds now, by name; what is used up is left out.

    Raises CoreError where no session was started.
    """
    session.require()
    return {name: amount for name, amount in _core.node_state()["available"].items() if amount > 0}


def nodes() -> list[dict[str, Any]]:
    """A description of each node, with Ray's keys: this machine, then the virtual ones, also those that were removed.

    Raises CoreError where no session was started.
    """
    session.require()
    return [
        {
            "NodeID": row["id"],
            "Alive": row["alive"],
            "alive": row["alive"],
            "NodeManagerAddress": session.NODE_IP_ADDRESS,
            "NodeManagerHostname": os.uname().nodename,
            "NodeName": session.NODE_IP_ADDRESS if row["node"] == 0 else f"virtual-{row['node']}",
            "Resources": row["total"] if row["alive"] else {},
            "Labels": row["labels"],
        }
        for row in _core.node_state()["nodes"]
    ]


def available_resources_per_node() -> dict[str, dict[str, float]]:
    """As available_resources(), of each living node by its id; what placement groups have reserved is not available.

    Raises CoreError where no session was started.
    """
    session.require()
    return {
        row["id"]: {name: amount for name, amount in row["available"].items() if amount > 0}
        for row in _core.node_state()["nodes"]
        if row["alive"]
    }


def get_gpu_ids() -> list[Any]:
    """Ids of the GPUs that this worker may use; as in CUDA_VISIBLE_DEVICES. Empty in the driver.

    Numbers, or strings where CUDA_VISIBLE_DEVICES names devices otherwise.
    """
    ids = list(this_worker.state.gpus)
    if not ids and not session.current.is_worker:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        ids = [name for name in visible.split(",") if name not in ("", "-1")]
    return [int(name) if name.isdigit() else name for name in ids]
