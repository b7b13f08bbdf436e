"""Two-sided tensor transports, written against Ray's interface alone, which both engines have."""

import importlib
import socket
import threading
import time


def by_sockets(ray):
    """Sender and receiver meet at an address that both know from the communicator's metadata.

    It is not thread-safe, and fails where two threads use it.
    """
    api = importlib.import_module(f"{ray.__name__}.experimental")

    class MeetingTransport(api.TensorTransportManager):
        def __init__(self):
            self.threads = set()
            self.fault_before = self.fault = None  # called before it sends, and while it does

        def tensor_transport_backend(self):
            return "MEETING"

        @staticmethod
        def is_one_sided():
            return False

        @staticmethod
        def can_abort_transport():
            return False

        def actor_has_tensor_transport(self, actor):
            return True

        def extract_tensor_transport_metadata(self, obj_id, rdt_object):
            return api.TensorTransportMetadata([(t.shape, t.dtype) for t in rdt_object], "cpu")

        def get_communicator_metadata(self, src_actor, dst_actor, backend=None):
            metadata = api.CommunicatorMetadata()
            metadata.place = f"\0meeting {src_actor._actor_id.hex()} {dst_actor._actor_id.hex()}"
            metadata.backend = backend
            return metadata

        def recv_multiple_tensors(self, obj_id, tensor_transport_metadata, communicator_metadata, target_buffers=None):
            import torch

            self.threads.add(threading.current_thread().name)
            assert len(self.threads) == 1, self.threads
            received = []
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(communicator_metadata.place)
                listener.listen()
                with listener.accept()[0] as sender, sender.makefile("rb") as stream:
                    for shape, dtype in tensor_transport_metadata.tensor_meta:
                        nbytes = shape.numel() * dtype.itemsize
                        data = stream.read(nbytes)
                        if len(data) != nbytes:
                            raise EOFError(f"{len(data)} of {nbytes} bytes")
                        flat = torch.frombuffer(bytearray(data), dtype=dtype) if nbytes else torch.empty(0, dtype=dtype)
                        received.append(flat.reshape(shape))
            return received

        def send_multiple_tensors(self, tensors, tensor_transport_metadata, communicator_metadata):
            self.threads.add(threading.current_thread().name)
            assert len(self.threads) == 1, self.threads
            assert communicator_metadata.backend == communicator_metadata.backend.upper()
            with socket.socket(socket.AF_UNIX) as receiver:
                if self.fault_before:
                    self.fault_before()
                while receiver.connect_ex(communicator_metadata.place):
                    time.sleep(0.001)  # the receiver has not come yet
                for tensor in tensors:
                    if self.fault:
                        self.fault()
                    receiver.sendall(tensor.numpy().tobytes())

        def garbage_collect(self, obj_id, tensor_transport_meta, tensors):
            pass

        def abort_transport(self, obj_id, communicator_metadata):
            raise NotImplementedError

    return MeetingTransport


def by_ranks(ray):
    """As Ray's own for gloo: by the collective group that both actors are in."""
    api = importlib.import_module(f"{ray.__name__}.experimental")
    groups = importlib.import_module(f"{ray.__name__}.experimental.collective")
    collective = importlib.import_module(f"{ray.__name__}.util.collective")
    util = importlib.import_module(f"{ray.__name__}.experimental.rdt.util")

    class RankTransport(by_sockets(ray)):
        def tensor_transport_backend(self):
            return "RANKS"

        def get_communicator_metadata(self, src_actor, dst_actor, backend=None):
            (group,) = groups.get_collective_groups([src_actor, dst_actor], backend="gloo")
            metadata = api.CommunicatorMetadata()
            metadata.name = group.name
            metadata.source, metadata.destination = group.get_rank(src_actor), group.get_rank(dst_actor)
            return metadata

        def recv_multiple_tensors(self, obj_id, tensor_transport_metadata, communicator_metadata, target_buffers=None):
            received = target_buffers or util.create_empty_tensors_from_metadata(tensor_transport_metadata)
            for tensor in received:
                collective.recv(tensor, communicator_metadata.source, communicator_metadata.name)
            return received

        def send_multiple_tensors(self, tensors, tensor_transport_metadata, communicator_metadata):
            for tensor in tensors:
                collective.send(tensor, communicator_metadata.destination, communicator_metadata.name)

    return RankTransport
