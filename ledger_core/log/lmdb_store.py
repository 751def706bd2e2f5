"""The store that lasts: one LMDB environment per ledger and process. The only file that imports lmdb.

LMDB's own rules, and where they are held:
- one environment per file and process: `open_store` hands the same store to everybody, and counts them;
- never across fork: every entry compares the process id and raises `Forked`;
- a huge sparse map, so that it practically never fills; `grow` is the fallback, alone behind a gate;
- a map that another process grew is adopted, behind the same gate;
- no transaction and no buffer escapes its block; a write transaction stays on its thread;
- a write transaction is aborted when no reader of this process is inside: py-lmdb waits for a moment without any
  operation under way, and readers in a row would never give it one;
- a dead process's reader slots are cleared at open and by `clear_readers`;
- the file's size is checked against its own meta pages before it is mapped (`disk`);
- an error at commit poisons the environment: `reopen` closes it and starts from what the device holds.

`fdatasync` runs once per commit, plus the meta page's own synchronous write. What the bytes mean is not known here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

import lmdb

from ledger_core import own_process
from ledger_core.errors import CannotOpen, Closed, Damaged, LedgerError, OutcomeUnknown, StoreFull, forked
from ledger_core.log import disk
from ledger_core.log.gate import Gate
from ledger_core.log.store import CommitUncertain, NeedsRoom, Tree

MAP_SIZE: Final = 1 << 40
_MAX_READERS: Final = 1024
_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_open: dict[tuple[int, int], LmdbStore] = {}
_opening = Lock()


class LmdbReader:
    """A read transaction; values are copies."""

    def __init__(self, txn: lmdb.Transaction, trees: list[Any]) -> None:
        self._txn = txn
        self._trees = trees

    def get(self, tree: Tree, key: bytes) -> bytes | None:
        try:
            return self._txn.get(key, db=self._trees[tree])  # type: ignore[return-value]  # buffers are off
        except lmdb.Error as error:
            raise _damaged(error) from error

    def scan(self, tree: Tree, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._txn.cursor(db=self._trees[tree]) as cursor:
                if not reverse:
                    if cursor.set_range(start):
                        yield from cursor.iternext()  # type: ignore[misc]  # buffers are off
                elif cursor.prev() if start and cursor.set_range(start) else cursor.last():
                    yield from cursor.iterprev()  # type: ignore[misc]
        except lmdb.Error as error:
            raise _damaged(error) from error

    def count(self, tree: Tree) -> int:
        try:
            return int(self._txn.stat(self._trees[tree])["entries"])
        except lmdb.Error as error:
            raise _damaged(error) from error


class LmdbWriter(LmdbReader):
    """The write transaction."""

    def put(self, tree: Tree, key: bytes, value: bytes) -> None:
        try:
            self._txn.put(key, value, db=self._trees[tree])
        except lmdb.Error as error:
            raise _unwritable(error) from error

    def append(self, tree: Tree, key: bytes, value: bytes) -> None:
        try:
            if self._txn.put(key, value, db=self._trees[tree], append=True):
                return
        except lmdb.KeyExistsError:
            pass
        except lmdb.Error as error:
            raise _unwritable(error) from error
        raise Damaged(f"Key {key.hex()} is to be appended, but is not above the last.")

    def delete(self, tree: Tree, key: bytes) -> bool:
        try:
            return bool(self._txn.delete(key, db=self._trees[tree]))
        except lmdb.Error as error:
            raise _unwritable(error) from error


class LmdbStore:
    """One environment, shared by all who open it in this process."""

    def __init__(self, path: Path, *, readonly: bool, map_size: int) -> None:
        self.path = path
        self.readonly = readonly
        self.users = 0
        self._map_size = map_size
        self._gate = Gate()
        self._writing = Lock()
        self._pid = os.getpid()
        self._env: lmdb.Environment | None = None
        self._closed = False
        self._trees: list[Any] = []
        self._start()

    @contextmanager
    def read(self) -> Iterator[LmdbReader]:
        txn = self._begin(write=False)
        try:
            yield LmdbReader(txn, self._trees)
        finally:
            txn.abort()
            self._gate.leave()

    @contextmanager
    def write(self) -> Iterator[LmdbWriter]:
        with self._writing:
            txn = self._begin(write=True)
            try:
                try:
                    yield LmdbWriter(txn, self._trees)
                except BaseException:
                    with self._gate.emptied():
                        txn.abort()
                    raise
                _commit(txn)
            finally:
                self._gate.leave()

    def version(self) -> int:
        txn = self._begin(write=False)  # not env.info(): a meta page shows a commit before readers get its version
        try:
            return int(txn.id())
        finally:
            txn.abort()
            self._gate.leave()

    def grow(self) -> None:
        with self._gate.alone():
            env = self._environment()
            env.set_mapsize(max(int(env.info()["map_size"]) * 2, self._map_size))

    def reopen(self) -> None:
        with self._gate.alone():
            env, self._env = self._env, None
            if env is not None:
                env.close()
            try:
                self._start()
            except (LedgerError, lmdb.Error) as error:
                raise OutcomeUnknown(
                    f"The device failed at a commit, and the ledger cannot be opened again: {error}",
                    hint="Check the disk; then open the ledger and look whether the append is there.",
                ) from error

    def close(self) -> None:
        with _opening:
            self.users -= 1
            if self.users > 0 or self._closed:
                return
            self._closed = True
            _open.pop(_identity(self.path), None)
            if os.getpid() == self._pid:
                with self._gate.alone():
                    if self._env is not None:
                        self._env.close()
            self._env = None

    def clear_readers(self) -> int:
        """Clear the reader slots of dead processes; returns how many there were."""
        return int(self._environment().reader_check())

    def data_version_file(self) -> Path:
        """The file that every commit writes to: what a follower in another process watches."""
        return self.path / disk.DATA

    def _environment(self) -> lmdb.Environment:
        if os.getpid() != self._pid:
            raise forked()
        if self._closed:
            raise Closed("This ledger was closed.", hint="Open it again.")
        if self._env is None:  # a recovery that was itself interrupted
            self._start()
        assert self._env is not None
        return self._env

    def _begin(self, *, write: bool) -> lmdb.Transaction:
        """Enter the gate and begin; adopts a map that another process has grown."""
        while True:
            if os.getpid() != self._pid:
                self._environment()
            self._gate.enter()
            try:
                return self._environment().begin(write=write)
            except lmdb.MapResizedError:
                self._gate.leave()
                with self._gate.alone():
                    self._environment().set_mapsize(0)
            except lmdb.PanicError:
                self._gate.leave()
                self.reopen()
            except lmdb.ReadonlyError:
                self._gate.leave()
                raise CannotOpen(f"{self.path} was opened for reading only.") from None
            except lmdb.ReadersFullError:
                self._gate.leave()
                raise CannotOpen(
                    f"All {_MAX_READERS} reader slots of {self.path} are taken.",
                    hint="Close other readers, or wait for them.",
                ) from None
            except BaseException:
                self._gate.leave()
                raise

    def _start(self) -> None:
        _check_file(self.path)
        size = self._map_size
        while True:
            try:
                env = lmdb.open(
                    str(self.path),
                    map_size=size,
                    max_dbs=len(Tree) + 4,
                    max_readers=_MAX_READERS,
                    readonly=self.readonly,
                    create=not self.readonly,
                    mode=0o600,
                )
                break
            except (lmdb.MemoryError, MemoryError) as error:  # a limit on address space: a smaller map, growing later
                size //= 4
                if size < 1 << 24:
                    raise CannotOpen(f"No map of {size:,} bytes can be made for {self.path}: {error}") from error
            except lmdb.Error as error:
                raise _cannot_open(self.path, error) from error
        try:
            with env.begin() as txn:
                names = set(txn.cursor().iternext(values=False))
            if names and names != {tree.name.lower().encode() for tree in Tree}:
                env.close()
                raise Damaged(
                    f"{self.path} is another program's LMDB file.", hint="Choose another --root; nothing was changed."
                )
            if not names and not self.readonly:
                with env.begin(write=True) as txn:  # all three or none
                    for tree in Tree:
                        env.open_db(tree.name.lower().encode(), txn=txn)
            self._trees = [env.open_db(tree.name.lower().encode(), create=False) for tree in Tree]
            env.reader_check()
        except lmdb.MapResizedError:  # another process grew it since it was opened: open it as it is now
            env.close()
            self._start()
            return
        except lmdb.NotFoundError:
            env.close()
            raise CannotOpen(f"{self.path} holds no ledger.", hint="Create one: agentledger init.") from None
        except lmdb.Error as error:
            env.close()
            raise _cannot_open(self.path, error) from error
        self._env = env


def open_store(path: Path, *, readonly: bool = False, map_size: int = MAP_SIZE) -> LmdbStore:
    """The store in `path`, created unless `readonly`; the same object for the same directory in one process.

    Raises `CannotOpen` (permissions, a file in the way, a network file system, no ledger) and `Damaged`.
    """
    with _opening:
        try:
            missing = readonly and not path.is_dir()
        except PermissionError:
            raise CannotOpen(f"{path} may not be read by this user.", hint="Check the owner of the ledger.") from None
        if missing:
            raise CannotOpen(f"There is no ledger in {path.parent}.", hint="Create one: agentledger init.")
        _make_directory(path)
        disk.refuse_network(path)
        store = _open.get(_identity(path))
        if store is not None and store._pid == os.getpid():
            if store.readonly and not readonly:
                raise CannotOpen(f"{path} is open for reading only in this process.", hint="Close it first.")
        else:
            with _alone_in(path):
                fresh = not (path / disk.DATA).exists()
                store = LmdbStore(path, readonly=readonly, map_size=map_size)
                if fresh:
                    disk.sync_directory(path)
                    disk.sync_directory(path.parent)
            _open[_identity(path)] = store
        store.users += 1
        return store


def read_everything(path: Path) -> int:
    """Read every row of an environment whose file may lack pages; returns their number. May kill the process.

    For child processes only: a missing page is a SIGBUS, which no `except` catches.
    """
    env = lmdb.open(str(path), map_size=MAP_SIZE, max_dbs=len(Tree) + 4, readonly=True, lock=False, create=False)
    rows = 0
    with env.begin(buffers=True) as txn:
        for tree in Tree:
            with txn.cursor(db=env.open_db(tree.name.lower().encode(), txn=txn, create=False)) as cursor:
                for _, value in cursor:
                    rows += bool(bytes(value[-1:]))
    return rows


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CannotOpen(f"{path} cannot be a ledger: a file is in its way.", hint="Choose another --root.") from None
    except OSError as error:
        raise CannotOpen(f"{path} cannot be created: {error.strerror}.", hint="Choose another --root.") from None


@contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """Hold the directory itself, so that two processes do not both write the first meta pages."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_file(path: Path) -> None:
    """Refuse a data file that is shorter than it says, unless a child process can read all of it.

    LMDB need not write the last pages of a file if it freed them in the same commit, so a short file may be whole.
    """
    meta = disk.read_meta(path)
    if meta is None or not (missing := disk.missing_bytes(path, meta)):
        return
    probe = [*own_process.command("ledger_core.log.probe"), str(path)]
    if subprocess.run(probe, capture_output=True, check=False, env=own_process.environment()).returncode != 0:
        raise Damaged(
            f"{path / disk.DATA} is cut short: {missing:,} of {meta.promised:,} bytes are missing.",
            hint="Restore it from a backup; `agentledger verify` says what is left.",
            missing=missing,
        )


