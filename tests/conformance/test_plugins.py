"""Transports that come as shared libraries: what is refused, and what they cost whom."""

import subprocess
import sys

import pytest

from beeline import exceptions
from beeline.transfer import Agent, get_include

# A plug-in in plain C that does nothing but say so.
SOURCE = """
#define _POSIX_C_SOURCE 200809L
#include "beeline/transport_plugin.h"
#include <stdio.h>
#include <time.h>
static int32_t no(beeline_failure *failure) {
  snprintf(failure->message, sizeof failure->message, "nothing works here");
  return CODE;
}
static int32_t open_(const char *name, void **engine, beeline_failure *failure) {
  (void)name;
  *engine = (void *)failure;
  return OPEN ? no(failure) : BEELINE_OK;
}
static void close_(void *engine) { (void)engine; }
static int32_t contact(void *engine, const beeline_sink *sink, beeline_failure *failure) {
  (void)engine, (void)failure;
  static const char words[2 << 20];
  sink->write(sink->context, words, SPEAKS);
  return BEELINE_OK;
}
static int32_t expose(void *engine, const beeline_memory *memory, int32_t writable, void **exposure,
                      const beeline_sink *key, beeline_failure *failure) {
  (void)engine, (void)memory, (void)writable, (void)failure, (void)key;
  *exposure = engine;
  return BEELINE_OK;
}
/* Where transfers wait: until they have ended. */
static volatile int busy;
static void rest(void) { nanosleep(&(struct timespec){0, 1000000}, 0); }
static void withdraw(void *engine, void *exposure) {
  (void)engine, (void)exposure;
  while (busy) rest();
}
static int32_t connect_(void *engine, const char *peer, beeline_bytes contact, const beeline_wait *wait,
                        void **connection, beeline_failure *failure) {
  (void)engine, (void)peer, (void)contact, (void)wait, (void)failure;
  *connection = engine;
  return BEELINE_OK;
}
static void disconnect(void *engine, void *connection) { (void)engine, (void)connection; }
static int32_t transfer(void *engine, void *connection, int32_t operation, const beeline_run *runs, uint64_t count,
                        const beeline_wait *wait, beeline_failure *failure) {
  int32_t ended = BEELINE_OK;
  (void)engine, (void)connection, (void)operation, (void)runs, (void)count;
  if (!WAITS) return no(failure);
  for (busy = 1; ended == BEELINE_OK; ended = wait->check(wait->context)) rest();
  busy = 0;
  snprintf(failure->message, sizeof failure->message, "waited");
  return ended;
}
const beeline_transport *beeline_transport_plugin(void) {
  static const beeline_transport table = {ABI,     sizeof table, NAME,   2,        0,          100,       open_,
                                          close_,  contact,      expose, withdraw, connect_, disconnect, transfer};
  return &table;
}
"""


@pytest.fixture
def build(tmp_path):
    def compile_it(
        source=SOURCE,
        name="idle",
        abi="BEELINE_TRANSPORT_ABI",
        fails_to_open=0,
        code="BEELINE_SYSTEM",
        waits=0,
        speaks=1,
    ):
        library = tmp_path / f"{name}.so"
        (tmp_path / f"{name}.c").write_text(source)
        macros = [f'-DNAME="{name}"', f"-DABI={abi}", f"-DOPEN={fails_to_open}", f"-DCODE={code}", f"-DWAITS={waits}"]
        macros.append(f"-DSPEAKS={speaks}")
        command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{get_include()}", *macros]
        subprocess.run([*command, str(tmp_path / f"{name}.c"), "-o", str(library)], check=True, timeout=60)
        return library

    return compile_it


def test_a_library_that_is_none(build, folder, tmp_path):
    with pytest.raises(exceptions.TransportUnavailableError, match=r"nowhere\.so"):
        Agent("a", folder=folder, plugins=[tmp_path / "nowhere.so"])
    with pytest.raises(exceptions.TransportUnavailableError, match=r"transport_plugin\.h"):
        Agent("a", folder=folder, plugins=[build("int x;", "other")])
    with pytest.raises(exceptions.TransportUnavailableError, match="another ABI"):
        Agent("a", folder=folder, plugins=[build(name="old", abi=7)])
    with pytest.raises(ValueError, match="already"):
        Agent("a", folder=folder, plugins=[build(name="tcp")])


def test_what_a_plug_in_says_reaches_the_caller(build, folder, owner):
    refs = owner.register("[torch.ones(1 << 20)]")
    with Agent("a", folder=folder, plugins=[build()]) as agent:
        # The owner has no such path.
        with pytest.raises(exceptions.TransportUnavailableError, match='has no path "idle"'):
            agent.fetch(refs, path="idle")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("BEELINE_SYSTEM", exceptions.DirectTransportError),
        ("BEELINE_STALE", exceptions.StaleReferenceError),
        ("BEELINE_PEER_LOST", exceptions.PeerLostError),
        ("4711", exceptions.DirectTransportError),
    ],
)
def test_a_plug_in_that_fails_costs_its_transfers_alone(build, folder, start_owner, code, error):
    library = build(code=code)
    owner = start_owner(plugins=[str(library)])
    refs = owner.register("[torch.ones(1 << 20)]")
    with Agent("a", folder=folder, plugins=[library]) as agent:
        with pytest.raises(error, match="nothing works here"):
            agent.fetch(refs, path="idle")
        assert bool((agent.fetch(refs)[0] == 1).all())


def test_a_plug_in_that_writes_more_than_it_may_is_told_so(build, folder, start_owner):
    library = build(speaks="(2 << 20)")
    refs = start_owner(plugins=[str(library)]).register("[torch.ones(5)]")
    with Agent("a", folder=folder, plugins=[library]) as agent:
        with pytest.raises(exceptions.BeelineError, match="wrote more than 1048576 bytes"):
            agent.fetch(refs, path="idle")


def test_an_engine_that_does_not_open(build, folder, start_owner):
    library = build(fails_to_open=1)
    owner = start_owner(plugins=[str(library)])
    refs = owner.register("[torch.ones(1 << 20)]")
    with Agent("a", folder=folder, plugins=[library]) as agent:
        with pytest.raises(exceptions.DirectTransportError, match="nothing works here"):
            agent.fetch(refs, path="idle")
        assert bool((agent.fetch(refs)[0] == 1).all())


# In a process of its own: what holds up an interpreter holds up its watchdogs.
UNDOING = """
import sys, threading
import torch
from beeline.exceptions import TransferTimeoutError
from beeline.transfer import Agent, TensorRefs

folder, library = sys.argv[1:]
options = {"folder": folder, "plugins": [library]}
with Agent("owner", **options) as owner, Agent("reader", **options) as reader:
    kept = [owner.register([torch.ones(5)])]
    refs = TensorRefs.from_json(kept[0].to_json())
    dropping = threading.Timer(0.5, kept.clear)
    dropping.start()
    try:
        reader.fetch(refs, path="waiting", timeout_s=2)
    except TransferTimeoutError:
        print("in time")
    dropping.join()
"""


def test_a_registration_that_waits_for_its_end_holds_up_nobody(build, folder):
    library = build(name="waiting", waits=1)
    command = [sys.executable, "-c", UNDOING, folder, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "in time", done.stderr
