"""The memory that an agent's arena may take."""

import pytest
import torch

from beeline import exceptions
from beeline.transfer import Agent

SIZE = 5 << 20


def test_an_agent_takes_no_more_memory_than_its_quota(folder, owner):
    refs = owner.register(f"[torch.ones({SIZE}, dtype=torch.uint8)]")
    with Agent("small", folder=folder, quota_bytes=8 << 20) as small:
        first = small.empty((SIZE,), "uint8")
        with pytest.raises(exceptions.ObjectStoreFullError, match="quota 8388608"):
            small.empty((SIZE,), "uint8")
        with pytest.raises(exceptions.ObjectStoreFullError):
            small.publish("w", torch.zeros(SIZE, dtype=torch.uint8))
        with pytest.raises(exceptions.ObjectStoreFullError):
            small.fetch(refs)
        del first
        assert bool((small.fetch(refs)[0] == 1).all())
    with pytest.raises(ValueError, match="quota_bytes"):
        Agent("none", folder=folder, quota_bytes=0)


@pytest.mark.full
def test_a_quota_that_cannot_be_had_is_refused(start_owner):
    owner = start_owner(quota_bytes=64 << 20)  # with the preload library there is one arena for the process
    heard = owner.run(
        """
from beeline.transfer import Agent
try:
    Agent('other', quota_bytes=32 << 20)
except ValueError as error:
    answer = str(error)
"""
    )
    assert "with a quota of 67108864" in heard
    assert owner.run("Agent('alike', quota_bytes=64 << 20).close(); answer = 'shared'") == "shared"


def test_in_a_session_its_store_is_the_quota(start_owner):
    heard = start_owner(preload=False).run(
        """
import beeline as ray
from beeline.transfer import Agent
ray.init(num_cpus=1)
try:
    Agent('driver', quota_bytes=64 << 20)
except ValueError as error:
    answer = str(error)
finally:
    ray.shutdown()
"""
    )
    assert "object_store_memory" in heard
