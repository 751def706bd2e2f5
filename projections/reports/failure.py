"""What failed, by root cause: how often, whether it came right, what it led to, and what to do next.

Rules: pure over rows; words are read from the log for what is shown. A failure has another for its cause where the
record says so: a child's end has what ended the child, a step that is tried again the effect whose failure it failed
of, a step that failed by an effect's error the last such failure before it, a parked run the worker that it lost last.
What has no cause is a root; causes are grouped by what failed, its name, its category and its error.

What became of it: `in doubt`, `failed` (its run ended by it or without it, badly), `open` (its run goes on), `handled`
(its run completed all the same), `recovered` (a later attempt came right).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from projections.reports.sections import Mark, Section, line
from projections.reports.subject import Subject, seconds
from projections.table import Row
from projections.wire import plain

_ENDS: Final = ("step", "cancelled", "divergence", "parked", "blocked", "lease")
"""Kinds of failures that a run may have come to its end by, the likeliest first."""
_BY_CATEGORY: Final = {
    "tool": ("tool", "refused"),
    "model": ("model", "refused"),
    "policy": ("refused",),
    "budget": ("refused",),
    "sandbox": ("tool", "refused"),
    "child": ("child",),
}
"""Kinds of failures that a step failed by, by the category of its error."""
_ORDER: Final = ("in doubt", "failed", "open", "handled", "recovered")
_SHOWN: Final = 20
"""Occurrences of a cause that are listed."""
_WORDS: Final = 2_000
"""Letters of an error's words that are handed on."""
_SAID: Final = 300
"""Those of them that a person is shown in a list."""
Group = tuple[str, str, str, str]


@attrs.define(kw_only=True)
class _Cause:
    """One group of roots."""

    rows: list[Row] = attrs.field(factory=list)
    led_to: list[Row] = attrs.field(factory=list)
    outcomes: Counter[str] = attrs.field(factory=Counter)


def report(subject: Subject, *, top: int = 50) -> dict[str, Any]:
    """The report as JSON: at most `top` causes, the worst first."""
    rows = list(subject.rows("failures"))
    ends = {row["run"]: row["status"] for row in subject.rows("runs")}
    doubtful = {
        (row["run"], row["path"]) for row in subject.rows("tool_ledger") if row["status"] == "PENDING_VERIFICATION"
    }
    causes = _grouped(rows, _causes(subject, rows))
    for cause in causes.values():
        for row in cause.rows:
            cause.outcomes[_outcome(row, ends, doubtful)] += row["times"]
    ordered = sorted(causes.items(), key=lambda one: (_worst(one[1]), -len(one[1].led_to), -_times(one[1]), one[0]))
    return {
        "scope": subject.as_json(),
        "failures": sum(row["times"] for row in rows),
        "causes": len(causes),
        "runs": dict(sorted(Counter(ends.values()).items())),
        "by_category": dict(Counter(row["category"] for row in rows).most_common()),
        "root_causes": [_json(subject, group, cause, ends, doubtful) for group, cause in ordered[:top]],
        "left_out": max(0, len(ordered) - top),
    }


def sections(found: Mapping[str, Any]) -> list[Section]:
    """The report for a person."""
    if not found["root_causes"]:
        return [Section(title="Nothing failed", mark="good")]
    lines = []
    for number, one in enumerate(found["root_causes"], 1):
        outcomes = ", ".join(f"{count:,} {name}" for name, count in one["outcomes"].items())
        first = one["occurrences"][0]
        below = [
            "" if one["words"] is None else f"“{_short(one['words'])}”",
            _where(one),
            "led to: "
            + ", ".join(f"{led['kind']} of {led['run_id']}" for led in one["led_to"][:5])
            + (f", and {one['led_to_count'] - 5:,} more" if one["led_to_count"] > 5 else "")
            if one["led_to"]
            else "",
            f"next: {one['next']}",
        ]
        lines.append(
            line(
                f"{number}. {one['kind']} {one['name']}".rstrip(),
                " ".join(filter(None, (one["error_type"], f"({one['category']})" if one["category"] else ""))),
                f"{one['times']:,}",
                outcomes,
                _place(first),
                mark=_mark(one),
                below=[text for text in below if text],
            )
        )
    left = f" Causes that are left out: {found['left_out']:,}." if found["left_out"] else ""
    lead = f"failures: {found['failures']:,}; causes: {found['causes']:,}.{left}"
    headings = ("what failed", "error", "times", "what became of it", "first")
    return [
        Section(title="Root causes", lead=lead, headings=headings, numbers=(2,), lines=tuple(lines)),
        Section(
            title="Runs",
            headings=("status", "runs"),
            numbers=(1,),
            lines=tuple(line(status, f"{count:,}") for status, count in found["runs"].items()),
        ),
    ]


# Causes


def _causes(subject: Subject, rows: Sequence[Row]) -> dict[int, Row]:
    """What caused each failure that has a cause among them, by its seq."""
    by_run: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_run[row["run"]].append(row)
    found: dict[int, Row] = {}
    for own in by_run.values():
        own.sort(key=lambda row: row["seq"])
        by_path: dict[str, Row] = {}
        last: dict[str, Row] = {}
        """The last failure before, by its kind, and by its kind and its error."""
        for row in own:
            cause = _cause(subject, row, by_run, by_path, last)
            if cause is not None and cause["seq"] != row["seq"]:
                found[row["seq"]] = cause
            if row["path"] is not None:
                by_path[row["path"]] = row
            last[row["kind"]] = last[f"{row['kind']} {row['error_type']}"] = row
    return found


