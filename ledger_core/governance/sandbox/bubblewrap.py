"""The executor `bubblewrap`: namespaces of its own for a tool, made by bwrap, with a filter of system calls.

Rules: no network but with leave; the root read-only, or nothing but what is named; a /tmp, /proc and /dev of its own;
no capabilities, no way to new ones; nothing of what is hidden. Where this process is root, bwrap is started as a user
of its own, so that the tool has no right of root's in any namespace, and its processes are counted. When this process
or bwrap dies, the kernel ends the tool's namespace of processes, and with it all that is in it. Linux only.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import attrs

from ledger_core.governance.sandbox import filter as calls
from ledger_core.governance.sandbox import launch, probe, users
from ledger_core.governance.sandbox.ending import Ending, SandboxUnavailable
from ledger_core.governance.sandbox.executor import Ability, Job, Stop, refuse
from ledger_core.governance.sandbox.local import converse
from ledger_core.governance.sandbox.pipes import Pipes, over
from ledger_core.governance.sandbox.policy import SandboxPolicy
from ledger_core.governance.sandbox.view import NETWORK, Mount, view

_OPTIONS: Final = (
    "--unshare-user",
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--hostname",
    "sandbox",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
)
_HOME: Final = "/tmp/sandbox"  # noqa: S108 - in the sandbox's own
"""Where a tool is at home: an empty directory."""
_SHARED: Final = 64 << 20
"""Bytes of /dev/shm; /tmp holds as much as the policy's memory."""
_REAPER: Final = 1
"""Processes of bwrap's own that the kernel counts with the tool's."""


class BubblewrapExecutor:
    """Runs tools in namespaces of their own."""

    name = "bubblewrap"

    def __init__(self) -> None:
        self._findings = probe.Findings()

    def inspect(self) -> Ability:
        """What it can keep here; found once in a process, for the bwrap that is on the path."""
        program = shutil.which("bwrap")
        return self._findings.of(program, lambda: _inspected(program))

    def check(self, policy: SandboxPolicy) -> None:
        """Raise `SandboxUnavailable` for a policy that it cannot keep."""
        refuse(self.name, self.inspect(), policy)

    def run(self, policy: SandboxPolicy, job: Job, *, seconds: float, stop: Stop) -> Ending:
        """Run a job; raises `SandboxUnavailable`."""
        self.check(policy)
        return run(policy, job, seconds=seconds, stop=stop)


def run(policy: SandboxPolicy, job: Job, *, seconds: float, stop: Stop) -> Ending:
    """Run a job; raises `SandboxUnavailable`."""
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxUnavailable("There is no bwrap on the path.", hint="Install bubblewrap.")
    with ExitStack() as held:
        uid = held.enter_context(users.borrowed()) if os.geteuid() == 0 else None
        needs = (*job.needs, *(NETWORK if policy.network else ()))
        mounts = view(read=policy.read, write=policy.write, needs=needs, hide=job.hide, foreign=uid is not None)
        closed = [mount.path for mount in mounts if mount.closed]
        opened = launch.doors(closed, uid) if closed and uid is not None else []
        user = None if opened else uid  # where doors are opened, that program changes the user
        environment = {**launch.ENVIRONMENT, "HOME": _HOME, "TMPDIR": "/tmp"}  # noqa: S108 - its own
        most = users.crowd(policy.processes + _REAPER, alone=uid is not None or _counted())
        request = job.request(policy, environment=environment, limits={"NPROC": most})
        filtered = held.enter_context(_in_memory(_filter()))

        def start(pipes: Pipes) -> _Wrapped:
            numbers = (pipes.their_request, pipes.their_answer)
            options = command(policy, mounts, filtered=filtered, status=pipes.their_status)
            python = [*launch.bare("inside.py"), *map(str, numbers), *job.path]
            return _Wrapped(
                subprocess.Popen(
                    [*opened, program, *options, "--", *python],
                    stdin=subprocess.DEVNULL,
                    stdout=pipes.their_output,
                    stderr=pipes.their_output,
                    pass_fds=(*numbers, pipes.their_status, filtered),
                    env=launch.ENVIRONMENT,
                    cwd="/",
                    user=user,
                    group=user,
                    extra_groups=None if user is None else [],
                    start_new_session=True,
                ),
            )

        return converse("bubblewrap", policy, request, start, seconds=seconds, stop=stop)


