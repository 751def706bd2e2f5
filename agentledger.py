"""AgentLedger's front door: the public names, and nothing else.

`from agentledger import agent, run, tool`; `python -m agentledger` is the command line.
"""

from importlib import import_module

from ledger_core.clock import Clock
from ledger_core.errors import (
    AgentError,
    BadInput,
    CannotOpen,
    Damaged,
    Diverged,
    Fenced,
    InDoubt,
    LedgerError,
    ModelFailed,
    NoEffect,
    NonRetryableAgentError,
    NotFound,
    NotStorable,
    OutcomeUnknown,
    Refused,
    RetryableAgentError,
    RunFailed,
    StoreFull,
    ToolFailed,
)
from ledger_core.governance.tool import ToolSpec, tool
from ledger_core.log.log import Log
from ledger_core.runtime.agent import agent
from ledger_core.runtime.context import AgentContext, SyncContext
from ledger_core.runtime.recorded import Result
from ledger_core.runtime.runtime import Runtime, arun, run

__all__ = [
    "AgentContext",
    "AgentError",
    "BadInput",
    "CannotOpen",
    "Clock",
    "Damaged",
    "Diverged",
    "Fenced",
    "InDoubt",
    "LedgerError",
    "Log",
    "ModelFailed",
    "NoEffect",
    "NonRetryableAgentError",
    "NotFound",
    "NotStorable",
    "OutcomeUnknown",
    "Refused",
    "Result",
    "RetryableAgentError",
    "RunFailed",
    "Runtime",
    "StoreFull",
    "SyncContext",
    "ToolFailed",
    "ToolSpec",
    "agent",
    "arun",
    "run",
    "tool",
]

if __name__ == "__main__":
    # by name: the command line imports this module, and the tour's agent does too
    import_module("cli.main").main()
