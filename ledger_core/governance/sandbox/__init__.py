"""The sandbox in which a governed tool runs: policies, executors, and the configuration that names them.

Rules: fail closed. A tool whose policy no executor of this machine can enforce does not run. This file re-exports.
"""

from ledger_core.governance.sandbox.ending import Ending, Outcome, SandboxStopped, SandboxUnavailable, ToolRaised
from ledger_core.governance.sandbox.executor import Ability, Executor, Job, Stop
from ledger_core.governance.sandbox.policy import SandboxPolicy, policy_of
from ledger_core.governance.sandbox.sandboxes import Plan, Sandboxes

__all__ = [
    "Ability",
    "Ending",
    "Executor",
    "Job",
    "Outcome",
    "Plan",
    "SandboxPolicy",
    "SandboxStopped",
    "SandboxUnavailable",
    "Sandboxes",
    "Stop",
    "ToolRaised",
    "policy_of",
]