def command(policy: SandboxPolicy, mounts: Iterable[Mount], *, filtered: int, status: int) -> list[str]:
    """The options of bwrap for a policy: `filtered` and `status` are descriptors that it is passed."""
    options = [*_OPTIONS, "--seccomp", str(filtered), "--json-status-fd", str(status)]
    options += [] if policy.network else ["--unshare-net"]
    finished = []
    for mount in mounts:
        options += _option(mount, policy)
        if mount.kind in ("mask", "dev"):
            finished += ["--remount-ro", mount.path]
    return [*options, "--perms", "0700", "--dir", _HOME, "--chdir", _HOME, *finished]


class _Wrapped:
    """A bwrap that runs: its monitor, and the first process of the tool's namespace."""

    exit_code: int | None = None
    signal: int | None = None

    def __init__(self, monitor: subprocess.Popen[bytes]) -> None:
        self._monitor = monitor
        self._first: int | None = None
        self._first_fd: int | None = None
        self.ended = os.pidfd_open(monitor.pid)

    def told(self, line: str) -> None:
        try:
            said = json.loads(line)
        except ValueError:
            return
        if "child-pid" in said:
            self._hold(int(said["child-pid"]))
        if "exit-code" in said:
            code = int(said["exit-code"])
            self.exit_code, self.signal = (code, None) if code <= 128 else (None, code - 128)

    def _hold(self, pid: int) -> None:
        """Hold the first process by a descriptor, if it still is the monitor's child: numbers are used again."""
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            parent = 0
        if parent == self._monitor.pid:
            self._first, self._first_fd = pid, fd
        else:
            os.close(fd)

    def root(self) -> int | None:
        return self._first

    def kill(self) -> None:
        """Kill the first process, with which the kernel kills all others; the monitor ends when it is dead."""
        if self._first_fd is None:
            self._monitor.kill()
            return
        try:
            signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def left(self, seconds: float) -> str:
        """Nothing, if the first process is dead: the kernel lets it die after all others."""
        first = [] if self._first_fd is None else [self._first_fd]
        gone = all(over(fd, seconds) for fd in [*first, self.ended])
        if not gone:
            self._monitor.kill()
        self._monitor.wait()
        return "" if gone else f"it could not be ended within {seconds:g} s, and may still run"

    def close(self) -> None:
        for fd in (self.ended, self._first_fd):
            if fd is not None:
                os.close(fd)


def _option(mount: Mount, policy: SandboxPolicy) -> list[str]:
    """The words that have bwrap make a mount."""
    path = mount.path
    words: dict[str, list[str]] = {
        "ro": ["--ro-bind", path, path],
        "rw": ["--bind", path, path],
        "mask": ["--perms", "0755", "--tmpfs", path] if path != "/" else [],
        "null": ["--ro-bind", os.devnull, path],
        "link": ["--symlink", mount.target, path],
        "proc": ["--proc", path],
        "dev": ["--dev", path, *_filled(f"{path}/shm", min(_SHARED, policy.memory))],
        "private": _filled(path, policy.memory),
    }
    return words[mount.kind]


def _filled(path: str, size: int) -> list[str]:
    return ["--perms", "0700", "--size", str(size), "--tmpfs", path]


def _counted() -> bool:
    """Whether the kernel counts the processes of each user namespace: since Linux 5.14."""
    numbers = [int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit()]
    return numbers >= [5, 14]


def _filter() -> bytes:
    program = calls.program(platform.machine())
    if program is None:
        raise SandboxUnavailable(f"There is no filter of system calls for this machine, {platform.machine()}.")
    return program


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """A descriptor that another process reads these bytes from."""
    fd = os.memfd_create("filter", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _inspected(program: str | None) -> Ability:
    """What it can keep, found by trying."""
    why = probe.lacking()
    if not why and program is None:
        why = "there is no bwrap on the path; install bubblewrap"
    if why:
        return Ability(available=False, reason=why)
    notes = {
        "memory": "each process by the kernel, all together looked at every 0.05 s",
        "network": "a network of its own without any machine in it, and no Unix sockets",
        "filesystem": "mounts of its own: read-only, without what is hidden",
    }
    ability = probe.tried(run, host=False, notes=notes)
    if os.geteuid() != 0 or not ability.available:
        return ability
    return attrs.evolve(ability, notes={**ability.notes, "processes": "each tool runs as a user of its own"})


EXECUTOR: Final = BubblewrapExecutor()
