"""ray-ascend's YRTensorTransport, whose CPU tensors arrive."""

from typing import Any

from ray_ascend.direct_transport.yr_tensor_transport import YRTensorTransport


class ArrivingYRTensorTransport(YRTensorTransport):
    """Of the class in ray-ascend 0.1.1, receivers on CPUs get memory that nobody has filled: its adapter puts what has
    come into a slice of their list (`tensors[i : i + batch_size]`), which is a copy. Here it gets the list itself.
    """

    def get_ds_client(self, device_type: str) -> Any:
        client = super().get_ds_client(device_type)
        client.get = client._get_batch
        return client
