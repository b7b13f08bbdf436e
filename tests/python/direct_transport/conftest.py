"""A session per file, and actors that die with the test."""

import pytest

ray = pytest.importorskip("beeline")
pytest.importorskip("torch")
from tests.python.direct_transport.nodes import Node  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def session():
    ray.init(num_cpus=4, ignore_reinit_error=True)
    yield
    ray.shutdown()


@pytest.fixture
def make_actor():
    """Makes actors that die with the test."""
    actors = []

    def make(**options):
        actors.append(ray.remote(num_cpus=0, **options)(Node).remote())
        return actors[-1]

    yield make
    for actor in actors:
        ray.kill(actor)


@pytest.fixture
def a(make_actor):
    return make_actor()


@pytest.fixture
def b(make_actor):
    return make_actor()
