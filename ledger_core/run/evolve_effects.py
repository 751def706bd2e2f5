"""What each event of an effect changes in a run's state: its tool ledger, its waits, its costs, what its calls hold.

Rules: as in `evolve`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ledger_core.events import Body, effect, govern
from ledger_core.run.rows import UNSETTLED, LedgerStatus, ToolEntry, Wait, WaitKind
from ledger_core.run.spending import hold

if TYPE_CHECKING:
    from ledger_core.run.state import RunState


def _tool_requested(state: RunState, seq: int, body: effect.ToolCallRequested) -> None:
    _asked(state, body.path)
    state.tools[body.tool] += 1
    state.names[body.path] = body.tool
    state.effects += body.attempt == 1 and body.path not in state.waits
    state.waits.pop(body.path, None)
    hold(state.reservations, body)
    if body.approval is not None:
        state.used.add(body.approval)
    if body.side_effect == "external_write" or body.key is not None:
        state.ledger[body.path] = ToolEntry(
            path=body.path,
            tool=body.tool,
            tool_version=body.tool_version,
            side_effect=body.side_effect,
            attempt=body.attempt,
            status="RUNNING",
            seq=seq,
            epoch=state.epoch,
            worker=state.worker,
            requested_ns=state.updated_ns,
            updated_ns=state.updated_ns,
            key=body.key,
            key_request=body.key_request,
            idempotency=body.idempotency,
        )


def _model_requested(state: RunState, _: int, body: effect.ModelCallRequested) -> None:
    _asked(state, body.path)
    state.asking.add(state.effect_key(body.path))
    hold(state.reservations, body)
    state.effects += body.attempt == 1 and body.path not in state.waits
    state.model_calls += 1
    state.names[body.path] = body.model
    state.waits.pop(body.path, None)


def _model_completed(state: RunState, _: int, body: effect.ModelCallCompleted) -> None:
    progressed(state)
    state.names.pop(body.path, None)
    state.asking.discard(state.effect_key(body.path))
    hold(state.reservations, body)
    state.input_tokens += body.input_tokens or 0
    state.output_tokens += body.output_tokens or 0
    state.cached_tokens += body.cached_tokens or 0
    state.usd_nano += body.usd_nano or 0


def _model_failed(state: RunState, _: int, body: effect.ModelCallFailed) -> None:
    progressed(state)
    _stumbled(state, body.path, body.attempt)
    state.asking.discard(state.effect_key(body.path))
    _paid(state, body)
    if body.retry_ns is None:
        state.failed[body.path] = state.events
    else:
        again(state, body.path, "outage" if body.category == "outage" else "retry", "the model", body.retry_ns)


def _captured(state: RunState, _: int, __: effect.ValueCaptured) -> None:
    state.effects += 1
    progressed(state)


def _tool_completed(state: RunState, seq: int, body: effect.ToolCallCompleted) -> None:
    progressed(state)
    state.names.pop(body.path, None)
    state.waits.pop(body.path, None)
    _paid(state, body)
    _row(state, body.path, "SUCCEEDED", seq)


def _tool_failed(state: RunState, _: int, body: effect.ToolCallFailed) -> None:
    progressed(state)
    row = state.ledger.get(body.path)
    if body.category == "unknown" and row is not None and row.status not in UNSETTLED:
        state.late = state.events
        return  # the word for not knowing rode, and somebody who knew was faster
    _stumbled(state, body.path, body.attempt)
    _paid(state, body)
    _row(state, body.path, "PENDING_VERIFICATION" if body.in_doubt else "FAILED_NO_EFFECT")
    if body.retry_ns is None and not body.in_doubt:
        state.failed[body.path] = state.events
    if body.retry_ns is not None:
        kind: WaitKind = "settle" if body.in_doubt else "outage" if body.category == "outage" else "retry"
        again(state, body.path, kind, row.tool if row else "a tool", body.retry_ns)


def again(state: RunState, path: str, kind: WaitKind, name: str, wake_ns: int) -> None:
    """Look at an effect again at a time."""
    state.waits[path] = Wait(
        path=path, kind=kind, name=name, since_ns=state.updated_ns, wake_ns=wake_ns, event=state.events
    )


def _tool_settled(state: RunState, seq: int, body: effect.ToolCallSettled) -> None:
    waited = state.waits.pop(body.path, None)
    state.failed[body.path] = state.events
    _paid(state, body)
    _row(state, body.path, _SETTLED[body.outcome], seq if body.outcome == "succeeded" else None)
    if body.path in state.ledger:
        row = state.ledger[body.path]
        row.settled_by, row.compensating, row.resend = body.by, False, body.outcome == "resent"
    if body.outcome == "succeeded":
        progressed(state)
    known = state.waiting == "in doubt" and not state.in_doubt
    if state.status == "waiting" and (known or (state.waiting == "waits" and waited is not None)):
        state.status, state.waiting = "pending", None


def _abandoned(state: RunState, _: int, body: effect.EffectAbandoned) -> None:
    state.waits.pop(body.path, None)
    took = state.taken.pop(body.path, None)
    if took is not None:
        state.signals[took[0]] = sorted([*state.signals.get(took[0], ()), took[1]])


def _tool_approval(state: RunState, seq: int, body: govern.ToolApprovalRequired) -> None:
    wait_for(state, "approval", body, body.approval)
    state.approvals[body.approval] = None
    if body.path in state.ledger and state.ledger[body.path].status in UNSETTLED:
        return  # it is to be sent again, and what was sent before is as much in doubt as it was
    state.ledger[body.path] = ToolEntry(
        path=body.path,
        tool=body.tool,
        tool_version=body.tool_version,
        side_effect=body.side_effect,
        attempt=0,
        status="RESERVED",
        seq=seq,
        requested_ns=state.updated_ns,
        updated_ns=state.updated_ns,
    )


def _refused(state: RunState, _: int, body: govern.EffectRefused) -> None:
    state.effects += body.path not in state.waits
    state.refused[body.category] += 1
    state.waits.pop(body.path, None)
    state.failed[body.path] = state.events
    hold(state.reservations, body)
    row = state.ledger.get(body.path)
    if row is not None and row.status not in UNSETTLED:
        _row(state, body.path, "FAILED_NO_EFFECT")
    state.stumbled[f"{state.effect_key(body.path, refused=True)}!"] = (state.fresh, 0)


def _joined(state: RunState, _: int, body: govern.ToolCallJoined) -> None:
    state.effects += 1
    state.waits.pop(body.path, None)
    progressed(state)


def _effect_held(state: RunState, _: int, body: govern.EffectHeld) -> None:
    state.effects += body.path not in state.waits
    again(state, body.path, body.why, body.of, body.wake_ns)


def _cost(state: RunState, _: int, body: govern.CostRecorded) -> None:
    _asked(state, body.path)
    state.effects += 1
    state.usd_nano += body.spent.get("usd_nano", 0)
    state.input_tokens += body.spent.get("input_tokens", 0)
    state.output_tokens += body.spent.get("output_tokens", 0)
    state.cached_tokens += body.spent.get("cached_tokens", 0)


def _artifact(state: RunState, _: int, __: govern.ArtifactCreated) -> None:
    state.effects += 1
    state.artifacts += 1
    progressed(state)


def _compensating(state: RunState, _: int, body: govern.CompensationStarted) -> None:
    if body.path in state.ledger:
        state.ledger[body.path].compensating = True


def _asked(state: RunState, path: str) -> None:
    """The code asks for an effect: what failed or was paid at its path before it began afresh was another."""
    if state.fresh:
        state.generations[path] = state.fresh


def _stumbled(state: RunState, path: str, attempt: int) -> None:
    key, generation = state.effect_key(path), state.generations.get(path, 0)
    state.stumbled[key] = (generation, max(attempt, state.stumbled.get(key, (0, 0))[1]))


def _row(state: RunState, path: str, status: LedgerStatus, done: int | None = None) -> None:
    row = state.ledger.get(path)
    if row is not None:
        row.status, row.updated_ns, row.done = status, state.updated_ns, done or row.done


def _paid(state: RunState, body: Any) -> None:
    hold(state.reservations, body)
    if body.spent:
        state.usd_nano += body.spent.get("usd_nano", 0)


def wait_for(state: RunState, kind: WaitKind, body: Any, name: str) -> None:
    """A branch of the step waits."""
    state.effects += 1
    state.waits[body.path] = Wait(
        path=body.path,
        kind=kind,
        name=name,
        since_ns=state.updated_ns,
        wake_ns=body.wake_ns,
        event=state.events,
    )


def doubted(state: RunState, *, ends: bool = False) -> None:
    """Whoever made the calls that are under way has lost the step: nobody knows what came of them."""
    for row in state.ledger.values():
        if row.status == "RUNNING":
            row.status = "PENDING_VERIFICATION"
        elif row.status == "RESERVED" and ends:
            row.status = "FAILED_NO_EFFECT"


def progressed(state: RunState) -> None:
    """Something came of the work: workers were not lost for nothing."""
    state.losses = 0


_SETTLED: dict[str, LedgerStatus] = {
    "succeeded": "SUCCEEDED",
    "no_effect": "FAILED_NO_EFFECT",
    "compensated": "COMPENSATED",
    "resent": "PENDING_VERIFICATION",
}
EFFECTS: Final[dict[type[Body], Callable[[Any, int, Any], None]]] = {
    effect.ToolCallRequested: _tool_requested,
    effect.ModelCallRequested: _model_requested,
    effect.ModelCallCompleted: _model_completed,
    effect.ModelCallFailed: _model_failed,
    effect.ValueCaptured: _captured,
    effect.ToolCallCompleted: _tool_completed,
    effect.ToolCallFailed: _tool_failed,
    effect.ToolCallSettled: _tool_settled,
    effect.EffectAbandoned: _abandoned,
    govern.ToolApprovalRequired: _tool_approval,
    govern.EffectRefused: _refused,
    govern.ToolCallJoined: _joined,
    govern.EffectHeld: _effect_held,
    govern.CostRecorded: _cost,
    govern.ArtifactCreated: _artifact,
    govern.CompensationStarted: _compensating,
}
