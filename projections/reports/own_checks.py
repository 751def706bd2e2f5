"""Checks of a review that only a ledger of events can make: the chain, the code, what people allowed, what was held.

Rules: pure over rows and facts. What needs more is handed in (`check.Means`); what is not there is not checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from ledger_core.events.effect import ToolCallRequested
from ledger_core.events.govern import BudgetChanged, ToolApprovalRequired
from ledger_core.events.wait import ApprovalDecided
from ledger_core.run.budget import account_words, amount_words, stream_of_account
from projections.replayed import newest
from projections.reports.check import Check, Means, Outcome, found, handed
from projections.reports.subject import Subject

_COULD_NOT = {"skipped": "could not be replayed", "failed": "failed to be replayed"}


def chain_verified(_: Subject, means: Means) -> Check:
    return handed(
        "chain_verified", "The chain holds, and all it says is there", means.verify, "agentledger verify", "findings"
    )


def runs_have_ended(subject: Subject, _: Means) -> Check:
    stuck, going = [], 0
    for row in subject.rows("runs"):
        if row["status"] in ("parked", "diverged"):
            stuck.append({"run_id": row["run"], "status": row["status"]})
        going += row["status"] in ("pending", "running", "waiting")
    return found(
        "runs_have_ended",
        "Every run has come to its end",
        stuck,
        good="no run is under way",
        bad="runs that go on only if somebody helps",
        todo="agentledger runs; agentledger status RUN",
        not_checked=f"runs under way, of which nobody knows what they come to: {going:,}" if going else "",
    )


def nothing_in_doubt(subject: Subject, means: Means) -> Check:
    held = {row["run"]: row["worker"] for row in subject.rows("runs")}
    lives: dict[str, bool] = {}
    left, unknown = [], 0
    for row in subject.rows("tool_ledger"):
        if row["status"] != "RUNNING" or row["side_effect"] != "external_write":
            continue
        worker = held.get(row["run"])
        if worker is not None and means.alive is None:
            unknown += 1
        elif worker is None or not lives.setdefault(worker, bool(means.alive and means.alive(worker))):
            left.append({"call": f"{row['run']}:{row['path']}", "tool": row["tool"], "log_seq": row["seq"]})
    return found(
        "nothing_in_doubt",
        "No write was left half-way by a worker that is gone",
        left,
        good="each write that has begun has its outcome, or a worker that is at it",
        bad="writes begun by workers that are gone",
        todo="agentledger recover-expired, then agentledger ledger --in-doubt",
        not_checked=f"writes under way, and nobody said which workers live: {unknown:,}" if unknown else "",
    )


def approvals_match_requests(subject: Subject, _: Means) -> Check:
    runs = dict.fromkeys(row["run"] for row in subject.rows("approvals") if row["kind"] == "tool")
    pieces = [piece for run in runs for piece in _mismatches(subject, run)]
    return found(
        "approvals_match_requests",
        "What people allowed is what was done, once",
        pieces,
        good="each call that stood on an approval is the one that was asked for, and came after the answer",
        bad="calls that their approval does not cover",
        todo="agentledger debug RUN; ask who approved",
    )


def _mismatches(subject: Subject, run: str) -> Iterator[dict[str, Any]]:
    """Tool calls of a run that stood on an approval of something else, of nobody's, or of another's."""
    asked: dict[str, ToolApprovalRequired] = {}
    given: set[str] = set()
    used: dict[str, str] = {}
    for event in subject.log.stream(f"run/{run}", contents=False):
        body = event.body
        if isinstance(body, ToolApprovalRequired):
            asked[body.approval] = body
        elif isinstance(body, ApprovalDecided):
            (given.add if body.approved else given.discard)(body.approval)
        elif isinstance(body, ToolCallRequested) and body.approval is not None:
            question = asked.get(body.approval)
            wrong = (
                "nobody was asked"
                if question is None
                else "it was not approved"
                if body.approval not in given
                else "another tool or version"
                if (question.tool, question.tool_version) != (body.tool, body.tool_version)
                else "another request"
                if question.request != body.request
                else "it was used before, elsewhere"
                if used.setdefault(body.approval, body.path) != body.path
                else ""
            )
            if wrong:
                yield {"run_id": run, "approval": body.approval, "log_seq": event.seq, "why": wrong}


def budgets_held(subject: Subject, _: Means) -> Check:
    pieces = [piece for name in _accounts(subject) for piece in _passed(subject, name)]
    return found(
        "budgets_held",
        "No budget was ever passed",
        pieces,
        good="what was spent and reserved never was more than its bound (time of work is measured, and may be)",
        bad="times a budget was passed",
        todo="agentledger budget list; agentledger cost report",
    )


def _accounts(subject: Subject) -> Iterator[str]:
    """Streams of the budgets that bound the runs."""
    if subject.runs is None:
        for kind in ("run", "session", "agent"):
            yield from subject.log.streams(f"budget_{kind}/")
        return
    names: dict[str, None] = {}
    for row in subject.rows("runs"):
        session = [f"session:{row['session']}"] if row["session"] else []
        for name in (f"run:{row['root']}", *session, f"agent:{row['agent']}", f"agent:{row['step_agent']}"):
            names[stream_of_account(name)] = None
    yield from names


def _passed(subject: Subject, stream: str) -> Iterator[dict[str, Any]]:
    """Where a budget was passed, once a dimension until it is held again."""
    over: set[str] = set()
    for event in subject.log.stream(stream, contents=False):
        body = event.body
        if not isinstance(body, BudgetChanged):
            continue
        for name, limit in body.limits.items():
            held = body.spent.get(name, 0) + body.reserved.get(name, 0) <= limit
            if held or name == "wall_ns":
                over.discard(name)
            elif name not in over:
                over.add(name)
                if body.why != "set":  # lowered below what was spent: nothing was passed by that
                    what = amount_words(name, body.spent.get(name, 0) + body.reserved.get(name, 0))
                    of = f"{what} of {amount_words(name, limit)}"
                    yield {"budget": account_words(body.account), "log_seq": event.seq, "amount": of}


def replay_agrees(subject: Subject, means: Means) -> Check:
    id_, title = "replay_agrees", "The code of today does what was recorded"
    todo = "agentledger replay RUN; where the code is not at hand: agentledger replay RUN --agent TARGET"
    if means.replay is None:
        return Check(id=id_, title=title, outcome="not_checked", detail="nobody replayed anything", todo=todo)
    wrong, missed, count = list[dict[str, Any]](), defaultdict[str, int](int), 0
    for row in subject.rows("runs"):
        verdict = means.replay(row["run"])
        count += 1
        wrong += [{"run_id": row["run"], "why": why} for why in verdict.findings]
        for why in verdict.not_checked:
            missed[why] += 1
    words = "; ".join(f"{why} ({number:,} runs)" if number > 1 else why for why, number in sorted(missed.items()))
    return found(
        id_,
        title,
        wrong,
        good=f"runs that were replayed, and did the same: {count:,}",
        bad="runs in which the code of today does something else",
        todo=todo,
        not_checked=words,
    )


def replay_certified(subject: Subject, means: Means) -> Check:
    """What a certificate does not cover counts only where nothing is replayed now (`replay_agrees`)."""
    id_, title = "replay_certified", "What is certified of replays fits the log, and came to the same"
    todo, relied_on = "agentledger replay --all --certify", means.replay is None
    held = newest(subject.log)
    if held is None:
        outcome: Outcome = "not_checked" if relied_on else "pass"
        detail = "nobody has certified a replay" + ("" if relied_on else "; what was replayed just now is above")
        return Check(id=id_, title=title, outcome=outcome, detail=detail, todo=todo if relied_on else "")
    wrong: list[dict[str, Any]] = [{"log_seq": held.seq, "why": why} for why in held.findings]
    missed, count, listed = defaultdict[str, int](int), 0, held.runs or {}
    for row in subject.rows("runs") if held.runs is not None else ():
        one, last = listed.get(row["run"]), subject.log.stream_head(f"run/{row['run']}")
        if one is None:
            missed["were not replayed, or are newer"] += 1
        elif one.status == "diverged":
            wrong.append({"run_id": row["run"], "log_seq": held.seq, "why": " ".join(["diverged:", *one.codes])})
        elif one.status != "same":
            missed[_COULD_NOT.get(one.status, one.status)] += 1
        elif last is None or last.hash != one.hash:
            missed["went on since"] += 1
        else:
            count += 1
    if held.runs is None and not wrong:
        missed["cannot be known, because the list of the certificate cannot be opened here"] = held.said.runs
    return found(
        id_,
        title,
        wrong,
        good=f"the certificate at seq {held.seq:,} fits; runs that it covers to their last event: {count:,}",
        bad="what is certified against a release",
        todo=todo,
        not_checked="; ".join(f"runs that {why}: {number:,}" for why, number in sorted(missed.items()) if relied_on),
    )


def evidence_not_forgotten(subject: Subject, _: Means) -> Check:
    pieces = ({"run_id": row["run"]} for row in subject.rows("runs") if subject.log.key(f"run/{row['run']}") is None)
    return found(
        "evidence_not_forgotten",
        "What was said can still be read",
        pieces,
        good="no run's content was forgotten",
        bad="runs whose content was forgotten (that they ran is proved, what they said is not)",
        todo="decide whether the facts are enough: agentledger log show RUN",
        severity="warning",
    )


def projections_agree(_: Subject, means: Means) -> Check:
    return handed(
        "projections_agree",
        "What is kept of views is what the log gives",
        means.agree,
        "agentledger rebuild",
        "projections that differ",
    )
