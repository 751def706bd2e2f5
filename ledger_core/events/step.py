"""Events of a step: the unit that a worker claims, owns for an epoch, and ends."""

from __future__ import annotations

from ledger_core.events.base import JSON, Body, content, event, fact


@event("step_created", critical=True)
class StepCreated(Body):
    """A step is there to be claimed."""

    step: str = fact()
    number: int = fact()
    """From 1, in the order of the run's steps."""
    agent: str = fact()
    entry_point: str | None = fact(default=None)
    """Of the step's code, where it is not the run's own."""
    code_digest: bytes | None = fact(default=None)


@event("step_claimed", critical=True)
class StepClaimed(Body):
    """A worker owns the step; its epoch fences every earlier owner."""

    step: str = fact()
    epoch: int = fact()
    worker: str = fact()
    code_digest: bytes | None = fact(default=None)
    base_version: int = fact()
    """Version of the state that the step sees, the same for all its claims."""


@event("step_released", critical=True)
class StepReleased(Body):
    """The owner gave the step back: `waiting` names why it cannot go on at once, if it cannot."""

    step: str = fact()
    epoch: int = fact()
    waiting: str | None = fact(default=None)
    """`waits` for what its branches wait for, `yield` for its next turn; `in doubt`, `divergence` and `blocked` for a
    person."""


@event("step_blocked")
class StepBlocked(Body):
    """Something that only a person can mend keeps the step from going on: a tool or a provider that is not there."""

    step: str = fact()
    epoch: int = fact()
    reason: str = content()


@event("lease_expired", critical=True)
class LeaseExpired(Body):
    """The owner is gone or overdue; somebody else ended its epoch."""

    step: str = fact()
    epoch: int = fact()
    reason: str = fact()


@event("step_retry_scheduled", critical=True)
class StepRetryScheduled(Body):
    """The step's code failed and is tried again: `attempt` begins not before `wake_ns`."""

    step: str = fact()
    epoch: int = fact()
    attempt: int = fact()
    wake_ns: int = fact()
    category: str = fact()
    error_type: str = fact()
    reopened: str | None = fact(default=None)
    """Path of the effect whose failure the code failed of: tried again, the others stay as they are recorded."""
    fresh: bool | None = fact(default=None)
    """The attempt begins without the journal; outside writes that succeeded stay."""
    message: str = content()


@event("step_cancelled", critical=True)
class StepCancelled(Body):
    """The step ended because its run was asked to."""

    step: str = fact()
    epoch: int = fact()


@event("code_patched")
class CodePatched(Body):
    """The code took a branch that was added on purpose: `ctx.patched(name)` was true, and stays so for this step."""

    step: str = fact()
    name: str = fact()


@event("state_patch_proposed")
class StatePatchProposed(Body):
    """The agent wrote to its state; merged into the run's when the step completes."""

    path: str = fact()
    request: bytes = fact()
    patch: JSON = content()


@event("state_patch_committed", critical=True)
class StatePatchCommitted(Body):
    """The run's state moved from one version to the next by an RFC 7396 merge patch."""

    step: str = fact()
    base_version: int = fact()
    version: int = fact()
    patch: JSON = content()


@event("agent_result_returned")
class AgentResultReturned(Body):
    """What the agent's function returned."""

    step: str = fact()
    output: JSON = content()


@event("step_completed", critical=True)
class StepCompleted(Body):
    """The step ended well."""

    step: str = fact()
    epoch: int = fact()


@event("step_failed", critical=True)
class StepFailed(Body):
    """The step ended with an error of the agent's."""

    step: str = fact()
    epoch: int = fact()
    category: str = fact()
    error_type: str = fact()
    message: str = content()
