"""What of one run corresponds to what of another: the effects of two courses, side by side.

Rules: pure. Effects correspond by what they asked for, never by their ordinals, so that one call more shifts nothing.
First the same requests in the same order (a shortest edit script, as far as it is found within bounds), then those in
another order (moved, also between tasks), then what stands in one place and resembles (changed). What is left is
missing or extra. Nothing is quadratic in the number of effects: where an exact answer would be, anchors that are
unique on both sides are taken, and then what comes next. Tasks correspond by what they did before their numbers do.

This file does not know what a difference means, nor what a divergence is.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from math import isqrt
from typing import Any, Final, Literal, NamedTuple

from ledger_core import chain
from projections.course import Course, Effect

Op = Literal["same", "changed", "missing", "extra", "moved"]
OPS: Final[tuple[Op, ...]] = ("same", "changed", "missing", "extra", "moved")
_EXACT: Final = 64
"""Edits up to which any part is compared exactly."""
_DEEP: Final = 6
"""How often parts are divided at anchors."""
_CELLS: Final = 10_000
"""Pairs of a replaced block that are all weighed; larger blocks are paired in order."""
_WORDS: Final = re.compile(r"\w+")
_MOST_WORDS: Final = 1000
_MOST_LETTERS: Final = 4000
"""Of a request, what is looked at to see what it resembles."""
_NUMBERED: Final = re.compile(r"(.*?)(\d+)", re.DOTALL)
_Scopes = Mapping[str, tuple[Effect, ...]]
_Task = tuple[str | None, str | None]
"""The paths of two tasks that correspond; None where there is none."""


class Aligned(NamedTuple):
    """One effect of either run, or one of both that correspond."""

    op: Op
    """`same`: equal in all that counts; `changed`: in one place; `missing`: of the left run alone; `extra`: of the
    right run alone; `moved`: the same request elsewhere (the row stands where the left one does)."""
    left: Effect | None
    right: Effect | None


class _Sides(NamedTuple):
    """Two tasks that correspond, on their way: what is matched by place, on either side."""

    left: Sequence[Effect]
    right: Sequence[Effect]
    found: list[tuple[int, int]]
    gone: dict[int, Effect]
    """Places on the left that moved, with where they moved to."""
    come: set[int]
    """Places on the right that something moved to."""


def align(left: Sequence[Effect], right: Sequence[Effect]) -> list[Aligned]:
    """The effects of one task in two runs, each in the order of the program."""
    return _aligned([(left, right)])[0]


def align_courses(left: Course, right: Course) -> list[list[Aligned]]:
    """The effects of two runs, by the tasks that correspond; a row is in the left effect's task."""
    lefts, rights = left.scopes, right.scopes
    pairs = _tasks(lefts, rights)
    nothing: tuple[Effect, ...] = ()
    return _aligned(
        [
            (nothing if one is None else lefts.get(one, ()), nothing if other is None else rights.get(other, ()))
            for one, other in pairs
        ]
    )


