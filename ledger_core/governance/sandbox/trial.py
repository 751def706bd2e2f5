"""What runs in a sandbox to find out what it keeps: it tries what a tool may not, and says how far it came.

Rules: nothing here does harm where it succeeds. Standard library only; it is loaded as a file.
"""

# ruff: noqa: S606 - `sleep` is all that it runs

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any


def look_around(port: int, pipe: str, secret: str, memory: int) -> dict[str, Any]:
    """Reach for the network, a Unix socket, a hidden file and what lies beside it, memory, another process."""
    return {
        "network": _reached(socket.AF_INET, ("127.0.0.1", port)),
        "socket": _reached(socket.AF_UNIX, pipe),
        "read": _works(lambda: open(secret, "rb").close()),
        "write": _works(lambda: os.close(os.open(f"{secret}.new", os.O_CREAT | os.O_WRONLY))),
        "environment": sorted(os.environ),
        "memory": _works(lambda: bytearray(memory)),
        "fork": _works(_fork),
    }


def stay(seconds: str) -> None:
    """Never end: ignore what can be ignored, and leave a process in a session of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", seconds])
        os._exit(0)
    while True:
        time.sleep(1)


def share(kids: int, size: int) -> None:
    """Take memory in several processes, each of which takes little."""
    for _ in range(kids):
        if os.fork() == 0:
            taken = os.urandom(1 << 20) * (size >> 20)
            time.sleep(20)
            os._exit(len(taken) & 1)
    time.sleep(20)


def crowd(kids: int) -> None:
    """Be too many."""
    for _ in range(kids):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
    time.sleep(20)


def _reached(family: int, address: Any) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            client.connect(address)
    except OSError:
        return False
    return True


def _works(attempt: Any) -> bool:
    try:
        attempt()
    except (OSError, MemoryError):
        return False
    return True


def _fork() -> None:
    kid = os.fork()
    if kid == 0:
        os._exit(0)
    os.waitpid(kid, 0)
