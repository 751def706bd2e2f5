"""What a test needs of the machine: without it the test is skipped, with its reason.

Where `AGENTLEDGER_REQUIRE_ALL` is set, as in CI, it fails instead: a test that never ran proves nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

import pytest


def strace() -> None:
    """Tracing a child, to make its system calls fail or wait."""
    _need("strace" if _works("strace", "-qq", "-o", os.devnull, "true") else "", "strace that may trace a child")


def small_device() -> None:
    """Mounting a small tmpfs in a mount namespace of the test's own."""
    mount = "mount -t tmpfs -o size=64k none /mnt"
    _need("unshare" if _works("unshare", "-m", "sh", "-c", mount) else "", "unshare and mount, as root")


def compiler() -> None:
    """A C compiler, for a library that stands between LMDB and the system."""
    _need("cc" if _works("cc", "--version") else "", "cc")


def root() -> None:
    """Becoming another user in a child."""
    _need("root" if os.geteuid() == 0 else "", "root, to become another user in a child")


def bubblewrap() -> None:
    """bwrap, and the right to make namespaces with it."""
    made = ("bwrap", "--ro-bind", "/", "/", "--unshare-user", "--unshare-pid", "--unshare-net", "true")
    _need("bwrap" if _works(*made) else "", "bubblewrap that may make namespaces")


def linux() -> None:
    """/proc, inotify and Linux's own counts."""
    _need("linux" if os.path.isdir("/proc/self") else "", "Linux")


def _need(there: str, what: str) -> None:
    if there:
        return
    if os.environ.get("AGENTLEDGER_REQUIRE_ALL"):
        pytest.fail(f"needs {what}, and AGENTLEDGER_REQUIRE_ALL is set")
    pytest.skip(f"needs {what}")


@cache
def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def chromium() -> None:
    """A Chromium that starts without a window."""
    there = next(
        (name for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if shutil.which(name)), ""
    )
    _need(there if there and _works(there, "--version") else "", "Chromium (on Debian: apt-get install chromium)")
