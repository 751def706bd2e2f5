"""Events of the ledger's own stream: its creation, and what was forgotten."""

from __future__ import annotations

from ledger_core.events.base import Body, content, event, fact

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
