"""Starts a session that waits for drivers: what `beeline start` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beeline.api import labels as label_rules
from beeline.api import options
from beeline.engines import embedded


def start(
    *,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: Mapping[str, float],
    labels: Mapping[str, str],
    object_store_memory: int | None,
    object_spilling_directory: str,
) -> str:
    """Starts the session and returns its folder; the arguments are those of init.

    Raises ValueError or TypeError for what they may not be, CoreError where the daemon does not come up; nothing runs
    then.
    """
    given: dict[str, Any] = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": dict(resources),
        "object_store_memory": object_store_memory,
    }
    table = {**options.ACTOR_OPTIONS, "object_store_memory": options.OBJECT_STORE_MEMORY}
    options.validate({name: value for name, value in given.items() if value is not None}, table, "start")
    return embedded.start_lasting(
        embedded.Options(
            embedded.detected_resources(num_cpus, num_gpus, resources),
            b"",
            object_store_memory,
            label_rules.checked(labels),
            object_spilling_directory,
        )
    )
