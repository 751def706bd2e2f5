"""Decisions about a run: one function per command, from a state to bodies, or a typed refusal.

Rules: pure. Time, ids and what is known of other processes come in as arguments. A decision is made inside the write
transaction, on the state at the head, and may be made again. An empty list says that there is nothing to change. This
file does not know the log; what the steps of a run do to one another is here, what comes from outside in `answer`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from ledger_core.errors import Cancelled, Fenced, Refused
from ledger_core.events import Body
from ledger_core.events.effect import ToolCallCompleted, ToolCallFailed, ToolCallRequested, ToolCallSettled
from ledger_core.events.run import (
    DivergenceDetected,
    RunCancelled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunParked,
)
from ledger_core.events.step import (
    AgentResultReturned,
    LeaseExpired,
    StatePatchCommitted,
    StepBlocked,
    StepCancelled,
    StepClaimed,
    StepCompleted,
    StepCreated,
    StepFailed,
    StepReleased,
    StepRetryScheduled,
)
from ledger_core.run.divergence import Divergence
from ledger_core.run.entry import UNKNOWN
from ledger_core.run.retry import policy_of
from ledger_core.run.state import FINAL, UNSETTLED, RunState


@attrs.frozen(kw_only=True)
class Failure:
    """An error of the agent's, in words that replay, and what is needed to decide what follows."""

    category: str
    error_type: str
    message: str
    types: tuple[str, ...] = ()
    """Names of the error's classes: rules of a retry policy name them."""
    path: str | None = None
    """The effect whose failure it comes from."""


def create(spec: RunCreated, step: str) -> list[Body]:
    """A new run with its first step."""
    return [spec, StepCreated(step=step, number=1, agent=spec.agent)]


def claim(state: RunState, worker: str, *, owner_alive: bool, code_digest: bytes | None) -> list[Body]:
    """The step for `worker`: a new epoch, which fences every earlier one. Refused while its owner lives.

    A run that is to be cancelled, and whose owner is gone, ends instead.
    """
    check_known(state)
    if state.ended:
        raise Refused(f"Run {state.run} {state.words}; there is nothing left to do.", run=state.run)
    if state.worker is not None and owner_alive:
        raise Refused(
            f"Run {state.run} is being worked on by {state.worker}.",
            hint="Wait for it: agentledger status " + state.run,
            run=state.run,
        )
    bodies: list[Body] = []
    if state.worker is not None:
        bodies.append(LeaseExpired(step=state.step, epoch=state.epoch, reason="its worker is gone"))
    if state.cancelling:
        return [*bodies, *cancelled(state, bodies)]
    claimed = StepClaimed(
        step=state.step,
        epoch=state.epoch + 1,
        worker=worker,
        code_digest=code_digest,
        base_version=state.version,
    )
    return [*bodies, claimed]


def expire(state: RunState, reason: str) -> list[Body]:
    """End the epoch of an owner that is gone or overdue; parks a run that costs one worker after the other."""
    check_known(state)
    if state.worker is None or state.ended:
        return []
    bodies: list[Body] = [LeaseExpired(step=state.step, epoch=state.epoch, reason=reason)]
    if state.cancelling:
        return [*bodies, *cancelled(state, bodies)]
    if state.losses + 1 >= policy_of(state.retry).max_losses and state.driver == "code":
        bodies.append(RunParked(step=state.step, losses=state.losses + 1))
    return bodies


def check_fence(state: RunState, epoch: int) -> None:
    """Raise `Fenced` unless `epoch` still owns the step."""
    check_known(state)
    if state.epoch != epoch or state.worker is None or state.ended:
        raise Fenced(
            f"Epoch {epoch} of {state.step} in run {state.run} is over; epoch {state.epoch} is the latest.",
            hint="Another worker has taken the step, or it has ended: this one may change nothing more.",
            run=state.run,
            epoch=epoch,
        )


def check_begins(state: RunState) -> None:
    """Raise `Cancelled` if the run is to end: nothing new begins, what is under way is still recorded."""
    if state.cancelling:
        raise Cancelled(f"Run {state.run} is to be cancelled: nothing more begins.", run=state.run)


def check_unsettled(state: RunState, body: Body) -> None:
    """Raise `Settled` if an outside write has its one final outcome already, `Refused` for a new attempt in doubt."""
    if isinstance(body, ToolCallRequested) and body.approval is not None and body.approval not in state.granted:
        raise Refused(f"Effect {body.path} of run {state.run} stands on {body.approval}, which nobody has given.")
    if isinstance(body, (ToolCallCompleted, ToolCallFailed, ToolCallSettled)):
        row = state.ledger.get(body.path)
        open_ = row is None or (row.status in UNSETTLED and row.attempt == body.attempt)
        if not open_ and getattr(body, "category", "") != UNKNOWN:
            assert row is not None
            raise Settled(f"Effect {body.path} of run {state.run} was settled meanwhile: {row.status}.")
    if isinstance(body, ToolCallRequested):
        row = state.ledger.get(body.path)
        if row is not None and row.status in FINAL:
            raise Settled(f"Effect {body.path} of run {state.run} was settled meanwhile: {row.status}.")
        if row is not None and row.status in UNSETTLED and not row.resend:
            raise Refused(f"Effect {body.path} of run {state.run} is in doubt: it is not made again by itself.")


