"""Events of the ledger's own stream: its creation, what was forgotten, and what somebody certified."""

from __future__ import annotations

from ledger_core.events.base import JSON, Body, content, event, fact

STREAM = "ledger"


@event("ledger_created", critical=True)
class LedgerCreated(Body):
    """The first event of every log. The ledger's id is in the chain itself: its previous hash commits to it."""

    ledger: bytes = fact()
    created_by: str = fact()
    """Name and version of the program."""


@event("content_forgotten")
class ContentForgotten(Body):
    """A stream's key is to be destroyed; written before it is, so that a crash between the two is finished later."""

    stream: int = fact()
    reason: str = content(default="")


@event("projection_certified")
class ProjectionCertified(Body):
    """Somebody rebuilt a projection and says what came of it: whoever has a copy of the log can compare."""

    projection: str = fact()
    version: int = fact()
    code: bytes = fact()
    """Digest of the code that folded it."""
    seq: int = fact()
    """The last event that was folded, and its hash."""
    head: bytes = fact()
    count: int = fact()
    """Number of rows."""
    rows: bytes = fact()
    """Digest of the rows and of their sums."""


@event("replay_certified")
class ReplayCertified(Body):
    """Somebody replayed recorded runs and says what came of it, for as long as the log is."""

    mode: str = fact()
    runs: int = fact()
    same: int = fact()
    diverged: int = fact()
    skipped: int = fact()
    failed: int = fact()
    seq: int = fact()
    """The log's last event at that time, and its hash."""
    head: bytes = fact()
    code: bytes = fact()
    """Digest of the digests of all code that was executed, each once, in order."""
    outcomes: bytes = fact()
    """Digest of `replayed`."""
    target: str | None = content(default=None)
    """The code, where one was named for all; content, because paths name people."""
    replayed: JSON = content()
    """Run id, hash of the last event of the run that was replayed, status and codes of divergences; by run id."""
