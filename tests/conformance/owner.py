"""The other side of a transfer: an agent in a process of its own that does what the test tells it, line by line.

Each line on stdin is a JSON string of Python code, run with `agent`, `torch`, `np` and `kept` (a dict for what must
stay) at hand; what it assigns to `answer` goes back as a line of JSON.

`owner.py OPTIONS` is one owner. `owner.py --zygote` forks one for each request on the socket that its stdin is
(owners.py): importing torch is most of an owner's start, and a suite starts hundreds.
"""

import json
import os
import socket
import sys

import numpy as np
import torch

from beeline.transfer import Agent, Fault, TensorRef, TensorRefs, Tls

MAX_REQUEST = 1 << 18  # bytes; an environment is most of it


def serve(options):
    """Until stdin ends."""
    if isinstance(options.get("tls"), dict):
        options["tls"] = Tls(**options["tls"])
    options["faults"] = [Fault(**fault) for fault in options.get("faults", ())]
    names = {"agent": Agent("owner", **options), "torch": torch, "np": np, "kept": {}}
    names |= {"TensorRef": TensorRef, "TensorRefs": TensorRefs, "Fault": Fault, "Tls": Tls}
    print(json.dumps(names["agent"].address), flush=True)
    for line in sys.stdin:
        names["answer"] = None
        try:
            exec(json.loads(line), names)
            print(json.dumps({"answer": names["answer"]}), flush=True)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)


def fork_owners(requests):
    """Forks an owner for each request {"options":, "environ":} with its stdin, stdout and stderr, and answers its pid;
    whoever asked adopts it, for the process between them has ended by then. The options of this process's next."""
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, MAX_REQUEST, 3)
        if not message:
            return None
        read_end, write_end = os.pipe()
        between = os.fork()
        if between == 0:
            if pid := os.fork():
                os.write(write_end, str(pid).encode())
                os._exit(0)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
        for descriptor in (write_end, *descriptors):
            os.close(descriptor)
        if between == 0:
            os.close(read_end)
            requests.close()
            request = json.loads(message)
            os.environ.clear()
            os.environ.update(request["environ"])
            return request["options"]
        os.waitpid(between, 0)
        requests.send(os.read(read_end, 32))
        os.close(read_end)


if sys.argv[1] == "--zygote":
    wanted = fork_owners(socket.socket(fileno=os.dup(0)))
else:
    wanted = json.loads(sys.argv[1])
if wanted is not None:
    serve(wanted)
