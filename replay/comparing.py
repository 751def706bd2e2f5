"""Two runs compared: where they diverge, in what, and how much.

Rules: pure. One effect has at most one divergence: the first of what was asked for, its tool's version, the policy's
word, what came of it, and what it cost; what follows from that is in its `differences`. What differs from run to run by
its nature (times that were read, ids that were minted) is no difference. Where a run stops before its end, nobody knows
what it would have done there: what the other has beyond is told as such, and an effect that is open is no other output.
An end state is told where no patch explains it already.

This file does not know files, terminals, or what is folded for a person's eyes.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final, Literal

import attrs

from ledger_core.run import divergence as kinds
from ledger_core.run.divergence import Difference, Divergence, Kind, differences
from projections.course import AMOUNTS, Course, Effect, Outcome
from replay.alignment import OPS, Aligned, align_courses

Which = Literal["left", "right"]
MOST: Final = 1000
"""Differences of one divergence that are kept."""
_UNSETTLED: Final = frozenset(("open", "in doubt"))
_ENDED: Final = frozenset(("completed", "failed", "cancelled"))
_WHOLE: Final = frozenset(("completed", "failed"))
"""Statuses of runs whose code came to its end."""
STOPS: Final = "nothing: the record stops there"
"""What is said to be recorded of an effect behind the end of a record that is not whole."""
_SHORT: Final = 60


@attrs.frozen(kw_only=True, slots=False)
class Comparison:
    """Two runs, side by side."""

    recorded: Course
    attempted: Course
    aligned: tuple[Aligned, ...]
    """Every effect of both, in the order in which they happened; what only the right has, where it stands there."""
    begins: Divergence | None
    """At the path `start`: another agent, or another initial state."""
    at: Mapping[int, Divergence]
    """What is to be said of a row of `aligned`, by its number."""
    ends: tuple[Divergence, ...]
    """At the path `end`: another status, output, error or state."""
    cut_short: Which | None
    """The run that stops where the other goes on."""

    @property
    def divergences(self) -> tuple[Divergence, ...]:
        """All of them, in order."""
        begins = () if self.begins is None else (self.begins,)
        return (*begins, *(self.at[number] for number in sorted(self.at)), *self.ends)

    @property
    def same(self) -> bool:
        return not (self.begins or self.at or self.ends)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by what they are."""
        found = Counter(row.op for row in self.aligned)
        return {op: found[op] for op in OPS}

    @property
    def cost(self) -> dict[str, dict[str, int]]:
        """What each of them used, in all, and how much more the right did."""
        left, right = self.recorded.cost, self.attempted.cost
        both: list[str] = [name for name in AMOUNTS if name in left or name in right]
        more = {name: right.get(name, 0) - left.get(name, 0) for name in both}
        return {"left": left, "right": right, "difference": more}

    @property
    def events(self) -> dict[str, dict[str, int]]:
        """Number of their events, by type."""
        left, right = self.recorded.events, self.attempted.events
        return {name: {"left": left.get(name, 0), "right": right.get(name, 0)} for name in sorted({*left, *right})}

    def state(self) -> Iterator[Difference]:
        """In what their states at the end differ, where that is not told as a divergence already."""
        if any(one.kind is kinds.OTHER_STATE for one in self.ends):
            return
        begun = () if self.begins is None else self.begins.differences
        told = {(one.at.replace("$.initial_state", "$", 1), repr(one.recorded), repr(one.attempted)) for one in begun}
        for one in differences(self.recorded.state, self.attempted.state):
            if (one.at, repr(one.recorded), repr(one.attempted)) not in told:
                yield one

    def shown(self, around: int) -> Iterator[int | range]:
        """Numbers of the rows that differ, with as many equal ones around them; else what is left out, as a range."""
        at = 0
        for number in sorted(self.at):
            first = max(number - around, at)
            first = at if first - at == 1 else first  # to say that one is left out takes as much room
            if first > at:
                yield range(at, first)
            at = min(number + around + 1, len(self.aligned))
            yield from range(first, at)
        if len(self.aligned) - at == 1:
            yield at
        elif at < len(self.aligned):
            yield range(at, len(self.aligned))

    def verdict(self) -> str:
        """What came of it, in one sentence."""
        left, right = self.recorded, self.attempted
        names = f"{left.source} and {right.source}"
        if self.same:
            whole = (
                f"{_number(len(left.effects), 'effect')}, and {'one end' if left.status in _ENDED else 'no end yet'}"
            )
            return f"{names} are the same: {whole}."
        said = [f"{number:,} {op}" for op, number in self.counts.items() if number and op != "same"]
        said = [", ".join(said[:-1]) + " and " + said[-1]] if len(said) > 1 else said
        beside = [
            *(["they begin with something else"] if self.begins else []),
            *([f"{said[0]} of {len(left.effects):,} and {_number(len(right.effects), 'effect')}"] if said else []),
            *(["the end is another"] if self.ends else []),
        ]
        stops = {"left": left, "right": right}.get(self.cut_short or "")
        last = "" if stops is None else f"; {stops.source} stops before its end ({stops.status})"
        return f"{names} differ: {'; '.join(beside)}{last}."

    def as_json(self, *, every: bool = False) -> dict[str, Any]:
        """The comparison as `--json` prints it; with `every`, all rows, else what differs."""
        left, right = self.recorded, self.attempted
        changed = [(number, row) for number, row in enumerate(self.aligned) if row.op != "same"]
        both = [(number, row, row.left, row.right) for number, row in changed if row.left and row.right]
        value = {
            "same": self.same,
            "left": _side_json(left),
            "right": _side_json(right),
            "cut_short": self.cut_short,
            "divergences": [one.as_json() for one in self.divergences],
            "effects": {"left": len(left.effects), "right": len(right.effects), **self.counts},
            "requests": self._rows((number, row) for number, row, one, other in both if one.asked != other.asked),
            "results": self._rows((number, row) for number, row, one, other in both if _came(one, other)),
            "state": [attrs.asdict(one) for one in islice(differences(left.state, right.state), MOST)],
            "ledger": self._rows(row for row in changed if any(one.writes for one in _of(row[1]))),
            "approvals": self._rows(row for row in changed if _asks_people(row[1])),
            "artifacts": self._rows(row for row in changed if any(one.kind == "artifact" for one in _of(row[1]))),
            "models": self._rows(row for row in changed if any(one.kind == "model" for one in _of(row[1]))),
            "cost": self.cost,
            "events": self.events,
            "code": {
                "left": left.code_digest,
                "right": right.code_digest,
                "same": left.code_digest == right.code_digest,
            },
        }
        return value | ({"aligned": self._rows(enumerate(self.aligned))} if every else {})

    def _rows(self, rows: Iterable[tuple[int, Aligned]]) -> list[dict[str, Any]]:
        return [
            {
                "op": row.op,
                "left": None if row.left is None else effect_json(row.left),
                "right": None if row.right is None else effect_json(row.right),
                "code": self.at[number].kind.code if number in self.at else None,
                "differences": [attrs.asdict(one) for one in self.at[number].differences] if number in self.at else [],
            }
            for number, row in rows
        ]


