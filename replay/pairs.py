"""Which bundle of evidence is to be compared with which, where there are many on both sides.

Rules: two single bundles are a pair, whatever they are called. Of directories, those of one name are; then those of one
agent that began with the same, in order; then the two that are left of one agent, if no others are. What has no partner
is said: a base without a candidate is a run that nobody made any more. This file measures nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import TypeVar

import attrs

from ledger_core.errors import BadInput, Damaged, NotFound
from projections import evidence_files
from replay import corpus
from replay.regression import Side, side

Sides = dict[str, Side]
T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Pairs:
    """Runs to be compared, by the names that they are told by."""

    pairs: tuple[tuple[str, Side, Side], ...]
    missing: tuple[Side, ...] = ()
    """Bases without a candidate."""
    new: tuple[Side, ...] = ()
    """Candidates without a base."""


def pairs(base: Path, candidate: Path) -> Pairs:
    """The pairs of two places, each a bundle (a file, a page, a directory) or a directory of many, or a corpus.

    Raises `NotFound`, `BadInput` for a directory without any, and what `regression.side` raises.
    """
    was, now = files(base), files(candidate)
    read = [{name: side(path) for name, path in found.items()} for found in (was, now)]
    if len(was) == len(now) == 1:
        ((name, one),), (other,) = read[0].items(), read[1].values()
        return Pairs(pairs=((name, one, other),))
    return paired(*read)


def files(place: Path) -> dict[str, Path]:
    """The bundles at a place, by name. Raises `NotFound`, `BadInput`, `Damaged`."""
    if not place.exists():
        raise NotFound(f"There is no file {place}.", hint="Make one: agentledger evidence RUN --out FILE")
    if not place.is_dir():
        return {place.stem: place}
    if (place / evidence_files.BUNDLE).exists():
        return {place.name: place}
    if (place / corpus.INDEX).exists():
        try:
            return evidence_files.family(place)
        except Damaged:
            return {name: corpus.file_of(place, one) for name, one in corpus.entries(place).items()}
    found = {
        path.stem if path.is_file() else path.name: path
        for path in sorted(place.glob("[!.]*"))
        if path.suffix in (".json", ".html") or (path / evidence_files.BUNDLE).exists()
    }
    if not found:
        raise BadInput(f"{place} has no evidence in it.", hint="Make some: agentledger evidence RUN --out FILE")
    return found


def paired(was: Sides, now: Sides) -> Pairs:
    """Pair what is on two sides."""
    found = [(name, one, now[name]) for name, one in was.items() if name in now]
    left = [(name, one) for name, one in was.items() if name not in now]
    free = [one for name, one in now.items() if name not in was]
    found += _matched(left, free, lambda one: one.course.beginning, several=True)
    found += _matched(left, free, lambda one: one.course.agent, several=False)
    return Pairs(pairs=tuple(found), missing=tuple(one for _, one in left), new=tuple(free))


def _matched(
    left: list[tuple[str, Side]], free: list[Side], key: Callable[[Side], Hashable], *, several: bool
) -> list[tuple[str, Side, Side]]:
    """Pairs of equal keys, taken out of both lists; with `several`, the first with the first, and so on."""
    mine, theirs = _grouped(left, lambda row: key(row[1])), _grouped(free, key)
    found = []
    for value, rows in mine.items():
        others = theirs.get(value, [])
        if several or len(rows) == len(others) == 1:
            for (name, one), other in zip(rows, others, strict=False):
                found.append((name, one, other))
                left.remove((name, one))
                free.remove(other)
    return found


def _grouped(rows: Iterable[T], key: Callable[[T], Hashable]) -> dict[Hashable, list[T]]:
    found: dict[Hashable, list[T]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found
