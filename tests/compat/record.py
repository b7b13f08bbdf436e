"""What Ray gave for the cases, kept in a file: a push compares Beeline with it, `./dev test --full` with Ray itself.

An entry holds for the code that it was made with: where a group's file, what the cases share or Ray's version has
changed since, the cases run on Ray again. `python tests/compat/runner.py record` writes the file anew; with names of
groups, what it has of these.
"""

import functools
import hashlib
import importlib.metadata
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
FILE = HERE / "recorded.json"
SHARED = ("child.py", "outcome.py")


@functools.cache
def fingerprint(group):
    """Of all that a group's outcomes depend on."""
    digest = hashlib.sha256(importlib.metadata.version("ray").encode())
    cases = (HERE / f"cases/{group}.py").read_bytes()
    helpers = [path.name for path in sorted(HERE.glob("*_helpers.py")) if path.stem.encode() in cases]
    for file in (*SHARED, *helpers):
        digest.update((HERE / file).read_bytes())
    digest.update(cases)
    return digest.hexdigest()[:16]


@functools.cache
def _groups():
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def outcomes(names):
    """{"group.case": value} of the names that the record holds for the code as it is."""
    known = {}
    for name in names:
        group, case = name.split(".")
        entry = _groups().get(group, {})
        if entry.get("code") == fingerprint(group) and case in entry["outcomes"]:
            known[name] = entry["outcomes"][case]
    return known


def write(values):
    """Takes {"group.case": value} into the record, in place of all that it has of these groups."""
    groups = {}
    for name, value in sorted(values.items()):
        group, case = name.split(".")
        entry = groups.setdefault(group, {"code": fingerprint(group), "outcomes": {}})
        entry["outcomes"][case] = _without_messages(value)
    known = {path.stem for path in (HERE / "cases").glob("*.py")}
    kept = {group: entry for group, entry in _groups().items() if group in known}
    FILE.write_text(json.dumps(dict(sorted((kept | groups).items())), indent=1) + "\n")


def _without_messages(value):
    """Texts of errors name processes and files; what they promise is in `mentions`."""
    if isinstance(value, dict):
        kept = {key: _without_messages(item) for key, item in value.items()}
        return kept | {"message": ""} if "caught_as" in value else kept
    return [_without_messages(item) for item in value] if isinstance(value, list) else value
