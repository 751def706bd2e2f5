"""Events of a session: a user- or channel-scoped container of runs."""

from __future__ import annotations

from ledger_core.events.base import JSON, Body, content, event, fact


@event("session_created", critical=True)
class SessionCreated(Body):
    """A session with what runs in it may know, and may do."""

    session: str = fact()
    channel: str | None = fact(default=None)
    grants: list[str] | None = fact(default=None)
    """Capabilities that were granted to the session."""
    user: str | None = content(default=None)
    variables: JSON = content()


@event("session_updated", critical=True)
class SessionUpdated(Body):
    """The session's variables moved by an RFC 7396 merge patch, or its grants were replaced."""

    grants: list[str] | None = fact(default=None)
    variables: JSON = content(default=None)


@event("session_run_added", critical=True)
class SessionRunAdded(Body):
    """A run was created in the session."""

    run: str = fact()
    agent: str = fact()
