"""What was paid: by run, agent, step, tool, model and day, what of it came to nothing, and how budgets stand.

Rules: pure over rows. Amounts are whole numbers until they are shown; a dollar is 10^9 of `usd_nano`. A call is wasted
if it failed for good; what a call cost whose first attempts failed is not told apart. A call under way or in doubt is
neither. A day is one of UTC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any, Final

from ledger_core.run.budget import DIMENSIONS, USD, Account, account_words, amount_words
from projections.reports.sections import Line, Mark, Section, line, sparkline
from projections.reports.subject import Subject

COUNTERS: Final = ("calls", "failed", "input_tokens", "output_tokens", "cached_tokens", "usd_nano")
_BY: Final = {"run": "run", "agent": "agent", "session": "session", "step": "step", "day": "day"}
_DAYS: Final = 60
"""Days that a sparkline shows, the youngest."""
Amounts = dict[str, int]


def report(subject: Subject, *, accounts: Iterable[Account] = (), top: int = 10) -> dict[str, Any]:
    """The report as JSON; of runs, steps and sessions at most `top`, the most expensive first."""
    groups: dict[str, dict[str, Amounts]] = {name: {} for name in (*_BY, "tool", "model", "recorded")}
    totals, wasted = _zero(), _zero()
    other: dict[str, int] = defaultdict(int)
    nothing = _came_to_nothing(subject)
    for row in subject.rows("costs"):
        _add(totals, row)
        if (row["run"], row["path"]) in nothing:
            _add(wasted, row)
        for name, amount in row["other"].items():
            other[name] += amount
        for group, key in (*((group, row[field]) for group, field in _BY.items()), (row["kind"], row["name"])):
            if key is not None:
                _add(groups[group].setdefault(key, _zero()), row)
    runs = {row["run"]: (row["agent"], row["status"]) for row in subject.rows("runs")}
    failed = [run for run, (_, status) in runs.items() if status in ("failed", "cancelled")]
    lost = sum(groups["run"].get(run, _zero())["usd_nano"] for run in failed)
    return {
        "scope": subject.as_json(),
        "runs": len(runs),
        "totals": {**_json(totals), "other": dict(sorted(other.items()))},
        "wasted": {**_json(wasted), "failed_runs": len(failed), "failed_runs_usd_nano": lost},
        "unpriced_models": sorted(
            name for name, one in groups["model"].items() if _tokens(one) and not one["usd_nano"]
        ),
        "by_run": [
            {"run_id": run, **dict(zip(("agent", "status"), runs.get(run, ("", "")), strict=True)), **_json(amounts)}
            for run, amounts in _most(groups["run"], top)
        ],
        **{f"by_{name}": _listed(groups[name], name, top) for name in ("session", "step")},
        **{f"by_{name}": _listed(groups[name], name) for name in ("agent", "tool", "model", "recorded")},
        "by_day": [{"day": day, **_json(amounts)} for day, amounts in sorted(groups["day"].items())],
        "budgets": [one for account in accounts for one in _budget(account)],
    }


def belongs(account: Account, runs: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a budget bounds any of these rows of runs."""
    kind, _, of = account.name.partition(":")
    field = {"run": "root", "session": "session", "agent": "agent"}.get(kind, "run")
    return any(of in (row[field], row["step_agent"] if kind == "agent" else None) for row in runs)


def sections(found: Mapping[str, Any]) -> list[Section]:
    """The report for a person."""
    totals, wasted = found["totals"], found["wasted"]
    paid = [
        line("calls, with all attempts", f"{totals['calls']:,}", f"failed: {totals['failed']:,}"),
        line("tokens", f"{totals['input_tokens'] + totals['output_tokens']:,}", _token_words(totals)),
        line("dollars", amount_words("usd_nano", totals["usd_nano"]), ""),
        *(line(DIMENSIONS.get(name, name), f"{amount:,}", "") for name, amount in totals["other"].items()),
    ]
    cost, failed_cost = (amount_words("usd_nano", wasted[name]) for name in ("usd_nano", "failed_runs_usd_nano"))
    lost = [
        line(
            "of them wasted",
            f"{wasted['calls']:,}",
            f"they failed for good, and cost {cost}",
            mark="bad" if wasted["calls"] else "",
        ),
        line("failed runs", f"{wasted['failed_runs']:,}", f"they cost {failed_cost}"),
    ]
    shown = [
        Section(title="In all", headings=("what", "amount", ""), numbers=(1,), lines=(paid[0], *lost, *paid[1:])),
        _table("Runs, the most expensive first", ("run", "agent", "status"), found["by_run"], "run_id"),
        *(
            _table(title, (name,), found[f"by_{name}"], name)
            for name, title in (
                ("agent", "Agents"),
                ("session", "Sessions, the most expensive first"),
                ("model", "Models"),
                ("tool", "Tools"),
                ("recorded", "Recorded by the code"),
                ("step", "Steps, the most expensive first"),
            )
        ),
        _days(found["by_day"]),
        _budgets(found["budgets"]),
    ]
    if found["unpriced_models"]:
        words = "No price is known for: " + ", ".join(found["unpriced_models"]) + ". Their tokens cost nothing here."
        shown.insert(1, Section(title="Without a price", lead=words, mark="warn"))
    return [one for one in shown if one.lines or one.lead]


