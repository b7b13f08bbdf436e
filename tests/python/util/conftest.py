"""A session per file."""

import pytest

ray = pytest.importorskip("beeline")


@pytest.fixture(scope="module", autouse=True)
def session():
    ray.init(num_cpus=4, ignore_reinit_error=True)
    yield
    ray.shutdown()


class Gate:
    """Holds back whoever passes, until it is open."""

    def __init__(self):
        import asyncio

        self.event, self.arrived = asyncio.Event(), 0

    async def pass_through(self, x=None):
        self.arrived += 1
        await self.event.wait()
        return x

    async def open(self):
        self.event.set()

    async def count(self):
        return self.arrived


@pytest.fixture
def gate():
    return ray.remote(Gate).remote()
