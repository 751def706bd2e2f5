"""Looking at what runs: the processes below one, how many they are, and what memory they take together.

Rules: it looks through /proc, and what cannot be seen there is not there. Memory is what is resident; where the sum is
above a limit, pages that processes share are counted once. A look costs some 0.1 ms for each process. This file stops
nothing.
"""

from __future__ import annotations

import os
from typing import Final

import attrs

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen
class Look:
    """What one look saw: processes, threads of all of them, and bytes."""

    processes: int
    tasks: int
    memory: int


def look(root: int, limit: int) -> Look:
    """What runs below the process `root`, itself not included."""
    pids = below(root)
    memory = sum(_resident(pid) for pid in pids)
    if memory > limit:
        memory = sum(_shared_once(pid) for pid in pids)
    return Look(len(pids), sum(_threads(pid) for pid in pids), memory)


def peak(root: int) -> int | None:
    """Bytes: the most that each process below `root` ever had, added up; None where nothing is to be seen."""
    found = [number for pid in below(root) if (number := _number(pid, "VmHWM:")) is not None]
    return sum(found) * 1024 if found else None


def below(root: int) -> list[int]:
    """The process ids below a process."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        for child in _children(waiting.pop()):
            found.append(child)
            waiting.append(child)
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            children += map(int, _text(f"/proc/{pid}/task/{task}/children").split())
    except OSError:
        pass
    return children


def _threads(pid: int) -> int:
    return _number(pid, "Threads:") or 0


def _resident(pid: int) -> int:
    fields = _text(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else 0


def _shared_once(pid: int) -> int:
    for line in _text(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)


def _number(pid: int, name: str) -> int | None:
    for line in _text(f"/proc/{pid}/status").splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return None


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