def compare(recorded: Course, attempted: Course) -> Comparison:
    """Compare a run, or its record, with another, or with what code attempts now."""
    groups = [_judged(group, recorded, attempted) for group in align_courses(recorded, attempted)]
    rows = [row for group in _placed(groups, recorded, attempted) for row in group]
    begins = _start(recorded, attempted)
    explained = begins is not None or any(
        one.kind == "patch" for row, found, _ in rows if found is not None for one in _of(row)
    )
    ends = tuple(_end(recorded, attempted, explained=explained))
    code: dict[str, Any] = {"recorded_code": recorded.code_digest, "attempted_code": attempted.code_digest}
    return Comparison(
        recorded=recorded,
        attempted=attempted,
        aligned=tuple(row for row, _, _ in rows),
        begins=None if begins is None else attrs.evolve(begins, **code),
        at={number: attrs.evolve(one, **code) for number, (_, one, _) in enumerate(rows) if one is not None},
        ends=tuple(attrs.evolve(one, **code) for one in ends),
        cut_short=_cut_short(recorded, attempted, {beyond for _, _, beyond in rows}),
    )


# Row by row

_Judged = tuple[Aligned, Divergence | None, Which | None]
"""A row, what is to be said of it, and the run that stops before it."""


def _judged(group: Sequence[Aligned], recorded: Course, attempted: Course) -> list[_Judged]:
    """What is to be said of each row of a task."""
    broken = [one.status not in _WHOLE for one in (recorded, attempted)]
    last_left = max((n for n, row in enumerate(group) if row.left is not None and row.op != "moved"), default=-1)
    last_right = max((n for n, row in enumerate(group) if row.right is not None and row.op != "moved"), default=-1)
    lines: list[str | None] = []
    line = None
    for row in reversed(group):
        line = row.right.line if row.right is not None and row.op != "moved" else line
        lines.append(line)
    found: list[_Judged] = []
    for number, (row, line) in enumerate(zip(group, reversed(lines), strict=True)):
        beyond: Which | None = None
        if row.op == "extra" and broken[0] and number > last_left:
            beyond = "left"
        elif row.op == "missing" and broken[1] and number > last_right:
            beyond = "right"
        one = _of_row(row, line, stopped=beyond is not None, ended=not any(broken))
        found.append((row._replace(op="same") if one is None else row, one, beyond))
    return found


