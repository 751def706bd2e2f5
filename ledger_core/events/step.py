"""Events of a step: the unit that a worker claims, owns for an epoch, and ends."""

from __future__ import annotations

from ledger_core.events.base import JSON, Body, content, event, fact


@event("step_created", critical=True)
class StepCreated(Body):
    """A step is there to be claimed."""

    step: str = fact()
    number: int = fact()
    agent: str = fact()


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
    """The owner gave the step back: `waiting` names why it cannot go on by itself, if it cannot."""

    step: str = fact()
    epoch: int = fact()
    waiting: str | None = fact(default=None)


@event("lease_expired", critical=True)
class LeaseExpired(Body):
    """The owner is gone or overdue; somebody else ended its epoch."""

    step: str = fact()
    epoch: int = fact()
    reason: str = fact()


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
