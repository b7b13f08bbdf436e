"""What Beeline needs of a machine, and what makes it faster. Reads only."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from beeline import _core
from beeline.engines import preload
from beeline.tensors import transports

MINIMUM_KERNEL = (5, 14)
PAGEMAP_SCAN_KERNEL = (6, 7)
OPEN_FILES = 4096
MAP_COUNT = 65530
PROBE_TIMEOUT_S = 30.0
CAP_SYS_PTRACE = 19
PTRACE_SCOPE = "/proc/sys/kernel/yama/ptrace_scope"
PTRACE_SCOPES = {
    1: "of an agent's readers, the one that connected last",
    2: "processes with CAP_SYS_PTRACE",
    3: "no process, until the next boot",
}
NO_PTRACE_SCOPE = "sysctl kernel.yama.ptrace_scope=0; until then the path object_store does what cma would"
NIXL_PROBE = """
from beeline import _core
from beeline.transfer import nixl
print(*_core.check_nixl(nixl.options("host")))
"""
GLOO_PROBE = """
from beeline.transfer import gloo
print(*gloo.describe())
"""


Level = Literal["ok", "warning", "error", "absent"]


class Check(NamedTuple):
    """One finding; "error": Beeline does not work so; "warning": it is slower or has less than it could; "absent":
    this version, or this machine, does not have it, and nothing needs it.
    """

    name: str
    level: Level
    found: str
    advice: str = ""


def run_all() -> list[Check]:
    """Every check, in the order in which they are shown."""
    scope = _ptrace()
    paths = [_cma(scope), _cuda(), _nccl(), _ucx(), _probe("nixl", "-c", NIXL_PROBE), _probe("gloo", "-c", GLOO_PROBE)]
    return [
        _kernel(),
        _huge_pages(),
        _memory(),
        _overcommit(),
        _address_space(),
        _open_files(),
        _locked_memory(),
        _map_count(),
        scope,
        _preload(),
        *paths,
        *_transports({path.name.removeprefix("path "): path.level for path in paths}),
    ]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 12) of "6.12.8-amd64"; (0, 0) where it has no such form."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _kernel() -> Check:
    release = platform.release()
    version = kernel_version(release)
    if version < MINIMUM_KERNEL:
        return Check("kernel", "error", release, "Linux 5.14 or later is needed")
    if version < PAGEMAP_SCAN_KERNEL:
        return Check("kernel", "ok", release, "from 6.7 on, written pages are found faster")
    return Check("kernel", "ok", release)


def _huge_pages() -> Check:
    text = _read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    chosen = re.search(r"\[(\w+)\]", text)
    mode = chosen[1] if chosen else "unknown"
    if mode in ("always", "advise", "within_size", "force"):
        return Check("huge pages of shared memory", "ok", mode)
    return Check("huge pages of shared memory", "ok", mode, "'advise' makes the first touch of an arena faster")


def _memory() -> Check:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _core.usable_memory()
    found = f"{total / 2**30:.1f} GiB"
    if limit < total:
        found += f", cgroup limit {limit / 2**30:.1f} GiB"
    return Check("memory", "ok", found)


def _overcommit() -> Check:
    mode = _read("/proc/sys/vm/overcommit_memory")
    if mode == "2":
        return Check("overcommit", "error", "strict", "sysctl vm.overcommit_memory=0: arenas are sparse mappings")
    return Check("overcommit", "ok", {"0": "heuristic", "1": "always"}.get(mode, mode or "unknown"))


def _limit(which: int) -> str:
    soft, _ = resource.getrlimit(which)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def _address_space() -> Check:
    limit = _limit(resource.RLIMIT_AS)
    if limit != "unlimited":
        return Check("address space (ulimit -v)", "warning", limit, "ulimit -v unlimited: arenas reserve addresses")
    return Check("address space (ulimit -v)", "ok", limit)


def _open_files() -> Check:
    limit = _limit(resource.RLIMIT_NOFILE)
    if limit.isdigit() and int(limit) < OPEN_FILES:
        return Check("open files (ulimit -n)", "warning", limit, f"ulimit -n {OPEN_FILES}, for hundreds of actors")
    return Check("open files (ulimit -n)", "ok", limit)


def _locked_memory() -> Check:
    limit = _limit(resource.RLIMIT_MEMLOCK)
    advice = (
        "" if limit == "unlimited" else "ulimit -l unlimited, where ucx or nixl are to use RDMA; nothing else locks"
    )
    return Check("locked memory (ulimit -l)", "ok", limit, advice)


def _map_count() -> Check:
    count = _read("/proc/sys/vm/max_map_count")
    if count.isdigit() and int(count) < MAP_COUNT:
        return Check("max_map_count", "warning", count, f"sysctl vm.max_map_count={MAP_COUNT}")
    return Check("max_map_count", "ok", count or "unknown")


def _ptrace() -> Check:
    """Who may read the memory of whom by `cma`, as far as Yama has a say in it."""
    text = _read(PTRACE_SCOPE)
    scope = int(text) if text.isdigit() else 0
    exempt = scope < max(PTRACE_SCOPES) and _may_trace()
    if scope not in PTRACE_SCOPES or exempt:
        found = text + (", which does not hold for CAP_SYS_PTRACE" if scope and exempt else "")
        return Check("ptrace scope", "ok", found or "no Yama")
    advice = NO_PTRACE_SCOPE + (" (a boot without 3 comes first)" if scope == max(PTRACE_SCOPES) else "")
    return Check("ptrace scope", "warning", f"{scope}: cma is for {PTRACE_SCOPES[scope]}", advice)


def _may_trace() -> bool:
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)$", _read("/proc/self/status"), re.MULTILINE)
    return capabilities is not None and bool(int(capabilities[1], 16) >> CAP_SYS_PTRACE & 1)


def _cma(scope: Check) -> Check:
    """Tried: beside Yama, a container's seccomp profile may deny it."""
    tried = _probe("cma", "-m", "beeline.cli.cma_probe")
    if tried.level == "ok":
        return tried._replace(level=scope.level, advice="see ptrace scope" if scope.advice else "")
    advice = scope.advice or "--cap-add SYS_PTRACE, or a seccomp profile that allows process_vm_readv"
    return tried._replace(level="warning", advice=tried.advice or advice)