def _of_row(row: Aligned, line: str | None, *, stopped: bool, ended: bool) -> Divergence | None:
    left, right = row.left, row.right
    if row.op == "same":
        return None
    if left is None:
        assert right is not None
        nothing = STOPS if stopped else ""
        return Divergence(kind=kinds.EXTRA, path=right.path, recorded=nothing, attempted=right.words(), line=right.line)
    if right is None:
        nothing = STOPS if stopped else ""
        return _at(left, kind=kinds.MISSING, recorded=left.words(), attempted=nothing, line=line)
    aspects = list(_aspects(left, right, ended=ended))
    details = tuple(islice((one for _, found in aspects for one in found), MOST))
    if row.op == "moved":
        was, now = f"{left.words()} at {left.path}", f"{right.words()} at {right.path}"
        fields = {"kind": kinds.OTHER_ORDER, "line": line or right.line}
        return _at(left, recorded=was, attempted=now, differences=details, **fields)
    if not aspects:
        return None
    kind = aspects[0][0]
    was, now = _said(left, kind), _said(right, kind)
    return _at(left, kind=kind, recorded=was, attempted=now, differences=details, line=right.line)


def _at(left: Effect, **fields: Any) -> Divergence:
    return Divergence(path=left.path, seq=left.log_seq, event=left.seq, hash=left.hash, **fields)


