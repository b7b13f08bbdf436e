"""For libraries that import Ray themselves: after `install()`, `import ray` is Beeline.

Modules of Ray have the same paths in Beeline; of those that it lacks, an import says so. Every process needs it:

    ray_is_beeline.install()
    ray.init(runtime_env={"worker_process_setup_hook": ray_is_beeline.install})
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Finder(MetaPathFinder, Loader):
    """Finds Beeline's modules by the names of Ray's; each is one module with two names."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != "ray":
            return None
        own = "beeline" + name.removeprefix("ray")
        return ModuleSpec(name, self) if importlib.util.find_spec(own) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module("beeline" + spec.name.removeprefix("ray"))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # what the import has put in its place


def install() -> None:
    """From here on `import ray` is Beeline, in this process. Raises RuntimeError where Ray is imported already."""
    loaded = sys.modules.get("ray")
    if loaded is not None and loaded.__name__ != "beeline":
        raise RuntimeError(
            f"Ray is imported already, from {loaded.__file__}: call ray_is_beeline.install() before that"
        )
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
