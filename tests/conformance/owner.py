"""The other side of a transfer: an agent in a process of its own that does what the test tells it, line by line.

Each line on stdin is a JSON string of Python code, run with `agent`, `torch`, `np` and `kept` (a dict for what must
stay) at hand; what it assigns to `answer` goes back as a line of JSON.
"""

import json
import sys

import numpy as np
import torch

from beeline.transfer import Agent, Fault, TensorRef, TensorRefs, Tls

options = json.loads(sys.argv[1])
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
