"""The executor `process`: a fresh interpreter with limits, and no promise about the network or the file system.

Rules: the tool has a session, an environment, a directory and, where this process is root, a user of its own; it
inherits no descriptor. It is ended with all that it started, whatever that did to get away, when its time is over, when
it has answered, and when this process dies: `keeper` sees to it. It is for tools that are trusted and may fail, not for
hostile code: as the same user it could end its keeper, and this process too. Linux only.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from typing import Final

from ledger_core.governance.sandbox import launch, probe, users, watch
from ledger_core.governance.sandbox.ending import Ending, SandboxUnavailable
from ledger_core.governance.sandbox.executor import Ability, Job, Stop, refuse
from ledger_core.governance.sandbox.local import converse
from ledger_core.governance.sandbox.pipes import Pipes, over
from ledger_core.governance.sandbox.policy import SandboxPolicy
from ledger_core.governance.sandbox.view import closed_to_others

_LATER: Final = 5
"""Seconds after which the keeper ends by itself what this process did not end in time."""


class ProcessExecutor:
    """Runs tools in processes of their own."""

    name = "process"

    def __init__(self) -> None:
        self._findings = probe.Findings()

    def inspect(self) -> Ability:
        """What it can keep here; found once in a process."""
        return self._findings.of(None, _inspected)

    def check(self, policy: SandboxPolicy) -> None:
        """Raise `SandboxUnavailable` for a policy that it cannot keep."""
        refuse(self.name, self.inspect(), policy)

    def run(self, policy: SandboxPolicy, job: Job, *, seconds: float, stop: Stop) -> Ending:
        """Run a job; raises `SandboxUnavailable`."""
        self.check(policy)
        return run(policy, job, seconds=seconds, stop=stop)


def run(policy: SandboxPolicy, job: Job, *, seconds: float, stop: Stop) -> Ending:
    """Run a job, whatever the policy demands of network and files."""
    with ExitStack() as held:
        uid = held.enter_context(users.borrowed()) if os.geteuid() == 0 else None
        directory = os.path.join(_place(foreign=uid is not None), f"agentledger-{secrets.token_hex(8)}")
        environment = {**launch.ENVIRONMENT, "HOME": directory, "TMPDIR": directory}
        opened = launch.doors(job.needs) if uid is not None else []
        most = users.crowd(policy.processes, alone=uid is not None)
        request = job.request(policy, environment=environment, limits={"NPROC": most})

        def start(pipes: Pipes) -> _Kept:
            numbers = (pipes.their_request, pipes.their_answer, pipes.their_life, pipes.their_status)
            words = [*numbers, os.getpid(), -1 if uid is None else uid, int(seconds) + _LATER]
            command = [*launch.bare("keeper.py"), str(launch.HERE / "inside.py"), *map(str, words), directory]
            return _Kept(
                pipes,
                directory,
                subprocess.Popen(
                    [*opened, *command, *job.path],
                    stdin=subprocess.DEVNULL,
                    stdout=pipes.their_output,
                    stderr=pipes.their_output,
                    pass_fds=numbers,
                    env=launch.ENVIRONMENT,
                    cwd="/",
                    start_new_session=True,
                ),
            )

        return converse("process", policy, request, start, seconds=seconds, stop=stop)


class _Kept:
    """A keeper that runs."""

    exit_code: int | None = None
    signal: int | None = None

    def __init__(self, pipes: Pipes, directory: str, keeper: subprocess.Popen[bytes]) -> None:
        self._pipes = pipes
        self._directory = directory
        self._keeper = keeper
        self._held = False
        self.ended = os.pidfd_open(keeper.pid)

    def told(self, line: str) -> None:
        kind, _, number = line.partition(" ")
        self._held = True
        if kind == "exit":
            self.exit_code = int(number)
        elif kind == "signal":
            self.signal = int(number)

    def root(self) -> int:
        return self._keeper.pid

    def kill(self) -> None:
        self._pipes.tell("life")

    def left(self, seconds: float) -> str:
        """Nothing, if the keeper ended as it does when all is dead; else what is seen below it is killed."""
        in_time = over(self.ended, seconds)
        if in_time and (self._keeper.wait() == 0 or not self._held):
            return ""  # or it ended before it had started anything
        left = watch.below(self._keeper.pid)
        self._keeper.kill()
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        self._keeper.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
        if in_time:
            return "its keeper was killed, and what it started may still run"
        return f"it could not be ended within {seconds:g} s, and may still run"

    def close(self) -> None:
        os.close(self.ended)


def _place(*, foreign: bool) -> str:
    """Where the tool's directory is made: a place for such things that the tool's user may enter."""
    places = (os.path.realpath(tempfile.gettempdir()), "/tmp", "/var/tmp")  # noqa: S108 - with a drawn name, mode 700
    for place in places:
        if os.path.isdir(place) and not (foreign and closed_to_others(f"{place}/x")):
            return place
    raise SandboxUnavailable(f"None of {', '.join(places)} can hold the directory of a tool.")


def _inspected() -> Ability:
    """What it can keep, found by trying."""
    why = probe.lacking()
    if why:
        return Ability(available=False, reason=why)
    notes = {
        "memory": "each process by the kernel, all together looked at every 0.05 s",
        "network": "a process has the network of this machine",
        "filesystem": "a process sees and writes what its user may",
        "processes": "each tool runs as a user of its own" if os.geteuid() == 0 else "looked at every 0.05 s",
    }
    return probe.tried(run, host=True, notes=notes)


EXECUTOR: Final = ProcessExecutor()
