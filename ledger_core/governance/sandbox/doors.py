"""Opens doors for a tool's user, in a view of its own of the file system, and becomes another program.

    python -I -S -B -c LOADER doors.py UID MOUNT... -- PROGRAM ARGUMENT...

A MOUNT is `mask:PATH` (an empty directory), `ro:PATH` (the host's own, in a mask) or `link:TARGET:PATH`; they come in
the order of their depth. UID is who to be, or -1.

Rules: for root only: an interpreter in /root can be used by nobody else, whom root's /root would keep out. So /root is
covered by an empty one, in which the interpreter alone is to be seen; nobody else's view changes. Nothing that a user
could not read by its own mode becomes readable.
"""

# ruff: noqa: S606 - it becomes the program that it was told

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18  # linux/mount.h
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS
_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> NoReturn:
    """Mount, and become the program."""
    uid, end = int(arguments[0]), arguments.index("--")
    mount_all([mount.split(":", 2 if mount.startswith("link:") else 1) for mount in arguments[1:end]])
    if uid >= 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    os.execv(arguments[end + 1], arguments[end + 1 :])


def mount_all(plans: list[list[str]]) -> None:
    """Make the mounts, in a namespace of this process."""
    _checked(_libc.unshare(_NEW_MOUNTS), "a mount namespace")
    _mount("none", "/", "", _REC | _PRIVATE, "")
    held = {plan[1]: os.open(plan[1], os.O_PATH | os.O_CLOEXEC) for plan in plans if plan[0] == "ro"}
    for kind, *rest in plans:
        at = rest[-1]
        if kind == "mask":
            _mount("tmpfs", at, "tmpfs", _NOSUID | _NODEV, "mode=755,size=1m")
            continue
        os.makedirs(os.path.dirname(at), 0o755, exist_ok=True)
        if kind == "link":
            os.symlink(rest[0], at)
            continue
        source = f"/proc/self/fd/{held[at]}"
        if os.path.isdir(source):
            os.makedirs(at, 0o755, exist_ok=True)
        else:
            os.close(os.open(at, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(source, at, "", _BIND | _REC, "")
    for kind, at, *_ in plans:
        if kind == "mask":
            _mount("none", at, "", _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV, "")


def _mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    done = _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode())
    _checked(done, target)


def _checked(done: int, what: str) -> None:
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


if __name__ == "__main__":
    main(sys.argv[2:])
