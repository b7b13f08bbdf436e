"""Several nodes on one machine, so that programs that spread over nodes can be tested without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beeline import _core
from beeline.api import labels as label_rules
from beeline.api import notices, session

# Every virtual node has it, as "true".
VIRTUAL_LABEL = "beeline.io/virtual"


class VirtualNode:
    """A node that a VirtualCluster has added."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.node_id = _core.node_id(index)

    @property
    def is_virtual(self) -> bool:
        """Whether it is no machine but a number in the daemon; the first one is where the driver is."""
        return self.index != 0

    def __repr__(self) -> str:
        """For people."""
        return f"VirtualNode({self.index}, {self.node_id})"


class VirtualCluster:
    """A session with nodes that are emulated: each is a set of resources of its own, all in the same daemon.

    Shaped as Ray's `ray.cluster_utils.Cluster`. The first node starts a session with this process as its driver; tasks,
    actors and bundles are placed on the nodes as if they were machines. What they are not: they share memory, files,
    GPUs (each numbers its own from 0, as on a machine), and the address 127.0.0.1. A request that no node could ever
    meet waits, since a node may come that has it.

    Args:
        initialize_head: Whether the first node is added now.
        connect: As Ray's; the driver is connected from the first node on.
        head_node_args: Arguments of add_node() for it.

    A context manager that shuts it down.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: Mapping[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        if connect and not initialize_head:
            raise RuntimeError("Cannot connect to uninitialized cluster.")
        self.head_node: VirtualNode | None = None
        self.worker_nodes: set[VirtualNode] = set()
        if initialize_head:
            self.add_node(**dict(head_node_args or {}))

    @property
    def address(self) -> str | None:
        """What init(address=..., ignore_reinit_error=True) takes; None before the first node."""
        return "local" if self.head_node else None

    def connect(self, namespace: str | None = None) -> None:
        """Does nothing but look: the driver is connected already. `namespace` is for add_node() of the first node."""
        if self.head_node is None:
            raise RuntimeError("Cannot connect to uninitialized cluster.")
        if namespace is not None and namespace != session.current.namespace:
            raise ValueError(f"namespace={namespace!r}: give it to the first add_node(), which starts the session.")

    def add_node(
        self,
        wait: bool = True,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        memory: float | None = None,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        object_store_memory: int | None = None,
        namespace: str | None = None,
    ) -> VirtualNode:
        """Adds a node, there when this returns.

        Args:
            wait: As Ray's; it is there in any case.
            num_cpus: Its CPUs, whatever the machine has.
            num_gpus: Its GPUs, in whole numbers.
            memory: Its memory in bytes, as tasks ask for it; None: as much as the machine's share.
            resources: Custom resources.
            labels: Labels that rules may select it by, beside its id and "beeline.io/virtual".
            object_store_memory: Of the first node, see init(); others share it.
            namespace: Of the first node, see init().

        Raises RuntimeError if a session runs that is not this cluster's, ValueError for bad amounts or labels.
        """
        own_labels = label_rules.checked(labels)
        if self.head_node is None:
            amounts = {**(resources or {})}
            session.init(
                "local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                resources=amounts,
                labels=own_labels,
                object_store_memory=object_store_memory,
                namespace=namespace,
                _virtual_nodes=True,
            )
            self.head_node = VirtualNode(0)
            return self.head_node
        if object_store_memory is not None or namespace is not None:
            notices.without_effect(
                "object_store_memory or namespace of add_node", "it is the session's, which the first node has started"
            )
        node = VirtualNode(
            _core.add_node(
                {
                    "CPU": float(num_cpus),
                    "GPU": float(num_gpus),
                    "memory": float(_core.default_memory_resource() if memory is None else memory),
                    **{name: float(amount) for name, amount in (resources or {}).items()},
                },
                {**own_labels, VIRTUAL_LABEL: "true"},
            )
        )
        self.worker_nodes.add(node)
        return node

    def remove_node(self, node: VirtualNode, allow_graceful: bool = True) -> None:
        """Removes a node as if its machine had died: its tasks and actors are killed, its bundles placed elsewhere.

        Raises ValueError for the driver's own node, and for one that is not there.
        """
        if node not in self.worker_nodes:
            raise ValueError(f"{node!r} cannot be removed: it is the driver's own, or was removed before.")
        _core.remove_node(node.index)
        self.worker_nodes.discard(node)

    def list_all_nodes(self) -> list[VirtualNode]:
        """The living nodes, the driver's first."""
        others = sorted(self.worker_nodes, key=lambda node: node.index)
        return [self.head_node, *others] if self.head_node else others

    def labels_of(self, node: VirtualNode) -> dict[str, str]:
        """The labels of a node, its id among them."""
        labels = _core.node_state()["nodes"][node.index]["labels"]
        assert labels[label_rules.NODE_ID] == node.node_id
        return dict(labels)

    def shutdown(self) -> None:
        """Ends the session, and with it all nodes. Another first node may be added then."""
        if self.head_node is not None:
            session.shutdown()
        self.head_node = None
        self.worker_nodes = set()

    def __enter__(self) -> VirtualCluster:
        """Nothing more to start."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Shuts it down."""
        self.shutdown()
