"""How a sandbox ended, as a value, and the three errors that say so.

Rules: pure. `SandboxUnavailable` means that nothing ran. `SandboxStopped` with the reason `startup` means that the
tool's function was not called; with any other, nobody knows how far it came. `ToolRaised` is the tool's own failure.
What a tool printed is evidence, and is no fact. This file does not know processes.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import attrs

from ledger_core.errors import BadInput, Damaged, NoEffect, Unavailable
from ledger_core.governance.sandbox.reply import Raised, Reply
from ledger_core.secret import VAULT

Reason = Literal["time", "memory", "processes", "output", "killed", "startup"]
MOST_STDERR: Final = 16 << 10
"""Bytes of what a tool printed that are kept: the last ones."""


@attrs.frozen(kw_only=True)
class Outcome:
    """How a sandbox ended, whatever the tool's function gave."""

    executor: str
    status: Literal["exited", "stopped"] = attrs.field(validator=attrs.validators.in_(("exited", "stopped")))
    reason: Reason | None = None
    """Why it was stopped; None for one that exited."""
    exit_code: int | None = None
    signal: int | None = None
    seconds: float
    """Wall time, from before the process was started until it was gone."""
    memory_peak: int | None = None
    """Bytes: the most that was seen of all its processes together; None where nobody could look."""
    stderr: str = attrs.field(default="", repr=False)
    """The end of what it printed, on stdout and stderr, in the order in which it came."""

    def __attrs_post_init__(self) -> None:
        if self.reason is not None and self.reason not in get_args(Reason):
            raise BadInput(f"A sandbox cannot end because of {self.reason!r:.50}.")

    def as_facts(self) -> dict[str, Any]:
        """The outcome as facts hold it: all but what the tool printed."""
        facts = attrs.asdict(self)
        del facts["stderr"]
        return facts


class SandboxUnavailable(Exception):
    """Nothing ran: no such executor, disabled, missing here, or unable to enforce what the policy demands."""

    def __init__(self, sentence: str, *, hint: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".rstrip()


class SandboxStopped(Exception):
    """The sandbox was ended, or died, before the tool gave a result."""

    def __init__(self, sentence: str, *, outcome: Outcome) -> None:
        super().__init__(sentence)
        assert outcome.reason is not None
        self.sentence = sentence
        self.reason: Reason = outcome.reason
        self.outcome = outcome


class ToolRaised(Exception):
    """The tool's own exception, as far as it can cross a process: names and a message."""

    def __init__(self, error_type: str, message: str, types: Sequence[str], *, outcome: Outcome) -> None:
        super().__init__(f"{error_type}: {message}" if message else error_type)
        self.error_type = error_type
        self.message = message
        self.types = tuple(types)
        """Names of the exception's class and of what it inherits from, `object` left out."""
        self.outcome = outcome


@attrs.frozen(kw_only=True)
class Ending:
    """What came of a job: a value, an exception of the tool's, or neither."""

    outcome: Outcome
    because: str = ""
    """Why it was stopped, in words."""
    value: Any = None
    raised: Raised | None = None

    def result(self, tool: str) -> Any:
        """The tool's value; raises what it raised (`NoEffect` and `Unavailable` as themselves), or `SandboxStopped`."""
        if self.outcome.status == "stopped":
            raise SandboxStopped(f"The sandbox of {tool} was stopped: {self.because}.", outcome=self.outcome)
        if self.raised is None:
            return self.value
        if self.raised.unavailable:
            raise Unavailable(self.raised.message)
        if self.raised.no_effect:
            raise NoEffect(self.raised.message)
        raise ToolRaised(self.raised.error_type, self.raised.message, self.raised.types, outcome=self.outcome)


@attrs.frozen(kw_only=True)
class Seen:
    """What an executor saw of a sandbox that is gone: what the ending is made of."""

    executor: str
    reason: Reason | None
    """Why it was ended; None where it ended by itself."""
    because: str
    exit_code: int | None
    signal: int | None
    seconds: float
    memory_peak: int | None
    printed: bytes
    crowded: bool
    """It had as many processes as it may have, when it answered."""


def ending_of(seen: Seen, reply: Reply, output: int) -> Ending:
    """What came of a sandbox; `output` is the most that a result may have, in bytes."""
    reason, because, value, raised = seen.reason, seen.because, None, None
    if reason is None:
        reason, because = _by_its_reply(seen, reply, output)
    if reason is None:
        try:
            if reply.kind == "=":
                value = reply.value()
            else:
                raised = reply.raised()
        except Damaged as wrong:
            reason, because = "output", f"its answer is none: {wrong.sentence}"
    if raised is not None and reply.kind == "?":
        reason, because = "startup", f"its function was not called: {raised.error_type}: {raised.message}"
    elif raised is not None and raised.errno == errno.EAGAIN and seen.crowded:
        reason, because = "processes", f"it had as many processes as it may have: {raised.message}"
    if reason is not None and not reply.began:
        reason = "startup"
    outcome = Outcome(
        executor=seen.executor,
        status="exited" if reason is None else "stopped",
        reason=reason,
        exit_code=seen.exit_code,
        signal=seen.signal,
        seconds=seen.seconds,
        memory_peak=seen.memory_peak,
        stderr=VAULT.clean_text(seen.printed.decode("utf-8", "replace"))[-MOST_STDERR:],
    )
    stopped = reason is not None
    return Ending(outcome=outcome, because=because, value=value, raised=None if stopped else raised)


def _by_its_reply(seen: Seen, reply: Reply, output: int) -> tuple[Reason | None, str]:
    """Why a sandbox that ended by itself gave no result; None if it gave one, or an exception."""
    if reply.wrong:
        return "output", reply.wrong
    if reply.kind == "O":
        return "output", f"its result has more than {output:,} bytes"
    if reply.kind == "M":
        return "memory", "it had no memory left"
    if reply.finished:
        return None, ""
    if seen.signal is not None:
        return "killed", f"it died of signal {seen.signal}{_said(seen)}"
    if seen.exit_code is not None:
        return "killed", f"it ended with exit code {seen.exit_code} and without an answer{_said(seen)}"
    return "output", f"it closed its answer's pipe and gave none{_said(seen)}"


def _said(seen: Seen) -> str:
    """The last line that it printed, as a part of a sentence."""
    lines = VAULT.clean_text(seen.printed.decode("utf-8", "replace")).strip().splitlines()
    return f", having said: {lines[-1][:300]}" if lines else ""
