"""Decisions about a run from outside its worker: cancel, signal, answer a person's question, the end of a child.

Rules: as in `decide`. Whoever holds the step is left alone; a run that nobody holds is moved on by the place that its
events give it in the queue.
"""

from __future__ import annotations

from typing import Any

from ledger_core.errors import NotFound, Refused
from ledger_core.events import Body
from ledger_core.events.effect import SettledAs, ToolCallSettled
from ledger_core.events.govern import CompensationStarted
from ledger_core.events.run import RunCancelRequested
from ledger_core.events.step import LeaseExpired
from ledger_core.events.wait import ApprovalDecided, ChildRunEnded, SignalReceived
from ledger_core.run.decide import cancelled, check_known
from ledger_core.run.state import UNSETTLED, RunState, ToolEntry


def cancel(state: RunState, reason: str, *, owner_alive: bool) -> list[Body]:
    """Ask the run to end; it ends at once if nobody holds it. Refused for one that has ended."""
    check_known(state)
    if state.ended:
        raise _over(state, "cancelled")
    bodies: list[Body] = [] if state.cancelling else [RunCancelRequested(reason=reason)]
    if state.worker is not None and owner_alive:
        return bodies
    if state.worker is not None:
        bodies.append(LeaseExpired(step=state.step, epoch=state.epoch, reason="its worker is gone"))
    return [*bodies, *cancelled(state, bodies)]


def signal(state: RunState, name: str, payload: Any, sender: bytes | None) -> list[Body]:
    """A signal for the run, whether anybody waits for it yet or not; nothing if its sender has sent it before."""
    check_known(state)
    if sender is not None and (name, sender) in state.senders:
        return []
    if state.ended:
        raise _over(state, "signalled")
    return [SignalReceived(name=name, sender=sender, payload=payload)]


def approve(state: RunState, approval: str, *, approved: bool, by: str, reason: str, now_ns: int) -> list[Body]:
    """A person's answer, once. Refused for a question that nobody waits for any more, or that has another answer."""
    check_known(state)
    if approval not in state.approvals:
        raise NotFound(f"Run {state.run} has not asked for {approval}.", hint="`agentledger approvals` lists them.")
    if state.approvals[approval] is not None:
        raise Refused(f"{approval} was answered already.", hint=f"See: agentledger log show {state.run}")
    waits = [one.wake_ns for one in state.waits.values() if one.name == approval]
    asked = [*waits, state.pending[approval]] if approval in state.pending else waits
    if state.ended or all(until is not None and until <= now_ns for until in asked):
        raise Refused(
            f"Nobody waits for {approval} any more: its time is over, or run {state.run} went on without it.",
            hint=f"See: agentledger status {state.run}",
        )
    return [ApprovalDecided(approval=approval, approved=approved, by=by, reason=reason)]


def child_ended(state: RunState, ended: ChildRunEnded) -> list[Body]:
    """What a parent is told of its child's end; nothing if it has ended itself, or was told."""
    child = state.children.get(ended.run)
    return [] if state.ended or child is None or child.ended is not None else [ended]


def settle_late(state: RunState, settled: ToolCallSettled) -> list[Body]:
    """A fenced worker's own outcome of its own attempt: evidence, unless the call is settled or was made again."""
    row = state.ledger.get(settled.path)
    open_ = row is not None and row.status in UNSETTLED
    return [settled] if open_ and row is not None and row.attempt == settled.attempt and not state.ended else []


def settle(
    state: RunState,
    path: str,
    outcome: SettledAs,
    *,
    owner_alive: bool,
    reason: str,
    result: Any,
    spent: dict[str, int],
) -> list[Body]:
    """A person's word on a call: what became of one in doubt, or that one that succeeded was undone."""
    check_known(state)
    row = _row(state, path)
    wanted = ("SUCCEEDED", "PENDING_VERIFICATION") if outcome == "compensated" else ("PENDING_VERIFICATION",)
    lost = row.status == "RUNNING" and not owner_alive
    if row.status == "RUNNING" and owner_alive:
        raise Refused(
            f"The call of {row.tool} at effect {path} of run {state.run} is under way.",
            hint="Wait for it; if its worker hangs, cancel the run first.",
        )
    if row.status not in wanted and not lost:
        raise Refused(
            f"The call of {row.tool} at effect {path} of run {state.run} is {row.status}, not in doubt.",
            hint="Only what nobody knows can be settled, and only what succeeded can have been undone.",
        )
    held = path in state.reservations
    fence: list[Body] = []
    if lost and state.worker is not None:  # a worker that is only stopped must not say something else later
        fence.append(LeaseExpired(step=state.step, epoch=state.epoch, reason="a person settled its call"))
    return [
        *fence,
        ToolCallSettled(
            path=path,
            attempt=row.attempt,
            outcome=outcome,
            by="person",
            spent=(spent or None) if held and outcome != "no_effect" else None,
            result=result,
            reason=reason,
        ),
    ]


def start_compensation(state: RunState, path: str, *, by: str, reason: str, again: bool) -> list[Body]:
    """The intent to undo a call that succeeded; once more, where nobody has said that it ended, only if so asked."""
    check_known(state)
    row = _row(state, path)
    if row.status != "SUCCEEDED":
        raise Refused(
            f"The call of {row.tool} at effect {path} of run {state.run} is {row.status}: there is nothing to undo.",
            hint="Only what succeeded can be undone; settle what is in doubt first.",
        )
    if row.compensating and not again:
        raise Refused(
            f"Somebody began to undo the call of {row.tool} at effect {path} of run {state.run}, "
            "and nobody has said that it ended.",
            hint="Find out: then settle it as compensated, or undo it again (--again).",
        )
    return [CompensationStarted(path=path, attempt=row.attempt, tool=row.tool, by=by, reason=reason)]


def _row(state: RunState, path: str) -> ToolEntry:
    row = state.ledger.get(path)
    if row is None:
        raise NotFound(f"Run {state.run} has no call at effect {path}.", hint=f"See: agentledger ledger {state.run}")
    return row


def _over(state: RunState, what: str) -> Refused:
    return Refused(
        f"Run {state.run} {state.words}; it cannot be {what} any more.",
        hint=f"See what came of it: agentledger status {state.run}",
        run=state.run,
    )
