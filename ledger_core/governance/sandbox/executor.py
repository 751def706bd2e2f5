"""What an executor is: something that runs a tool's function apart from this process, and says what it can keep.

Rules: an executor runs nothing that it cannot keep as the policy says; `refusal` finds that out from its `Ability`,
before anything runs. Abilities are found by trying, never assumed. An executor that raises has run nothing. Whatever
the tool does, `run` returns soon after its time is over, and nothing of the tool is left. `tests/suites/executors.py`
is the suite that every executor passes. This file starts nothing.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol

import attrs

from ledger_core import codec
from ledger_core.governance.sandbox.ending import Ending, SandboxUnavailable
from ledger_core.governance.sandbox.policy import SandboxPolicy

Kept = Literal["yes", "no", "each process", "all together"]
"""Whether something is kept; of a limit, whether each process has it or all of a sandbox share it."""
_FILES: Final = 1024
"""Descriptors that a process of a sandbox may have open."""
ABILITIES: Final = ("network", "filesystem", "time", "memory", "processes", "environment")


@attrs.frozen(kw_only=True)
class Ability:
    """What an executor can really keep, on this machine, now."""

    available: bool
    reason: str = ""
    """Why it is not available."""
    network: Kept = "no"
    filesystem: Kept = "no"
    time: Kept = "no"
    memory: Kept = "no"
    processes: Kept = "no"
    environment: Kept = "no"
    host: bool = False
    """It can give a tool the host's file system, which others cannot."""
    notes: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    """By ability: how it is kept, or why not."""

    def as_json(self) -> dict[str, Any]:
        """Every ability, as `agentledger sandbox inspect --json` prints it."""
        return {name: getattr(self, name) for name in ABILITIES}


@attrs.frozen(kw_only=True)
class Job:
    """A call that is to be made in a sandbox."""

    file: str | None
    """The file that holds the function, where it cannot be had as a module."""
    module: str
    qualname: str
    wrappers: int
    """How many `__wrapped__` stand between what has that name and the function."""
    path: tuple[str, ...]
    """Where modules are looked for: what `sys.path` is."""
    needs: tuple[str, ...]
    """Paths that Python and the function's module need to read."""
    args: list[Any]
    kwargs: dict[str, Any]
    """Plain data, as `args` is: what the codec has a place for."""
    hide: tuple[str, ...] = ()
    """What may not be read, though all else may."""

    def request(
        self, policy: SandboxPolicy, *, environment: Mapping[str, str], limits: Mapping[str, int] | None = None
    ) -> bytes:
        """The bytes that `inside` reads; raises `NotStorable`.

        `environment` is what the executor itself gives; `limits` are those of its own, by the names of `RLIMIT_…`.
        """
        seconds = math.ceil(policy.time)
        inherited = {name: os.environ[name] for name in policy.pass_environment if name in os.environ}
        document = codec.encode(
            {
                "target": [self.file, self.module, self.qualname, self.wrappers],
                "args": self.args,
                "kwargs": self.kwargs,
                "environment": {**environment, **inherited, **policy.environment},
                "limits": {
                    "CORE": 0,
                    "NOFILE": _FILES,
                    "CPU": seconds * (os.cpu_count() or 1) + 1,
                    "FSIZE": policy.file_size,
                    "AS": policy.memory,
                    "NPROC": policy.processes,
                    **(limits or {}),
                },
                "output": policy.output,
            }
        )
        return len(document).to_bytes(8, "big") + document


class Stop:
    """Ends a sandbox from another thread: `set` may be called at any time, from anywhere, more than once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read, self._write = os.pipe()
        self._closed = False

    def fileno(self) -> int:
        """Readable once it is set."""
        return self._read

    def set(self) -> None:
        """End it."""
        with self._lock:
            if not self._closed:
                os.write(self._write, b"!")
                self._closed = True
                os.close(self._write)

    def close(self) -> None:
        """Let go of it; `set` does nothing from now on."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._write)
            os.close(self._read)


class Executor(Protocol):
    """Runs jobs. Safe from any thread, many at once."""

    name: str

    def inspect(self) -> Ability:
        """What it can keep here; found once in a process."""
        ...

    def check(self, policy: SandboxPolicy) -> None:
        """Raise `SandboxUnavailable` for a policy that it cannot keep; runs nothing."""
        ...

    def run(self, policy: SandboxPolicy, job: Job, *, seconds: float, stop: Stop) -> Ending:
        """Run a job to its end, or until `seconds` are over or `stop` is set; raises `SandboxUnavailable`."""
        ...


def refuse(name: str, ability: Ability, policy: SandboxPolicy) -> None:
    """Raise `SandboxUnavailable` if something of these abilities cannot keep a tool as the policy says."""
    if not ability.available:
        raise SandboxUnavailable(
            f"The executor {name} is not available here: {ability.reason}.",
            hint="`agentledger sandbox inspect` shows those that are.",
        )
    demanded = {
        "network": not policy.network,
        "filesystem": policy.filesystem == "private",
        "time": True,
        "memory": True,
        "processes": True,
        "environment": True,
    }
    lacking = [what for what, asked in demanded.items() if asked and getattr(ability, what) == "no"]
    if lacking:
        why = "; ".join(f"{what}: {ability.notes.get(what, 'it cannot')}" for what in lacking)
        raise SandboxUnavailable(
            f"The executor {name} cannot keep a tool as its policy demands ({why}).",
            hint="Use bubblewrap, or allow it: network=True, filesystem='host'.",
        )
    if policy.filesystem == "host" and not ability.host:
        raise SandboxUnavailable(
            f"The executor {name} has a file system of its own, and the policy says filesystem='host'.",
            hint="Name the executor process, or say which paths: read=…, write=….",
        )