def _preload() -> Check:
    name = "preload library"
    if not os.path.exists(preload.LIBRARY):
        return Check(name, "error", "missing", "reinstall beeline: the wheel was built without it")
    if os.environ.get("BEELINE_PRELOAD") == "0":
        return Check(name, "warning", "off (BEELINE_PRELOAD=0)", "unset it: publishing costs a copy so")
    return Check(name, "ok", preload.LIBRARY)


def _cuda() -> Check:
    name = "path cuda_ipc"
    status = _core.cuda_status()
    if status["reason"]:
        advice = "BEELINE_CUDA_LIBRARY names the driver's library where it lies elsewhere"
        return Check(name, "absent", status["reason"], advice)
    version = f"{status['version'] // 1000}.{status['version'] % 1000 // 10}"
    found = f"{status['library']}, CUDA {version}: {', '.join(status['devices'])}"
    allocator = os.environ.get("PYTORCH_ALLOC_CONF", "") + os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
    if "expandable_segments:True" in allocator or "cudaMallocAsync" in allocator:
        return Check(name, "warning", found, "torch's allocator is configured so that its memory cannot be handed over")
    return Check(name, "ok", found)


def _transports(of_paths: dict[str, Level]) -> list[Check]:
    return [
        Check(
            f"transport {name}",
            of_paths.get(name, "ok"),
            text,
            "" if of_paths.get(name, "ok") == "ok" else "see its path",
        )
        for name, text in transports.USABLE.items()
    ]


def _nccl() -> Check:
    from beeline import _core
    from beeline.transfer import nccl

    usable, found = _core.describe_nccl(nccl.library())
    driverless = _core.cuda_status()["reason"]
    if usable and driverless:
        return Check("path nccl", "absent", f"{found}, but {driverless}")
    return Check("path nccl", "ok" if usable else "absent", found)


def _ucx() -> Check:
    from beeline import _core
    from beeline.transfer import ucx

    usable, found = _core.describe_ucx(ucx.library())
    return Check("path ucx", "ok" if usable else "absent", found)


def _probe(path: str, *program: str) -> Check:
    """Opens an engine, or torch, for a moment: in a process of its own, which it may litter or take with it."""
    command = [sys.executable, "-P", *program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Check(f"path {path}", "warning", f"did not open within {PROBE_TIMEOUT_S:g} s")
    usable, _, found = (done.stdout.splitlines() or [""])[-1].partition(" ")
    if usable in ("True", "False"):
        return Check(f"path {path}", "ok" if usable == "True" else "absent", found)
    return Check(f"path {path}", "warning", f"ended with exit status {done.returncode}", done.stderr[-500:].strip())
