"""The twelve checks that agentledger-runtime 1.0.0 made before a release, by their names, on what is recorded here.

Rules: pure over rows; only what a manifest says is read from contents, and what was forgotten is not checked.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from typing import Any

from ledger_core.events import Missing
from ledger_core.events.step import StepCompleted
from ledger_core.run.budget import USD, amount_words
from ledger_core.run.rows import LedgerStatus
from projections.reports.check import Check, Means, found
from projections.reports.subject import Subject


def no_failed_steps(subject: Subject, _: Means) -> Check:
    pieces = (
        {"run_id": row["run"], "step_id": row["step"], "log_seq": row["seq"]}
        for row in subject.rows("steps")
        if row["status"] == "failed"
    )
    return found(
        "no_failed_steps",
        "No step has failed",
        pieces,
        good="no step is failed",
        bad="failed steps",
        todo="agentledger failure report",
    )


def no_pending_verification(subject: Subject, _: Means) -> Check:
    pieces = (
        {"call": f"{row['run']}:{row['path']}", "tool": row["tool"], "log_seq": row["seq"]}
        for row in subject.rows("tool_ledger")
        if row["status"] == "PENDING_VERIFICATION"
    )
    return found(
        "no_pending_verification",
        "No call is in doubt",
        pieces,
        good="no call waits for somebody to say whether it happened",
        bad="calls of which nobody knows whether they happened",
        todo="agentledger ledger --in-doubt, then agentledger ledger settle CALL",
    )


def no_pending_approvals(subject: Subject, _: Means) -> Check:
    return _unanswered(subject, "no_pending_approvals", "No question to a person is open", lambda _: True)


def high_risk_approvals_decided(subject: Subject, _: Means) -> Check:
    return _unanswered(
        subject,
        "high_risk_approvals_decided",
        "Every tool call that asks a person has an answer",
        lambda row: row["kind"] == "tool",
    )


def _unanswered(subject: Subject, id_: str, title: str, asks: Callable[[dict[str, Any]], bool]) -> Check:
    pieces = (
        {"approval": row["approval"], "run_id": row["run"], "log_seq": row["seq"]}
        for row in subject.rows("approvals")
        if row["status"] == "pending" and asks(row)
    )
    return found(
        id_, title, pieces, good="all are answered", bad="questions without an answer", todo="agentledger approvals"
    )


def completed_steps_have_completion_events(subject: Subject, _: Means) -> Check:
    def without() -> Iterator[dict[str, Any]]:
        for row in subject.rows("steps"):
            if row["status"] == "completed":
                event = subject.event(row["seq"])
                if event is None or not isinstance(event.body, StepCompleted) or event.body.step != row["step"]:
                    yield {"run_id": row["run"], "step_id": row["step"], "log_seq": row["seq"]}

    return found(
        "completed_steps_have_completion_events",
        "Every completed step has its event",
        without(),
        good="each completed step has its step_completed",
        bad="completed steps without a step_completed",
        todo="agentledger views rebuild, then agentledger verify",
    )


def ledger_statuses_known(subject: Subject, _: Means) -> Check:
    known = typing.get_args(LedgerStatus)
    pieces = (
        {"call": f"{row['run']}:{row['path']}", "status": row["status"]}
        for row in subject.rows("tool_ledger")
        if row["status"] not in known
    )
    return found(
        "ledger_statuses_known",
        "The tool ledger's statuses are known",
        pieces,
        good=f"each is one of {', '.join(known)}",
        bad="calls of a status that this version does not know",
        todo="use the version that wrote them",
    )


def event_sequence_contiguous(subject: Subject, _: Means) -> Check:
    def gaps() -> Iterator[dict[str, Any]]:
        for row in subject.rows("runs"):
            head = subject.log.stream_head(f"run/{row['run']}")
            last = 0 if head is None else head.stream_seq
            if last < row["events"]:
                yield {"run_id": row["run"], "events": row["events"], "last": last}
                continue
            expected = 0
            for expected, event in enumerate(subject.log.stream(f"run/{row['run']}", contents=False), 1):
                if event.stream_seq != expected:
                    yield {"run_id": row["run"], "expected": expected, "log_seq": event.seq}
                    break
            else:
                if expected < last:
                    yield {"run_id": row["run"], "expected": last, "last": expected}

    return found(
        "event_sequence_contiguous",
        "The events of each run have no gap",
        gaps(),
        good="each run's events are 1, 2, 3, …",
        bad="runs with a gap",
        todo="agentledger verify",
    )


def artifacts_have_blob_refs(subject: Subject, _: Means) -> Check:
    pieces = (
        {"artifact": row["artifact"], "run_id": row["run"], "log_seq": row["seq"]}
        for row in subject.rows("artifacts")
        if row["schema"].startswith("agentledger.artifact.") and (row["digest"] is None or row["size"] is None)
    )
    return found(
        "artifacts_have_blob_refs",
        "Artifacts have their size and digest",
        pieces,
        good="each artifact's bytes are named by size and digest",
        bad="artifacts without a size or a digest",
        todo="agentledger artifacts list",
        severity="warning",
    )


def media_artifacts_have_refs(subject: Subject, _: Means) -> Check:
    return _manifests(
        subject,
        "media_artifacts_have_refs",
        "Media have a kind, and say where they are",
        "agentledger.media.",
        ("kind", "ref"),
    )


def stream_checkpoints_have_offsets(subject: Subject, _: Means) -> Check:
    return _manifests(
        subject,
        "stream_checkpoints_have_offsets",
        "Places in streams have a stream, a consumer and an offset",
        "agentledger.stream.",
        ("stream_id", "consumer_id", "offset"),
    )


def _manifests(subject: Subject, id_: str, title: str, schema: str, fields: tuple[str, ...]) -> Check:
    gone = 0

    def lacking() -> Iterator[dict[str, Any]]:
        nonlocal gone
        for row in subject.rows("artifacts"):
            if row["schema"].startswith(schema):
                event = subject.event(row["seq"], contents=True)
                manifest = getattr(event.body, "manifest", None) if event is not None else None
                if isinstance(manifest, Missing):
                    gone += 1
                elif not isinstance(manifest, dict) or any(manifest.get(name) in (None, "") for name in fields):
                    yield {"artifact": row["artifact"], "run_id": row["run"], "log_seq": row["seq"]}

    pieces = list(lacking())
    return found(
        id_,
        title,
        pieces,
        good=f"each has {', '.join(fields)}",
        bad=f"those without {', '.join(fields)}",
        todo="agentledger artifacts list",
        not_checked=f"what was forgotten cannot be read: {gone:,}" if gone else "",
    )


def no_blocking_failure_events(subject: Subject, _: Means) -> Check:
    ended = {row["run"]: row["status"] for row in subject.rows("runs")}
    pieces = (
        {"run_id": row["run"], "kind": row["kind"], "error": row["error_type"], "log_seq": row["seq"]}
        for row in subject.rows("failures")
        if not row["recovered"] and row["final"] and ended.get(row["run"]) != "completed"
    )
    return found(
        "no_blocking_failure_events",
        "No failure stands in the way",
        pieces,
        good="whatever failed came right, or its run completed all the same",
        bad="failures that nothing came right after",
        todo="agentledger failure report",
        severity="warning",
    )


def max_total_usd(subject: Subject, means: Means) -> Check:
    spent = sum(row["usd_nano"] for row in subject.rows("costs"))
    id_, title = "max_total_usd", "It costs no more than it may"
    words = amount_words("usd_nano", spent)
    if means.max_usd is None:
        return Check(id=id_, title=title, outcome="pass", detail=f"{words}; no bound was named")
    over = spent > round(means.max_usd * USD)
    return found(
        id_,
        title,
        [{"usd": spent / USD, "limit": means.max_usd}] if over else [],
        good=f"{words} of ${means.max_usd:,}",
        bad=f"{words} of ${means.max_usd:,}, bounds passed",
        todo="agentledger cost report",
    )
