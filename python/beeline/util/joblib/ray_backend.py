"""A backend of joblib whose workers are the actors of a `Pool`.

joblib's own classes do the batching, the nesting and the retrieval; the pool takes the batches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from joblib._parallel_backends import AutoBatchingMixin, PoolManagerMixin, SequentialBackend
from joblib.parallel import BatchedCalls, FallbackToBackend, ParallelBackendBase

from beeline import _core
from beeline.api import cluster, objects, session
from beeline.util.multiprocessing.pool import Pool

# Bytes from which on an argument that several batches have is stored once and passed by reference: what a call carries
# in its message is smaller.
SHARED_BYTES = 100 << 10


class RayBackend(PoolManagerMixin, AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """What joblib makes for `parallel_backend("ray")`.

    Args:
        nesting_level, inner_max_num_threads: joblib's.
        ray_remote_args: Options of the actors, as of `@remote`. Parallel(ray_remote_args=...) goes before them.
    """

    supports_retrieve_callback = True
    supports_return_generator = False

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **kwargs)
        self.ray_remote_args = ray_remote_args
        # By id, with the value itself, so that the id stays its own.
        self._shared: dict[int, tuple[Any, Any]] = {}

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many actors `n_jobs` means: -1 is the CPUs of the session, -2 one less; None is 1.

        Raises ValueError for 0.
        """
        if n_jobs is None:
            return 1
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs > 0:
            return n_jobs
        session.ensure()
        return max(1, int(cluster.cluster_resources().get("CPU", 1)) + 1 + n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
        **pool_arguments: Any,
    ) -> int:
        """Starts the actors and returns their number; what is for pools of joblib's own has no meaning here.

        Raises ValueError for more than the session has CPUs, FallbackToBackend for one: no actor is needed then.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        options = self.ray_remote_args if ray_remote_args is None else ray_remote_args
        self._pool = Pool(n_jobs, ray_remote_args=options)
        self.parallel = parallel
        return n_jobs

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Any:
        """Has a batch of calls run; see ParallelBackendBase."""
        if isinstance(func, BatchedCalls):
            func = _Batch(func, self._passed)
        return super().submit(func, callback)

    def terminate(self) -> None:
        """Ends the actors."""
        self._shared.clear()
        super().terminate()
        self.reset_batch_stats()

    def _passed(self, value: Any) -> Any:
        if isinstance(value, _core.ObjectRef) or _size_bytes(value) < SHARED_BYTES:
            return value
        if id(value) not in self._shared:
            self._shared[id(value)] = (value, objects.put(value))
        return _Shared(self._shared[id(value)][1])


class _Shared:
    """Stands for an argument that was stored."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref


class _Batch:
    """joblib's batch of calls, with large arguments by reference."""

    def __init__(self, batch: Any, passed: Callable[[Any], Any]) -> None:
        self._items = [
            (function, [passed(value) for value in args], {name: passed(value) for name, value in kwargs.items()})
            for function, args, kwargs in batch.items
        ]
        self._rest = BatchedCalls([], (batch._backend, batch._n_jobs), None, batch._pickle_cache)

    def __call__(self) -> list[Any]:
        """Runs the calls where this has arrived."""
        self._rest.items = [
            (function, [_received(value) for value in args], {name: _received(v) for name, v in kwargs.items()})
            for function, args, kwargs in self._items
        ]
        return list(self._rest())


def _received(value: Any) -> Any:
    return objects.get(value.ref) if isinstance(value, _Shared) else value


def _size_bytes(value: Any) -> int:
    """About how large the value is: arrays, sparse matrices and data frames say so."""
    for owner in (value, getattr(value, "data", None)):
        nbytes = getattr(owner, "nbytes", None)
        if isinstance(nbytes, int):
            return nbytes
    try:
        return sys.getsizeof(value)
    except TypeError:
        return 0
