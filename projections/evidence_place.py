"""Putting files and directories in their place: whole or not at all, and never over what is somebody's.

Rules: written beside, synced, then renamed. A directory takes the place of another one of its kind only, or of an empty
one; between the two renames that this takes, the old one lies beside under a hidden name. A device or a pipe is written
to as it is. Nothing is written into a ledger's directory. This file does not know what files say.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from ledger_core.errors import BadInput


def outside(path: Path, root: Path) -> Path:
    """`path`, if it is not in a ledger's directory; raises `BadInput`: nothing but the log writes there."""
    if path.resolve().is_relative_to(root.resolve()):
        raise BadInput(f"{path} is in the ledger's own directory.", hint="Write to another place.")
    return path


def write_whole(path: Path, pieces: Iterable[bytes], *, private: bool) -> None:
    """Write a file, in place of the one that is there; `private` is for its owner only. Raises `BadInput`."""
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with open(path, "wb") as device:
                device.writelines(pieces)
            return
        path = Path(os.path.realpath(path))
        draft = _beside(path, "new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            with open(descriptor, "wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        cannot("written", path, error)


@contextmanager
def new_directory(path: Path, *, ours: Callable[[Path], bool], private: bool) -> Iterator[Path]:
    """A directory that takes the place of `path` when the block ends well. Raises `BadInput`.

    `ours` says whether a directory that is there holds nothing but what may be replaced.
    """
    path = Path(os.path.realpath(path))
    try:
        there = os.path.lexists(path)
        if there and not (path.is_dir() and (not os.listdir(path) or ours(path))):
            raise BadInput(
                f"{path} is there, and is not a directory of evidence only.",
                hint="Name a new directory: nothing else is ever replaced.",
            )
        made = _beside(path, "new")
        made.mkdir(mode=0o700 if private else 0o777)
        try:
            yield made
            old = _beside(path, "old")
            if there:
                path.rename(old)
            made.rename(path)
            shutil.rmtree(old, ignore_errors=not there)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        cannot("written", path, error)


def cannot(what: str, path: Path, error: OSError) -> NoReturn:
    """Say that a file cannot be read or written; raises `BadInput`."""
    raise BadInput(f"{path} cannot be {what}: {error.strerror or error}.", hint="Name another place.") from None


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name[:100]}.{os.getpid()}.{os.urandom(4).hex()}.{kind}")
