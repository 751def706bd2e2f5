"""Events of durable waits: for a time, a signal, an approval, a child run.

An intent says what is waited for at a path. Answers come from elsewhere, at any time: another process, a person, the
end of a child. `wait_answered` and `timer_fired` say when the code was given one, and so in which order it saw them.
"""

from __future__ import annotations

from ledger_core.events.base import JSON, Body, content, event, fact


@event("timer_started", critical=True)
class TimerStarted(Body):
    """The code sleeps until `wake_ns`."""

    path: str = fact()
    request: bytes = fact()
    wake_ns: int = fact()
    asked: JSON = content()


@event("timer_fired", critical=True)
class TimerFired(Body):
    """The time of a wait came: a sleep is over, or a signal, an approval or a child did not come in time."""

    path: str = fact()


@event("signal_awaited", critical=True)
class SignalAwaited(Body):
    """The code waits for the next signal of a name."""

    path: str = fact()
    name: str = fact()
    request: bytes = fact()
    wake_ns: int | None = fact(default=None)
    asked: JSON = content()


@event("signal_received", critical=True)
class SignalReceived(Body):
    """Somebody sent the run a signal; it is consumed once, in the order of arrival among those of its name."""

    name: str = fact()
    sender: bytes | None = fact(default=None)
    """Keyed tag of the sender's own id: the same signal sent again is the same signal."""
    payload: JSON = content()


@event("approval_requested", critical=True)
class ApprovalRequested(Body):
    """The code asks a person. The answer holds for this request, once."""

    path: str = fact()
    approval: str = fact()
    tag: bytes = fact(key=True)
    """Finds the request by its id."""
    request: bytes = fact()
    wake_ns: int | None = fact(default=None)
    pending: bool | None = fact(default=None)
    """The code goes on meanwhile; it may wait for the answer later."""
    asked: JSON = content()


@event("approval_awaited", critical=True)
class ApprovalAwaited(Body):
    """The code waits for the answer to a request that it made before."""

    path: str = fact()
    approval: str = fact()
    request: bytes = fact()
    wake_ns: int | None = fact(default=None)
    asked: JSON = content()


@event("approval_decided", critical=True)
class ApprovalDecided(Body):
    """A person answered."""

    approval: str = fact()
    approved: bool = fact()
    by: str = content(default="")
    reason: str = content(default="")


@event("child_run_requested", critical=True)
class ChildRunRequested(Body):
    """The code started a run of its own; the child's first event names this one's hash."""

    path: str = fact()
    run: str = fact()
    agent: str = fact()
    request: bytes = fact()
    asked: JSON = content()


@event("child_awaited", critical=True)
class ChildAwaited(Body):
    """The code waits for the end of a child."""

    path: str = fact()
    run: str = fact()
    request: bytes = fact()
    wake_ns: int | None = fact(default=None)
    asked: JSON = content()


@event("child_run_ended", critical=True)
class ChildRunEnded(Body):
    """A child came to its end, with the event of this seq and hash."""

    run: str = fact()
    status: str = fact()
    seq: int = fact()
    hash: bytes = fact()
    error_type: str | None = fact(default=None)
    output: JSON = content(default=None)
    message: str = content(default="")


@event("wait_answered", critical=True)
class WaitAnswered(Body):
    """The code was given the answer that the event `answer` holds."""

    path: str = fact()
    answer: int = fact()
    """Seq of a `signal_received`, `approval_decided` or `child_run_ended` of the same stream."""
