"""TCP within TLS: what the other paths do, and what becomes of wrong, expired and missing certificates."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent, TensorRefs, Tls
from tests.conformance import test_convert, test_faults, test_fetch, test_integrity
from tests.conformance.conftest import ROOT, TOKEN, Owner
from tests.conformance.test_counters import beeline


def missing_library() -> str:
    try:
        Agent("probe", share_memory=False, tls=True).close()
    except exceptions.TransportUnavailableError as error:
        return str(error)
    return ""


MISSING = missing_library()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture
def start_owner(start_owner):
    """Owners that are reached by TLS alone."""
    return lambda **options: start_owner(**{"tls": True, "share_memory": False, **options})


@pytest.fixture(scope="module")
def owner(folder):
    shared = Owner(folder=folder, tcp="127.0.0.1:0", tls=True, share_memory=False)
    yield shared
    shared.end()


@pytest.fixture
def reader(folder):
    """Agents that the test opens."""
    agents = []

    def open_one(**options):
        agents.append(Agent(**{"name": "reader", "folder": folder, "token": TOKEN, **options}))
        return agents[-1]

    yield open_one
    for agent in agents:
        agent.close()


@pytest.fixture
def listener(reader):
    """Agents that the test opens, and that are reached by TLS alone unless it says otherwise."""
    return lambda **options: reader(
        **{"name": "listener", "tcp": "127.0.0.1:0", "tls": True, "share_memory": False, **options}
    )


# A representative part of the suite; test_the_whole_suite has all of it.


@pytest.mark.parametrize("layout", test_fetch.LAYOUTS)
def test_every_layout_arrives(owner, agent, layout):
    test_fetch.test_every_layout_arrives(owner, agent, layout, "tcp")


@pytest.mark.parametrize(
    "test",
    [
        test_fetch.test_every_dtype_arrives,
        test_fetch.test_parts_arrive_and_nothing_else_is_touched,
        test_fetch.test_push_fills_what_was_granted,
        test_fetch.test_a_batch_is_run_again_and_again,
        test_convert.test_some_of_several_are_converted,
        test_integrity.test_a_read_during_a_write_is_torn,
    ],
    ids=lambda test: test.__name__,
)
def test_transfers_do_what_they_do_without_tls(owner, agent, test):
    test(owner, agent, "tcp")


def test_a_large_tensor_arrives_over_several_streams(owner, agent):
    refs = owner.register("[torch.arange(1 << 23)]")
    assert torch.equal(agent.fetch(refs, path="tcp")[0], torch.arange(1 << 23))


@pytest.mark.full
def test_readers_beside_a_busy_writer_see_one_state(start_owner, folder):
    test_integrity.test_readers_beside_a_busy_writer_see_one_state(start_owner, folder, "tcp", False)


def test_versions_reach_subscribers(start_owner, agent):
    owner = start_owner()
    subscription = agent.subscribe(owner.address, "w")
    for value in (1, 2):
        owner.run(f"agent.publish('w', [torch.full((1 << 20,), {value}.0)])")
        number, (tensor,) = subscription.fetch(newer_than=value - 1)
        assert (number, float(tensor.min()), float(tensor.max())) == (value, value, value)


def test_an_undone_registration_is_stale(start_owner, agent):
    test_faults.test_an_undone_registration_is_stale(start_owner, agent, "tcp")


def test_a_stopped_owner(start_owner, agent):
    test_faults.test_a_stopped_owner(start_owner, agent, "tcp")


def test_a_killed_owner(start_owner, agent):
    owner = start_owner()
    refs = owner.register("[torch.ones(1 << 20)]")
    agent.fetch(refs)
    owner.signal(signal.SIGKILL)
    owner.process.wait()
    with pytest.raises(exceptions.PeerLostError, match="owner"):
        agent.fetch(refs)


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_the_whole_suite():
    """Every test of the path "tcp", with owners that speak TLS; nccl has none, and refuses those by TCP. Who looks into
    connections on the way sees nothing in these."""
    place = pathlib.Path(__file__).parent
    command = [sys.executable, "-m", "pytest", str(place), "-q", "-x", "-k", "tcp and not nccl"]
    command += ["--ignore", __file__, "--ignore", str(place / "test_tcp_streams.py")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"BEELINE_CONFORMANCE_TLS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]


# Who speaks with whom.


def test_an_address_says_that_tls_is_spoken(owner):
    assert "&tls=127.0.0.1:" in owner.address and "&tcp=" not in owner.address
    assert len(owner.address.partition("&certificate=")[2]) == 64


def test_a_wrong_token_is_refused(owner, reader):
    with pytest.raises(ValueError, match="token"):
        reader(token="guess").connect(owner.address, timeout_s=10)


def test_an_address_without_its_tls_reaches_nobody(owner, reader):
    address, _, _ = owner.address.partition("&certificate=")
    with pytest.raises(exceptions.TransportUnavailableError, match="TLS"):
        reader().connect(address.replace("&tls=", "&tcp="), timeout_s=10)
    with pytest.raises(ValueError, match="certificate"):
        reader().connect(address)


def test_a_listener_with_another_certificate_gets_nothing(owner, listener, reader):
    address, _, _ = owner.address.partition("&certificate=")
    other = listener().address.partition("&certificate=")[2]
    with pytest.raises(ValueError, match="not that agent"):
        reader().connect(f"{address}&certificate={other}", timeout_s=10)


def test_tls_with_a_listener_that_speaks_plain_is_an_error_in_time(listener, reader):
    address = listener(tls=False).address.replace("&tcp=", "&tls=") + "&certificate=" + "0" * 64
    begin = time.monotonic()
    with pytest.raises(exceptions.PeerLostError, match="TLS"):
        reader().connect(address, timeout_s=10)
    assert time.monotonic() - begin < 10


def test_a_listener_that_says_nothing_is_an_error_in_time(owner, reader):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        before, _, rest = owner.address.partition("&tls=")
        address = f"{before}&tls={where}&certificate={rest.partition('&certificate=')[2]}"
        begin = time.monotonic()
        with pytest.raises(exceptions.TransferTimeoutError, match="TLS"):
            reader().connect(address, timeout_s=0.5)
        assert time.monotonic() - begin < 0.5 * 1.1 + 0.5


def test_an_agent_that_was_opened_for_tls_speaks_nothing_else_by_tcp(listener, reader):
    own = reader(tls=True)
    with pytest.raises(exceptions.TransportUnavailableError, match="no TLS"):
        own.connect(listener(tls=False).address, timeout_s=10)
    near = listener(tls=False, share_memory=True)
    refs = near.register([torch.ones(1 << 20)])
    assert float(own.fetch(refs)[0].mean()) == 1.0  # by memory
    with pytest.raises(exceptions.TransportUnavailableError, match="no TLS"):
        own.fetch(refs, path="tcp")


def test_what_is_no_tls_is_refused_and_counted(listener):
    own = listener()
    host, _, port = own.address.partition("&tls=")[2].partition("&")[0].partition(":")
    for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05nonsense", b"Bleetcp2" + bytes(16), b"\x00" * 500):
        with socket.create_connection((host, int(port)), timeout=20) as stranger:
            stranger.sendall(said)
            while stranger.recv(4096):
                pass
    deadline = time.monotonic() + 20
    while own.stats()["refused"] < 4:
        assert time.monotonic() < deadline


def test_without_openssl_the_error_says_what_to_install(start_owner, tmp_path):
    (tmp_path / "libssl.so.3").write_text("no library")
    owner = start_owner(tls=False, environ={"LD_LIBRARY_PATH": str(tmp_path)})
    heard = owner.run(
        """
