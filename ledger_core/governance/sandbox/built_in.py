"""The executors that come with the runtime, by name: each is imported when something is first asked of it.

Rules: the front door knows them all and pays for none. This file does not know how they work.
"""

from __future__ import annotations

import functools
import importlib

from ledger_core.governance.sandbox.ending import Ending
from ledger_core.governance.sandbox.executor import Ability, Executor, Job, Stop
from ledger_core.governance.sandbox.policy import SandboxPolicy


class BuiltIn:
    """An executor in a module of this package, which holds it as `EXECUTOR`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @functools.cached_property
    def _executor(self) -> Executor:
        executor: Executor = importlib.import_module(f"ledger_core.governance.sandbox.{self.name}").EXECUTOR
        return executor

    def inspect(self) -> Ability:
        """What it can keep here; found once in a process."""
        return self._executor.inspect()

    def check(self, policy: SandboxPolicy) -> None:
        """Raise `SandboxUnavailable` for a policy that it cannot keep."""
        self._executor.check(policy)

    def run(self, policy: SandboxPolicy, job: Job, *, seconds: float, stop: Stop) -> Ending:
        """Run a job; raises `SandboxUnavailable`."""
        return self._executor.run(policy, job, seconds=seconds, stop=stop)


def built_in() -> dict[str, Executor]:
    """All of them."""
    return {name: BuiltIn(name) for name in ("bubblewrap", "process")}
