"""The first difference of two runs, found by comparing a few digests, and explained as a comparison of all would.

Rules: what differs is found in O(log n) comparisons of prefixes (`projections.prefixes`); then no more effects are read
than stand around it. An excerpt is believed only if it is what the digests were made of; where the parts that were
read do not tell a first difference for certain, all of both runs is compared. So the digests decide what is read, and
never what is said: that is `comparing`'s alone, and two runs are the same where it tells no divergence.

This file does not know terminals, nor how digests are kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any, Final, NamedTuple

import attrs

from ledger_core.errors import BadInput, NotFound
from ledger_core.log.log import Log
from ledger_core.run.divergence import Divergence
from ledger_core.runtime.folds import stream_of
from projections import excerpt, prefixes, prefixes_kept, runs
from projections.course import Course, Effect
from projections.prefixes import BEGINNING, Prefixes, Search
from replay import sides
from replay.alignment import Aligned
from replay.comparing import Comparison, compare

WINDOW: Final = 64
"""Effects that are read at either end of what differs in a task."""
_CONTEXT: Final = 2
"""Equal effects that are read around it."""
_TASKS: Final = 16
"""Tasks that differ of which parts are read, those that differ first."""
_BEHIND: Final = (64, 4096)
"""Events behind an effect's first in which its outcome is looked for, one after the other."""


class Side:
    """One of the two runs, as far as it has been read."""

    def __init__(self, told: Prefixes, course: Course | None, log: Log | None = None) -> None:
        self.prefixes = told
        self._course = course
        self._log = log
        self._places: dict[str, int] = {}

    @property
    def is_read(self) -> bool:
        """Whether all of the run was read."""
        return self._course is not None

    @property
    def course(self) -> Course:
        """All of it."""
        if self._course is None:
            assert self._log is not None
            self._course = sides.of_run(self._log, self.prefixes.head.run_id)
        return self._course

    def part(self, spans: Iterable[tuple[str, range]]) -> Course:
        """The run with no other effects than those at some places of some tasks."""
        found: dict[int, Effect] = {}
        for scope, span in spans:
            strand = self.prefixes.strand(scope)
            for place, one in zip(span, self._effects(scope, span), strict=False):  # a run may lose some meanwhile
                found[strand.number(place)], self._places[one.path] = one, place
        return attrs.evolve(self.prefixes.head, effects=tuple(found[number] for number in sorted(found)))

    def place(self, effect: Effect) -> int:
        """The place of an effect in its task, from 0."""
        if effect.path not in self._places:
            for place, one in enumerate(self.course.scopes[effect.scope]):
                self._places[one.path] = place
        return self._places[effect.path]

    def _effects(self, scope: str, span: range) -> Sequence[Effect]:
        strand = self.prefixes.strand(scope)
        if not span:
            return ()
        for behind in _BEHIND if self._course is None else ():
            assert self._log is not None
            found = excerpt.effects(self._log, [strand.number(place) for place in span], behind)
            if found is not None and strand.holds(span.start, found):
                return found
        return self.course.scopes.get(scope, ())[span.start : span.stop]


class _Spot(NamedTuple):
    """Where a task differs."""

    met: float
    """The left's number of what happened before it, by which spots are ordered."""
    scope: str
    before: int
    """How many of its effects are the same before, in the order of the program."""
    anchor: tuple[str, int] | None
    """Of a task that differs from its first effect on: task and place of what happened before it."""


class _Region(NamedTuple):
    """What is read of either side to explain a spot."""

    spot: _Spot
    left: list[range]
    right: list[range]
    whole: bool
    """Whether it is all in which the task differs."""