def _cannot_open(path: Path, error: lmdb.Error) -> LedgerError:
    if isinstance(error, (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)):
        return Damaged(f"{path} is no intact LMDB environment: {error}.", hint="Restore it from a backup.")
    if isinstance(error, lmdb.ReadonlyError) or "ermission" in str(error) or "ead-only" in str(error):
        return CannotOpen(
            f"{path} may not be written by this user, and even readers register in its lock file.",
            hint="Get write permission, or copy the ledger and read the copy.",
        )
    return CannotOpen(f"{path} cannot be opened: {error}.")


def _commit(txn: lmdb.Transaction) -> None:
    try:
        txn.commit()
    except lmdb.MapFullError:
        raise NeedsRoom from None
    except lmdb.Error as error:
        if _is_full(error):
            raise _full(error) from error
        raise CommitUncertain(str(error)) from error


def _is_full(error: lmdb.Error) -> bool:
    return any(os.strerror(number) in str(error) for number in _ROOM)


def _full(error: lmdb.Error) -> StoreFull:
    return StoreFull(f"The append was refused whole: {error}.", hint="Make room on the device; the log is as it was.")


def _unwritable(error: lmdb.Error) -> Exception:
    if isinstance(error, lmdb.MapFullError):
        return NeedsRoom()
    return _full(error) if _is_full(error) else _damaged(error)


def _damaged(error: lmdb.Error) -> Damaged:
    return Damaged(f"LMDB cannot read its own pages: {error}.", hint="Run `agentledger verify`; restore from a backup.")
