"""A user of its own for each sandbox that root starts, so that the kernel counts its processes and keeps it from files.

Rules: a user id is one that this machine's users do not have, and no other sandbox has at the same time: it is locked
by an abstract socket of that name, which is gone with the process that holds it. Ids come from where nobody else takes
them, above 2**30, or from the upper part of what a container maps. Its group has the same number.
"""

from __future__ import annotations

import os
import pwd
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ledger_core.governance.sandbox.ending import SandboxUnavailable

_LOW: Final = 1 << 30
_HIGH: Final = 1 << 31
_TRIES: Final = 100
_BOMB: Final = 1024
"""Processes that a bomb of forks may reach, between two looks at it, where only all of a user's can be counted."""


def crowd(processes: int, *, alone: bool) -> int:
    """What the kernel is told as a tool's most processes: `processes`, where it counts the tool's `alone`.

    Else it counts all of this user's, which come and go: then it is told a bound for a bomb of forks, far above those
    that there are, and what a tool has is looked at.
    """
    if alone:
        return processes
    return processes + _BOMB + sum(map(_threads, filter(str.isdigit, os.listdir("/proc"))))


def _threads(process: str) -> int:
    """How many threads a process has, if it is this user's."""
    try:
        return len(os.listdir(f"/proc/{process}/task")) if os.stat(f"/proc/{process}").st_uid == os.getuid() else 0
    except OSError:
        return 0


@contextmanager
def borrowed() -> Iterator[int]:
    """A user id for as long as the block lasts; raises `SandboxUnavailable`."""
    low, high = _range()
    for _ in range(_TRIES):
        uid = low + secrets.randbelow(high - low)
        if _known(uid):
            continue
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
            try:
                lock.bind(f"\0agentledger-sandbox-{uid}")
            except OSError:
                continue
            yield uid
            return
    raise SandboxUnavailable(
        f"No free user id was found between {low:,} and {high:,} for a sandbox.",
        hint="Run fewer sandboxes at once, or map more user ids into this container.",
    )


def _range() -> tuple[int, int]:
    """The ids to take from: those that both maps of this user namespace hold."""
    users, groups = (_mapped(f"/proc/self/{kind}_map") for kind in ("uid", "gid"))
    low, high = max(users[0], groups[0]), min(users[1], groups[1])
    if high >= _HIGH and low <= _LOW:
        return _LOW, _HIGH
    upper = low + (high - low) * 3 // 4
    if high - upper < 256:
        raise SandboxUnavailable(
            f"This container maps the user ids from {low:,} to {high:,}: too few for users of sandboxes.",
            hint="Map 65,536 ids into it, or run as another user than root.",
        )
    return upper, high


def _mapped(path: str) -> tuple[int, int]:
    """The largest range of ids that is mapped: its first, and the one behind its last."""
    with open(path, encoding="ascii") as file:
        lines = [tuple(map(int, line.split())) for line in file]
    first, _, count = max(lines, key=lambda line: line[2])
    return first, first + count


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
