"""Events of a run as a whole: asked for, ended, found to have changed under its record."""

from __future__ import annotations

from typing import Any, Literal

from ledger_core.events.base import JSON, Body, content, event, fact

Driver = Literal["code", "external"]


@event("run_created", critical=True)
class RunCreated(Body):
    """A run with its frozen spec."""

    run: str = fact()
    agent: str = fact()
    role: str | None = fact(default=None)
    driver: str = fact(default="code")
    entry_point: str | None = fact(default=None)
    """`module:qualname` or `file.py:qualname` of the code, where it can be imported again."""
    code_digest: bytes | None = fact(default=None)
    session: str | None = fact(default=None)
    seed: bytes = fact()
    """32 bytes that `ctx.random` and `ctx.uuid` derive from."""
    priority: int | None = fact(default=None)
    """-128 to 127, the highest is claimed first; 0 if left out."""
    capabilities: list[str] | None = fact(default=None)
    """What a worker must offer to claim it."""
    retry: dict[str, Any] | None = fact(default=None)
    """The retry policy (`run.retry`), the default one if left out."""
    timeout_ns: int | None = fact(default=None)
    """How long one claim of a step may work."""
    budget: dict[str, int] | None = fact(default=None)
    """Bounds of what it may use, with its children, by dimension (`run.budget`)."""
    parent: str | None = fact(default=None)
    """The run that spawned this one, by its effect at `parent_path`, recorded in the event of this seq and hash."""
    parent_path: str | None = fact(default=None)
    parent_seq: int | None = fact(default=None)
    parent_hash: bytes | None = fact(default=None)
    root: str | None = fact(default=None)
    """The first run of the family; left out for itself."""
    ancestor: str | None = fact(default=None)
    """The run that this one was forked from, behind its event `ancestor_event` (its own number, from 1)."""
    ancestor_event: int | None = fact(default=None)
    ancestor_seq: int | None = fact(default=None)
    """Seq and hash of that event: what the run shares with its ancestor is referred to, not copied."""
    ancestor_hash: bytes | None = fact(default=None)
    lineage: str | None = fact(default=None)
    """The run at the beginning of the line of forks: its key makes the tags of requests."""
    lineage_seed: bytes | None = fact(default=None)
    """Its seed: what `ctx.random` and `ctx.uuid` derive from; keys of effects derive from the run's own."""
    writes_blocked: bool | None = fact(default=None)
    """Outside writes are refused: a fork that is not live, and its children."""
    variables: JSON = content(default=None)
    """The session's variables as the run was created."""
    initial_state: JSON = content()
    origin: str | None = content(default=None)
    """Where the code's file was; content, because paths name people."""
    set_state: JSON = content(default=None)
    """Of a fork: a merge patch of the state, in force behind the shared part."""
    overrides: JSON = content(default=None)
    """Of a fork: results that take the place of shared ones, by path."""


@event("run_completed", critical=True, closes=True)
class RunCompleted(Body):
    """The run ended well. `counts` (events by type) and `tools` (calls by tool) are confirmed by `verify`."""

    counts: dict[str, int] = fact()
    tools: dict[str, int] = fact()


@event("run_failed", critical=True, closes=True)
class RunFailed(Body):
    """The run ended with an error of its own."""

    category: str = fact()
    counts: dict[str, int] = fact()
    tools: dict[str, int] = fact()


@event("run_cancel_requested", critical=True)
class RunCancelRequested(Body):
    """Somebody wants the run to end. Its worker stops at its next effect; nobody's run ends with this event."""

    reason: str = content(default="")


@event("run_cancelled", critical=True, closes=True)
class RunCancelled(Body):
    """The run ended because it was asked to."""

    counts: dict[str, int] = fact()
    tools: dict[str, int] = fact()


@event("run_parked", critical=True)
class RunParked(Body):
    """Nobody claims the run any more until a person resumes it: `losses` workers in a row were lost with it."""

    step: str = fact()
    losses: int = fact()


@event("divergence_detected", critical=True)
class DivergenceDetected(Body):
    """The code attempted something else than was recorded; the step was stopped before it did anything."""

    step: str = fact()
    epoch: int = fact()
    code: str = fact()
    """The numbered code of `contracts/DIVERGENCE.md`."""
    path: str = fact()
    difference: JSON = content()
