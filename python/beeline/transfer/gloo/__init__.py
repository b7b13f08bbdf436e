"""The path "gloo": transfers by torch.distributed's ProcessGroupGloo, made one-sided by a thread at the owner.

gloo is reachable through `torch.distributed` alone, which is imported when something is first moved by this path. Each
reader and owner have a process group of two ranks to themselves; a program's own groups are not touched.
"""

from beeline.transfer.gloo.transport import GlooTransport, describe, is_installed

__all__ = ["GlooTransport", "describe", "is_installed"]