def _cause(
    subject: Subject, row: Row, by_run: Mapping[str, list[Row]], by_path: Mapping[str, Row], last: Mapping[str, Row]
) -> Row | None:
    kind = row["kind"]
    if kind == "child":
        theirs = by_run.get(row["child"], [])
        return next((one for end in _ENDS for one in reversed(theirs) if one["kind"] == end and one["final"]), None)
    if kind == "parked":
        return last.get("lease")
    if kind != "step":
        return None
    event = None if row["final"] else subject.event(row["seq"])
    reopened = getattr(event.body, "reopened", None) if event is not None else None
    if reopened is not None:
        return by_path.get(reopened)
    kinds = _BY_CATEGORY.get(row["category"], ())
    same = [last[key] for one in kinds if (key := f"{one} {row['error_type']}") in last]
    return max(same or [last[one] for one in kinds if one in last], key=lambda one: int(one["seq"]), default=None)


def _grouped(rows: Iterable[Row], causes: Mapping[int, Row]) -> dict[Group, _Cause]:
    """Roots by what they are, each with what it led to."""
    found: dict[Group, _Cause] = defaultdict(_Cause)
    for row in rows:
        root, seen = row, {row["seq"]}
        while (cause := causes.get(root["seq"])) is not None and cause["seq"] not in seen:
            root = cause
            seen.add(root["seq"])
        group = found[root["kind"], root["name"], root["category"], root["error_type"]]
        (group.rows if root is row else group.led_to).append(row)
    return found


def _outcome(row: Row, ends: Mapping[str, str], doubtful: set[tuple[str, str]]) -> str:
    if row["in_doubt"] and (row["run"], row["path"]) in doubtful:
        return "in doubt"
    if row["recovered"]:
        return "recovered"
    status = ends.get(row["run"], "")
    if status == "completed":
        return "handled"
    return "failed" if status in ("failed", "cancelled") else "open"


# Showing


def _json(
    subject: Subject, group: Group, cause: _Cause, ends: Mapping[str, str], doubtful: set[tuple[str, str]]
) -> dict[str, Any]:
    rows = sorted(cause.rows, key=lambda row: (_ORDER.index(_outcome(row, ends, doubtful)), row["seq"]))
    worst = rows[0]
    kind, name, category, error_type = group
    return {
        "kind": kind,
        "name": name,
        "category": category,
        "error_type": error_type,
        "times": _times(cause),
        "outcomes": {one: cause.outcomes[one] for one in _ORDER if cause.outcomes[one]},
        "runs": len({row["run"] for row in rows}),
        "first": seconds(min(row["time_ns"] for row in rows)),
        "last": seconds(max(row["time_ns"] for row in rows)),
        "words": _words(subject, worst),
        "next": _next(worst, _outcome(worst, ends, doubtful)),
        "occurrences": [_occurrence(row, _outcome(row, ends, doubtful)) for row in rows[:_SHOWN]],
        "led_to": [_occurrence(row, _outcome(row, ends, doubtful)) for row in cause.led_to[:_SHOWN]],
        "led_to_count": len(cause.led_to),
    }


def _occurrence(row: Row, outcome: str) -> dict[str, Any]:
    return {
        "run_id": row["run"],
        "kind": row["kind"],
        "path": row["path"],
        "attempt": row["attempt"],
        "times": row["times"],
        "log_seq": row["seq"],
        "time": seconds(row["time_ns"]),
        "outcome": outcome,
    }


def _words(subject: Subject, row: Row) -> str | None:
    """The words of an error, of the event that holds them: `<forgotten>` if they are gone."""
    found = plain(subject.words(row["message_seq"], "message", "reason", "difference", "detail"))
    if found is None:
        return None
    text = found if isinstance(found, str) else str(found)
    return text if len(text) <= _WORDS else text[: _WORDS - 1] + "…"


def _next(row: Row, outcome: str) -> str:
    """What a person does about it."""
    run, kind = row["run"], row["kind"]
    if outcome == "in doubt":
        return f"agentledger ledger settle {run}:{row['path']} --as succeeded|no-effect --because TEXT"
    if outcome in ("recovered", "handled"):
        return f"nothing: it came right. agentledger debug {run}"
    by_category = {"budget": f"agentledger budget list {run}", "policy": "agentledger policy check"}
    if kind == "refused":
        return by_category.get(row["category"], f"agentledger debug {run}")
    return {
        "lease": "agentledger recover-expired",
        "parked": f"agentledger resume {run}",
        "blocked": f"agentledger resume {run}",
        "divergence": f"agentledger replay {run}",
        "cancelled": f"agentledger log show {run} --type run_cancel_requested",
        "child": f"agentledger debug {row['child']}",
    }.get(kind, f"agentledger debug {run}")


def _short(text: str) -> str:
    return text if len(text) <= _SAID else text[: _SAID - 1] + "…"


def _worst(cause: _Cause) -> int:
    return min(_ORDER.index(outcome) for outcome in cause.outcomes)


def _times(cause: _Cause) -> int:
    return sum(row["times"] for row in cause.rows)


def _place(one: Mapping[str, Any]) -> str:
    path = f" at {one['path']}" if one["path"] is not None else ""
    return f"{one['run_id']}{path}, seq {one['log_seq']:,}"


def _where(one: Mapping[str, Any]) -> str:
    others = one["occurrences"][1:5]
    if not others:
        return ""
    more = one["times"] - 5
    return "also: " + "; ".join(_place(other) for other in others) + (f"; and {more:,} more" if more > 0 else "")


def _mark(one: Mapping[str, Any]) -> Mark:
    if one["outcomes"].keys() & {"in doubt", "failed"}:
        return "bad"
    return "warn" if "open" in one["outcomes"] else ""