from beeline.transfer import Agent
try:
    Agent('secure', tls=True)
except Exception as error:
    answer = [type(error).__name__, str(error)]
"""
    )
    assert heard[0] == "TransportUnavailableError"
    assert "OpenSSL 3" in heard[1] and "libssl.so.3" in heard[1]


# Certificates from files.


class Authority:
    """A CA, and certificates that it has signed."""

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._openssl("req", "-x509", "-days", "2", "-subj", f"/CN={name}", "-out", f"{name}.pem", *self._key(name))
        self.ca = str(folder / f"{name}.pem")

    def _key(self, name: str) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    def issue(self, name: str, *, host: str = "127.0.0.1", days: int = 2) -> dict[str, str]:
        """Certificate and key, as keywords of `Tls`."""
        name = f"{self.name}-{name}"
        (self.folder / f"{name}.ext").write_text(f"subjectAltName=IP:{host}\n")
        self._openssl("req", "-subj", f"/CN={name}", "-out", f"{name}.csr", *self._key(name))
        words = ["-in", f"{name}.csr", "-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key", "-CAcreateserial"]
        words += ["-days", str(days), "-extfile", f"{name}.ext", "-out", f"{name}.pem"]
        self._openssl("x509", "-req", *words)
        return {"certificate": str(self.folder / f"{name}.pem"), "key": str(self.folder / f"{name}.key")}


@pytest.fixture(scope="module")
def authorities(tmp_path_factory):
    """Two CAs: the one that is trusted, and another one."""
    assert shutil.which("openssl"), "certificates of tests are made by the openssl program: install it"
    folder = tmp_path_factory.mktemp("certificates")
    return Authority(folder, "ours"), Authority(folder, "theirs")


def test_agents_of_one_ca_know_each_other(authorities, start_owner, reader):
    ours, _ = authorities
    owner = start_owner(tls={**ours.issue("owner"), "ca": ours.ca})
    refs = owner.register("[torch.arange(1 << 20)]")
    own = reader(tls=Tls(**ours.issue("reader"), ca=ours.ca))
    assert torch.equal(own.fetch(refs)[0], torch.arange(1 << 20))


def test_a_certificate_from_a_file_is_known_by_the_address_without_a_ca(authorities, listener, reader):
    ours, _ = authorities
    address = listener(tls=Tls(**ours.issue("alone"))).address
    reader().connect(address, timeout_s=10)
    reader(tls=Tls(ca=ours.ca)).connect(address, timeout_s=10)


def test_callers_without_a_certificate_of_the_ca_are_refused(authorities, listener, reader):
    ours, theirs = authorities
    strict = listener(tls=Tls(**ours.issue("strict"), ca=ours.ca))
    for own in (False, True, Tls(ca=ours.ca), Tls(**theirs.issue("stranger"))):
        with pytest.raises(ValueError, match="alert"):
            reader(tls=own).connect(strict.address, timeout_s=10)
    assert strict.stats()["visitors"] == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [({}, "unable to get local issuer"), ({"days": -1}, "expired"), ({"host": "127.0.0.2"}, "mismatch")],
    ids=["other CA", "expired", "other host"],
)
def test_listeners_whose_certificate_does_not_do_are_refused(authorities, listener, reader, options, reason):
    ours, theirs = authorities
    name = reason.split(maxsplit=1)[0]
    address = listener(tls=Tls(**(ours if options else theirs).issue(name, **options))).address
    begin = time.monotonic()
    with pytest.raises(ValueError, match=reason):
        reader(tls=Tls(ca=ours.ca)).connect(address, timeout_s=10)
    assert time.monotonic() - begin < 10


def test_files_that_do_not_do_are_named(authorities, tmp_path):
    ours, theirs = authorities
    issued = ours.issue("named")
    for tls in (
        Tls(certificate=issued["certificate"]),
        Tls(certificate=issued["certificate"], key=theirs.issue("wrong")["key"]),
        Tls(certificate=tmp_path / "missing.pem", key=issued["key"]),
        Tls(ca=issued["key"]),
    ):
        with pytest.raises(ValueError, match=r"\.(pem|key)"):
            Agent("named", share_memory=False, tls=tls)


def test_references_of_such_an_owner_travel_as_any(owner, reader):
    refs = owner.register("{'a': torch.arange(5)}")
    for travelled in (TensorRefs.from_json(refs.to_json()), TensorRefs.from_bytes(refs.to_bytes())):
        assert reader().fetch(travelled)["a"].tolist() == [0, 1, 2, 3, 4]


def test_the_command_line_shows_a_certificate(authorities, listener, folder):
    ours, _ = authorities
    owner = listener(tls=Tls(**ours.issue("asked"), ca=ours.ca))
    files = [*ours.issue("operator").values(), ours.ca]
    arguments = ("paths", owner.address, "--json", "--folder", folder)
    for done in (
        beeline(*arguments, "--tls", *files, BEELINE_TOKEN=TOKEN),
        beeline(*arguments, BEELINE_TOKEN=TOKEN, BEELINE_TLS=":".join(files)),
    ):
        by_path = {one["path"]: one for one in json.loads(done.stdout)["paths"]["other"]["candidates"]}
        assert by_path["tcp"]["usable"], by_path
    done = beeline(*arguments, check=False, BEELINE_TOKEN=TOKEN)
    assert done.returncode == 1 and "certificate" in done.stderr