def _aspects(left: Effect, right: Effect, *, ended: bool) -> Iterator[tuple[Kind, Iterable[Difference]]]:
    """In what two effects differ, what explains the rest first."""
    if left.kind != right.kind:
        yield kinds.OTHER_KIND, _where(("$.kind", left.kind, right.kind), ("$.name", left.name, right.name))
        return
    named = left.name == right.name or not _name_counts(left.kind)
    if not named:
        yield kinds.OTHER_NAME, _where(("$.name", left.name, right.name))
    other = islice(differences(left.request, right.request), MOST)
    if left.asked != right.asked if named else left.request != right.request:
        yield kinds.OTHER_STATE if left.kind == "patch" else kinds.OTHER_REQUEST, other
    if left.version != right.version:
        yield kinds.OTHER_VERSION, _where(("$.version", left.version, right.version))
    if "assumed" in (left.outcome, right.outcome):
        return  # nobody knows what would have come of it
    waits = not ended and {left.outcome, right.outcome} & _UNSETTLED
    if left.policy != right.policy and not (waits and None in (left.policy, right.policy)):
        yield kinds.OTHER_POLICY, _where(("$.policy", left.policy, right.policy))
    if waits:
        return
    if came := _came(left, right):
        yield kinds.OTHER_OUTPUT, came
    if dict(left.cost) != dict(right.cost):
        yield kinds.OTHER_COST, differences(dict(left.cost), dict(right.cost), "$.cost")


def _came(left: Effect, right: Effect) -> list[Difference]:
    """In what the outcomes of two effects differ."""
    names = ("outcome", "error_type")
    found = _where(*((f"$.{name}", getattr(left, name), getattr(right, name)) for name in names))
    if _value_counts(left.kind, left.outcome) or _value_counts(right.kind, right.outcome):
        found += islice(differences(left.value, right.value, "$.value"), MOST)
    return found


@cache
def _name_counts(kind: str) -> bool:
    """Whether the name of such an effect is its own, and was not minted."""
    one = Effect(path="", kind=kind, name="a", request=None, outcome="done")
    return one.asked != attrs.evolve(one, name="b").asked


@cache
def _value_counts(kind: str, outcome: Outcome) -> bool:
    """Whether what came of such an effect is more than a time, or an id."""
    one = Effect(path="", kind=kind, name="", request=None, outcome=outcome)
    return one.digest != attrs.evolve(one, value=0).digest


def _where(*fields: tuple[str, Any, Any]) -> list[Difference]:
    return [Difference(at=at, recorded=one, attempted=other) for at, one, other in fields if one != other]


def _said(effect: Effect, kind: Kind) -> str:
    """An effect in words that tell it from the other one."""
    if kind is kinds.OTHER_VERSION:
        return f"{effect.words()}, version {effect.version}"
    if kind is kinds.OTHER_POLICY:
        return f"{effect.words()}, {effect.policy or 'no decision'}"
    if kind is kinds.OTHER_COST:
        return f"{effect.words()}, {cost_words(effect.cost)}"
    if kind is kinds.OTHER_OUTPUT:
        if effect.outcome == "done":
            return f"{effect.words()} → {_short(effect.value)}"
        failed = f" with {effect.error_type}: {_short(effect.value)}" if effect.outcome == "failed" else ""
        return f"{effect.words()} {effect.outcome}{failed}"
    return effect.words()


# The order of it all


def _placed(groups: list[list[_Judged]], recorded: Course, attempted: Course) -> list[list[_Judged]]:
    """All rows in one group, as they happened: by the left's order; what only the right has, behind what is before."""
    lefts = {id(one): number for number, one in enumerate(recorded.effects)}
    partners = {
        id(row.right): lefts[id(row.left)]
        for group in groups
        for row, _, _ in group
        if row.left is not None and row.right is not None and row.op != "moved"
    }
    met: list[int] = []
    """Places on the right whose effects have a partner, and the partner's places."""
    theirs: list[int] = []
    rights: dict[int, int] = {}
    for number, one in enumerate(attempted.effects):
        rights[id(one)] = number
        if id(one) in partners:
            met.append(number)
            theirs.append(partners[id(one)])
    keyed: list[tuple[tuple[int, int, int], _Judged]] = []
    for group in groups:
        before: int | None = None
        for judged in group:
            row = judged[0]
            if row.left is not None:
                place = lefts[id(row.left)]
                before = place if row.op != "moved" else before
                keyed.append(((place, 0, 0), judged))
                continue
            number = rights[id(row.right)]
            found = bisect_left(met, number)
            anchor = before if before is not None else theirs[found - 1] if found else -1
            keyed.append(((anchor, 1, number), judged))
    return [[judged for _, judged in sorted(keyed, key=lambda row: row[0])]]


