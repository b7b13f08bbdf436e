"""Tensors between actors by HiXL, one-sided: no collective group, and any caller may `get`.

    register_tensor_transport("hixl", ["npu"], HiXLTensorTransport, torch.Tensor)

The class follows the interface that Ray and Beeline share, and runs on both. Underneath is one agent of Beeline's
transfer engine in each process, with HiXL as a plug-in: registrations are counted, connections are made when they are
needed, reads are batched, and each of HiXL's codes is a typed error.

BEELINE_HIXL_PLUGIN    the shared library that was built of hixl_plugin.cc
BEELINE_HIXL_HOST      this host's address for others; only for actors on several hosts, with
BEELINE_HIXL_TOKEN     what agents of other hosts must show
"""

import importlib
import os
import sys
import threading

from beeline.transfer import Agent, TensorRefs

# The interface of the engine that runs the program.
_api = importlib.import_module("ray.experimental" if "ray" in sys.modules else "beeline.experimental")


class HiXLMetadata(_api.TensorTransportMetadata):
    """Besides shapes and dtypes: references to the registered tensors, as bytes."""

    refs: bytes = b""


class HiXLTensorTransport(_api.TensorTransportManager):
    """See the module. Each process that sends or receives has one."""

    def __init__(self):
        self._lock = threading.Lock()
        self._opened = None
        self._registered = {}  # by object: what keeps its tensors registered

    @property
    def _agent(self):
        with self._lock:
            if self._opened is None:
                host = os.environ.get("BEELINE_HIXL_HOST")
                beyond = {"tcp": f"{host}:0", "token": os.environ["BEELINE_HIXL_TOKEN"]} if host else {}
                library = os.environ["BEELINE_HIXL_PLUGIN"]
                self._opened = Agent(f"hixl-{os.getpid()}", plugins=[library], **beyond)
            return self._opened

    def tensor_transport_backend(self):
        return "HIXL"

    @staticmethod
    def is_one_sided():
        return True

    @staticmethod
    def can_abort_transport():
        # A fetch that fails or times out has ended on both sides: no actor need be killed.
        return True

    def actor_has_tensor_transport(self, actor):
        return True

    def extract_tensor_transport_metadata(self, obj_id, rdt_object):
        device = rdt_object[0].device.type if rdt_object else None
        metadata = HiXLMetadata([(tensor.shape, tensor.dtype) for tensor in rdt_object], device)
        refs = self._agent.register(list(rdt_object))
        self._registered[obj_id] = refs
        metadata.refs = refs.to_bytes()
        return metadata

    def get_communicator_metadata(self, src_actor, dst_actor, backend=None):
        return _api.CommunicatorMetadata()  # the references say where the tensors are

    def recv_multiple_tensors(self, obj_id, tensor_transport_metadata, communicator_metadata, target_buffers=None):
        refs = TensorRefs.from_bytes(tensor_transport_metadata.refs)
        device = tensor_transport_metadata.tensor_device
        if target_buffers is None and device not in (None, "cpu"):
            import torch

            target_buffers = [
                torch.empty(shape, dtype=dtype, device=device) for shape, dtype in tensor_transport_metadata.tensor_meta
            ]
        return self._agent.fetch(refs, target_buffers, path="hixl")

    def send_multiple_tensors(self, tensors, tensor_transport_metadata, communicator_metadata):
        raise NotImplementedError("HiXL is one-sided: receivers read by themselves")

    def garbage_collect(self, obj_id, tensor_transport_meta, tensors):
        self._registered.pop(obj_id, None)

    def abort_transport(self, obj_id, communicator_metadata):
        pass  # a read that failed has ended
