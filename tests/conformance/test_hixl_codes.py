"""What the plug-in for HiXL makes of that engine's codes, over THE EMULATOR of it: a typed error with its words."""

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent
from tests.conformance.conftest import TOKEN

PARAM_INVALID, TIMEOUT, NOT_CONNECTED, UNSUPPORTED = 103900, 103901, 103902, 103905
RESOURCE_EXHAUSTED, FAILED = 203900, 503900

# Where the engine says it, what, and what a caller who insists on this path gets.
SAID = {
    ("connect", UNSUPPORTED): (exceptions.TransportUnavailableError, "UNSUPPORTED"),
    ("connect", RESOURCE_EXHAUSTED): (exceptions.ObjectStoreFullError, "too many registrations or links"),
    ("connect", FAILED): (exceptions.DirectTransportError, "FAILED"),
    ("connect", TIMEOUT): (exceptions.TransferTimeoutError, "connect to the engine of owner"),
    ("register", UNSUPPORTED): (exceptions.TransportUnavailableError, "UNSUPPORTED"),
    ("register", RESOURCE_EXHAUSTED): (exceptions.ObjectStoreFullError, "too many registrations or links"),
    ("transfer", PARAM_INVALID): (exceptions.StaleReferenceError, "not registered with it"),
    ("transfer", NOT_CONNECTED): (exceptions.DirectTransportError, "NOT_CONNECTED"),
    ("transfer", UNSUPPORTED): (exceptions.TransportUnavailableError, "UNSUPPORTED"),
    ("transfer", RESOURCE_EXHAUSTED): (exceptions.ObjectStoreFullError, "too many registrations or links"),
    ("status", TIMEOUT): (exceptions.TransferTimeoutError, "TIMEOUT"),
    ("status", FAILED): (exceptions.DirectTransportError, "see the log of CANN"),
}
# Of the transfer itself, not of the path: no other path would do better.
FINAL = (exceptions.StaleReferenceError, exceptions.TransferTimeoutError)


@pytest.mark.parametrize(("place", "code"), SAID)
def test_each_code_is_an_error_that_says_what_it_means(owner, folder, monkeypatch, place, code):
    kind, words = SAID[place, code]
    refs = owner.register("[torch.arange(1000)]")
    out = torch.full((1000,), -1)
    with Agent("reader", folder=folder, token=TOKEN) as reader:
        monkeypatch.setenv("HIXL_EMULATOR_SAY", f"{place}:{code}")
        with pytest.raises(kind, match=words):
            reader.fetch(refs[0], out, path="hixl", timeout_s=1)
        if place != "status":
            assert bool((out == -1).all())
        monkeypatch.delenv("HIXL_EMULATOR_SAY")
        assert torch.equal(reader.fetch(refs[0], out), torch.arange(1000))
        if kind in FINAL:  # the path is not left alone
            assert torch.equal(reader.fetch(refs[0], path="hixl"), torch.arange(1000))


def test_an_owner_whose_engine_refuses_the_memory_says_so(start_owner, folder):
    owner = start_owner()
    refs = owner.register("[torch.ones(1000)]")
    owner.run(f"import os; os.environ['HIXL_EMULATOR_SAY'] = 'register:{RESOURCE_EXHAUSTED}'")
    with Agent("reader", folder=folder, token=TOKEN) as reader:
        with pytest.raises(exceptions.ObjectStoreFullError, match="too many registrations"):
            reader.fetch(refs, path="hixl", timeout_s=5)
        assert reader.fetch(refs)[0].sum() == 1000
