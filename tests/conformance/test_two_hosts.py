"""Two network namespaces stand in for two hosts: agents in them share no memory, only a link, which can be pulled."""

import json
import shutil
import signal
import subprocess
import time
import uuid

import pytest

from beeline.transfer import nixl

pytestmark = pytest.mark.full


def may_make_namespaces() -> bool:
    name = f"bl-probe-{uuid.uuid4().hex[:8]}"
    made = shutil.which("ip") and subprocess.run(["ip", "netns", "add", name], capture_output=True, timeout=20)
    if not made or made.returncode != 0:
        return False
    subprocess.run(["ip", "netns", "delete", name], check=True, timeout=20)
    return True


if not may_make_namespaces():
    pytest.skip("network namespaces need iproute2 and CAP_SYS_ADMIN", allow_module_level=True)

HOSTS = {"a": "10.213.0.1", "b": "10.213.0.2"}


def ip(*words):
    subprocess.run(["ip", *words], check=True, timeout=20)


@pytest.fixture(scope="module")
def hosts():
    """{host: namespace} of two that are linked."""
    names = {host: f"bl-{host}-{uuid.uuid4().hex[:8]}" for host in HOSTS}
    try:
        for name in names.values():
            ip("netns", "add", name)
        ip("-n", names["a"], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", names["b"])
        for host, address in HOSTS.items():
            ip("-n", names[host], "addr", "add", f"{address}/24", "dev", "wire")
            ip("-n", names[host], "link", "set", "wire", "up")
            ip("-n", names[host], "link", "set", "lo", "up")  # by which a host reaches its own addresses
        yield names
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, timeout=20)


@pytest.fixture
def pair(hosts, start_owner):
    """(owner on host b, reader on host a), both processes that do what they are told."""
    owner = start_owner(namespace=hosts["b"], tcp=f"{HOSTS['b']}:0", share_memory=False)
    return owner, start_owner(namespace=hosts["a"], tcp=None, share_memory=False)


REGISTER = (
    "kept['t'] = torch.arange(1 << 22); kept['refs'] = agent.register([kept['t']]); answer = kept['refs'].to_json()"
)


def test_only_tcp_reaches_another_host(pair):
    owner, reader = pair
    refs = owner.run(REGISTER)
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs!r})")
    assert reader.run("answer = agent.explain(kept['refs'][0])['chosen']") == "tcp"
    assert reader.run("answer = bool((agent.fetch(kept['refs'])[0] == torch.arange(1 << 22)).all())")
    assert reader.run("answer = agent.fetch(kept['refs'][0][5:50:9]).tolist()") == [5, 14, 23, 32, 41]
    heard = reader.run(
        """
try:
    agent.map(kept['refs'])
except Exception as error:
    answer = [type(error).__name__, str(error)]
"""
    )
    assert heard[0] == "TransportUnavailableError"
    assert "shares no memory" in heard[1]


def test_gpus_of_two_hosts_meet_by_nccl(hosts, start_owner, emulated_nccl):
    """Over AN EMULATOR of NCCL, whose ranks meet in files: of the network it shows our own connections alone."""
    owner = start_owner(namespace=hosts["b"], tcp=f"{HOSTS['b']}:0", share_memory=False, preload=False)
    reader = start_owner(namespace=hosts["a"], tcp=None, share_memory=False, preload=False)
    for process in (owner, reader):
        process.run("from emulated_gpu import DeviceTensor, poisoned; answer = 1")
    refs = owner.run(
        "kept['t'] = DeviceTensor(torch.arange(1 << 16)); kept['refs'] = agent.register([kept['t']]);"
        "answer = kept['refs'].to_json()"
    )
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs!r}); kept['out'] = poisoned(torch.arange(1 << 16), 1)")
    assert reader.run(
        "agent.fetch(kept['refs'], [kept['out']]); answer = torch.equal(kept['out'].cpu(), torch.arange(1 << 16))"
    )
    owner.run("kept.clear()")
    reader.tell("agent.fetch(kept['refs'], [kept['out']])")
    assert "StaleReferenceError" in reader._hear()["error"]


def test_a_plug_in_reaches_another_host(hosts, start_owner):
    owner, reader = (
        start_owner(
            namespace=hosts[host],
            tcp=f"{HOSTS[host]}:0",
            share_memory=False,
            environ={"BEELINE_HIXL_HOST": HOSTS[host]},
        )
        for host in ("b", "a")
    )
    refs = owner.run(REGISTER)
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs!r})")
    assert reader.run("answer = bool((agent.fetch(kept['refs'], path='hixl')[0] == torch.arange(1 << 22)).all())")
    owner.run("kept.clear()")
    heard = reader.run(
        """
try:
    agent.fetch(kept['refs'], path='hixl')
except Exception as error:
    answer = type(error).__name__
"""
    )
    assert heard == "StaleReferenceError"


needs_nixl = pytest.mark.skipif(not nixl.library(), reason="NIXL is not installed")


@needs_nixl
def test_nixl_keeps_to_its_host_unless_its_owner_says_so(hosts, start_owner):
    owner = start_owner(namespace=hosts["b"], tcp=f"{HOSTS['b']}:0", share_memory=False, nixl="host")
    reader = start_owner(namespace=hosts["a"], tcp=None, share_memory=False, nixl="any")
    refs = owner.run(REGISTER)
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs!r})")
    fetch = """
try:
    agent.fetch(kept['refs'], path='nixl')
except Exception as error:
    answer = [type(error).__name__, str(error)]
"""
    name, why = reader.run(fetch)
    assert name == "TransportUnavailableError" and "its own host only" in why


