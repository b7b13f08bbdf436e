"""The hand-written stub of the C++ module and the module itself name the same things."""

import ast
from pathlib import Path

import beeline
from beeline import _core

STUB = Path(beeline.__file__).with_name("_core.pyi")


def stub_names() -> set[str]:
    """Functions, classes, constants and the classes' public members, as `name` or `Class.name`."""
    names = set()
    for node in ast.parse(STUB.read_text()).body:
        names |= declared(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member}" for child in node.body for member in declared(child)}
    return {name for name in names if not is_private(name)}


def declared(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    return set()


def module_names() -> set[str]:
    names = set()
    for name, value in vars(_core).items():
        names.add(name)
        if isinstance(value, type):
            # What is written in Python was added by beeline.api, which describes it.
            names |= {f"{name}.{member}" for member, item in vars(value).items() if not hasattr(item, "__code__")}
    return {name for name in names if not is_private(name)}


def is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def test_everything_in_the_stub_is_in_the_module():
    missing = {name for name in stub_names() if not reachable(name)}
    assert not missing


def reachable(name: str) -> bool:
    value: object = _core
    for part in name.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


def test_everything_in_the_module_is_in_the_stub():
    assert not module_names() - stub_names()
