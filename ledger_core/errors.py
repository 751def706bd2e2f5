"""The one tree of errors that cross the front door.

Rules: bad input raises one of these, with a sentence that has the numbers in it, fields for programs, and a hint that
says what to do next. An impossible state asserts. Verification never raises: it yields findings. The command line
turns `exit_code` into the process's own. This file knows nothing of terminals, files or LMDB.

    LedgerError                    1  refused or failed
      BadInput                     1  a value, id, name or configuration that cannot be accepted
        NotStorable                1  a value that has no place in a canonical document
      NotFound                     1  no such run, stream, seq
      CannotOpen                   1  the directory, its permissions, its file system, its format
      Damaged                      3  bytes that are not what was written
      StoreFull                    1  no room: nothing of the append was written
      OutcomeUnknown               5  an append that may or may not have been written
      Forked                       1  used in a child process after fork
      Closed                       1  used after close
      Refused                      1  a decision said no; nothing was written
        KeyConflict                5  one idempotency key, two different requests
        Fenced                     5  a later epoch owns the step
        Cancelled                  1  the run is to end: nothing new begins
      Diverged                     4  the code no longer does what was recorded
      InDoubt                      5  an outside effect whose outcome nobody knows
      RunFailed                    1  the agent's own failure, as `Result.raise_for_status` gives it
    AgentError                        raised by, or into, agent code; never by the log
      RetryableAgentError             the agent asks for another attempt
      NonRetryableAgentError          the agent says that another attempt is pointless
      ToolFailed                      a tool's recorded failure, the same live and replayed
        PermissionDenied              the policy in force says no
          ApprovalDenied              a person says no, or did not answer in time
        SandboxFailed                 no sandbox that keeps the tool as it must be kept
      ModelFailed                     a model's recorded failure, the same live and replayed
      BudgetExceeded                  there is no room left in a budget; a ToolFailed and a ModelFailed
      ChildFailed                     a child run's end without a result
      WaitTimedOut                    a signal, an approval or a child that did not come in time
    NoEffect                          raised by a tool: nothing happened outside
      Unavailable                     raised by a tool: the other side is not there; try again later
"""

from __future__ import annotations

from typing import Any, ClassVar


class LedgerError(Exception):
    """Base of what the runtime raises at its users.

    `sentence` says what happened, `hint` what to do next, `fields` holds the same facts for programs.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, sentence: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """The error as the command line's `--json` prints it."""
        return {"error": type(self).__name__, "message": self.sentence, "hint": self.hint, **self.fields}


class BadInput(LedgerError, ValueError):
    """A value, id, name or configuration that cannot be accepted; nothing was written."""


class NotStorable(BadInput):
    """A value that the canonical encoding has no place for (see `codec`)."""


class NotFound(LedgerError, LookupError):
    """No such run, stream or event."""


class CannotOpen(LedgerError):
    """A ledger that cannot be opened here and now, through no fault of its bytes."""


class Damaged(LedgerError):
    """Stored bytes are not what was written."""

    exit_code = 3


class StoreFull(LedgerError):
    """No room on the device: the append was refused whole, the log is as it was."""


class OutcomeUnknown(LedgerError):
    """The device failed at the commit and could not be asked afterwards."""

    exit_code = 5


class Forked(LedgerError):
    """An open ledger crossed a fork; LMDB forbids its use in the child."""


def forked() -> Forked:
    """The error of every use in a child."""
    return Forked(
        "This ledger was opened before a fork and cannot be used in the child.",
        hint="Open it again in the child, after closing this one, or start workers as processes of their own (spawn).",
    )


class Closed(LedgerError):
    """The ledger was closed."""


class Refused(LedgerError):
    """A decision said no. Nothing was written."""


class KeyConflict(Refused):
    """The same idempotency key with another request."""

    exit_code = 5


class Fenced(Refused):
    """A later epoch owns the step, or it was cancelled: this worker may change nothing more."""

    exit_code = 5


class Cancelled(Refused):
    """Somebody asked for the end of the run: what is under way is recorded, nothing new begins."""


class Diverged(LedgerError):
    """The code no longer attempts what was recorded; `divergence` holds the difference as data."""

    exit_code = 4

    def __init__(self, sentence: str, *, hint: str = "", divergence: Any = None, **fields: Any) -> None:
        super().__init__(sentence, hint=hint, **fields)
        self.divergence = divergence


class InDoubt(LedgerError):
    """An outside effect whose outcome nobody knows: never retried by itself."""

    exit_code = 5


class RunFailed(LedgerError):
    """The agent failed; `error_type` and `message` are the recorded ones."""


class AgentError(Exception):
    """Base of what passes between the runtime and agent code."""


class RetryableAgentError(AgentError):
    """Raised by an agent whose step may be tried again."""


class NonRetryableAgentError(AgentError):
    """Raised by an agent whose step must not be tried again."""


class EffectFailed(AgentError):
    """A recorded failure, normalised to a type name and a message: stack traces and objects do not replay."""

    def __init__(self, name: str, error_type: str, message: str) -> None:
        super().__init__(f"{name}: {error_type}: {message}" if message else f"{name}: {error_type}")
        self.name = name
        self.error_type = error_type
        self.message = message

    path: str | None = None
    """The effect that failed."""


class ToolFailed(EffectFailed):
    """A tool call that failed, for good."""


class ModelFailed(EffectFailed):
    """A model call that failed, for good."""


class PermissionDenied(ToolFailed):
    """The policy in force says no: the tool was not called."""


class ApprovalDenied(PermissionDenied):
    """A person said no, or nobody answered in time: the tool was not called."""


class SandboxFailed(ToolFailed):
    """No sandbox here keeps the tool as it must be kept: the tool was not called."""


class BudgetExceeded(ToolFailed, ModelFailed):
    """A budget has no room for the call: it was not made."""


class ChildFailed(EffectFailed):
    """A child run that failed or was cancelled; `name` is its run id."""


class WaitTimedOut(EffectFailed, TimeoutError):
    """What was waited for did not come in time."""


class NoEffect(Exception):
    """Raised by a tool, or by its `verify` hook: nothing happened outside, so trying again is safe."""


class Unavailable(NoEffect):
    """Raised by a tool or a model's provider: the other side cannot be reached, and nothing happened there.

    An outage is nobody's failure: the call is made again later, for as long as it takes, and counts as no attempt.
    """
