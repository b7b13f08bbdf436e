"""The environment of workers, as the session and the options of a task or an actor say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beeline.api import session
from beeline.runtime_env.runtime_env import checked
from beeline.runtime_env.variables import merged, variables_of


def variables(options: Mapping[str, Any]) -> dict[str, str]:
    """Environment variables of the worker, on top of those that the session was started with.

    This process's own environment holds for what it calls, field by field below that of the options. Folders that the
    options name are packaged, once.

    Raises as RuntimeEnv does, and RuntimeEnvSetupError where a package cannot be made.
    """
    current, own = session.current, options.get("runtime_env")
    if not own:
        return current.variables
    resolved = current.resolver.resolved(checked(own), current.info["session_dir"])
    own_names = resolved.get("env_vars", {})
    settled = {name: value for name, value in current.variables.items() if name not in own_names}
    return variables_of(merged(current.runtime_env, resolved), settled)
