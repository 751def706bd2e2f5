"""Whether a run is worse than one before it: what both did and what it took, measured, each against what is allowed.

Rules: evidence in, values out. What is compared is what runs did by their own order (`projections.course`), so that one
that raced otherwise, crashed or tried again is no other run; what they used is all that was used, also in vain. Better
is never a regression. Nothing is worse unless somebody allows it; only the log of a run may be a little longer, for
crashes lengthen it. A bundle that is not what it says is damage, and is not measured.

This file does not read directories (`replay.pairs`), and does not know terminals.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import attrs

from ledger_core.errors import BadInput, Damaged, Refused
from ledger_core.run.divergence import differences
from ledger_core.run.state import RunState
from ledger_core.runtime.folds import stream_of
from projections import course, evidence_files, runs
from projections.course import Course, Effect
from projections.evidence_check import check
from replay.unpacked import ledger_of

NANO: Final = 1_000_000_000
_INCREASE: Final = re.compile(r"\$?([0-9]{1,15}(?:\.[0-9]{1,9})?)(%?)")
_REFUSALS: Final = frozenset(("PermissionDenied", "ApprovalDenied", "SandboxFailed", "BudgetExceeded"))
_SHOWN: Final = 5


@attrs.frozen(kw_only=True)
class Increase:
    """How much more something may be: a share of what it was, or an amount."""

    share: Fraction = Fraction(0)
    amount: int = 0

    def most(self, base: int) -> int:
        """What it may be at most, if it was `base`."""
        return base + int(base * self.share) + self.amount


def increase(text: str, unit: int = 1) -> Increase:
    """What a person writes: `10%`, or an amount of so many units (`unit` of the smallest). Raises `BadInput`."""
    found = _INCREASE.fullmatch(text.strip())
    if found is None or (found[2] and text.strip().startswith("$")):
        raise BadInput(f"{text!r:.40} is no increase.", hint="Write a share of what it was (10%), or an amount (0.05).")
    value = Fraction(found[1])
    return Increase(share=value / 100) if found[2] else Increase(amount=int(value * unit))


@attrs.frozen(kw_only=True)
class Allowed:
    """By how much a candidate may be worse."""

    extra_calls: int = 0
    """Of tools, and of models."""
    extra_failures: int = 0
    extra_denials: int = 0
    new_writes: int = 0
    cost: Increase = Increase()
    """In billionths of a dollar."""
    tokens: Increase = Increase()
    events: Increase = Increase(share=Fraction(1, 10), amount=10)
    """A crash and its recovery take about five."""
    seconds: Increase | None = None
    """In ns; not limited where it is None: how long a run takes is the machine's doing as well."""
    status: bool = False
    """Whether these may change."""
    output: bool = False
    state: bool = False
    input: bool = False


@attrs.frozen(kw_only=True)
class Measure:
    """One thing that was measured on both."""

    name: str
    base: str
    candidate: str
    limit: str
    holds: bool
    option: str
    """The option that allows more."""
    detail: tuple[str, ...] = ()
    """What is new or other, some of it."""


@attrs.frozen(kw_only=True, eq=False)
class Side:
    """One of the two runs."""

    source: str
    course: Course
    state: RunState

    def as_json(self) -> dict[str, Any]:
        """What it is, in a report."""
        return {"source": self.source, "run_id": self.course.run_id, "agent": self.course.agent}


@attrs.frozen(kw_only=True)
class Regression:
    """A run beside the one that it is compared with."""

    base: Side
    candidate: Side
    measures: tuple[Measure, ...]

    @property
    def ok(self) -> bool:
        return all(one.holds for one in self.measures)

    def as_json(self) -> dict[str, Any]:
        """What `evidence-regression --json` prints of it."""
        sides = {"base": self.base.as_json(), "candidate": self.candidate.as_json()}
        return {"ok": self.ok, **sides, "measures": [attrs.asdict(one) for one in self.measures]}


def side(path: Path) -> Side:
    """The run in a bundle. Raises `NotFound`, `Damaged` for what is not what it says, `Refused` without its key."""
    made = evidence_files.read(path)
    report = check(made)
    if report.findings:
        first = report.findings[0]
        raise Damaged(
            f"{path} is not what was recorded: {first.kind}: {first.detail}", hint="agentledger evidence-check"
        )
    return of_bundle(made, str(path))


def of_bundle(made: Mapping[str, Any], source: str) -> Side:
    """The run in a bundle that was checked. Raises `Refused` where it cannot be read."""
    with ledger_of(made) as log:
        stream = stream_of(made["run_id"])
        state = runs.of_stream(log, stream)
        if state.ancestor is not None:
            raise Refused(f"{source} is of a fork: what it shares with run {state.ancestor} is not in it.")
        return Side(source=source, course=course.of_events(log.stream(stream), source), state=state)


