"""One effect of a step as its journal has it: what was intended, and how it stands.

Rules: plain values; who folds and releases them is `journal`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import attrs


class Standing(Enum):
    """How an effect stands."""

    OPEN = "open"
    """Intended, and nobody knows what came of it; or found to have had no effect, and to be tried again."""
    DONE = "done"
    FAILED = "failed"
    IN_DOUBT = "in doubt"
    """Failed in a way that may have had an effect outside; to be settled."""


@attrs.frozen(kw_only=True)
class Intent:
    """What code asks for at a path. `request` is its tag, `document` the request itself, for explaining."""

    path: str
    kind: str
    name: str
    request: bytes
    document: Any = None
    line: str | None = None

    def words(self) -> str:
        """The effect as a person calls it."""
        return f"{self.kind} {self.name}".rstrip()


@attrs.define(kw_only=True)
class Entry:
    """One effect of the journal."""

    intent: Intent
    seq: int
    attempt: int = 1
    standing: Standing = Standing.OPEN
    value: Any = None
    """The result; for a failure, its message."""
    error_type: str | None = None
    no_effect: bool = False
    """Its open attempt is known to have had no effect outside."""
    writes: bool = False
    """It was recorded as an outside write, whatever its tool says today."""
    holds: bool = False
    """It holds something of a budget, or a logical key: it comes to an end, whether anybody waits for it or not."""
    told: bool = True
    """The failure is the tool's own, which the code is to be told; not the runtime's word for not knowing."""
    wake_ns: int | None = None
    """When an open effect is looked at again, or a wait is over."""
    failures: int = 0
    """Attempts that failed, outages not counted."""
    outages: int = 0
    """Attempts in a row that found the other side gone."""
    ended: int = 0
    """Seq of its outcome."""
    partial: list[Any] | None = None
    """Chunks of a stream that broke off, which the code was given."""
    held: int = 0
    """How often it looked for room, or for its key, and had to wait."""
    held_until_ns: int = 0
    """Until when the log says that it waits for that."""
    version: str | None = None
    """Of the tool that was called."""
    refusal: str | None = None
    """Who refused it, if it never began."""

    @property
    def final(self) -> bool:
        """Whether the outcome is settled: nothing more may come of it."""
        return self.standing in (Standing.DONE, Standing.FAILED)


UNKNOWN: Final = "unknown"
"""Category of a failure that only says that nobody knows what happened."""
