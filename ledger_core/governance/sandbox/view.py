"""What a sandbox sees of the file system, as a list of mounts: the root or nothing, masks on it, and holes in them.

Rules: a mount list is in the order of depth, so that what lies deeper stands on what lies above it. What is hidden
stays hidden, whatever else is asked; what is asked for and hidden is refused. A path is taken with every symbolic link
on its way. Where the tool runs as another user (`foreign`: we are root), a directory that others may not enter is a
mask with holes for what the tool needs: its owner's rights are not the tool's. This file looks at the file system, and
mounts nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final, Literal

import attrs

from ledger_core.governance.sandbox.ending import SandboxUnavailable
from ledger_core.governance.sandbox.policy import within

Kind = Literal["ro", "rw", "mask", "null", "private", "link", "proc", "dev"]
SYSTEM: Final = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/nix/store",
)
"""What an interpreter needs beside its own directories."""
NETWORK: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
)
"""What a program needs that looks for other machines."""
_OWN: Final = ("/", "/proc", "/dev", "/tmp", "/run")  # noqa: S108 - the sandbox's own
_LINKS: Final = 40


@attrs.frozen
class Mount:
    """Something that stands at a path: `ro` and `rw` the host's own; `mask` an empty directory, `null` a file that
    cannot be read, `private` an empty directory that may be written, `link` a symbolic link to `target`."""

    path: str
    kind: Kind
    target: str = ""
    closed: bool = False
    """The path on the host cannot be reached by the tool's user: only by a descriptor that root opened."""

    @property
    def shows(self) -> bool:
        """Whether what lies below is what lies below on the host."""
        return self.kind in ("ro", "rw")


_STANDARD: Final = (
    Mount("/proc", "proc"),
    Mount("/dev", "dev"),
    Mount("/tmp", "private"),  # noqa: S108
    Mount("/run", "mask"),
)
"""What every sandbox has of its own."""


def view(
    *,
    read: Iterable[str] | None,
    write: Iterable[str],
    needs: Iterable[str],
    hide: Iterable[str] = (),
    foreign: bool = False,
    host: bool = False,
) -> list[Mount]:
    """The mounts of a sandbox; raises `SandboxUnavailable` for paths that cannot be given.

    `read` None shows the whole root. With `host` there are no masks but those of directories that a foreign user may
    not enter.
    """
    made = _Making(foreign=foreign)
    made.put(Mount("/", "ro" if read is None or host else "mask"))
    for mount in () if host else _STANDARD:
        if os.path.isdir(mount.path):
            made.put(mount)
    hidden = sorted({real for path in hide if (real := os.path.realpath(path)) not in _OWN and os.path.lexists(real)})
    for path in hidden:
        made.put(Mount(path, "mask" if os.path.isdir(path) else "null"))
    try:
        for path in sorted(write):
            made.want(path, "rw", hidden, asked=True)
        for path in sorted(read or ()):
            made.want(path, "ro", hidden, asked=True)
        for path in sorted({*needs, *(SYSTEM if read is not None else ())}):
            made.want(path, "ro", hidden, asked=False)
        return made.done(hidden)
    except OSError as error:
        raise SandboxUnavailable(f"A path of the sandbox cannot be looked at: {error}.") from None


def closed_to_others(path: str, below: str = "/") -> str | None:
    """The first directory on the way from `below` to a path, neither included, that others may not enter."""
    at = below.rstrip("/")
    for name in path[len(at) :].strip("/").split("/")[:-1]:
        at += f"/{name}"
        if not os.stat(at).st_mode & stat.S_IXOTH:
            return at
    return None


def open_to_others(path: str) -> bool:
    """Whether others may read a file, or enter and list a directory, where they can reach it."""
    mode = os.stat(path).st_mode
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    return mode & wanted == wanted


