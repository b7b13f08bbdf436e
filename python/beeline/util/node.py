"""What programs ask about the machine that they run on."""

from __future__ import annotations

import os

from beeline.api.session import NODE_IP_ADDRESS


def get_node_ip_address(address: str | None = None) -> str:
    """The address of this machine as nodes() gives it. There is one machine, so `address`, to be reached from it,
    makes no difference.
    """
    return NODE_IP_ADDRESS


def get_node_instance_id() -> str:
    """What the environment variable RAY_CLOUD_INSTANCE_ID says, as in Ray; "" where it is not set."""
    return os.environ.get("RAY_CLOUD_INSTANCE_ID", "")