class Settled(Refused):
    """Somebody else found out what became of an outside write, while this worker was about to say it."""


def complete(state: RunState, output: Any, patch: dict[str, Any], riders: Sequence[Body]) -> list[Body]:
    """The step's and the run's good end; `riders` are bodies that go into the log before it, in the same commit."""
    bodies: list[Body] = [AgentResultReturned(step=state.step, output=output)]
    bodies += [*commit_patch(state, patch), StepCompleted(step=state.step, epoch=state.epoch)]
    counts, tools = tally(state, [*riders, *bodies])
    return [*bodies, RunCompleted(counts=counts, tools=tools)]


def commit_patch(state: RunState, patch: dict[str, Any]) -> list[Body]:
    """The state's next version, if the patch changes anything."""
    if not patch:
        return []
    version = state.version + 1
    return [StatePatchCommitted(step=state.step, base_version=state.version, version=version, patch=patch)]


def proceed(state: RunState, patch: dict[str, Any], following: StepCreated) -> list[Body]:
    """The step's good end, and the next step, with a fresh journal."""
    return [*commit_patch(state, patch), StepCompleted(step=state.step, epoch=state.epoch), following]


def fail(state: RunState, failure: Failure, riders: Sequence[Body], now_ns: int) -> list[Body]:
    """The step's next attempt, if its policy has one; else the step's and the run's end by an error of the agent's."""
    policy = policy_of(state.retry)
    if policy.again(state.attempt, failure.category, failure.types):
        # Nothing to reopen: the same code would fail of the same record again, unless it was only slow.
        fresh = policy.fresh or (failure.path is None and failure.category != "timeout")
        return [
            StepRetryScheduled(
                step=state.step,
                epoch=state.epoch,
                attempt=state.attempt + 1,
                wake_ns=now_ns + policy.pause_ns(state.attempt, state.seed, state.step),
                category=failure.category,
                error_type=failure.error_type,
                reopened=None if fresh else failure.path,
                fresh=fresh or None,
                message=failure.message,
            )
        ]
    failed = StepFailed(
        step=state.step,
        epoch=state.epoch,
        category=failure.category,
        error_type=failure.error_type,
        message=failure.message,
    )
    counts, tools = tally(state, [*riders, failed])
    return [failed, RunFailed(category=failure.category, counts=counts, tools=tools)]


def release(state: RunState, waiting: str | None) -> list[Body]:
    """Give the step back, saying why it cannot go on, if it cannot."""
    return [StepReleased(step=state.step, epoch=state.epoch, waiting=waiting)]


def block(state: RunState, reason: str) -> list[Body]:
    """Give the step back until a person has mended what `reason` says."""
    return [StepBlocked(step=state.step, epoch=state.epoch, reason=reason), *release(state, "blocked")]


def cancelled(state: RunState, before: Sequence[Body]) -> list[Body]:
    """The step's and the run's end because somebody asked for it; `before` goes into the log first."""
    bodies: list[Body] = [StepCancelled(step=state.step, epoch=state.epoch)]
    counts, tools = tally(state, [*before, *bodies])
    return [*bodies, RunCancelled(counts=counts, tools=tools)]


def diverge(state: RunState, found: Divergence) -> list[Body]:
    """Stop the step before it does anything, with the difference."""
    detected = DivergenceDetected(
        step=state.step,
        epoch=state.epoch,
        code=found.kind.code,
        path=found.path,
        difference=found.as_json(),
    )
    return [detected, StepReleased(step=state.step, epoch=state.epoch, waiting="divergence")]


def check_known(state: RunState) -> None:
    """Raise `Refused` if a newer version wrote something that must be understood."""
    if state.newer is not None:
        raise Refused(
            f"Run {state.run} has an event of the type {state.newer}, which this version does not know.",
            hint="Go on with it in the newer version: python -m pip install --upgrade agentledger.",
        )


def tally(state: RunState, bodies: Sequence[Body]) -> tuple[dict[str, int], dict[str, int]]:
    """Events by type and calls by tool, in the log and in `bodies`: what a terminal event asserts."""
    counts, tools = Counter(state.counts), Counter(state.tools)
    for body in bodies:
        counts[body.kind.name] += 1
        if isinstance(body, ToolCallRequested):
            tools[body.tool] += 1
    return dict(sorted(counts.items())), dict(sorted(tools.items()))
