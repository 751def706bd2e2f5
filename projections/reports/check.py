"""What a check of a review is, and what it may ask besides rows.

Rules: values. A check passes, is a risk, or could not be made: what was not checked has not passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import attrs

Outcome = Literal["pass", "risk", "not_checked"]
Severity = Literal["blocker", "warning"]
_SHOWN: Final = 20
"""Pieces of evidence that a check lists."""


@attrs.frozen(kw_only=True)
class Check:
    """One check, and what came of it."""

    id: str
    title: str
    outcome: Outcome
    severity: Severity = "blocker"
    detail: str = ""
    evidence: tuple[dict[str, Any], ...] = ()
    """Where to look: run ids, seqs of the log, names."""
    found: int = 0
    """Pieces of evidence in all."""
    todo: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.title,
            "outcome": self.outcome,
            "severity": self.severity,
            "detail": self.detail,
            "evidence": list(self.evidence),
            "found": self.found,
            "todo": self.todo,
        }


@attrs.frozen(kw_only=True)
class Verdict:
    """What somebody else's check came to: findings, and what it could not look at."""

    findings: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()
    looked_at: str = ""


@attrs.frozen(kw_only=True)
class Means:
    """What checks need besides rows; each may be missing."""

    verify: Callable[[], Verdict] | None = None
    """The chain, the contents and the indexes of what is reviewed."""
    replay: Callable[[str], Verdict] | None = None
    """A run against the code that is there now."""
    agree: Callable[[], Verdict] | None = None
    """What is kept of projections against the log."""
    alive: Callable[[str], bool] | None = None
    """Whether a worker lives."""
    max_usd: float | None = None


def found(
    id_: str,
    title: str,
    pieces: Iterable[dict[str, Any]],
    *,
    good: str,
    bad: str,
    todo: str,
    severity: Severity = "blocker",
    not_checked: str = "",
) -> Check:
    """A check that passes where nothing is found; `bad` is a noun, whose number follows it."""
    shown, count = list[dict[str, Any]](), 0
    for piece in pieces:
        count += 1
        if len(shown) < _SHOWN:
            shown.append(piece)
    outcome: Outcome = "risk" if count else "not_checked" if not_checked else "pass"
    besides = f"; not checked: {not_checked}" if not_checked else ""
    detail = f"{bad}: {count:,}{besides}" if count else not_checked or good
    return Check(
        id=id_,
        title=title,
        outcome=outcome,
        severity=severity,
        detail=detail,
        evidence=tuple(shown),
        found=count,
        todo=todo if outcome != "pass" else "",
    )


def handed(id_: str, title: str, look: Callable[[], Verdict] | None, todo: str, bad: str) -> Check:
    """A check that somebody else makes."""
    if look is None:
        return Check(id=id_, title=title, outcome="not_checked", detail="nobody looked", todo=todo)
    verdict = look()
    return found(
        id_,
        title,
        [{"finding": one} for one in verdict.findings],
        good=verdict.looked_at or "it holds",
        bad=bad,
        todo=todo,
        not_checked="; ".join(verdict.not_checked),
    )