@attrs.frozen(kw_only=True)
class Bisection:
    """The first difference of two runs."""

    left: Course
    """Without its effects."""
    right: Course
    counts: tuple[int, int]
    """Number of effects of either side."""
    comparisons: int
    """Of two digests."""
    divergence: Divergence | None
    """None where the runs are the same."""
    scope: str | None
    """The path of the task that it is in; None at the beginning and the end of the run."""
    place: int | None
    """Its place in the task, from 0: the left's, or the right's where the left has nothing there."""
    last_equal: Aligned | None
    """The effect before it, on both sides; None where there is none."""
    looked_at: int
    """Number of effects, of both sides, that the explanation was made of."""

    @property
    def same(self) -> bool:
        return self.divergence is None

    def verdict(self) -> str:
        """What came of it, in one sentence."""
        names = f"{self.left.source} and {self.right.source}"
        came = "are the same" if self.divergence is None else "differ"
        number = f"{self.comparisons} comparison" + ("" if self.comparisons == 1 else "s")
        return f"{names} {came}: {number} of digests, for {self.counts[0]:,} and {self.counts[1]:,} effects."

    def as_json(self) -> dict[str, Any]:
        """The bisection as `--json` prints it."""
        last = self.last_equal or Aligned("same", None, None)
        both = {"left": _effect_json(last.left), "right": _effect_json(last.right)}
        return {
            "same": self.same,
            "comparisons": self.comparisons,
            "left": _side_json(self.left, self.counts[0]),
            "right": _side_json(self.right, self.counts[1]),
            "scope": self.scope,
            "place": self.place,
            "last_equal": None if self.last_equal is None else both,
            "divergence": None if self.divergence is None else self.divergence.as_json(),
        }


def load(text: str, log: Log | None) -> Side:
    """What a person names, as `sides.load` has it: of a run its prefixes, of a file all. Raises as that does."""
    if log is not None and not sides.is_file_name(text):
        try:
            run_id = runs.resolve(log, text)
        except (NotFound, BadInput):
            return of_course(sides.load(text, log))
        return of_run(log, run_id)
    return of_course(sides.load(text, log))


def of_run(log: Log, run_id: str) -> Side:
    """A run of a ledger. Raises as `sides.of_run` does."""
    if log.stream_head(stream_of(run_id)) is None:
        return of_course(sides.of_run(log, run_id))  # which says that there is none
    told, course = prefixes_kept.of_run(log, run_id)
    return Side(told, course, log)


def of_course(course: Course) -> Side:
    """A run that was read already."""
    return Side(prefixes.of_course(course), course)


def bisect(left: Side, right: Side, *, window: int = WINDOW) -> Bisection:
    """Find the first difference of two runs, and what it is.

    One comparison where they are the same; at most log2(n) + 3 where one effect of a run without tasks was changed,
    inserted or left out; O(d·log n) where d tasks differ. Raises as reading the runs does.
    """
    search = Search(left.prefixes, right.prefixes)
    spots, all_of_them = _spots(left.prefixes, right.prefixes, search)
    found = None
    if spots:
        regions = [_region(left.prefixes, right.prefixes, spot, search, window) for spot in spots]
        found = compare(
            left.part(_spans((one.spot, one.left) for one in regions)),
            right.part(_spans((one.spot, one.right) for one in regions)),
        )
        certain = all_of_them and all(one.whole for one in regions)
        if not found.divergences or not (certain or _is_at(found, regions, left, right)):
            found = compare(left.course, right.course)
    return _told(left, right, search.comparisons, found)


# Where they differ


def _spots(left: Prefixes, right: Prefixes, search: Search) -> tuple[list[_Spot], bool]:
    """Where tasks differ, in the left's order, and whether that is all of them; what the run began with goes before.

    A task that began behind so many differences as are looked at is not searched.
    """
    scopes = search.scopes()
    both = sorted((0 if not scope else left.strand(scope).number(0), scope) for scope in _in_both(scopes, left, right))
    before = dict.fromkeys(scopes, 0)
    met = sorted(float(left.strand(scope).number(0)) for scope in scopes if scope not in right.strands)
    searched = set(scopes) - {scope for _, scope in both}
    for start, scope in both:
        if len(met) >= _TASKS and start > met[_TASKS - 1]:
            break
        before[scope] = search.first(scope)
        if before[scope] == BEGINNING:
            return [_Spot(BEGINNING, "", BEGINNING, None)], True
        searched.add(scope)
        insort(met, _spot(left, right, scope, before[scope], None).met)
    fresh = [scope for scope in searched if before[scope] == 0 and len(right.strand(scope))]
    anchors = _anchors(right, before, fresh)
    found = sorted(_spot(left, right, scope, before[scope], anchors.get(scope)) for scope in searched)
    return found[:_TASKS], len(found) == len(scopes) <= _TASKS


def _in_both(scopes: Iterable[str], left: Prefixes, right: Prefixes) -> Iterator[str]:
    return (scope for scope in scopes if scope in left.strands and scope in right.strands)


def _spot(left: Prefixes, right: Prefixes, scope: str, same: int, anchor: tuple[str, int] | None) -> _Spot:
    strand = left.strand(scope)
    if same == len(strand) == len(right.strand(scope)):
        met: float = inf  # the end of the run
    elif same:
        met = strand.number(same - 1)
    else:
        first = [strand.number(0)] if len(strand) else []
        met = min([*first, *([left.strand(anchor[0]).number(anchor[1])] if anchor else [])], default=0)
    return _Spot(met, scope, same, anchor)


