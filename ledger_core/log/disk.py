"""What is asked of the file system before LMDB maps a file, because afterwards a wrong answer kills the process.

Rules: pure reading; nothing here changes a file. LMDB maps its data file: a page that the meta pages promise and the
file does not have is a SIGBUS for whoever reads it, so the promise is checked first, from the meta pages' own bytes
(`struct MDB_meta` of LMDB 0.9, native byte order). This file does not open LMDB.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

from ledger_core.errors import CannotOpen, Damaged

DATA: Final = "data.mdb"
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_META: Final = struct.Struct("=16xIIQQ IHHQQQQQ IHHQQQQQ QQ")
_NETWORK: Final = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "glusterfs"))


class Meta(NamedTuple):
    """What a data file says of itself."""

    page_size: int
    last_page: int
    txn: int

    @property
    def promised(self) -> int:
        """Bytes that the file must have."""
        return (self.last_page + 1) * self.page_size


def read_meta(directory: Path) -> Meta | None:
    """The newer meta page of a data file; None if there is no file; raises `Damaged` if it is no LMDB file."""
    path = directory / DATA
    try:
        with open(path, "rb") as file:
            head = file.read(65_536 + _META.size)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise CannotOpen(f"{path} is a directory; it should be a file.") from None
    except PermissionError:
        raise CannotOpen(f"{path} may not be read by this user.", hint="Check the owner of the ledger.") from None
    if not head:
        return None  # made, and never begun
    metas = []
    for offset in (0, _page_size(head)):
        if offset is not None and len(head) >= offset + _META.size:
            fields = _META.unpack_from(head, offset)
            if fields[0] == _MAGIC and fields[1] == _VERSION:
                metas.append(Meta(page_size=fields[4], last_page=fields[-2], txn=fields[-1]))
    if len(metas) < 2:
        raise Damaged(
            f"{path} has {os.path.getsize(path):,} bytes and is no LMDB data file.",
            hint="It was cut short, overwritten, or belongs to another program; restore it from a backup.",
        )
    return max(metas, key=lambda meta: meta.txn)


def missing_bytes(directory: Path, meta: Meta) -> int:
    """How many of the bytes that the meta pages promise the data file does not have."""
    return max(0, meta.promised - os.path.getsize(directory / DATA))


def refuse_network(path: Path) -> None:
    """Raise `CannotOpen` if `path` lies on a network file system: LMDB's locks and maps do not hold there."""
    kind, mount = _file_system(path.resolve())
    if kind in _NETWORK:
        raise CannotOpen(
            f"{path} lies on a network file system ({kind} at {mount}), where LMDB's locks do not hold.",
            hint="Keep the ledger on a local disk; move copies with `agentledger backup`.",
        )


def sync_directory(path: Path) -> None:
    """Make names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _page_size(head: bytes) -> int | None:
    if len(head) < _META.size:
        return None
    size = int(_META.unpack_from(head, 0)[4])
    return size if 512 <= size <= 65_536 and size & (size - 1) == 0 else None


def _file_system(path: Path) -> tuple[str, str]:
    """Type and mount point of the file system that holds `path`; empty where the system does not say."""
    best = ("", "")
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, mount, kind, *_ = line.split(" ")
                mount = mount.replace("\\040", " ")
                if path.is_relative_to(mount) and len(mount) >= len(best[1]):
                    best = (kind, mount)
    except OSError:
        pass
    return best
