"""Tensor transports of the program's own: the same class on both engines."""

import functools
import importlib
import os
import tempfile

from outcome import raised


@functools.cache
def _registered(ray):
    """A one-sided transport by files, and actors that were made after it was registered."""
    import torch

    api = importlib.import_module(f"{ray.__name__}.experimental")

    class Transport(api.TensorTransportManager):
        def tensor_transport_backend(self):
            return "FILES"

        @staticmethod
        def is_one_sided():
            return True

        @staticmethod
        def can_abort_transport():
            return True

        def actor_has_tensor_transport(self, actor):
            return True

        def extract_tensor_transport_metadata(self, obj_id, rdt_object):
            metadata = api.TensorTransportMetadata([(t.shape, t.dtype) for t in rdt_object], "cpu")
            handle, metadata.path = tempfile.mkstemp(prefix="registered-")
            os.close(handle)
            torch.save(list(rdt_object), metadata.path)
            return metadata

        def get_communicator_metadata(self, src_actor, dst_actor, backend=None):
            return api.CommunicatorMetadata()

        def recv_multiple_tensors(self, obj_id, tensor_transport_metadata, communicator_metadata, target_buffers=None):
            return torch.load(tensor_transport_metadata.path)

        def send_multiple_tensors(self, tensors, tensor_transport_metadata, communicator_metadata):
            raise NotImplementedError

        def garbage_collect(self, obj_id, tensor_transport_meta, tensors):
            os.unlink(tensor_transport_meta.path)

        def abort_transport(self, obj_id, communicator_metadata):
            pass

    api.register_tensor_transport("files", ["cpu"], Transport, torch.Tensor)

    @ray.remote(num_cpus=0, enable_tensor_transport=True)
    class Node:
        @ray.method(tensor_transport="files")
        def make(self, n):
            self.kept = torch.arange(float(n))
            return {"a": self.kept, "list": [torch.ones(3), 7], "text": "x"}

        @ray.method(tensor_transport="FILES")
        def empty_handed(self):
            return "no tensor"

        def total(self, value):
            return [float(value["a"].sum()), float(value["list"][0].sum()), value["list"][1], value["text"]]

        def is_mine(self, value):
            return value["a"] is self.kept

    return Transport, Node.remote(), Node.remote(), api


def case_between_actors(ray):
    _, a, b, _ = _registered(ray)
    value = a.make.remote(1000)
    return [ray.get(b.total.remote(value)), ray.get(a.is_mine.remote(value)), ray.get(a.total.remote(value))]


def case_the_driver_gets(ray):
    _, a, _, _ = _registered(ray)
    value = ray.get(a.make.remote(10))
    return [float(value["a"].sum()), value["text"], ray.get(a.empty_handed.remote())]


def case_what_is_refused(ray):
    import torch

    transport, _, _, api = _registered(ray)
    return [
        raised(ray, lambda: api.register_tensor_transport("files", ["cpu"], transport, torch.Tensor)),
        raised(ray, lambda: api.register_tensor_transport("others", ["cpu"], int, torch.Tensor)),
    ]
