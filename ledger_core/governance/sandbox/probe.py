"""Finds out what an executor of this machine really keeps, by running what tries to get past it.

Rules: what was not seen to be kept is not kept. A trial costs some tenths of a second, once in a process; one that
could not be held at all (a machine out of processes or memory for a moment) is held again. This file does not know how
an executor keeps anything.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from ledger_core.governance.sandbox.ending import Ending, SandboxUnavailable
from ledger_core.governance.sandbox.executor import Ability, Job, Stop
from ledger_core.governance.sandbox.naming import needs_of, path_here
from ledger_core.governance.sandbox.policy import SandboxPolicy

_TRIAL: Final = str(Path(__file__).parent / "trial.py")
_MEMORY: Final = 128 << 20
_PROCESSES: Final = 6
_ENVIRONMENT: Final = frozenset(("PATH", "LANG", "HOME", "TMPDIR"))
_PAUSES: Final = (0.1, 1.0)
"""Seconds before a trial that could not be held is held again."""
_BELIEVED: Final = 60.0
"""Seconds for which it is believed that an executor cannot be used."""
_TIMES: Final = (0.4, 2.0, 10.0)
"""Seconds that the endless trial is given: more, where the machine is too busy to start it in less."""


class Run(Protocol):
    """Runs a job, whatever the policy demands."""

    def __call__(self, policy: SandboxPolicy, job: Job, *, seconds: float, stop: Stop) -> Ending: ...


def lacking() -> str:
    """What this machine lacks that every executor here needs; empty if it lacks nothing."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    if not hasattr(os, "pidfd_open") or not os.path.isdir("/proc/self/task"):
        return "it needs /proc and process descriptors (Linux 5.3)"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return f"it needs process descriptors (pidfd_open): {error.strerror}"
    return ""


def tried(run: Run, *, host: bool, notes: dict[str, str]) -> Ability:
    """What a way of running jobs keeps; `notes` say how, by ability."""
    found = _tried(run, host=host, notes=notes)
    for pause in _PAUSES:
        if found.available:
            break
        time.sleep(pause)
        found = _tried(run, host=host, notes=notes)
    return found


class Findings:
    """What was found out, by what it was found out of; safe to share among threads.

    That something cannot be used is believed for a minute: a worker lives longer than the machine is short of anything.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str | None, tuple[Ability, float]] = {}

    def of(self, program: str | None, inspect: Callable[[], Ability]) -> Ability:
        """The finding of a program, found out now if it is not known."""
        with self._lock:
            known = self._found.get(program)
            if known is None or (not known[0].available and time.monotonic() >= known[1] + _BELIEVED):
                known = self._found[program] = (inspect(), time.monotonic())
            return known[0]


def _tried(run: Run, *, host: bool, notes: dict[str, str]) -> Ability:
    policy = SandboxPolicy(memory=_MEMORY, processes=_PROCESSES, time=30, filesystem="host" if host else "private")
    try:
        with ThreadPoolExecutor(4) as threads:
            around = threads.submit(_around, run, policy)
            ended, shared = threads.submit(_ended, run, policy), threads.submit(_shared, run, policy)
            crowded = threads.submit(_crowded, run, policy)
            ending, in_time, together, few = around.result(), ended.result(), shared.result(), crowded.result()
    except (SandboxUnavailable, OSError) as error:
        return Ability(available=False, reason=str(error).rstrip("."))
    if ending.outcome.status == "stopped" or ending.raised is not None:
        return Ability(available=False, reason=ending.because or f"its trial failed: {ending.raised}")
    seen = ending.value
    if not seen["fork"]:
        notes = {**notes, "processes": "not one process more could be started"}
    return Ability(
        available=True,
        host=host,
        notes=notes,
        network="no" if seen["network"] or seen["socket"] else "yes",
        filesystem="no" if seen["read"] or seen["write"] else "yes",
        time="yes" if in_time else "no",
        memory="no" if seen["memory"] else "all together" if together else "each process",
        processes="all together" if seen["fork"] and few else "no",
        environment="yes" if set(seen["environment"]) <= _ENVIRONMENT else "no",
    )


def _around(run: Run, policy: SandboxPolicy) -> Ending:
    """What a tool can reach."""
    with _outside() as (port, pipe, secret), _stop() as stop:
        job = _job("look_around", [port, pipe, secret, 2 * _MEMORY], hide=(os.path.dirname(secret),))
        return run(policy, job, seconds=policy.time, stop=stop)


def _ended(run: Run, policy: SandboxPolicy) -> bool:
    """Whether nothing is left of a tool that does not end."""
    for seconds in _TIMES:
        mark = f"{3600 + secrets.randbelow(10**9) / 1e9:.9f}"
        with _stop() as stop:
            ending = run(policy, _job("stay", [mark]), seconds=seconds, stop=stop)
        if ending.outcome.reason == "time":
            return not _alive(mark)
    return False


def _shared(run: Run, policy: SandboxPolicy) -> bool:
    """Whether processes that are small, and together too large, are ended."""
    with _stop() as stop:
        ending = run(policy, _job("share", [4, _MEMORY // 3]), seconds=10, stop=stop)
    return ending.outcome.reason == "memory"


def _crowded(run: Run, policy: SandboxPolicy) -> bool:
    """Whether too many processes are ended."""
    with _stop() as stop:
        ending = run(policy, _job("crowd", [2 * _PROCESSES]), seconds=10, stop=stop)
    return ending.outcome.reason == "processes"


def _alive(mark: str) -> bool:
    """Whether a process runs that has a word in its command line."""
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and mark.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                return True
        except OSError:
            continue
    return False


def _job(name: str, args: list[Any], hide: tuple[str, ...] = ()) -> Job:
    path = path_here()
    return Job(
        file=_TRIAL,
        module="trial",
        qualname=name,
        wrappers=0,
        path=path,
        needs=needs_of(path, [_TRIAL]),
        args=args,
        kwargs={},
        hide=hide,
    )


@contextmanager
def _stop() -> Iterator[Stop]:
    stop = Stop()
    try:
        yield stop
    finally:
        stop.close()


@contextmanager
def _outside() -> Iterator[tuple[int, str, str]]:
    """A port and a Unix socket that answer, and a file that anyone may read, beside which anyone may write."""
    place = "/var/tmp" if os.path.isdir("/var/tmp") else None  # noqa: S108 - outside the /tmp that a sandbox has anyway
    directory = tempfile.mkdtemp(prefix="agentledger-trial-", dir=place)
    try:
        with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
            tcp.bind(("127.0.0.1", 0))
            unix.bind(f"{directory}/socket")
            secret = Path(directory, "secret")
            secret.write_text("secret", encoding="utf-8")
            for path, mode in ((directory, 0o777), (f"{directory}/socket", 0o777), (str(secret), 0o666)):
                os.chmod(path, mode)
            for server in (tcp, unix):
                server.listen()
            yield tcp.getsockname()[1], f"{directory}/socket", str(secret)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