def matches(before: Sequence[Hashable], after: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Places of equal items, increasing on both sides; as many as possible where it is found within bounds.

    O(n + d²) for n items with d differences, and O(n·log n) with a constant of about 64 where d is large.
    """
    numbers: dict[Hashable, int] = {}
    left = [numbers.setdefault(item, len(numbers)) for item in before]
    right = [numbers.setdefault(item, len(numbers)) for item in after]
    found: list[tuple[int, int]] = []
    x, to_x, y, to_y, _ = _trimmed(left, right, _Part(0, len(left), 0, len(right), 0), found)
    common = set(left[x:to_x]) & set(right[y:to_y])
    at = [place for place in range(x, to_x) if left[place] in common]
    to = [place for place in range(y, to_y) if right[place] in common]
    found += [(at[i], to[j]) for i, j in _common([left[place] for place in at], [right[place] for place in to])]
    return _slid(sorted(found), left, right)


# Equal items in equal order


class _Part(NamedTuple):
    """A part of both sequences that is to be compared, how often it was divided, and whether it may be again."""

    left: int
    left_end: int
    right: int
    right_end: int
    depth: int


def _common(a: list[int], b: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    waiting = [_Part(0, len(a), 0, len(b), 0)]
    while waiting:
        part = _trimmed(a, b, waiting.pop(), found)
        if part.left == part.left_end or part.right == part.right_end:
            continue
        size = part.left_end - part.left + part.right_end - part.right
        limit = max(_EXACT, isqrt(4 * size)) if part.depth < _DEEP else _EXACT
        pairs, x, y = _shortest(a, b, part, limit)
        anchors = [] if (x, y) == (part.left_end, part.right_end) or part.depth >= _DEEP else _anchors(a, b, part)
        if not anchors:
            found += pairs
            if (x, y) != (part.left_end, part.right_end):
                waiting.append(_Part(x, part.left_end, y, part.right_end, _DEEP))
            continue
        found += anchors
        ends = [*anchors, (part.left_end, part.right_end)]
        begins = [(part.left, part.right), *((x + 1, y + 1) for x, y in anchors)]
        waiting += [_Part(x, to_x, y, to_y, part.depth + 1) for (x, y), (to_x, to_y) in zip(begins, ends, strict=True)]
    return sorted(found)


def _trimmed(a: list[int], b: list[int], part: _Part, found: list[tuple[int, int]]) -> _Part:
    """A part without what both begin and end with, which is found."""
    x, to_x, y, to_y, depth = part
    while x < to_x and y < to_y and a[x] == b[y]:
        found.append((x, y))
        x, y = x + 1, y + 1
    while x < to_x and y < to_y and a[to_x - 1] == b[to_y - 1]:
        to_x, to_y = to_x - 1, to_y - 1
        found.append((to_x, to_y))
    return _Part(x, to_x, y, to_y, depth)


def _shortest(a: list[int], b: list[int], part: _Part, limit: int) -> tuple[list[tuple[int, int]], int, int]:
    """Matches of a shortest edit script (Myers, 1986), and where it ended: at the part's end, or the furthest place
    that `limit` edits lead to."""
    x0, n, y0, m = part.left, part.left_end - part.left, part.right, part.right_end - part.right
    reached: list[dict[int, int]] = []
    ends = {1: 0}
    work = 20 * (n + m) + limit * limit
    for edits in range(min(limit, n + m) + 1):
        for k in range(-edits, edits + 1, 2):
            down = k == -edits or (k != edits and ends.get(k - 1, -1) < ends.get(k + 1, -1))
            x = ends.get(k + 1, 0) if down else ends[k - 1] + 1
            start = x
            while x < n and 0 <= x - k < m and a[x0 + x] == b[y0 + x - k]:
                x += 1
            ends[k] = x
            work -= x - start + 1
            if x >= n and x - k >= m:
                return _walked(reached, k, x, edits, part), part.left_end, part.right_end
        reached.append({k: ends[k] for k in range(-edits, edits + 1, 2)})
        if work < 0:
            break
    edits = len(reached) - 1
    inside = [(2 * x - k, k, x) for k, x in reached[-1].items() if x <= n and x - k <= m]
    if not inside:  # all of its ends are past one side's end
        return [], part.left_end, part.right_end
    _, k, x = max(inside)
    return _walked(reached, k, x, edits, part), x0 + x, y0 + x - k


def _walked(reached: list[dict[int, int]], k: int, x: int, edits: int, part: _Part) -> list[tuple[int, int]]:
    """The matches on the way to a place, backwards."""
    found = []
    while edits >= 0:
        before = reached[edits - 1] if edits else {1: 0}
        down = k == -edits or (k != edits and before.get(k - 1, -1) < before.get(k + 1, -1))
        start = before.get(k + 1, 0) if down else before[k - 1] + 1
        while x > start:
            x -= 1
            found.append((part.left + x, part.right + x - k))
        k, x, edits = (k + 1, start, edits - 1) if down else (k - 1, start - 1, edits - 1)
    return found


def _anchors(a: list[int], b: list[int], part: _Part) -> list[tuple[int, int]]:
    """Items that are there once on either side, as many as keep their order (patience)."""
    counts = Counter(a[part.left : part.left_end])
    others = Counter(b[part.right : part.right_end])
    places = {b[y]: y for y in range(part.right, part.right_end)}
    once = [(x, places[a[x]]) for x in range(part.left, part.left_end) if counts[a[x]] == 1 == others[a[x]]]
    tops: list[int] = []
    """By length, the smallest place on the right that an increasing list of that length ends with."""
    ends: list[int] = []
    before: list[int] = []
    for number, (_, y) in enumerate(once):
        at = bisect_left(tops, y)
        tops[at : at + 1], ends[at : at + 1] = [y], [number]
        before.append(ends[at - 1] if at else -1)
    found, number = [], ends[-1] if ends else -1
    while number >= 0:
        found.append(once[number])
        number = before[number]
    return found[::-1]


def _slid(found: list[tuple[int, int]], a: list[int], b: list[int]) -> list[tuple[int, int]]:
    """Matches of as many items, with what was dropped beside what came in its place, where repeated items allow it.

    A run of matches that more was added before than dropped, and more dropped behind than added, or the other way
    round, may match as well the same items a few places further.
    """
    slid: list[tuple[int, int]] = []
    first, x, y = 0, 0, 0
    while first < len(found):
        last = first
        while last + 1 < len(found) and found[last + 1] == (found[last][0] + 1, found[last][1] + 1):
            last += 1
        run = found[first : last + 1]
        end_x, end_y = found[last + 1] if last + 1 < len(found) else (len(a), len(b))
        more = run[0][1] - y - (run[0][0] - x), end_x - run[-1][0] - (end_y - run[-1][1])
        by = min(more) if min(more) > 0 else min(0, max(more))
        for dx, dy in ((by, 0), (0, -by)) if by else ():
            if all(a[i] == a[i + dx] and b[j] == b[j + dy] for i, j in run):
                run = [(i + dx, j + dy) for i, j in run]
                break
        slid += run
        first, x, y = last + 1, run[-1][0] + 1, run[-1][1] + 1
    return slid


# Tasks that correspond


def _tasks(left: _Scopes, right: _Scopes) -> list[_Task]:
    """Pairs of tasks: those of one function below one task, by what they did, and then in order."""
    lefts, rights = _Tree(left), _Tree(right)
    found: list[_Task] = []
    waiting: deque[_Task] = deque([("", "")])
    while waiting:
        one, other = waiting.popleft()
        found.append((one, other))
        mine, theirs = lefts.families(one), rights.families(other)
        for name in [*mine, *(name for name in theirs if name not in mine)]:
            waiting += _family(lefts, rights, mine.get(name, []), theirs.get(name, []))
    return found


class _Tree:
    """The tasks of a run, by the task that made them."""

    def __init__(self, scopes: _Scopes) -> None:
        self._scopes = scopes
        self._below: dict[str, set[str]] = defaultdict(set)
        for scope in scopes:
            name, above = scope, scope.rpartition("/")[0]
            while name and name not in self._below[above]:
                self._below[above].add(name)
                name, above = above, above.rpartition("/")[0]
        self._said: dict[str, bytes] = {}

    def families(self, scope: str | None) -> dict[str, list[str]]:
        """The tasks that a task made, in order, by the name of their function."""
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for name in self._below.get(scope, ()) if scope is not None else ():
            numbered = _NUMBERED.fullmatch(name.rpartition("/")[2])
            base, number = (numbered[1], int(numbered[2])) if numbered else (name, 0)
            found[base].append((number, name))
        return {base: [name for _, name in sorted(found[base])] for base in sorted(found)}

    def asked(self, scope: str) -> Counter[bytes]:
        """What a task itself asked for."""
        return Counter(one.asked for one in self._scopes.get(scope, ()))

    def said(self, scope: str) -> bytes:
        """Digest of what a task, and those that it made, asked for."""
        order = [scope]
        for name in order:
            order += sorted(self._below.get(name, ()))
        for name in reversed(order):
            if name not in self._said:
                mine = b"".join(one.asked for one in self._scopes.get(name, ()))
                below = (self._said[one] for one in sorted(self._below.get(name, ())))
                self._said[name] = chain.course_digest(chain.course_digest(mine) + b"".join(below))
        return self._said[scope]


def _family(lefts: _Tree, rights: _Tree, mine: list[str], theirs: list[str]) -> Iterator[_Task]:
    same = matches([lefts.said(one) for one in mine], [rights.said(one) for one in theirs])
    for (i, to_i), (j, to_j) in _gaps(same, len(mine), len(theirs)):
        pairs = _in_order(to_i - i, to_j - j, _in_common(lefts, rights, mine[i:to_i], theirs[j:to_j]))
        for x, y in _filled(pairs, to_i - i, to_j - j):
            yield None if x is None else mine[i + x], None if y is None else theirs[j + y]
        if to_i < len(mine):
            yield mine[to_i], theirs[to_j]


def _in_common(lefts: _Tree, rights: _Tree, mine: list[str], theirs: list[str]) -> Callable[[int, int], float]:
    ours, others = [lefts.asked(one) for one in mine], [rights.asked(one) for one in theirs]
    return lambda x, y: 1 + (ours[x] & others[y]).total()


# Effects that correspond


def _aligned(tasks: list[tuple[Sequence[Effect], Sequence[Effect]]]) -> list[list[Aligned]]:
    sides = [
        _Sides(left, right, matches([one.asked for one in left], [one.asked for one in right]), {}, set())
        for left, right in tasks
    ]
    _find_moved(sides)
    return [list(_rows(one)) for one in sides]


def _find_moved(sides: list[_Sides]) -> None:
    """What is left on both sides with one request has moved: in its task first, then to another."""
    waiting: dict[bytes, deque[tuple[int, int]]] = defaultdict(deque)
    gone: list[tuple[int, int]] = []
    for number, one in enumerate(sides):
        matched, met = {x for x, _ in one.found}, {y for _, y in one.found}
        left_over = [x for x in range(len(one.left)) if x not in matched]
        mine: dict[bytes, deque[int]] = defaultdict(deque)
        for y, effect in enumerate(one.right):
            if y not in met:
                mine[effect.asked].append(y)
        for x in left_over:
            if places := mine.get(one.left[x].asked):
                y = places.popleft()
                one.gone[x] = one.right[y]
                one.come.add(y)
            else:
                gone.append((number, x))
        for asked, places in mine.items():
            waiting[asked].extend((number, y) for y in places)
    for number, x in gone:
        if others := waiting.get(sides[number].left[x].asked):
            to, y = others.popleft()
            sides[number].gone[x] = sides[to].right[y]
            sides[to].come.add(y)


def _rows(sides: _Sides) -> Iterator[Aligned]:
    left, right = sides.left, sides.right
    for (i, to_i), (j, to_j) in _gaps(sides.found, len(left), len(right)):
        stay = [x for x in range(i, to_i) if x not in sides.gone]
        new = [right[y] for y in range(j, to_j) if y not in sides.come]
        moved = iter([x for x in range(i, to_i) if x in sides.gone])
        next_moved = next(moved, None)
        pairs = _resembling([left[x] for x in stay], new)
        for x, y in _filled(pairs, len(stay), len(new)):
            while next_moved is not None and x is not None and next_moved < stay[x]:
                yield Aligned("moved", left[next_moved], sides.gone[next_moved])
                next_moved = next(moved, None)
            one, other = None if x is None else left[stay[x]], None if y is None else new[y]
            yield Aligned("extra" if one is None else "missing" if other is None else "changed", one, other)
        while next_moved is not None:
            yield Aligned("moved", left[next_moved], sides.gone[next_moved])
            next_moved = next(moved, None)
        if to_i < len(left):
            one, other = left[to_i], right[to_j]
            yield Aligned("same" if one.digest == other.digest else "changed", one, other)


def _resembling(left: list[Effect], right: list[Effect]) -> list[tuple[int, int]]:
    """Pairs in a replaced block: of one kind and name, then of one kind, then in order."""
    if len(left) * len(right) <= _CELLS:
        return _in_order(len(left), len(right), _weigher(left, right))
    found = []
    same = matches([(one.kind, one.name) for one in left], [(one.kind, one.name) for one in right])
    for (i, to_i), (j, to_j) in _gaps(same, len(left), len(right)):
        weigh = _weigher(left[i:to_i], right[j:to_j])
        found += [(i + x, j + y) for x, y in _in_order(to_i - i, to_j - j, weigh)]
        if to_i < len(left):
            found.append((to_i, to_j))
    return found


def _weigher(left: Sequence[Effect], right: Sequence[Effect]) -> Callable[[int, int], float]:
    """How much effects resemble each other: a name counts more than all words, words more than a place."""
    said: dict[int, frozenset[str]] = {}

    def words(effect: Effect) -> frozenset[str]:
        if id(effect) not in said:
            said[id(effect)] = frozenset(islice(_words(effect.request), _MOST_WORDS))
        return said[id(effect)]

    def weigh(x: int, y: int) -> float:
        one, other = left[x], right[y]
        if one.kind != other.kind:
            return 5 if x == y else 1
        either = words(one) | words(other)
        alike = len(words(one) & words(other)) / len(either) if either else 1
        return 100 + 20 * alike if one.name == other.name else 1 + 29 * alike

    return weigh


def _words(value: Any) -> Iterator[str]:
    """The words in a document, without its keys."""
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _words(item)
    else:
        yield from _WORDS.findall(str(value)[:_MOST_LETTERS])


def _in_order(n: int, m: int, weigh: Callable[[int, int], float]) -> list[tuple[int, int]]:
    """Pairs, increasing on both sides, of the greatest weight in all; of large blocks the first with the first."""
    if n * m > _CELLS:
        return [(place, place) for place in range(min(n, m))]
    best = [[0.0] * (m + 1) for _ in range(n + 1)]
    weights = [[weigh(x, y) for y in range(m)] for x in range(n)]
    for x in range(n - 1, -1, -1):
        for y in range(m - 1, -1, -1):
            best[x][y] = max(best[x + 1][y], best[x][y + 1], weights[x][y] + best[x + 1][y + 1])
    found, x, y = [], 0, 0
    while x < n and y < m:
        if best[x][y] == weights[x][y] + best[x + 1][y + 1]:
            found.append((x, y))
            x, y = x + 1, y + 1
        elif best[x][y] == best[x + 1][y]:
            x += 1
        else:
            y += 1
    return found


def _gaps(found: list[tuple[int, int]], n: int, m: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """What lies before each pair and behind the last, on either side: `(from, to), (from, to)`."""
    x = y = 0
    for i, j in found:
        yield (x, i), (y, j)
        x, y = i + 1, j + 1
    yield (x, n), (y, m)


def _filled(pairs: list[tuple[int, int]], n: int, m: int) -> Iterator[tuple[int | None, int | None]]:
    """Pairs, and before each what only one side has."""
    for (x, to_x), (y, to_y) in _gaps(pairs, n, m):
        yield from ((place, None) for place in range(x, to_x))
        yield from ((None, place) for place in range(y, to_y))
        if to_x < n:
            yield to_x, to_y
