"""Where rows are kept: an LMDB environment of what is derived, which may be deleted at any time.

    views.lmdb/current -> g-…   the generation that is read
    views.lmdb/b-PID-…          one that process PID builds; when it is done its name begins with `g-`, and is current

Rules: what is in it can be had again from the log, so what is damaged, short or of another shape is thrown away and
never repaired. Each commit is whole, or not there: a process that is killed leaves no half of one. Data is synced, the
meta page is not, so that a loss of power costs the last commits and nothing else. This file knows bytes, not rows.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

import lmdb

from ledger_core.errors import CannotOpen, LedgerError, StoreFull
from ledger_core.log import disk

VIEWS: Final = "views.lmdb"
_CURRENT: Final = "current"
_MAP: Final = 1 << 40
_FULL: Final = ("No space left", "File too large", "quota exceeded", "Input/output error")
"""What a device says that takes no more; a write that was cut short is an input/output error."""


class Broken(LedgerError):
    """What is kept cannot be read: it is thrown away and made again."""

    def __init__(self, why: object) -> None:
        super().__init__(
            f"What is derived of the log cannot be read: {why}.",
            hint=f"Delete {VIEWS} in the ledger's directory: it is made again from the log.",
        )


class Reader:
    """One version of what is kept; use it within its block only."""

    def __init__(self, txn: lmdb.Transaction, trees: dict[str, Any]) -> None:
        self._txn = txn
        self._trees = trees

    def get(self, tree: str, key: bytes) -> bytes | None:
        """The value of a key."""
        return self._txn.get(key, db=self._trees[tree])  # type: ignore[return-value]  # buffers are off

    def scan(self, tree: str, start: bytes = b"", *, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows from `start` upwards whose keys begin with `prefix`."""
        with self._txn.cursor(db=self._trees[tree]) as cursor:
            if cursor.set_range(max(start, prefix)):
                for key, value in cursor:
                    if not bytes(key).startswith(prefix):
                        return
                    yield key, value  # type: ignore[misc]  # buffers are off

    def backwards(self, tree: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows, downwards."""
        with self._txn.cursor(db=self._trees[tree]) as cursor:
            if cursor.last():
                yield from cursor.iterprev()  # type: ignore[misc]

    def count(self, tree: str) -> int:
        """Number of rows."""
        return int(self._txn.stat(self._trees[tree])["entries"])


class Writer(Reader):
    """The next version of what is kept."""

    def put(self, tree: str, key: bytes, value: bytes) -> None:
        """Set a row."""
        self._txn.put(key, value, db=self._trees[tree])

    def delete(self, tree: str, key: bytes) -> None:
        """Remove a row, if it is there."""
        self._txn.delete(key, db=self._trees[tree])

    def clear(self, tree: str, prefix: bytes = b"") -> None:
        """Remove all rows whose keys begin with `prefix`."""
        if not prefix:
            self._txn.drop(self._trees[tree], delete=False)
        for key in [key for key, _ in self.scan(tree, prefix=prefix)] if prefix else ():
            self.delete(tree, key)


class Store:
    """One environment, shared by all who open it in one process: LMDB's locks demand that. Made by `opened`."""

    def __init__(self, path: Path, trees: Iterable[str], *, fast: bool) -> None:
        self.users = 0
        self._pid = os.getpid()
        _check(path)
        size = _MAP
        with _errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                try:
                    self._env = lmdb.open(
                        str(path), map_size=size, max_dbs=64, sync=not fast, metasync=False, mode=0o600, max_readers=512
                    )
                    break
                except (lmdb.MemoryError, MemoryError):  # a limit on address space
                    size //= 4
                    if size < 1 << 24:
                        raise
            self._env.reader_check()
            with self._env.begin(write=True) as txn:
                self._trees = {tree: self._env.open_db(tree.encode(), txn=txn) for tree in trees}
        self.path = path

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """A snapshot; raises `Broken`."""
        with _errors(self.path), self._env.begin() as txn:
            yield Reader(txn, self._trees)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """The one writer of all processes; commits at the end of the block. Raises `StoreFull`, `Broken`."""
        with _errors(self.path), self._env.begin(write=True) as txn:
            yield Writer(txn, self._trees)

    def sync(self) -> None:
        """Make all of it durable."""
        with _errors(self.path):
            self._env.sync(True)

    def close(self) -> None:
        """Let go of it, once for each time that it was opened."""
        with _opening:
            self.users -= 1
            if self.users == 0:
                _open.pop((str(self.path), self._pid), None)
                if os.getpid() == self._pid:
                    self._env.close()


_open: Final[dict[tuple[str, int], Store]] = {}
_opening: Final = Lock()


def opened(path: Path, trees: Iterable[str], *, fast: bool = False) -> Store:
    """The environment in a directory, made if there is none; raises `Broken`, `CannotOpen`, `StoreFull`.

    With `fast` nothing is synced before `sync` is called: for what nobody reads before.
    """
    place = (str(path), os.getpid())
    with _opening:
        if place not in _open:
            _open[place] = Store(path, trees, fast=fast)
        _open[place].users += 1
        return _open[place]


# Generations


def current(root: Path) -> Path:
    """The directory of the generation that is read, made if there is none; raises `CannotOpen`."""
    views = root / VIEWS
    with _alone(views):
        link = views / _CURRENT
        if link.is_dir():
            return views / os.readlink(link)
        generation = views / f"g-{secrets.token_hex(6)}"
        generation.mkdir(mode=0o700)
        _point(views, generation.name)
        return generation


def building(root: Path) -> Path:
    """The directory of a new generation of this process's, not made yet; those of dead processes are taken away."""
    views = root / VIEWS
    with _alone(views):
        for left in views.glob("b-*"):
            if not _runs(left.name.split("-")[1]):
                shutil.rmtree(left, ignore_errors=True)
    return views / f"b-{os.getpid()}-{secrets.token_hex(4)}"


def adopt(root: Path, built: Path) -> None:
    """Have a generation read from now on. The one before goes; who has it open reads it to its end."""
    views = root / VIEWS
    with _alone(views):
        generation = views / f"g-{secrets.token_hex(6)}"
        built.rename(generation)
        _point(views, generation.name)
        for other in views.glob("g-*"):
            if other != generation:
                shutil.rmtree(other, ignore_errors=True)


def discard(root: Path, generation: Path) -> None:
    """Throw a generation away, if it is still the one that is read."""
    views = root / VIEWS
    with _alone(views):
        if (views / _CURRENT).resolve() == generation.resolve():
            (views / _CURRENT).unlink(missing_ok=True)
        shutil.rmtree(generation, ignore_errors=True)


@contextmanager
def _alone(views: Path) -> Iterator[None]:
    """Hold the directory, so that two processes do not both begin, or adopt."""
    try:
        if views.is_symlink() or (views.exists() and not views.is_dir()):
            raise CannotOpen(f"{views} is no directory.", hint="Move it away: what is derived is made again.")
        views.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(views, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CannotOpen(
            f"What is derived cannot be kept in {views}: {error.strerror or error}.",
            hint="Check its owner and the disk; the log is not touched.",
        ) from None


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _point(views: Path, name: str) -> None:
    link = views / f".{_CURRENT}-{secrets.token_hex(4)}"
    os.symlink(name, link)
    os.replace(link, views / _CURRENT)


def _check(path: Path) -> None:
    """Refuse a data file that is shorter than it says: reading it would kill the process."""
    try:
        meta = disk.read_meta(path)
    except LedgerError as error:
        raise Broken(error.sentence.rstrip(".")) from None
    if meta is not None and disk.missing_bytes(path, meta):
        raise Broken("it is cut short")


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """What LMDB says, in our words."""
    try:
        yield
    except lmdb.Error as error:
        if isinstance(error, lmdb.MapFullError) or any(word in str(error) for word in _FULL):
            raise StoreFull(
                f"What is derived could not be kept: {error}.", hint="Make room on the device; the log is as it was."
            ) from error
        if isinstance(error, (lmdb.LockError, lmdb.ReadersFullError, lmdb.ReadonlyError)) or "ermission" in str(error):
            raise CannotOpen(f"What is derived cannot be kept in {path}: {error}.") from error
        raise Broken(str(error)) from error
