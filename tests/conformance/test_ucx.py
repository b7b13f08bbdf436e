"""What is UCX's own: its layouts, its environment, its signals and output, forks, and who is not reached by it.

That tensors arrive by it, and what comes of owners that end or stall, is in the other modules, on every path.
"""

import importlib.util
import pathlib
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent
from tests.conformance.conftest import ROOT, TOKEN
from tests.conformance.paths import MISSING

pytestmark = pytest.mark.skipif("ucx" in MISSING, reason=MISSING.get("ucx", ""))

# Ours, theirs, and the fields as each has them.
LAYOUTS = [
    ("UcpContextParams", "ucp_params_t", {"field_mask": "field_mask", "features": "features",
     "request_size": "request_size", "request_init": "request_init", "request_cleanup": "request_cleanup",
     "tag_sender_mask": "tag_sender_mask", "shared_by_threads": "mt_workers_shared"}),
    ("UcpWorkerParams", "ucp_worker_params_t", {"field_mask": "field_mask", "thread_mode": "thread_mode"}),
    ("UcpEndpointParams", "ucp_ep_params_t", {"field_mask": "field_mask", "address": "address"}),
    ("UcpMemoryParams", "ucp_mem_map_params_t", {"field_mask": "field_mask", "address": "address", "length": "length",
     "flags": "flags", "protection": "prot", "memory_type": "memory_type"}),
    ("UcpRequestParams", "ucp_request_param_t", {"field_mask": "op_attr_mask", "flags": "flags", "request": "request",
     "on_done": "cb.send", "datatype": "datatype", "user_data": "user_data", "reply_buffer": "reply_buffer",
     "memory_type": "memory_type"}),
]  # fmt: skip
NUMBERS = {
    "UcpContextParams::kFeatures": "UCP_PARAM_FIELD_FEATURES",
    "UcpContextParams::kSharedByThreads": "UCP_PARAM_FIELD_MT_WORKERS_SHARED",
    "UcpContextParams::kRemoteMemory": "UCP_FEATURE_RMA",
    "UcpContextParams::kWakeUp": "UCP_FEATURE_WAKEUP",
    "UcpWorkerParams::kThreadMode": "UCP_WORKER_PARAM_FIELD_THREAD_MODE",
    "UcpWorkerParams::kSerialized": "UCS_THREAD_MODE_SERIALIZED",
    "UcpEndpointParams::kAddress": "UCP_EP_PARAM_FIELD_REMOTE_ADDRESS",
    "UcpMemoryParams::kAddress": "UCP_MEM_MAP_PARAM_FIELD_ADDRESS",
    "UcpMemoryParams::kLength": "UCP_MEM_MAP_PARAM_FIELD_LENGTH",
    "UcpMemoryParams::kMemoryType": "UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE",
    "UcpRequestParams::kCallback": "UCP_OP_ATTR_FIELD_CALLBACK",
    "UcpRequestParams::kUserData": "UCP_OP_ATTR_FIELD_USER_DATA",
    "UcpRequestParams::kMemoryType": "UCP_OP_ATTR_FIELD_MEMORY_TYPE",
    "kHostMemoryType": "UCS_MEMORY_TYPE_HOST",
    "kLogLevelError": "UCS_LOG_LEVEL_ERROR",
    "kStop": "UCS_LOG_FUNC_RC_STOP",
    "kContinue": "UCS_LOG_FUNC_RC_CONTINUE",
}
STATUSES = {
    "kOk": "UCS_OK", "kInProgress": "UCS_INPROGRESS", "kNoResource": "UCS_ERR_NO_RESOURCE",
    "kNoMemory": "UCS_ERR_NO_MEMORY", "kUnreachable": "UCS_ERR_UNREACHABLE",
    "kNotImplemented": "UCS_ERR_NOT_IMPLEMENTED", "kNoDevice": "UCS_ERR_NO_DEVICE", "kBusy": "UCS_ERR_BUSY",
    "kTimedOut": "UCS_ERR_TIMED_OUT", "kExceedsLimit": "UCS_ERR_EXCEEDS_LIMIT", "kUnsupported": "UCS_ERR_UNSUPPORTED",
    "kRejected": "UCS_ERR_REJECTED", "kNotConnected": "UCS_ERR_NOT_CONNECTED",
    "kConnectionReset": "UCS_ERR_CONNECTION_RESET", "kEndpointTimeout": "UCS_ERR_ENDPOINT_TIMEOUT",
    "kLast": "UCS_ERR_LAST",
}  # fmt: skip


def headers():
    """Where the installed package has UCX's headers."""
    spec = importlib.util.find_spec("libucx")
    folders = [pathlib.Path(folder) / "include" for folder in (spec.submodule_search_locations if spec else None) or ()]
    return next((folder for folder in folders if (folder / "ucp/api/ucp.h").is_file()), None)


