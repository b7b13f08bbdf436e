"""What Ray has under `ray.experimental` for direct transport."""

from beeline.experimental.direct import set_target_for_ref, wait_tensor_freed

__all__ = ["set_target_for_ref", "wait_tensor_freed"]