def compared(base: Side, candidate: Side, allowed: Allowed) -> Regression:
    """Measure a candidate against its base."""
    return Regression(base=base, candidate=candidate, measures=tuple(_measures(base, candidate, allowed)))


def _measures(base: Side, candidate: Side, allowed: Allowed) -> Iterator[Measure]:
    was, now = base.course, candidate.course
    begun = ([was.agent, was.initial_state], [now.agent, now.initial_state])
    yield _equal("agent and input", *begun, allowed.input, "--allow-input-change")
    yield _status(was, now, allowed)
    ended = ([was.output, was.error_type], [now.output, now.error_type])
    yield _equal("output", *ended, allowed.output, "--allow-output-change")
    yield _equal("state", was.state, now.state, allowed.state, "--allow-state-change")
    for kind in ("tool", "model"):
        yield _counted(f"{kind} calls", base, candidate, _of_kind(kind), allowed.extra_calls, "--max-extra-calls")
    yield _counted("failures", base, candidate, _failed, allowed.extra_failures, "--max-extra-failures")
    yield _counted("denials", base, candidate, _denied, allowed.extra_denials, "--max-extra-denials")
    yield _writes(was, now, allowed)
    spent = (base.state.usd_nano, candidate.state.usd_nano)
    yield _bounded("cost", *spent, allowed.cost, "--max-cost-increase", lambda value: f"${value / NANO:.6f}")
    tokens = [one.state.input_tokens + one.state.output_tokens for one in (base, candidate)]
    yield _bounded("tokens", tokens[0], tokens[1], allowed.tokens, "--max-token-increase")
    yield _bounded("events", base.state.events, candidate.state.events, allowed.events, "--max-event-increase")
    lasted = [one.state.updated_ns - one.state.created_ns for one in (base, candidate)]
    yield _bounded(
        "time", lasted[0], lasted[1], allowed.seconds, "--max-time-increase", lambda value: f"{value / NANO:.3f} s"
    )


def _status(was: Course, now: Course, allowed: Allowed) -> Measure:
    """A run that completes now and did not is no worse."""
    return Measure(
        name="status",
        base=was.status,
        candidate=now.status,
        limit="any" if allowed.status else "the same, or completed",
        holds=allowed.status or now.status in (was.status, "completed"),
        option="--allow-status-change",
    )


def _equal(name: str, was: Any, now: Any, free: bool, option: str) -> Measure:
    found = list(differences(was, now))
    return Measure(
        name=name,
        base="as it was",
        candidate="the same" if not found else f"{len(found):,} other value" + ("" if len(found) == 1 else "s"),
        limit="any" if free else "the same",
        holds=free or not found,
        option=option,
        detail=tuple(f"{one.at}: was {_short(one.recorded)}, is {_short(one.attempted)}" for one in found[:_SHOWN]),
    )


def _bounded(
    name: str, was: int, now: int, more: Increase | None, option: str, words: Callable[[int], str] = "{:,}".format
) -> Measure:
    most = None if more is None else more.most(was)
    limit = "any" if most is None else f"at most {words(most)}"
    holds = most is None or now <= max(most, was)
    return Measure(name=name, base=words(was), candidate=words(now), limit=limit, holds=holds, option=option)


def _counted(
    name: str, base: Side, candidate: Side, counts: Callable[[Effect], bool], more: int, option: str
) -> Measure:
    """So many effects of a kind; which ones are more often than they were is told."""
    was, now = (Counter(one.words() for one in side.course.effects if counts(one)) for side in (base, candidate))
    made = _bounded(name, was.total(), now.total(), Increase(amount=more), option)
    extra = [f"{words}: {number:,} more" for words, number in sorted((now - was).items())]
    return made if made.holds else attrs.evolve(made, detail=tuple(extra[:_SHOWN]))


def _writes(was: Course, now: Course, allowed: Allowed) -> Measure:
    """Outside writes that the candidate made, or may have made, and the base did not: by what was asked for."""
    before, after = (Counter(one.asked for one in side.effects if _wrote(one)) for side in (was, now))
    new = after - before
    known = {one.asked: one for one in now.effects}
    told = [f"{known[asked].words()}: {_short(known[asked].request)}" for asked in new]
    return Measure(
        name="outside writes",
        base=f"{before.total():,}",
        candidate=f"{after.total():,}, {new.total():,} of them new",
        limit=f"at most {allowed.new_writes:,} new",
        holds=new.total() <= allowed.new_writes,
        option="--max-new-writes",
        detail=tuple(told[:_SHOWN]),
    )


def _of_kind(kind: str) -> Callable[[Effect], bool]:
    return lambda one: one.kind == kind


def _failed(one: Effect) -> bool:
    return one.outcome in ("failed", "in doubt") and not _denied(one)


def _denied(one: Effect) -> bool:
    return one.policy == "deny" or one.error_type in _REFUSALS


def _wrote(one: Effect) -> bool:
    return one.writes and one.outcome in ("done", "in doubt", "open")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:119] + "…"