def _cut_short(recorded: Course, attempted: Course, beyond: set[Which | None]) -> Which | None:
    """The run that stops before its end, where the other one has more, or came to its own."""
    left, right = (one.status not in _WHOLE for one in (recorded, attempted))
    if "left" in beyond or "right" in beyond:
        return "left" if "left" in beyond else "right"
    return None if left == right else "left" if left else "right"


# The two ends


def _start(recorded: Course, attempted: Course) -> Divergence | None:
    if recorded.beginning == attempted.beginning:
        return None
    named = _where(("$.agent", recorded.agent, attempted.agent))
    other = differences(recorded.initial_state, attempted.initial_state, "$.initial_state")
    return Divergence(
        kind=kinds.OTHER_NAME if named else kinds.OTHER_REQUEST,
        path="start",
        recorded=f"agent {recorded.agent}",
        attempted=f"agent {attempted.agent}" if named else "the same from another state",
        differences=(*named, *islice(other, MOST)),
    )


def _end(recorded: Course, attempted: Course, *, explained: bool) -> Iterator[Divergence]:
    if recorded.end == attempted.end or not {recorded.status, attempted.status} & _ENDED:
        return
    names = ("status", "error_type", "message")
    found = _where(*((f"$.{name}", getattr(recorded, name), getattr(attempted, name)) for name in names))
    both = recorded.status == attempted.status
    output = attrs.evolve(recorded, state=attempted.state).end != attempted.end
    if output and both:
        found += islice(differences(recorded.output, attempted.output, "$.output"), MOST)
    if output:
        was, now = _end_words(recorded), _end_words(attempted)
        yield Divergence(kind=kinds.OTHER_OUTPUT, path="end", recorded=was, attempted=now, differences=tuple(found))
    if both and not explained and attrs.evolve(recorded, state=attempted.state).end != recorded.end:
        yield Divergence(
            kind=kinds.OTHER_STATE,
            path="end",
            recorded="its state",
            attempted="another",
            differences=tuple(islice(differences(recorded.state, attempted.state), MOST)),
        )


def _end_words(course: Course) -> str:
    if course.status == "completed":
        return f"a result: {_short(course.output)}"
    if course.status == "failed":
        return f"{course.error_type}: {course.message}" if course.error_type else "a failure"
    return course.status if course.status in _ENDED else f"no end: it is {course.status}"


# Words and JSON


def cost_words(cost: Mapping[str, int]) -> str:
    """Amounts as a person reads them."""
    names = {name: name.replace("_", " ") for name in AMOUNTS}
    said = [
        f"${amount / 1_000_000_000:.6f}" if name == "usd_nano" else f"{amount:,} {names[name]}"
        for name, amount in cost.items()
        if name in names
    ]
    return ", ".join(said) or "no cost"


def _number(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = text.replace("\n", " ")
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _of(row: Aligned) -> list[Effect]:
    return [one for one in (row.left, row.right) if one is not None]


def _asks_people(row: Aligned) -> bool:
    asked = any(one.kind in ("approval", "question", "answer") or one.policy == "approve" for one in _of(row))
    return asked or (row.left is not None and row.right is not None and row.left.policy != row.right.policy)


def effect_json(effect: Effect) -> dict[str, Any]:
    """An effect in a list: what it is, and where, without what was said."""
    names = ("path", "kind", "name", "outcome", "error_type", "policy", "version", "seq", "log_seq", "hash", "line")
    return {**{name: getattr(effect, name) for name in names}, "cost": dict(effect.cost)}


def _side_json(course: Course) -> dict[str, Any]:
    names = ("source", "run_id", "agent", "role", "status", "output", "error_type", "message")
    return {name: getattr(course, name) for name in names}
