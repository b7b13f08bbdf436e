"""What Ray has under `ray.util`, as far as it is here."""

from beeline.util.named_actors import list_named_actors

__all__ = ["list_named_actors"]
