"""What came to an ancestor and nobody had taken when a run was forked from it: the fork has it too.

Rules: a signal that was received and not consumed, the end of a child that was spawned and not joined, an answer of a
person's that was not read. Copies of these events are put into the fork's own stream before its code is executed, each
once however often that begins; what had not come by then is looked for each time that the fork is gone on with. What
is asked of the ancestor later is its own. This file does not execute anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ledger_core import chain
from ledger_core.events import Body, Missing
from ledger_core.events.run import RunCreated
from ledger_core.events.wait import (
    ApprovalDecided,
    ChildRunEnded,
    SignalReceived,
)
from ledger_core.log.log import Log
from ledger_core.run.state import RunState
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.lineage import Inputs
from ledger_core.runtime.recorded import RunRecord

_PUBLIC = bytes(32)
"""Tags of signals without a sender's id tell nothing but which signal was copied."""


def inputs_of(log: Log, inputs: Inputs, created: RunCreated) -> list[Body]:
    """The events that a fork is to have of what its ancestors had not taken."""
    found: list[Body] = []
    for seq, signal in inputs.signals.items():
        sender = signal.sender or chain.tag(_PUBLIC, f"signal:{seq}".encode())
        if not isinstance(signal.payload, Missing):
            found.append(SignalReceived(name=signal.name, sender=sender, payload=signal.payload))
    found += [ended for child in inputs.children if (ended := _end_of(log, child)) is not None]
    if unanswered := inputs.asked - inputs.decided.keys():
        later = log.stream(stream_of(str(created.ancestor)), created.ancestor_event or 0)
        answers = (event.body for event in later)
        inputs.decided |= {
            one.approval: one for one in answers if isinstance(one, ApprovalDecided) and one.approval in unanswered
        }
    found += [inputs.decided[approval] for approval in sorted(inputs.asked) if approval in inputs.decided]
    return found


def not_adopted(state: RunState, bodies: list[Body]) -> Iterator[Body]:
    """Those that the fork does not have yet."""
    for body in bodies:
        if isinstance(body, SignalReceived):
            has = (body.name, body.sender) in state.senders
        elif isinstance(body, ChildRunEnded):
            has = body.run in state.children and state.children[body.run].ended is not None
        else:
            has = isinstance(body, ApprovalDecided) and state.approvals.get(body.approval) is not None
        if not has:
            yield body


def _end_of(log: Log, child: str) -> ChildRunEnded | None:
    """How a child ended, as its parent is told; None while it goes on."""
    record = RunRecord.read(log, child)
    if not record.state.ended:
        return None
    head = log.stream_head(stream_of(child))
    assert head is not None
    end = log.nth(stream_of(child), head.stream_seq, contents=False)
    said: dict[str, Any] = {"output": record.output} if record.state.status == "completed" else {}
    if record.state.status == "failed":
        said = {"error_type": record.error_type, "message": record.message}
    elif record.state.status == "cancelled":
        said = {"error_type": "Cancelled", "message": "it was cancelled"}
    if any(isinstance(value, Missing) for value in said.values()):
        return None
    return ChildRunEnded(run=child, status=record.state.status, seq=end.seq, hash=bytes(end.hash), **said)
