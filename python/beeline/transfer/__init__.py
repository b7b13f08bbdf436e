"""The transfer engine: any two processes hand each other tensors by the shortest path there is.

An `Agent` registers tensors and gives references to them: values that travel as JSON, as bytes, or inside any object.
An agent of another process fetches, maps or fills what a reference names; neither process needs a runtime. What
`register` gave keeps the tensors registered: keep it as long as others are to reach them.

    # one process                                   # another
    agent = Agent("trainer")                        agent = Agent("inference")
    refs = agent.register(model.state_dict())       refs = TensorRefs.from_json(text)
    text = refs.to_json()                           weights = agent.fetch(refs)
"""

import os

from beeline.transfer.agent import Agent
from beeline.transfer.faults import Fault
from beeline.transfer.notifications import Notification, Notifications
from beeline.transfer.references import TensorRef, TensorRefs
from beeline.transfer.subscription import Subscription
from beeline.transfer.tls import Tls
from beeline.transfer.transfers import Batch, Transfer
from beeline.transfer.transport import Transport

__all__ = [
    "Agent",
    "Batch",
    "Fault",
    "Notification",
    "Notifications",
    "Subscription",
    "TensorRef",
    "TensorRefs",
    "Tls",
    "Transfer",
    "Transport",
    "get_include",
]


def get_include() -> str:
    """The folder of C headers: `beeline/transport_plugin.h`, for transports of your own in C."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "include")