class _Making:
    """Mounts under way, by path."""

    def __init__(self, *, foreign: bool) -> None:
        self._foreign = foreign
        self._mounts: dict[str, Mount] = {}

    def put(self, mount: Mount) -> None:
        self._mounts[mount.path] = mount

    def above(self, path: str, *, itself: bool = True) -> Mount:
        """The mount that decides what is at a path."""
        at = path if itself else os.path.dirname(path)
        while at not in self._mounts:
            at = os.path.dirname(at)
        return self._mounts[at]

    def want(self, path: str, kind: Kind, hidden: list[str], *, asked: bool) -> None:
        """Have a path seen, and every link on its way; one that Python might need may be missing."""
        found = _trace(path)
        if found is None:
            if asked:
                raise SandboxUnavailable(f"The sandbox is to have {path}, which is not there.")
            return
        links, real = found
        if self._kept_out(path, real, hidden, asked=asked):
            return
        for link, target in links:
            if not self.above(link).shows or self._door(link):
                self.put(Mount(link, "link", target))
        cover = self.above(real)
        if cover.shows and not self._door(real) and cover.kind in (kind, "rw"):
            return
        if self._foreign and not _usable(real, kind):
            if asked:
                raise _not_for_others(real, kind)
            return
        self.put(Mount(real, kind, closed=self._foreign and closed_to_others(real) is not None))

    def _kept_out(self, path: str, real: str, hidden: list[str], *, asked: bool) -> bool:
        """Whether a path stays what the sandbox has there; raises if it was asked for."""
        secret = next((one for one in hidden if within(real, one)), None)
        if secret is not None and not asked:
            return True
        if secret is not None:
            raise SandboxUnavailable(
                f"The sandbox is to have {path}, and {secret} is hidden from every sandbox.",
                hint="Put what the tool needs elsewhere.",
            )
        if real == "/":
            return not asked
        own = next((one for one in _OWN[1:] if within(real, one)), None)
        if own is None or (own in ("/tmp", "/run") and real != own):  # noqa: S108
            return False
        if asked and own != "/tmp":  # noqa: S108
            raise SandboxUnavailable(f"The sandbox is to have {path}, and has a {own} of its own.")
        return True

    def _door(self, path: str) -> bool:
        """Whether a directory on the way is closed to the tool's user; it becomes a mask, for what is needed in it."""
        closed = closed_to_others(path, self.above(path).path) if self._foreign else None
        if closed is not None:
            self.put(Mount(closed, "mask"))
        return closed is not None

    def done(self, hidden: list[str]) -> list[Mount]:
        """The mounts in order, without masks of what cannot be seen anyway."""
        for path in (*hidden, "/run"):
            inside = any(one != path and within(one, path) for one in self._mounts)
            if not self._there(path) and not inside and path in self._mounts:
                del self._mounts[path]
        for mount in [one for one in self._mounts.values() if one.path != "/" and one.kind in ("link", "ro", "rw")]:
            # Wanted before the directory that holds it: it came with that, and cannot be made a second time.
            cover = self.above(mount.path, itself=False)
            if self._there(mount.path) and (mount.kind == "link" or cover.kind in (mount.kind, "rw")):
                del self._mounts[mount.path]
        return sorted(self._mounts.values(), key=lambda mount: (mount.path.rstrip("/").count("/"), mount.path))

    def _there(self, path: str) -> bool:
        """Whether the tool sees at a path, without its own mount, what the host has there."""
        cover = self.above(path, itself=False)
        return cover.shows and not (self._foreign and closed_to_others(path, cover.path) is not None)


def _usable(path: str, kind: Kind) -> bool:
    if kind == "rw":
        return bool(os.stat(path).st_mode & stat.S_IWOTH) and open_to_others(path)
    return open_to_others(path)


def _not_for_others(path: str, kind: Kind) -> SandboxUnavailable:
    what = "write" if kind == "rw" else "read"
    return SandboxUnavailable(
        f"The sandbox is to {what} {path}, and others may not: a tool of root's runs as a user of its own.",
        hint=f"chmod o+{'rwx' if kind == 'rw' else 'rX'} {path}, or run as another user than root.",
    )


def _trace(path: str) -> tuple[list[tuple[str, str]], str] | None:
    """The symbolic links on the way to a path, and where it leads; None if it leads nowhere."""
    links: list[tuple[str, str]] = []
    rest, at = path.strip("/").split("/"), ""
    while rest:
        name = rest.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            at = os.path.dirname(at) if at else ""
            at = "" if at == "/" else at
            continue
        here = f"{at}/{name}"
        try:
            target = os.readlink(here) if os.path.islink(here) else None
        except OSError:
            return None
        if target is None:
            at = here
            continue
        if len(links) >= _LINKS:
            return None
        links.append((here, target))
        if target.startswith("/"):
            at = ""
        rest[:0] = target.split("/")
    real = at or "/"
    return (links, real) if os.path.lexists(real) else None
