"""Prefixes of a run: rolling digests of what it did, by which two runs are told apart without reading either.

    forward[k]   the digest of a task's first k effects; of the agent's own task, with what it began with
    backward[k]  the digest of its effects from place k to the end

Rules: pure. A digest is of what `Course` counts: no times, no ids, no hashes; so runs that raced otherwise, crashed or
were tried again have one. Tasks hang in a trie by the digest of their names, so that one more shifts nothing. Every
comparison of two digests is counted. What is written down here tells short words to whoever can guess them: it must
not be kept but sealed. This file does not know where it is kept, nor what a difference means.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Final

import attrs

from ledger_core import chain, codec
from ledger_core.errors import Damaged
from projections import course
from projections.course import Course, Effect

VERSION: Final = 1
"""Of the bytes of `encode`."""
SIZE: Final = 16
"""Bytes of a rolling digest: two equal ones of different effects take 2^64 tries to find, and mislead their finder."""
_NUMBER: Final = 8
BEGINNING: Final = -1
"""The place of what a run begins with, before its first effect."""


@attrs.frozen(kw_only=True)
class Strand:
    """Rolling digests over the effects of one task, in the order of the program: 40 bytes an effect."""

    forward: bytes
    backward: bytes
    numbers: bytes
    """What the effects are ordered by as they happened: the seqs of their first events, where they are of a log."""

    def __len__(self) -> int:
        return len(self.numbers) // _NUMBER

    def before(self, place: int) -> bytes:
        """Digest of the effects before a place."""
        return self.forward[place * SIZE : (place + 1) * SIZE]

    def since(self, place: int) -> bytes:
        """Digest of the effects from a place on."""
        return self.backward[place * SIZE : (place + 1) * SIZE]

    def number(self, place: int) -> int:
        """What the effect at a place is ordered by."""
        return int.from_bytes(self.numbers[place * _NUMBER : (place + 1) * _NUMBER], "big")

    def holds(self, first: int, effects: Sequence[Effect]) -> bool:
        """Whether these are the effects from a place on."""
        return self.before(first + len(effects)) == _rolled(self.before(first), effects)[-1]


@attrs.frozen(kw_only=True, slots=False)
class Prefixes:
    """Rolling digests over all that a run did."""

    head: Course
    """The run without its effects."""
    strands: Mapping[str, Strand]
    """By the path of the task; the agent's own, which is empty, is always there."""

    def __len__(self) -> int:
        """Number of effects."""
        return sum(map(len, self.strands.values()))

    def strand(self, scope: str) -> Strand:
        """Of a task; an empty one where there is none."""
        return self.strands.get(scope, _EMPTY)

    @cached_property
    def trie(self) -> Trie:
        return Trie({scope: self._whole(scope, strand) for scope, strand in self.strands.items()})

    def _whole(self, scope: str, strand: Strand) -> bytes:
        end = b"" if scope else self.head.end
        return chain.course_digest(strand.before(len(strand)) + end)


def of_course(told: Course) -> Prefixes:
    """The prefixes of a course. O(n), about 13 µs an effect."""
    seqs = [one.log_seq or 0 for one in told.effects]
    if not all(seqs) or any(one >= other for one, other in pairwise(seqs)):
        seqs = list(range(1, len(seqs) + 1))
    numbers = {id(one): seq for one, seq in zip(told.effects, seqs, strict=True)}
    strands = {"": _strand((), numbers, told.beginning)}
    for scope, effects in told.scopes.items():
        strands[scope] = _strand(effects, numbers, b"" if scope else told.beginning)
    return Prefixes(head=attrs.evolve(told, effects=()), strands=strands)


def encode(prefixes: Prefixes) -> bytes:
    """Prefixes as bytes; raises `ValueError` for what some hand-written course holds."""
    strands = [[scope, *attrs.astuple(strand)] for scope, strand in sorted(prefixes.strands.items())]
    return codec.encode_trusted([VERSION, json.dumps(prefixes.head.as_json()), strands])


def decode(data: bytes) -> Prefixes:
    """The inverse of `encode`. Raises `Damaged` for what it has not written."""
    try:
        version, text, rows = codec.decode_trusted(data)
        if version != VERSION:
            raise Damaged(f"These prefixes are of version {version!r:.20}, and not {VERSION}.")
        strands = {scope: Strand(forward=one, backward=other, numbers=third) for scope, one, other, third in rows}
        if "" not in strands or not all(len(one.forward) == (len(one) + 1) * SIZE for one in strands.values()):
            raise Damaged("These prefixes have another shape.")
        head = json.loads(text)
        return Prefixes(head=course.of_json(head, head["source"]), strands=strands)
    except (TypeError, ValueError, LookupError) as wrong:
        raise Damaged(f"These prefixes cannot be read: {wrong!r:.100}.") from None


def _strand(effects: Sequence[Effect], numbers: Mapping[int, int], seed: bytes) -> Strand:
    return Strand(
        forward=b"".join(_rolled(chain.course_digest(seed)[:SIZE], effects)),
        backward=b"".join(reversed(_rolled(bytes(SIZE), effects[::-1]))),
        numbers=b"".join(numbers[id(one)].to_bytes(_NUMBER, "big") for one in effects),
    )


