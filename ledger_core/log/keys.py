"""One key per stream, outside LMDB, so that a destroyed key leaves no copy in free pages, archives or backups.

Keys lie in pages of 1,024 slots; the slot is the stream's number. A page is drawn, written and synced as a whole
before its first slot is used, so a new run costs no sync of its own. Destroying a key overwrites its slot with zeros
and syncs.

What that cannot promise: a copy-on-write or log-structured file system, a snapshot, or a flash drive's spare blocks
may keep the old bytes of an overwritten slot. Where this matters, put `keys/` on a device that is encrypted itself,
or behind the same protocol into a key service.

This file does not know what the keys open.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from ledger_core.errors import CannotOpen, Damaged, StoreFull
from ledger_core.failpoints import reach
from ledger_core.ids import StreamNo
from ledger_core.log.cipher import KEY_SIZE
from ledger_core.log.disk import sync_directory

SLOTS: Final = 1024
_MAGIC: Final = b"AgentLedger keys format 1\n".ljust(32, b"\0")
_PAGE: Final = len(_MAGIC) + SLOTS * KEY_SIZE
_DESTROYED: Final = bytes(KEY_SIZE)


class Keys(Protocol):
    """Where streams' keys are kept."""

    def get(self, stream: StreamNo) -> bytes | None:
        """The stream's key; None if it was destroyed or is not among these."""
        ...

    def draw(self, stream: StreamNo) -> bytes:
        """The key of a new stream, durable before this returns."""
        ...

    def destroy(self, stream: StreamNo) -> bool:
        """Make the stream's key unrecoverable; False if it was gone already."""
        ...


class MemoryKeys:
    """Keys in memory: for memory ledgers, and for an auditor who was handed a few."""

    def __init__(self, keys: dict[StreamNo, bytes] | None = None) -> None:
        self._keys = dict(keys or {})

    def get(self, stream: StreamNo) -> bytes | None:
        return self._keys.get(stream)

    def draw(self, stream: StreamNo) -> bytes:
        return self._keys.setdefault(stream, os.urandom(KEY_SIZE))

    def destroy(self, stream: StreamNo) -> bool:
        return self._keys.pop(stream, None) is not None


class KeyDirectory:
    """Keys in a directory of pages, readable by their owner only.

    Pages are mapped once and stay mapped: a key is looked up for every append, and another process's destroying of it
    shows in the map at once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._maps: dict[int, mmap.mmap] = {}

    def get(self, stream: StreamNo) -> bytes | None:
        number, slot = divmod(stream - 1, SLOTS)
        page = self._maps.get(number) or self._map(number)
        if page is None:
            return None
        at = len(_MAGIC) + slot * KEY_SIZE
        key = page[at : at + KEY_SIZE]
        return key if key != _DESTROYED else None

    def draw(self, stream: StreamNo) -> bytes:
        page, offset = self._slot(stream)
        if not page.exists():
            self._create(page)
        key = self.get(stream)
        if key is None:  # destroyed in a history that a restored ledger no longer has: the slot gets a new key
            key = os.urandom(KEY_SIZE)
            self._overwrite(page, offset, key)
        return key

    def destroy(self, stream: StreamNo) -> bool:
        page, offset = self._slot(stream)
        if self.get(stream) is None:
            return False
        self._overwrite(page, offset, _DESTROYED)
        return True

    def empty(self) -> bool:
        """Whether no page was ever drawn here."""
        return not self._slot(StreamNo(1))[0].exists()

    def _map(self, number: int) -> mmap.mmap | None:
        path = self._path / f"{number:08}.keys"
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size != _PAGE or file.read(len(_MAGIC)) != _MAGIC:
                    raise Damaged(
                        f"{path.name} is no page of keys: it was cut short, or is another file.",
                        hint="Restore keys/ from a backup.",
                    )
                page = self._maps[number] = mmap.mmap(file.fileno(), _PAGE, prot=mmap.PROT_READ)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise CannotOpen(f"The keys in {self._path} may not be read by this user.") from None
        return page

    def _slot(self, stream: StreamNo) -> tuple[Path, int]:
        number, slot = divmod(stream - 1, SLOTS)
        return self._path / f"{number:08}.keys", len(_MAGIC) + slot * KEY_SIZE

    def _create(self, page: Path) -> None:
        """Write a page beside its name, sync it, and link it there: whoever comes second uses the first's."""
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write_page(page)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StoreFull(
                    "No room for a page of keys: the append was refused whole.", hint="Make room; the log is as it was."
                ) from None
            raise CannotOpen(f"{page} cannot be written: {error.strerror}.") from None

    def _write_page(self, page: Path) -> None:
        draft = page.with_suffix(f".{os.getpid()}.{os.urandom(4).hex()}.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(_MAGIC + os.urandom(SLOTS * KEY_SIZE))
                file.flush()
                os.fsync(file.fileno())
            reach("keys-written")
            with suppress(FileExistsError):
                os.link(draft, page)
            reach("keys-linked")
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(self._path)

    def _overwrite(self, page: Path, offset: int, key: bytes) -> None:
        descriptor = os.open(page, os.O_WRONLY)
        try:
            os.pwrite(descriptor, key, offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
