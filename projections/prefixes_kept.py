"""Prefixes of runs, kept beside the log: made when they are asked for, sealed, and thrown away at any time.

    views.lmdb/prefixes/NAME   one file a run; NAME is a digest of its id

Rules: a file is sealed under the keys of the run and of all that it was forked from, so that it tells nothing once one
of them is destroyed. It is sealed to the run's last event and to the code that made it: what was made of another head,
by other code, or was changed, does not open, and is made again. Files, because they are megabytes that nobody queries:
in the rows' environment they would stay in its free pages, and hold up who catches up. Nothing is synced, and nothing
is raised where nothing can be kept. This file does not know what is compared.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from ledger_core import __version__, chain
from ledger_core.errors import Damaged
from ledger_core.events.run import RunCreated
from ledger_core.ids import Hash
from ledger_core.log.cipher import Cipher
from ledger_core.log.log import Log
from ledger_core.run import entry, journal, patch, recording
from ledger_core.runtime import lineage
from ledger_core.runtime.folds import stream_of
from projections import code, course, prefixes, wire
from projections.course import Course
from projections.prefixes import Prefixes
from projections.store import VIEWS

DIRECTORY: Final = "prefixes"
_NAME: Final = re.compile("[0-9a-f]{32}")
_DRAFT: Final = re.compile("[0-9a-f]{32}[.][0-9a-f]{8}")
_LARGEST: Final = 64 * 1024 * 1024
"""Bytes of one file: about 1.5 million effects; of a longer run none are kept."""
_MOST: Final = 256 * 1024 * 1024
"""Bytes of all files: those that were not used for longest go first."""
_OLD: Final = 3_600
"""Seconds after which a draft is nobody's any more."""
_MADE_BY: Final[tuple[ModuleType, ...]] = (course, prefixes, wire, lineage, entry, journal, patch, recording)


class _Seal(NamedTuple):
    """Where prefixes of a run are kept, what opens them, and what they are sealed to."""

    path: Path
    cipher: Cipher
    place: bytes


def of_run(log: Log, run_id: str) -> tuple[Prefixes, Course | None]:
    """The prefixes of a run as it stands; and its course, where they had to be made of it.

    Raises `Refused` where its words were forgotten, and `Damaged`.
    """
    before = _head(log, run_id)
    seal = _seal(log, run_id, before)
    kept = None if seal is None else _read(seal)
    if kept is not None:
        return kept, None
    told = course.of_events(log.stream(stream_of(run_id)), run_id, partial(lineage.shared, log))
    made = prefixes.of_course(told)
    if seal is not None and _head(log, run_id) == before:
        _write(seal, made)
    return made, told


def _head(log: Log, run_id: str) -> Hash | None:
    head = log.stream_head(stream_of(run_id))
    return None if head is None else head.hash


def _seal(log: Log, run_id: str, head: Hash | None) -> _Seal | None:
    """None where there is no place for them, or a key is gone."""
    keys = list(_keys(log, run_id))
    if log.root is None or head is None or None in keys:
        return None
    key = chain.derive(b"".join(one for one in keys if one is not None), "prefixes")
    place = b"".join((b"prefixes", prefixes.VERSION.to_bytes(4, "big"), _code(), log.id, head, run_id.encode()))
    name = chain.course_digest(run_id.encode()).hex()[:32]
    return _Seal(log.root / VIEWS / DIRECTORY / name, Cipher(key), place)


def _keys(log: Log, run_id: str) -> Iterator[bytes | None]:
    """The keys of a run and of those that it was forked from; None for one that is gone."""
    line: str | None = run_id
    while line is not None:
        found = log.key(stream_of(line))
        yield None if found is None else found[1]
        head = None if found is None else log.stream_head(stream_of(line))
        body = None if head is None else log.event(head.first, contents=False).body
        line = body.ancestor if isinstance(body, RunCreated) else None


@functools.cache
def _code() -> bytes:
    """The digest of the code that makes prefixes, and what that stands on; of the release, where there are no files."""
    files = [Path(module.__file__ or "") for module in _MADE_BY]
    sources = (one.read_bytes() if one.is_file() else __version__.encode() for one in files)
    return chain.code_digest(code.code_name().encode() + b"".join(sources))


def _read(seal: _Seal) -> Prefixes | None:
    """What is kept, if it is what was kept."""
    try:
        descriptor = os.open(seal.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
                return None
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read()
        finally:
            os.close(descriptor)
        with suppress(OSError):
            os.utime(seal.path)
        return prefixes.decode(seal.cipher.decrypt(data, seal.place))
    except (OSError, Damaged):
        return None


def _write(seal: _Seal, made: Prefixes) -> None:
    """Keep prefixes if that can be done: a file is whole, or not there."""
    directory = seal.path.parent
    draft = seal.path.with_name(f"{seal.path.name}.{secrets.token_hex(4)}")
    try:
        data = seal.cipher.encrypt(prefixes.encode(made), seal.place, os.urandom(12))
        if len(data) > _LARGEST or directory.parent.is_symlink() or directory.is_symlink():
            return
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        _make_room(directory, len(data))
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(draft, seal.path)
        except OSError:
            draft.unlink(missing_ok=True)
    except (OSError, ValueError):
        return  # they are made again when they are asked for


def _make_room(directory: Path, size: int) -> None:
    """Take away what was not used for longest, and drafts of processes that were killed."""
    files = []
    for path in directory.iterdir():
        if _NAME.fullmatch(path.name) or _DRAFT.fullmatch(path.name):
            status = path.lstat()
            files.append((status.st_mtime, status.st_size, path))
    room = _MOST - size
    for used, taken, path in sorted(files, reverse=True):
        room -= taken
        if room < 0 or (_DRAFT.fullmatch(path.name) and time.time() - used > _OLD):
            path.unlink(missing_ok=True)