def _rolled(seed: bytes, effects: Sequence[Effect]) -> list[bytes]:
    digests = [seed]
    for one in effects:
        digests.append(chain.course_digest(digests[-1] + one.digest)[:SIZE])
    return digests


_EMPTY: Final = _strand((), {}, b"")


class Trie:
    """Tasks by the digests of their names: a part is all tasks whose digests begin with the same bits."""

    def __init__(self, wholes: Mapping[str, bytes]) -> None:
        rows = sorted((int.from_bytes(_name_digest(scope), "big"), scope) for scope in wholes)
        self.keys = [key for key, _ in rows]
        self.scopes = [scope for _, scope in rows]
        self._leaves = [chain.course_digest(_name_digest(scope) + wholes[scope]) for scope in self.scopes]
        self._digests: dict[tuple[int, int], bytes] = {}

    def digest(self, low: int, high: int) -> bytes:
        """Of the part that is the tasks from `low` up to `high`, in the order of their keys."""
        if high - low == 1:
            return self._leaves[low]
        found = self._digests.get((low, high))
        if found is None:
            middle = _middle(self.keys[low], self.keys[high - 1])
            assert middle is not None
            at = bisect_left(self.keys, middle, low, high)
            found = chain.course_digest(self.digest(low, at) + self.digest(at, high))
            self._digests[low, high] = found
        return found


class Search:
    """Where two runs differ; `comparisons` counts what was compared for it, two digests each."""

    def __init__(self, left: Prefixes, right: Prefixes) -> None:
        self.comparisons = 0
        self._left = left
        self._right = right

    def scopes(self) -> list[str]:
        """The tasks that differ, in no order. O(d·log t) comparisons for d of t tasks; one where nothing differs."""
        left, right = self._left.trie, self._right.trie
        whole = (0, len(left.keys)), (0, len(right.keys))
        return [] if self._same_part(left, right, *whole) else list(self._descend(left, right, *whole))

    def first(self, scope: str) -> int:
        """How many effects of a task that differs are the same before the first that is not; or `BEGINNING`.

        As many as both have, where it is the end that differs. At most log2(n) + 1 comparisons.
        """
        left, right = self._left.strand(scope), self._right.strand(scope)
        both = min(len(left), len(right))
        same = 0 if scope else BEGINNING
        """As many are known to be the same."""
        other = both + (len(left) != len(right) or not scope)
        """That many are known not to be: where one ends and the other does not, or where the ends differ."""
        while other - same > 1:
            middle = (same + other) // 2
            if self._same(left.before(middle), right.before(middle)):
                same = middle
            else:
                other = middle
        return same

    def last(self, scope: str, first: int) -> int:
        """How many effects of a task are the same at its end, none of them among the `first`.

        One comparison where one effect was changed, inserted or left out; at most log2(n) + 1.
        """
        left, right = self._left.strand(scope), self._right.strand(scope)
        most = min(len(left), len(right)) - first
        if len(left) == len(right) and most:
            most -= 1
        if most and self._same(left.since(len(left) - most), right.since(len(right) - most)):
            return most
        same, other = 0, max(most, 1)
        while other - same > 1:
            middle = (same + other) // 2
            if self._same(left.since(len(left) - middle), right.since(len(right) - middle)):
                same = middle
            else:
                other = middle
        return same

    def _descend(self, left: Trie, right: Trie, mine: tuple[int, int], theirs: tuple[int, int]) -> Iterator[str]:
        """The tasks that differ in parts that do."""
        (low, high), (start, stop) = mine, theirs
        if low == high or start == stop:
            yield from (*left.scopes[low:high], *right.scopes[start:stop])
            return
        middle = _middle(min(left.keys[low], right.keys[start]), max(left.keys[high - 1], right.keys[stop - 1]))
        if middle is None:
            yield left.scopes[low]
            return
        at, to = bisect_left(left.keys, middle, low, high), bisect_left(right.keys, middle, start, stop)
        below, above = ((low, at), (start, to)), ((at, high), (to, stop))
        if self._same_part(left, right, *below):
            yield from self._descend(left, right, *above)  # which must differ, then
            return
        yield from self._descend(left, right, *below)
        if not self._same_part(left, right, *above):
            yield from self._descend(left, right, *above)

    def _same_part(self, left: Trie, right: Trie, mine: tuple[int, int], theirs: tuple[int, int]) -> bool:
        if mine[0] == mine[1] or theirs[0] == theirs[1]:
            return False
        return self._same(left.digest(*mine), right.digest(*theirs))

    def _same(self, one: bytes, other: bytes) -> bool:
        self.comparisons += 1
        return one == other


def _middle(low: int, high: int) -> int | None:
    """The least key that has the first bit in which two keys differ; None for one key."""
    differing = (low ^ high).bit_length()
    return high >> (differing - 1) << (differing - 1) if differing else None


def _name_digest(scope: str) -> bytes:
    return chain.course_digest(scope.encode(errors="backslashreplace"))
