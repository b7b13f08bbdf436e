"""Packages: copies of folders, modules and archives in the session's folder, named by their content, which workers
start in and import from. One is made once, under another name until it is complete, so that whoever finds it finds all
of it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from beeline.exceptions import RuntimeEnvSetupError
from beeline.runtime_env import fields

_PREFIX = f"{fields.PACKAGE_SCHEME}://"
_LOCAL_PREFIX = f"{fields.LOCAL_SCHEME}://"
_FOLDER = "packages"
# As on Ray: never of use to workers, and often large.
_ALWAYS_EXCLUDED = ".git,.venv,venv,__pycache__"
_ALWAYS_EXCLUDED_VARIABLE = "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"
_IGNORE_GITIGNORE_VARIABLE = "RAY_RUNTIME_ENV_IGNORE_GITIGNORE"
_BROKEN_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error)


class _Entry(NamedTuple):
    name: str  # within the package
    path: Path
    is_folder: bool


def path_of(uri: str, session_dir: str) -> str:
    """Where a package, or a folder that is used where it lies, is found."""
    if uri.startswith(_LOCAL_PREFIX):
        return uri.removeprefix(_LOCAL_PREFIX)
    return os.path.join(session_dir, _FOLDER, uri.removeprefix(_PREFIX))


def of_working_dir(path: str, excludes: Sequence[str], session_dir: str) -> str:
    """The package of a folder or an archive of one. Raises RuntimeEnvSetupError where it cannot be made."""
    if not os.path.isdir(path):
        return _of_archive(path, session_dir)
    always = os.environ.get(_ALWAYS_EXCLUDED_VARIABLE, _ALWAYS_EXCLUDED).split(",")
    return _of_entries(path, _listed(Path(path), [*filter(None, map(str.strip, always)), *excludes]), session_dir)


def of_py_module(path: str, excludes: Sequence[str], session_dir: str) -> str:
    """The package whose folder is to be imported from. Raises RuntimeEnvSetupError where it cannot be made."""
    source = Path(path)
    if source.is_dir():
        name = source.absolute().name
        inside = (entry._replace(name=f"{name}/{entry.name}") for entry in _listed(source, excludes))
        return _of_entries(path, (_Entry(name, source, True), *inside), session_dir)
    if source.suffix == ".py":
        return _of_entries(path, [_Entry(source.name, source, False)], session_dir)
    return _of_archive(path, session_dir)


def of_bytes(content: bytes, name: str, session_dir: str) -> str:
    """The package with one file of this content."""
    return _made(
        _digest([name.encode(), content]), session_dir, name, lambda folder: (folder / name).write_bytes(content)
    )


def _listed(folder: Path, excludes: Sequence[str]) -> Iterator[_Entry]:
    """What is in the folder, parents first; without what `excludes`, .gitignore and .rayignore files say."""
    from pathspec import GitIgnoreSpec  # here alone: it would cost every start

    ignore_files = (
        (".rayignore",) if os.environ.get(_IGNORE_GITIGNORE_VARIABLE) == "1" else (".gitignore", ".rayignore")
    )

    def walk(at: Path, rules: tuple[tuple[Path, Any], ...], above: tuple[str, ...]) -> Iterator[_Entry]:
        real = os.path.realpath(at)
        if real in above:
            raise RuntimeEnvSetupError(f"{at} is a link to a folder that it lies in; exclude it (excludes)")
        for name in ignore_files:
            if (at / name).is_file():
                rules = (*rules, (at, GitIgnoreSpec.from_lines((at / name).read_text().splitlines())))
        for path in sorted(at.iterdir()):
            is_folder = path.is_dir()
            mark = "/" if is_folder else ""
            if any(spec.match_file(path.relative_to(base).as_posix() + mark) for base, spec in rules):
                continue
            if is_folder or path.is_file():  # sockets and the like are of no use in a copy
                yield _Entry(path.relative_to(folder).as_posix(), path, is_folder)
            if is_folder:
                yield from walk(path, rules, (*above, real))

    return walk(folder, ((folder, GitIgnoreSpec.from_lines(excludes)),), ())


def _of_entries(path: str, listed: Iterator[_Entry] | Sequence[_Entry], session_dir: str) -> str:
    try:
        entries = list(listed)
        digest = _digest(part for entry in entries for part in _identity(entry))
    except OSError as error:
        raise RuntimeEnvSetupError(
            f"{path} cannot be packaged for workers: {error.strerror} ({error.filename}). Exclude what cannot be read."
        ) from error

    def copy(folder: Path) -> None:
        for entry in entries:
            target = folder / entry.name
            if entry.is_folder:
                target.mkdir(parents=True, exist_ok=True)
            else:
                shutil.copy2(entry.path, target)

    return _made(digest, session_dir, path, copy)


def _identity(entry: _Entry) -> Iterator[bytes]:
    yield f"{entry.name}\0{'folder' if entry.is_folder else entry.path.stat().st_mode & 0o111}".encode()
    if not entry.is_folder:
        with entry.path.open("rb") as file:
            yield hashlib.file_digest(file, "sha256").digest()


def _digest(parts: Any) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:32]


def _of_archive(path: str, session_dir: str) -> str:
    try:
        with open(path, "rb") as file:
            digest = _digest([os.path.basename(path).encode(), hashlib.file_digest(file, "sha256").digest()])
    except OSError as error:
        raise RuntimeEnvSetupError(f"{path} cannot be packaged for workers: {error.strerror}") from error

    def unpack(folder: Path) -> None:
        if path.endswith((".zip", fields.WHEEL)):
            _unzip(path, folder)
        else:
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")
        if path.endswith(fields.WHEEL):
            _lift_data(folder)

    return _made(digest, session_dir, path, unpack)


def _unzip(path: str, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.startswith("/") or ".." in Path(member.filename).parts:
                raise RuntimeEnvSetupError(f"{path} would write outside of its folder: {member.filename!r}")
            written = archive.extract(member, folder)
            if (mode := member.external_attr >> 16 & 0o777) and not member.is_dir():
                os.chmod(written, mode | 0o600)


def _lift_data(folder: Path) -> None:
    """What a wheel keeps aside of its modules belongs beside them."""
    for data in folder.glob("*.data"):
        for kind in ("purelib", "platlib"):
            if (data / kind).is_dir():
                shutil.copytree(data / kind, folder, dirs_exist_ok=True)


def _made(digest: str, session_dir: str, what: str, fill: Callable[[Path], object]) -> str:
    root = Path(session_dir, _FOLDER)
    target = root / digest
    if target.exists():
        return _PREFIX + digest
    unfinished = root / f".new-{digest}-{os.getpid()}-{threading.get_ident()}"
    try:
        unfinished.mkdir(mode=0o700, parents=True)
        fill(unfinished)
        unfinished.rename(target)
    except _BROKEN_ARCHIVE as error:
        raise RuntimeEnvSetupError(f"{what} cannot be unpacked: {error}") from error
    except OSError as error:
        if not target.exists():  # somebody else was faster, with the same content
            raise RuntimeEnvSetupError(
                f"{what} cannot be packaged for workers: {error.strerror}. The copy goes to {root}: free space there, "
                "set BEELINE_TMPDIR to another disk, or leave large files out (excludes)."
            ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return _PREFIX + digest
