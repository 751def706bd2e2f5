"""Whether a release may stand on what was recorded: checks, each with its evidence and what to do.

Rules: pure over rows and facts. A risk of severity `blocker` stops a release; a `warning` is told; what could not be
checked has not passed. What needs more than rows (the chain, the code, the kept views) is handed in as functions. The
first twelve checks are those of agentledger-runtime 1.0.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ledger_core.errors import Damaged
from projections.reports import contract_checks as contract
from projections.reports import own_checks as own
from projections.reports.check import Check, Means
from projections.reports.sections import Mark, Section, line
from projections.reports.subject import Subject

CHECKS: Final[tuple[Callable[[Subject, Means], Check], ...]] = (
    contract.no_failed_steps,
    contract.no_pending_verification,
    contract.no_pending_approvals,
    contract.completed_steps_have_completion_events,
    contract.ledger_statuses_known,
    contract.event_sequence_contiguous,
    contract.artifacts_have_blob_refs,
    contract.media_artifacts_have_refs,
    contract.stream_checkpoints_have_offsets,
    contract.high_risk_approvals_decided,
    contract.no_blocking_failure_events,
    contract.max_total_usd,
    own.chain_verified,
    own.runs_have_ended,
    own.nothing_in_doubt,
    own.approvals_match_requests,
    own.budgets_held,
    own.replay_agrees,
    own.evidence_not_forgotten,
    own.projections_agree,
    own.replay_certified,
)
"""All checks, in the order in which they are shown."""


def review(subject: Subject, means: Means) -> dict[str, Any]:
    """The checklist as JSON."""
    checks = [_made(check, subject, means) for check in CHECKS]
    outcomes = [one.outcome for one in checks]
    blocked = any(one.outcome == "risk" and one.severity == "blocker" for one in checks)
    return {
        "scope": subject.as_json(),
        "passed": not blocked and "not_checked" not in outcomes,
        "risks": outcomes.count("risk"),
        "blockers": sum(one.outcome == "risk" and one.severity == "blocker" for one in checks),
        "not_checked": outcomes.count("not_checked"),
        "checks": [one.as_json() for one in checks],
    }


def _made(check: Callable[[Subject, Means], Check], subject: Subject, means: Means) -> Check:
    """A check; one that comes upon damage has not been made."""
    try:
        return check(subject, means)
    except Damaged as damage:
        name = check.__name__
        title = name.replace("_", " ")
        return Check(
            id=name,
            title=title,
            outcome="not_checked",
            detail=damage.sentence,
            todo=damage.hint or "agentledger verify",
        )


def exit_code(found: dict[str, Any]) -> int:
    """1 where a risk blocks, 6 where not all could be checked, else 0."""
    return 1 if found["blockers"] else 6 if found["not_checked"] else 0


def sections(found: dict[str, Any]) -> list[Section]:
    """The checklist for a person."""
    words = {"pass": "✓", "risk": "✗", "not_checked": "?"}
    lines = []
    for one in found["checks"]:
        warning = one["outcome"] == "risk" and one["severity"] == "warning"
        mark: Mark = "good" if one["outcome"] == "pass" else "warn" if warning or one["outcome"] != "risk" else "bad"
        below = [_evidence(one), f"do: {one['todo']}" if one["todo"] and one["outcome"] != "pass" else ""]
        said = "warning: " if warning else "not checked: " if one["outcome"] == "not_checked" else ""
        lines.append(
            line(
                f"{words[one['outcome']]} {one['title']}",
                one["id"],
                f"{said}{one['detail']}",
                mark=mark,
                below=[text for text in below if text],
            )
        )
    verdict = (
        f"Blocked by {found['blockers']:,} of {len(lines)} checks"
        if found["blockers"]
        else "Not all could be checked"
        if found["not_checked"]
        else "Nothing blocks"
    )
    lead = f"risks: {found['risks']:,}; not checked: {found['not_checked']:,}"
    return [
        Section(
            title=verdict,
            lead=lead,
            headings=("check", "id", "what was found"),
            lines=tuple(lines),
            mark="good" if found["passed"] else "bad" if found["blockers"] else "warn",
        )
    ]


_WORDS: Final = {"run_id": "run", "step_id": "step", "log_seq": "seq"}


def _evidence(one: dict[str, Any]) -> str:
    if not one["evidence"] or one["outcome"] == "pass":
        return ""
    shown = one["evidence"][:5]
    words = [" ".join(f"{_WORDS.get(name, name)} {value}" for name, value in piece.items()) for piece in shown]
    more = one["found"] - len(shown)
    return "; ".join(words) + (f"; and {more:,} more" if more > 0 else "")