@pytest.fixture
def nixl_pair(hosts, start_owner):
    """As `pair`, of agents that let NIXL go by TCP."""
    return [
        start_owner(namespace=hosts[host], tcp=f"{HOSTS[host]}:0", share_memory=False, nixl="any")
        for host in ("b", "a")
    ]


FETCH_BY_NIXL = (
    "answer = bool((agent.fetch(kept['refs'], path='nixl', timeout_s=10)[0] == torch.arange(1 << 22)).all())"
)


@needs_nixl
def test_nixl_reaches_another_host_where_both_sides_say_so(nixl_pair):
    owner, reader = nixl_pair
    refs = owner.run(REGISTER)
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs!r})")
    assert reader.run(FETCH_BY_NIXL)
    owner.run("kept.clear()")
    reader.tell(FETCH_BY_NIXL)
    assert "StaleReferenceError" in reader._hear()["error"]


@needs_nixl
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_end_of_an_owner_that_nixl_reads_of_on_another_host(nixl_pair, number):
    owner, reader = nixl_pair
    refs = owner.run(REGISTER)
    reader.run(f"kept['refs'] = TensorRefs.from_json({refs!r})")
    assert reader.run(FETCH_BY_NIXL)
    owner.signal(number)
    begin = time.monotonic()
    reader.tell(f"while True: {FETCH_BY_NIXL}")
    error = reader._hear()["error"]
    assert time.monotonic() - begin < 10 * 1.1 + 0.5
    assert ("TransferTimeoutError" if number == signal.SIGSTOP else "PeerLostError") in error


def test_versions_reach_another_host(pair):
    owner, reader = pair
    owner.run("agent.publish('w', [torch.full((1 << 20,), 1.0)])")
    reader.run(f"kept['s'] = agent.subscribe({owner.address!r}, 'w')")
    assert reader.run("number, (t,) = kept['s'].fetch(); answer = [number, float(t.mean())]") == [1, 1.0]
    owner.run("agent.publish('w', [torch.full((1 << 20,), 2.0)])")
    assert reader.run("number, (t,) = kept['s'].fetch(newer_than=1); answer = [number, float(t.mean())]") == [2, 2.0]


def bytes_received(namespace: str) -> int:
    """By the host there, over its link."""
    shown = subprocess.run(
        ["ip", "-n", namespace, "-s", "-j", "link", "show", "wire"], check=True, capture_output=True, timeout=20
    )
    return json.loads(shown.stdout)[0]["stats64"]["rx"]["bytes"]


def test_a_version_crosses_the_link_once_for_all_who_relay_on_a_host(hosts, start_owner, tmp_path):
    boot_ids = {host: tmp_path / host for host in HOSTS}
    for path in boot_ids.values():
        path.write_text(f"{uuid.uuid4()}\n")

    def start(host):
        return start_owner(namespace=hosts[host], boot_id=boot_ids[host], tcp=f"{HOSTS[host]}:0")

    publisher = start("b")
    size = 16 << 20
    subscribers = [start("a") for _ in range(3)]
    for each in subscribers:
        each.run(f"kept['s'] = agent.subscribe({publisher.address!r}, 'w', relay=True)")
    for number in (1, 2):
        before = bytes_received(hosts["a"])
        publisher.run(f"agent.publish('w', [torch.full(({size},), {number}, dtype=torch.uint8)], fan_out=4)")
        for each in subscribers:
            each.tell(
                f"number, (t,) = kept['s'].map(newer_than={number - 1}); answer = [number, t.numel(), int(t.max())]"
            )
        assert [each._hear() for each in subscribers] == [{"answer": [number, size, number]}] * 3
        assert size < bytes_received(hosts["a"]) - before < 1.5 * size
    assert publisher.run("answer = agent.stats()['relays']") == 2


def test_an_unplugged_link_is_an_error_in_time_and_work_goes_on_later(pair, hosts):
    owner, reader = pair
    refs = owner.run(REGISTER)
    reader.run(
        f"kept['refs'] = TensorRefs.from_json({refs!r}); kept['out'] = [torch.zeros(1 << 22, dtype=torch.int64)]"
    )
    reader.run("agent.fetch(kept['refs'], kept['out'])")
    ip("-n", hosts["b"], "link", "set", "wire", "down")
    try:
        begin = time.monotonic()
        heard = reader.run(
            """
try:
    agent.fetch(kept['refs'], kept['out'], timeout_s=2)
except Exception as error:
    answer = type(error).__name__
kept['out'][0].fill_(7)
"""
        )
        assert heard == "TransferTimeoutError"
        assert time.monotonic() - begin < 2 * 1.1 + 0.5
    finally:
        ip("-n", hosts["b"], "link", "set", "wire", "up")
    assert reader.run("answer = bool((kept['out'][0] == 7).all())")
    assert reader.run("answer = bool((agent.fetch(kept['refs'])[0] == torch.arange(1 << 22)).all())")
    assert reader.run("answer = bool((kept['out'][0] == 7).all())")


def test_a_wrong_token_is_refused(hosts, start_owner):
    owner = start_owner(namespace=hosts["b"], tcp=f"{HOSTS['b']}:0", share_memory=False)
    reader = start_owner(namespace=hosts["a"], tcp=None, share_memory=False, token="guess")
    heard = reader.run(
        f"""
try:
    agent.connect({owner.address!r}, timeout_s=10)
except Exception as error:
    answer = [type(error).__name__, str(error)]
"""
    )
    assert heard[0] == "ValueError"
    assert "token" in heard[1]