def _anchors(right: Prefixes, before: Mapping[str, int], fresh: Sequence[str]) -> dict[str, tuple[str, int]]:
    """For tasks that differ from their first effect on: the last effect before it that is the same on both sides."""
    same = sorted(
        (strand.number(place), scope, place)
        for scope, strand in (right.strands.items() if fresh else ())
        for place in range(before.get(scope, len(strand)))
    )
    places = {scope: bisect_left(same, (right.strand(scope).number(0), "", 0)) for scope in fresh}
    return {scope: same[at - 1][1:] for scope, at in places.items() if at}


def _region(left: Prefixes, right: Prefixes, spot: _Spot, search: Search, window: int) -> _Region:
    if spot.before == BEGINNING:
        return _Region(spot, [], [], whole=True)
    sizes = len(left.strand(spot.scope)), len(right.strand(spot.scope))
    if max(sizes) <= 2 * window:
        return _Region(spot, [range(sizes[0])], [range(sizes[1])], whole=True)
    behind = search.last(spot.scope, spot.before)
    begin, more = max(spot.before - _CONTEXT, 0), min(behind, _CONTEXT)
    one, other = (_ends(begin, spot.before, size - behind, size - behind + more, window) for size in sizes)
    return _Region(spot, one, other, whole=len(one) == len(other) == 1)


def _ends(begin: int, first: int, last: int, end: int, window: int) -> list[range]:
    """The places from `begin` to `end`; where there are many between `first` and `last`, those at both ends."""
    if last - first <= 2 * window:
        return [range(begin, end)]
    return [range(begin, first + window), range(last - window, end)]


def _spans(regions: Iterable[tuple[_Spot, list[range]]]) -> Iterator[tuple[str, range]]:
    for spot, spans in regions:
        yield from ((spot.scope, span) for span in spans)
        if spot.anchor is not None:
            yield spot.anchor[0], range(spot.anchor[1], spot.anchor[1] + 1)


# What it is


def _is_at(found: Comparison, regions: Sequence[_Region], left: Side, right: Side) -> bool:
    """Whether the first divergence of what was read is where the digests begin to differ: then it is the runs' first.

    What is said behind may come of where a part was cut.
    """
    if found.begins is not None or not found.at:
        return found.begins is not None
    row = found.aligned[min(found.at)]
    spots = {(one.spot.scope, one.spot.before) for one in regions}
    sides_ = [(side, one) for side, one in ((left, row.left), (right, row.right)) if one is not None]
    return any((one.scope, side.place(one)) in spots for side, one in sides_)


def _told(left: Side, right: Side, comparisons: int, found: Comparison | None) -> Bisection:
    first = None if found is None or not found.divergences else found.divergences[0]
    at, last, scope, place = None, None, None, None
    if found is not None and first is not None and found.begins is None:
        number = min(found.at, default=len(found.aligned))
        if found.at:
            row = found.aligned[number]
            side, at = (left, row.left) if row.left is not None else (right, row.right)
            assert at is not None
            scope, place = at.scope, side.place(at)
        last = _last_equal(found.aligned[:number], scope or "")
    return Bisection(
        left=left.prefixes.head,
        right=right.prefixes.head,
        counts=(len(left.prefixes), len(right.prefixes)),
        comparisons=comparisons,
        divergence=first,
        scope=scope,
        place=place,
        last_equal=last,
        looked_at=0 if found is None else len(found.recorded.effects) + len(found.attempted.effects),
    )


def _last_equal(rows: Sequence[Aligned], scope: str) -> Aligned | None:
    """The last of these that is the same on both sides: of a task, or, where it has none, of all."""
    same = [row for row in rows if row.op == "same"]
    mine = [row for row in same if row.left is not None and row.left.scope == scope]
    found = mine or same
    return found[-1] if found else None


def _side_json(course: Course, effects: int) -> dict[str, Any]:
    names = ("source", "run_id", "agent", "role", "status")
    return {**{name: getattr(course, name) for name in names}, "effects": effects}


def _effect_json(effect: Effect | None) -> dict[str, Any] | None:
    names = ("path", "kind", "name", "outcome", "seq", "log_seq", "hash", "line")
    return None if effect is None else {name: getattr(effect, name) for name in names}
