"""Everything that can be set: environment variables, arguments of `init` and of `Agent`. `beeline config` shows it.

A variable that the sources read stands in `VARIABLES`, or the tests fail. The arguments are taken from the signatures
and docstrings of what has them.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

UNSET = ""


class Variable(NamedTuple):
    """An environment variable that Beeline reads.

    `default` is what happens without it. `read_by` is in words, `source` the file of the checkout. `secret`: its value
    is not shown. `internal`: Beeline sets it for its own processes; it is not for people.
    """

    name: str
    default: str
    read_by: str
    source: str
    meaning: str
    secret: bool = False
    internal: bool = False


class Row(NamedTuple):
    """A setting as it is here: `value` is what counts now in a process with this environment."""

    kind: str
    name: str
    default: str
    value: str
    read_by: str
    source: str
    meaning: str
    internal: bool


_LIBRARIES = "whoever first uses the path"
VARIABLES = (
    Variable(
        "BEELINE_TMPDIR",
        "/tmp",
        "every process, when it needs the folder",
        "src/beeline/os/private_folder.cc",
        "Where the folder beeline-<uid> lies: sessions, their logs and spilled values, agents' sockets and counters.",
    ),
    Variable(
        "BEELINE_PRELOAD",
        "1",
        "init, `beeline run`, and the preload library when a process starts",
        "python/beeline/engines/preload.py",
        "0: no preload library; what a process publishes is copied into its arena once.",
    ),
    Variable(
        "LD_PRELOAD",
        UNSET,
        "init, `beeline run`, and the preload library when a process starts",
        "src/beeline/memory/preload/library.cc",
        "The preload library is put in front of what it lists; where another allocator comes first, it stands aside.",
    ),
    Variable(
        "BEELINE_DAEMON_WAIT_S",
        "10",
        "init, when it starts a session",
        "src/beeline/runtime/launch.h",
        "Seconds that the processes of a session wait for another node daemon when theirs was killed, before all ends; "
        "0: it ends at once, and no journal is kept.",
    ),
    Variable(
        "BEELINE_TRIM_AFTER_S",
        "30",
        "every process of a session, when it joins",
        "src/beeline/runtime/process.cc",
        "Seconds without use of the arena after which its idle memory goes back to the system.",
    ),
    Variable(
        "BEELINE_TRANSPORT_PLUGINS",
        UNSET,
        "every Agent, when it opens",
        "src/beeline/transfer/agent.cc",
        "Transports of your own: shared libraries, separated by colons.",
    ),
    Variable(
        "BEELINE_TOKEN",
        UNSET,
        "`beeline paths` and `beeline bench`",
        "python/beeline/cli/agents.py",
        "The secret that agents ask of whoever comes by TCP; as --token.",
        secret=True,
    ),
    Variable(
        "BEELINE_TLS",
        UNSET,
        "`beeline paths` and `beeline bench`",
        "python/beeline/cli/agents.py",
        "Certificate, key and CA as PEM files, separated by colons; as --tls.",
    ),
    Variable(
        "BEELINE_UCX_LIBRARY",
        "the package libucx, else libucp.so.0",
        _LIBRARIES,
        "src/beeline/transport/ucx/library.cc",
        "The libucp.so of the path ucx.",
    ),
    Variable(
        "BEELINE_UCX_RDMA",
        "0",
        _LIBRARIES,
        "src/beeline/transport/ucx/selection.cc",
        "1: the path ucx may reach other hosts by RDMA, where all agents trust each other.",
    ),
    Variable(
        "UCX_TLS",
        UNSET,
        _LIBRARIES,
        "src/beeline/transport/ucx/selection.cc",
        "UCX's own: narrows what the paths ucx and nixl may use.",
    ),
    Variable(
        "BEELINE_NIXL_LIBRARY",
        "the package nixl",
        _LIBRARIES,
        "src/beeline/transport/nixl/library.cc",
        "The libnixl_capi.so of the path nixl, or its folder.",
    ),
    Variable(
        "BEELINE_NCCL_LIBRARY",
        "torch's, else the package nvidia-nccl, else libnccl.so.2",
        _LIBRARIES,
        "src/beeline/os/nccl_library.cc",
        "The libnccl.so of the path nccl.",
    ),
    Variable(
        "NCCL_COMM_BLOCKING",
        UNSET,
        _LIBRARIES,
        "src/beeline/os/nccl_library.cc",
        "NCCL's own: with 1 the path nccl is refused, since its calls would block beyond deadlines.",
    ),
    Variable(
        "BEELINE_CUDA_LIBRARY",
        "libcuda.so.1",
        "whoever first meets a CUDA tensor",
        "src/beeline/os/cuda_driver.cc",
        "NVIDIA's driver library.",
    ),
    Variable(
        "CUDA_VISIBLE_DEVICES",
        "all GPUs in /dev",
        "init; set in workers that hold GPUs",
        "python/beeline/engines/embedded.py",
        "CUDA's own: the GPUs that a session offers.",
    ),
    Variable(
        "OMP_NUM_THREADS",
        "the CPUs of the task or actor",
        "workers, when they are assigned",
        "python/beeline/_worker.py",
        "OpenMP's own: threads of torch and BLAS in workers.",
    ),
    Variable(
        "OPENBLAS_NUM_THREADS",
        "1",
        "workers, when they start",
        "python/beeline/_zygote.py",
        "OpenBLAS's own: its threads in workers.",
    ),
    Variable(
        "PYTORCH_ALLOC_CONF",
        UNSET,
        "`beeline doctor`",
        "python/beeline/cli/doctor.py",
        "torch's own: expandable segments and pools of cudaMallocAsync keep CUDA tensors from others.",
    ),
    Variable(
        "PYTORCH_CUDA_ALLOC_CONF",
        UNSET,
        "`beeline doctor`",
        "python/beeline/cli/doctor.py",
        "torch's older name of PYTORCH_ALLOC_CONF.",
    ),
    Variable(
        "FUNCTION_SIZE_ERROR_THRESHOLD",
        "100000000",
        "whoever defines a function or class, when beeline is imported",
        "python/beeline/api/function.py",
        "Bytes to which a function or class may pickle; as on Ray.",
    ),
    Variable(
        "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC",
        "1",
        "async actors, at their first blocking get",
        "python/beeline/api/objects.py",
        "0: get() inside an async actor is not warned of; as on Ray.",
    ),
    Variable(
        "RAY_CLOUD_INSTANCE_ID",
        UNSET,
        "util.get_node_instance_id",
        "python/beeline/util/node.py",
        "What that function returns; as on Ray.",
    ),
    Variable(
        "RAY_ADDRESS",
        UNSET,
        "init, and pools of util.multiprocessing",
        "python/beeline/api/addresses.py",
        "The session that is joined where no address is given.",
    ),
    Variable(
        "BEELINE_SESSION",
        UNSET,
        "zygotes and workers",
        "src/beeline/runtime/launch.h",
        "The session's folder; by it, what is left of a session is found.",
        internal=True,
    ),
    Variable(
        "BEELINE_ARENA_QUOTA_BYTES",
        UNSET,
        "workers, before they join",
        "python/beeline/engines/embedded.py",
        "The quota of their arena: init(object_store_memory=...).",
        internal=True,
    ),
    Variable(
        "RAY_rdt_fetch_fail_timeout_milliseconds",
        "60000",
        "who fetches a tensor that a transport must move",
        "python/beeline/tensors/fetch_time.py",
        "Milliseconds that the fetch of one value may take; a `get` with a shorter `timeout` keeps to that.",
    ),
    Variable(
        "RAY_record_ref_creation_sites",
        "0",
        "every process of a session, at its first call",
        "python/src/call_site.cc",
        "1 has each object remember where in the program it was asked for; `beeline memory` shows it.",
    ),
    Variable(
        "RAY_max_lineage_bytes",
        "268435456",
        "every process of a session, when it joins",
        "src/beeline/runtime/caller.cc",
        "Bytes that records of finished calls may take, by which lost values are made again; beyond, the oldest go.",
    ),
    Variable(
        "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES",
        UNSET,
        "init and remote, for a runtime_env with folders",
        "python/beeline/runtime_env/packages.py",
        "Patterns, with commas, of what is left out of a working_dir, in the place of the usual ones.",
    ),
    Variable(
        "RAY_RUNTIME_ENV_IGNORE_GITIGNORE",
        "0",
        "init and remote, for a runtime_env with folders",
        "python/beeline/runtime_env/packages.py",
        "1: what .gitignore leaves out is copied too.",
    ),
    Variable(
        "RAY_RUNTIME_ENV_CREATE_WORKING_DIR",
        UNSET,
        "who installs packages of a runtime_env",
        "python/beeline/runtime_env/venvs.py",
        "The working_dir, for paths in requirements.",
        internal=True,
    ),
    Variable(
        "BEELINE_RUNTIME_ENV",
        UNSET,
        "workers, when they start",
        "python/beeline/runtime_env/variables.py",
        "The runtime_env of a worker.",
        internal=True,
    ),
    Variable(
        "BEELINE_VENV",
        UNSET,
        "workers, when they start",
        "python/beeline/runtime_env/variables.py",
        "The virtual environment of a worker.",
        internal=True,
    ),
    Variable(
        "BEELINE_PY_EXECUTABLE",
        UNSET,
        "workers, when they start",
        "python/beeline/runtime_env/variables.py",
        "The interpreter of a worker.",
        internal=True,
    ),
    Variable(
        "BEELINE_DAEMON",
        UNSET,
        "drivers in C++, at init",
        "src/beeline/program/session.cc",
        "The node daemon; without it the one beside the library.",
    ),
    Variable(
        "BEELINE_PYTHON",
        "python3",
        "drivers in C++, at init",
        "src/beeline/program/session.cc",
        "The interpreter of their workers in Python.",
    ),
    Variable(
        "BEELINE_PROGRAM",
        UNSET,
        "the node daemon, when it starts a worker",
        "python/beeline/cross_language.py",
        "The program in C++ that a worker runs.",
        internal=True,
    ),
    Variable(
        "BEELINE_WORKER_TOKEN",
        UNSET,
        "workers in C++, at init",
        "src/beeline/runtime/launch.h",
        "By which a worker registers.",
        internal=True,
    ),
    Variable(
        "PYTHONPATH",
        UNSET,
        "workers, when they start",
        "python/beeline/runtime_env/worker.py",
        "What a runtime_env adds to the path goes before it, for the interpreters that a worker starts.",
    ),
    Variable(
        "COLUMNS",
        UNSET,
        "`beeline list` and its like",
        "python/beeline/cli/sessions.py",
        "How wide tables are that go to no terminal.",
    ),
    Variable(
        "BEELINE_BENCH_TOKEN",
        UNSET,
        "the other process of `beeline bench`",
        "python/beeline/cli/bench_peer.py",
        "The token of its agent.",
        secret=True,
        internal=True,
    ),
)


def rows(environment: Mapping[str, str] | None = None) -> list[Row]:
    """All settings, with the values that count in a process with this environment (by default, this one's)."""
    env = os.environ if environment is None else environment
    return [*(_of_variable(each, env) for each in VARIABLES), *_of_init(), *_of_agent()]


def _of_variable(variable: Variable, env: Mapping[str, str]) -> Row:
    value = env.get(variable.name) or variable.default
    if variable.secret and env.get(variable.name):
        value = "(set, not shown)"
    return Row(
        "variable",
        variable.name,
        variable.default,
        value,
        variable.read_by,
        variable.source,
        variable.meaning,
        variable.internal,
    )


def _of_init() -> list[Row]:
    from beeline import _core
    from beeline.api import session
    from beeline.engines import embedded

    found = embedded.detected_resources(None, None, {})
    values = {
        "num_cpus": f"{found['CPU']:g}",
        "num_gpus": f"{found.get('GPU', 0):g}",
        "object_store_memory": str(_core.default_quota_bytes()),
    }
    return _arguments("init", session.init, values, "python/beeline/api/session.py")


def _of_agent() -> list[Row]:
    from beeline.transfer import Agent

    return _arguments("Agent", Agent, {}, "python/beeline/transfer/agent.py")


def _arguments(kind: str, function: Callable[..., Any], values: Mapping[str, str], source: str) -> list[Row]:
    """One row for each argument that has a default and a name that is not private."""
    meanings = documented(inspect.getdoc(function) or "")
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name.startswith("_") or parameter.default is inspect.Parameter.empty:
            continue
        default = repr(parameter.default)
        row = Row(kind, name, default, values.get(name, default), f"{kind}()", source, meanings.get(name, ""), False)
        found.append(row)
    return found


def documented(docstring: str) -> dict[str, str]:
    """What the section `Args:` of a docstring says of each argument, on one line."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", docstring + "\n", re.MULTILINE)
    if not section:
        return {}
    entries = re.split(r"^    (?=\S)", section.group(1), flags=re.MULTILINE)
    pairs = (" ".join(entry.split()).partition(": ") for entry in entries if entry.strip())
    return {name: text for name, _, text in pairs}
