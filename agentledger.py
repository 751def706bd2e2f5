"""AgentLedger's front door: the public names, and nothing else.

`from agentledger import agent, run, tool`; `python -m agentledger` is the command line.
"""

from importlib import import_module

if __name__ == "__main__":
    # by name: the command line imports this module, and the tour's agent does too; and before all else, for it is
    # ready for Ctrl-C while it imports
    import_module("cli.main").main()

from ledger_core.clock import Clock
from ledger_core.errors import (
    AgentError,
    ApprovalDenied,
    BadInput,
    BudgetExceeded,
    Cancelled,
    CannotOpen,
    ChildFailed,
    Damaged,
    Diverged,
    Fenced,
    InDoubt,
    KeyConflict,
    LedgerError,
    ModelFailed,
    NoEffect,
    NonRetryableAgentError,
    NotFound,
    NotStorable,
    OutcomeUnknown,
    PermissionDenied,
    Refused,
    RetryableAgentError,
    RunFailed,
    SandboxFailed,
    StoreFull,
    ToolFailed,
    Unavailable,
    WaitTimedOut,
)
from ledger_core.governance.conventions import media_tool
from ledger_core.governance.policy import Decision, Policy
from ledger_core.governance.sandbox import SandboxPolicy
from ledger_core.governance.tool import ToolSpec, tool
from ledger_core.log.log import Log
from ledger_core.run.budget import Budget
from ledger_core.run.retry import RetryPolicy
from ledger_core.runtime.agent import agent
from ledger_core.runtime.agent_context import AgentContext
from ledger_core.runtime.attach import AttachedContext
from ledger_core.runtime.context import current_context
from ledger_core.runtime.recorded import Result
from ledger_core.runtime.runtime import Runtime, arun, run
from ledger_core.runtime.sessions import Session
from ledger_core.runtime.sync_context import SyncContext
from ledger_core.runtime.worker import Worker
from ledger_core.secret import Secret

__all__ = [
    "AgentContext",
    "AgentError",
    "ApprovalDenied",
    "AttachedContext",
    "BadInput",
    "Budget",
    "BudgetExceeded",
    "Cancelled",
    "CannotOpen",
    "ChildFailed",
    "Clock",
    "Damaged",
    "Decision",
    "Diverged",
    "Fenced",
    "InDoubt",
    "KeyConflict",
    "LedgerError",
    "Log",
    "ModelFailed",
    "NoEffect",
    "NonRetryableAgentError",
    "NotFound",
    "NotStorable",
    "OutcomeUnknown",
    "PermissionDenied",
    "Policy",
    "Refused",
    "Result",
    "RetryPolicy",
    "RetryableAgentError",
    "RunFailed",
    "Runtime",
    "SandboxFailed",
    "SandboxPolicy",
    "Secret",
    "Session",
    "StoreFull",
    "SyncContext",
    "ToolFailed",
    "ToolSpec",
    "Unavailable",
    "WaitTimedOut",
    "Worker",
    "agent",
    "arun",
    "current_context",
    "media_tool",
    "run",
    "tool",
]
