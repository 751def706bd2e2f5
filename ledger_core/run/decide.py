"""Decisions about a run: one function per command, from a state to bodies, or a typed refusal.

Rules: pure. Time, ids and what is known of other processes come in as arguments. A decision is made inside the write
transaction, on the state at the head, and may be made again. This file does not know the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ledger_core.errors import Fenced, Refused
from ledger_core.events import Body
from ledger_core.events.effect import ToolCallRequested
from ledger_core.events.run import DivergenceDetected, RunCompleted, RunCreated, RunFailed
from ledger_core.events.step import (
    AgentResultReturned,
    LeaseExpired,
    StatePatchCommitted,
    StepClaimed,
    StepCompleted,
    StepCreated,
    StepFailed,
    StepReleased,
)
from ledger_core.run.divergence import Divergence
from ledger_core.run.state import RunState


def create(spec: RunCreated, step: str) -> list[Body]:
    """A new run with its first step."""
    return [spec, StepCreated(step=step, number=1, agent=spec.agent)]


def claim(state: RunState, worker: str, *, owner_alive: bool, code_digest: bytes | None) -> list[Body]:
    """The step for `worker`: a new epoch, which fences every earlier one. Refused while its owner lives."""
    _check_known(state)
    if state.ended:
        raise Refused(f"Run {state.run} has {state.status}; there is nothing left to do.", run=state.run)
    bodies: list[Body] = []
    if state.worker is not None:
        if owner_alive:
            raise Refused(
                f"Run {state.run} is being worked on by {state.worker}.",
                hint="Wait for it: agentledger status " + state.run,
                run=state.run,
            )
        bodies.append(LeaseExpired(step=state.step, epoch=state.epoch, reason="its process is gone"))
    claimed = StepClaimed(
        step=state.step,
        epoch=state.epoch + 1,
        worker=worker,
        code_digest=code_digest,
        base_version=state.version,
    )
    return [*bodies, claimed]


def check_fence(state: RunState, epoch: int) -> None:
    """Raise `Fenced` unless `epoch` still owns the step."""
    _check_known(state)
    if state.epoch != epoch or state.worker is None or state.ended:
        raise Fenced(
            f"Epoch {epoch} of {state.step} in run {state.run} is over; epoch {state.epoch} is the latest.",
            hint="Another worker has taken the step, or it has ended: this one may change nothing more.",
            run=state.run,
            epoch=state.epoch,
        )


def complete(state: RunState, output: Any, patch: dict[str, Any], riders: Sequence[Body]) -> list[Body]:
    """The step's and the run's good end; `riders` are bodies that go into the log before it, in the same commit."""
    bodies: list[Body] = [AgentResultReturned(step=state.step, output=output)]
    if patch:
        version = state.version + 1
        bodies.append(StatePatchCommitted(step=state.step, base_version=state.version, version=version, patch=patch))
    bodies.append(StepCompleted(step=state.step, epoch=state.epoch))
    counts, tools = _tally(state, [*riders, *bodies])
    return [*bodies, RunCompleted(counts=counts, tools=tools)]


def fail(state: RunState, category: str, error_type: str, message: str, riders: Sequence[Body]) -> list[Body]:
    """The step's and the run's end by an error of the agent's."""
    failed = StepFailed(step=state.step, epoch=state.epoch, category=category, error_type=error_type, message=message)
    counts, tools = _tally(state, [*riders, failed])
    return [failed, RunFailed(category=category, counts=counts, tools=tools)]


def release(state: RunState, waiting: str | None) -> list[Body]:
    """Give the step back, saying why it cannot go on, if it cannot."""
    return [StepReleased(step=state.step, epoch=state.epoch, waiting=waiting)]


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


def _check_known(state: RunState) -> None:
    if state.newer is not None:
        raise Refused(
            f"Run {state.run} has an event of the type {state.newer}, which this version does not know.",
            hint="Go on with it in the newer version: python -m pip install --upgrade agentledger.",
        )


def _tally(state: RunState, bodies: Sequence[Body]) -> tuple[dict[str, int], dict[str, int]]:
    """Events by type and calls by tool, in the log and in `bodies`: what a terminal event asserts."""
    counts, tools = Counter(state.counts), Counter(state.tools)
    for body in bodies:
        counts[body.kind.name] += 1
        if isinstance(body, ToolCallRequested):
            tools[body.tool] += 1
    return dict(sorted(counts.items())), dict(sorted(tools.items()))
