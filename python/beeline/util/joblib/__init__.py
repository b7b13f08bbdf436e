"""joblib, and what uses it (scikit-learn), on actors: `register_ray()`, then `joblib.parallel_backend("ray")`."""

from __future__ import annotations


def register_ray() -> None:
    """Makes `joblib.parallel_backend("ray")` run joblib's jobs in actors. Needs joblib; raises ImportError without.

    `parallel_backend("ray", ray_remote_args={...})` sets options of the actors. n_jobs=-1, joblib's default within
    parallel_backend, is all CPUs of the session, which is started if there is none.
    """
    from joblib.parallel import register_parallel_backend

    from beeline.util.joblib.ray_backend import RayBackend

    register_parallel_backend("ray", RayBackend)


__all__ = ["register_ray"]