def test_our_layouts_are_those_of_its_headers(tmp_path):
    folder = headers()
    if folder is None:
        pytest.skip("UCX's headers come with the package libucx-cu12, which is not installed")
    lines = ["#include <cstddef>", "#include <ucp/api/ucp.h>", "#include <ucs/debug/log_def.h>"]
    lines += ['#include "beeline/transport/ucx/abi.h"', "using namespace beeline::transport::ucx;"]
    checks = ["sizeof(UcsStatus) == sizeof(ucs_status_t)"]
    for ours, theirs, fields in LAYOUTS:
        checks.append(f"sizeof({ours}) <= sizeof({theirs})")
        for own, other in fields.items():
            checks.append(f"offsetof({ours}, {own}) == offsetof({theirs}, {other})")
            checks.append(f"sizeof({ours}::{own}) == sizeof(static_cast<{theirs}*>(nullptr)->{other})")
    checks += [f"static_cast<long>({own}) == static_cast<long>({other})" for own, other in NUMBERS.items()]
    checks += [f"static_cast<int>(UcsStatus::{own}) == static_cast<int>({other})" for own, other in STATUSES.items()]
    lines += [f'static_assert({check}, "");' for check in checks]
    source = tmp_path / "layouts.cc"
    source.write_text("\n".join(lines) + "\n")
    command = ["c++", "-std=c++20", "-fsyntax-only", "-fpermissive", "-w", f"-I{ROOT / 'src'}", f"-I{folder}"]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def reason(agent, ref):
    (own,) = [candidate for candidate in agent.explain(ref)["candidates"] if candidate["path"] == "ucx"]
    return own["usable"], own["reason"]


def test_the_environment_leaves_out_transports(monkeypatch, owner, folder):
    refs = owner.register("[torch.ones(1 << 20)]")
    monkeypatch.setenv("UCX_TLS", "tcp,rc")
    with Agent("narrowed", folder=folder, token=TOKEN) as agent:
        usable, why = reason(agent, refs[0])
        assert not usable and "UCX_TLS=tcp,rc leaves none" in why
    monkeypatch.setenv("UCX_TLS", "^tcp")
    with Agent("as it is", folder=folder, token=TOKEN) as agent:
        assert bool((agent.fetch(refs, path="ucx")[0] == 1).all())


def test_who_shares_no_memory_is_not_reached_without_rdma(monkeypatch, start_owner, folder):
    owner = start_owner(share_memory=False)
    refs = owner.register("[torch.ones(1 << 20)]")
    with Agent("reader", folder=folder, token=TOKEN) as agent:
        usable, why = reason(agent, refs[0])
        assert not usable and "BEELINE_UCX_RDMA=1" in why
        with pytest.raises(exceptions.TransportUnavailableError, match="ucx: by UCX another host is reached by RDMA"):
            agent.fetch(refs, path="ucx")
    monkeypatch.setenv("BEELINE_UCX_RDMA", "1")
    if pathlib.Path("/sys/class/infiniband").is_dir():
        pytest.skip("this machine may have a NIC for it")
    with Agent("trusting", folder=folder, token=TOKEN) as agent:
        assert "no NIC" in reason(agent, refs[0])[1]


def test_a_stopped_owner_is_not_asked_for_writes_either(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.zeros(1 << 20)]")
    owner.run(f"agent.grant(kept['refs'], {agent.address!r})")
    for path_is_known in (False, True):  # then nothing is left to ask
        agent.push(refs, [torch.full((1 << 20,), 1.0 + path_is_known)], path="ucx", timeout_s=20)
        assert bool((agent.fetch(refs, path="ucx", timeout_s=20)[0] == 1 + path_is_known).all())
        owner.signal(signal.SIGSTOP)
    owner.signal(signal.SIGCONT)
    assert owner.run("answer = float(kept['tensors'][0].sum())") == 2 << 20


def test_threads_fetch_beside_each_other(start_owner, folder):
    owner = start_owner()
    refs = owner.register("[torch.arange(1 << 20), torch.arange(7)]")
    expected = torch.arange(1 << 20)

    def fetch(agent):
        for _ in range(20):
            large, small = agent.fetch(refs, path="ucx")
            assert torch.equal(large, expected) and small.tolist() == list(range(7))

    with Agent("reader", folder=folder, token=TOKEN) as agent, ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(fetch, agent) for _ in range(6)]:
            done.result(100)


# In processes of their own: what is said of a process must not be that of the suite's.
SETTLED = """
import faulthandler, os, sys
faulthandler.enable()
def caught():
    return next(line for line in open("/proc/self/status") if line.startswith("SigCgt"))
before = caught(), os.listdir("/proc/self/task")
from beeline import _core
from beeline.transfer import ucx
assert _core.describe_ucx(ucx.library())[0]
assert (caught(), os.listdir("/proc/self/task")) == before, (caught(), before)
print("as before")
"""

FORKED = """
import json, os, sys
import torch
from beeline.transfer import Agent, TensorRefs

folder, address = sys.argv[1:]
refs = TensorRefs.from_json(sys.stdin.read())
agent = Agent("parent", folder=folder)
agent.fetch(refs, path="ucx")
child = os.fork()
if child == 0:
    agent.close()
    try:
        Agent("child", folder=folder).fetch(refs, path="ucx")
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert bool((agent.fetch(refs, path="ucx")[0] == 1).all())
agent.close()
print("the parent goes on")
"""


def test_signals_and_threads_of_the_program_stay_its_own():
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, timeout=100)
    assert done.stdout == "as before\n", done.stdout + done.stderr


def test_a_forked_child_is_told_and_the_parent_goes_on(owner, folder):
    refs = owner.register("[torch.ones(1 << 20)]")
    command = [sys.executable, "-W", "ignore", "-c", FORKED, folder, owner.address]
    done = subprocess.run(command, input=refs.to_json(), capture_output=True, text=True, timeout=100)
    said = done.stdout.splitlines()
    assert len(said) == 2 and said[1] == "the parent goes on", done.stdout + done.stderr
    assert "was forked from one that had used UCX" in said[0]


def test_a_failure_has_its_words_and_prints_nothing(capfd, start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    agent.fetch(refs, path="ucx")
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        while True:
            agent.fetch(refs, path="ucx")
    assert "UCX" not in "".join(capfd.readouterr())