def _came_to_nothing(subject: Subject) -> set[tuple[str, str]]:
    """Runs and paths of calls that failed for good."""
    doubtful = {
        (row["run"], row["path"]) for row in subject.rows("tool_ledger") if row["status"] == "PENDING_VERIFICATION"
    }
    failed = (
        (row["run"], row["path"])
        for row in subject.rows("failures")
        if row["kind"] in ("tool", "model") and row["final"] and not row["recovered"]
    )
    return set(failed) - doubtful


def _zero() -> Amounts:
    return dict.fromkeys(COUNTERS, 0)


def _add(amounts: Amounts, row: Mapping[str, Any]) -> None:
    for name in COUNTERS:
        amounts[name] += row[name]


def _tokens(amounts: Mapping[str, int]) -> int:
    return amounts["input_tokens"] + amounts["output_tokens"]


def _json(amounts: Amounts) -> dict[str, Any]:
    return {**amounts, "usd": amounts["usd_nano"] / USD}


def _most(groups: Mapping[str, Amounts], top: int | None) -> list[tuple[str, Amounts]]:
    """The most expensive first, by dollars, then by tokens, then by calls."""
    ordered = sorted(groups.items(), key=lambda one: (-one[1]["usd_nano"], -_tokens(one[1]), -one[1]["calls"], one[0]))
    return ordered[:top]


def _listed(groups: Mapping[str, Amounts], name: str, top: int | None = None) -> list[dict[str, Any]]:
    return [{name: key, **_json(amounts)} for key, amounts in _most(groups, top)]


def _budget(account: Account) -> Iterable[dict[str, Any]]:
    for name, limit in account.limits.items():
        spent, reserved = account.spent.get(name, 0), account.reserved.get(name, 0)
        yield {
            "budget": account.name,
            "dimension": name,
            "limit": limit,
            "spent": spent,
            "reserved": reserved,
            "left": account.left(name),
            "held": spent + reserved <= limit,
        }


_AMOUNTS: Final = ("calls", "failed", "tokens", "dollars")


def _amount_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    return f"{one['calls']:,}", f"{one['failed']:,}" if one["failed"] else "", f"{_tokens(one):,}", _usd(one)


def _table(title: str, names: tuple[str, ...], rows: list[dict[str, Any]], key: str) -> Section:
    fields = (key, *names[1:])
    return Section(
        title=title,
        headings=(*names, *_AMOUNTS),
        numbers=tuple(range(len(names), len(names) + len(_AMOUNTS))),
        lines=tuple(
            line(
                *(one[name] for name in fields),
                *_amount_cells(one),
                mark=_mark(one.get("status")),
            )
            for one in rows
        ),
    )


def _mark(status: str | None) -> Mark:
    return "bad" if status == "failed" else ""


def _days(rows: list[dict[str, Any]]) -> Section:
    """Days with a line of blocks over them, days of nothing among them."""
    if not rows:
        return Section(title="Days")
    by_day = {row["day"]: row for row in rows}
    last = date.fromisoformat(rows[-1]["day"])
    first = max(date.fromisoformat(rows[0]["day"]), last - timedelta(days=_DAYS - 1))
    days = [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
    what = "usd_nano" if any(row["usd_nano"] for row in rows) else "calls"
    blocks = sparkline([by_day[day][what] if day in by_day else 0 for day in days])
    lead = f"{blocks}  {'dollars' if what == 'usd_nano' else 'calls'}, {days[0]} to {days[-1]}"
    lines: tuple[Line, ...] = tuple(line(row["day"], *_amount_cells(row)) for row in rows[-_DAYS:])
    return Section(title="Days", lead=lead, headings=("day (UTC)", *_AMOUNTS), numbers=(1, 2, 3, 4), lines=lines)


def _budgets(rows: list[dict[str, Any]]) -> Section:
    return Section(
        title="Budgets",
        headings=("budget", "bound", "spent", "reserved", "left", "held"),
        numbers=(1, 2, 3, 4),
        lines=tuple(
            line(
                account_words(one["budget"]),
                *(amount_words(one["dimension"], one[name]) for name in ("limit", "spent", "reserved", "left")),
                "yes" if one["held"] else "no",
                mark="" if one["held"] else "bad",
            )
            for one in rows
        ),
    )


def _usd(one: Mapping[str, Any]) -> str:
    return amount_words("usd_nano", one["usd_nano"]) if one["usd_nano"] else ""


def _token_words(totals: Mapping[str, int]) -> str:
    words = f"{totals['input_tokens']:,} in, {totals['output_tokens']:,} out"
    return words + (f", {totals['cached_tokens']:,} of them kept by the provider" if totals["cached_tokens"] else "")
