"""For tests of programs: several nodes on one machine."""

from beeline.testing.virtual_cluster import VirtualCluster, VirtualNode

__all__ = ["VirtualCluster", "VirtualNode"]
