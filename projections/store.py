"""Where rows are kept: an LMDB environment of what is derived, which may be deleted at any time.

    views.lmdb/current-CODE -> g-…   the generation that programs of that code read: others have their own
    views.lmdb/b-…                   one that is being built; its maker holds `lock` in it

Rules: what is in it can be had again from the log, so what is damaged, short or of another shape is thrown away and
never repaired; and nothing is thrown away but directories that bear our names, in that place. Each commit is whole, or
not there: a process that is killed leaves no half of one. Data is synced, the meta page is not, so that a loss of power
costs the last commits and nothing else. This file knows bytes, not rows.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

import lmdb

from ledger_core.errors import CannotOpen, LedgerError, StoreFull
from ledger_core.log import disk

VIEWS: Final = "views.lmdb"
_GENERATION: Final = re.compile("g-[0-9a-f]{12}")
_KEPT: Final = 7 * 86_400
"""Seconds after which a generation of other code that nobody has written to is taken away."""
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


class Gone(Exception):
    """This environment was closed: another generation is read now."""


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

    def put_all(self, tree: str, rows: Iterable[tuple[bytes, bytes]], *, above: bool = False) -> int:
        """Set rows; gives how many. With `above` they come in order, and are above all that are there: faster."""
        with self._txn.cursor(db=self._trees[tree]) as cursor:
            return int(cursor.putmulti(rows, append=above)[0])

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

    def held(self) -> Store:
        """The same, for one more to close; raises `Gone` if everybody has let go of it."""
        with _opening:
            if self.users == 0:
                raise Gone
            self.users += 1
            return self

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


def current(root: Path, code: str) -> Path:
    """The directory of the generation that this code reads, made if there is none; raises `CannotOpen`."""
    views = root / VIEWS
    with _alone(views):
        found = _pointed(views, code)
        if found is not None:
            return found
        _clear(views)
        generation = views / _drawn()
        generation.mkdir(mode=0o700)
        _point(views, code, generation.name)
        return generation


@contextmanager
def building(root: Path) -> Iterator[Path]:
    """A directory for a new generation; it is taken away behind the block, unless it was adopted.

    What others left that do not live any more goes as well: whoever builds holds a lock, on whatever host it is.
    """
    views = root / VIEWS
    with _alone(views):
        for left in views.glob("b-*"):
            if not _locked(left):
                shutil.rmtree(left, ignore_errors=True)
        built = views / f"b-{secrets.token_hex(6)}"
        built.mkdir(mode=0o700)
        lock = os.open(built / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield built
    finally:
        os.close(lock)
        shutil.rmtree(built, ignore_errors=True)


def adopt(root: Path, code: str, built: Path) -> None:
    """Have a generation read from now on. The one before goes; who has it open reads it to its end."""
    views = root / VIEWS
    with _alone(views):
        generation = views / _drawn()
        built.rename(generation)
        (generation / _LOCK).unlink(missing_ok=True)
        _point(views, code, generation.name)
        _clear(views)


def discard(root: Path, code: str, generation: Path) -> None:
    """Throw a generation away, if it is still the one that is read."""
    views = root / VIEWS
    with _alone(views):
        if _pointed(views, code) == generation:
            (views / f"current-{code}").unlink()
            shutil.rmtree(generation, ignore_errors=True)


_LOCK: Final = "lock"


def _pointed(views: Path, code: str) -> Path | None:
    """The generation that a name points to, if it is one of ours; what else bears the name goes, and not its target."""
    link = views / f"current-{code}"
    if link.is_symlink():
        name = os.readlink(link)
        generation = views / name
        if _GENERATION.fullmatch(name) and generation.is_dir() and not generation.is_symlink():
            return generation
        link.unlink()
    elif link.is_dir():
        shutil.rmtree(link)
    elif link.exists():
        link.unlink()
    return None


def _clear(views: Path) -> None:
    """Take away generations that no name points to, and names of code that has not been seen for long."""
    pointed = set()
    for link in views.glob("current-*"):
        generation = _pointed(views, link.name.removeprefix("current-"))
        if generation is None:
            continue
        data = generation / disk.DATA
        if data.exists() and time.time() - data.stat().st_mtime > _KEPT:
            link.unlink()
        else:
            pointed.add(generation.name)
    for other in views.glob("g-*"):
        if other.name not in pointed and not other.is_symlink():
            shutil.rmtree(other, ignore_errors=True)


def _locked(built: Path) -> bool:
    """Whether somebody builds there."""
    try:
        lock = os.open(built / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _drawn() -> str:
    return f"g-{secrets.token_hex(6)}"


@contextmanager
def _alone(views: Path) -> Iterator[None]:
    """Hold the directory, so that two processes do not both begin, or adopt."""
    try:
        if views.is_symlink() or (views.exists() and not views.is_dir()):
            raise CannotOpen(f"{views} is no directory.", hint="Move it away: what is derived is made again.")
        views.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(views, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(views, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise _unwritable(views, error) from None
    finally:
        os.close(descriptor)


def _unwritable(views: Path, error: OSError) -> CannotOpen:
    return CannotOpen(
        f"What is derived cannot be kept in {views}: {error.strerror or error}.",
        hint="Check its owner and the disk; the log is not touched.",
    )


def _point(views: Path, code: str, name: str) -> None:
    link = views / f".current-{secrets.token_hex(4)}"
    os.symlink(name, link)
    os.replace(link, views / f"current-{code}")


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
