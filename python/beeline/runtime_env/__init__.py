"""What Ray has under `ray.runtime_env`: the environment that tasks and actors run in, described."""

from beeline.runtime_env.runtime_env import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
