"""What of one run corresponds to what of another, whatever was added, dropped, moved or changed."""

from __future__ import annotations

import random
from collections import Counter

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.course import Course, Effect
from replay.alignment import align, align_courses, matches
from replay.texts import is_text, text_diff

letters = st.text("abc", max_size=12)


def effect(text, path="1", *, kind="tool", name="write", **more):
    request = {"arguments": {"text": text}}
    return Effect(path=str(path), kind=kind, name=name, request=request, outcome="done", value=text, **more)


def effects(texts, scope="", **more):
    return [effect(text, f"{scope}{number}", **more) for number, text in enumerate(texts, 1)]


def course(*effects, **more):
    return Course(
        **{"source": "s", "run_id": "r", "agent": "a", "status": "completed", "initial_state": {}}
        | {"effects": tuple(effects)}
        | more
    )


def ops(left, right):
    """The rows of an alignment, in short."""
    short = lambda one: one and one.request["arguments"]["text"]
    return [(row.op, short(row.left), short(row.right)) for row in align(left, right)]


def longest(before, after):
    """Length of a longest common subsequence, by the textbook."""
    row = [0] * (len(after) + 1)
    for item in before:
        above = row[:]
        for place, other in enumerate(after):
            row[place + 1] = above[place] + 1 if item == other else max(above[place + 1], row[place])
    return row[-1]


# Equal items in equal order


@settings(max_examples=300)
@given(letters, letters)
def test_matches_are_as_many_as_there_are(before, after):
    """Pairs name equal items, increase on both sides, and are a longest common subsequence."""
    found = matches(before, after)
    assert all(before[x] == after[y] for x, y in found)
    assert all(one < other for pair in zip(found, found[1:], strict=False) for one, other in zip(*pair, strict=True))
    assert len(found) == longest(before, after)


@pytest.mark.parametrize("symbols", [2, 40, 100_000])
def test_matches_beyond_all_bounds_are_matches_still(symbols):
    """Where two long sequences have little in common, what is found is in order, equal, and not nothing."""
    chance = random.Random(symbols)
    before, after = ([chance.randrange(symbols) for _ in range(6_000)] for _ in range(2))
    if symbols > 6_000:
        before, after = list(range(6_000)), chance.sample(range(6_000), 6_000)
    found = matches(before, after)
    assert all(before[x] == after[y] for x, y in found)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in zip(found, found[1:], strict=False))
    assert len(found) > 100


def test_a_long_sequence_with_few_edits_is_matched_exactly():
    """30 insertions and 30 deletions among 20,000 items leave all others matched."""
    chance, before = random.Random(1), list(range(20_000))
    after = before[:]
    for number in range(30):
        after.pop(chance.randrange(len(after)))
        after.insert(chance.randrange(len(after)), -1 - number)
    assert len(matches(before, after)) == 20_000 - 30


# One task


@settings(max_examples=300)
@given(letters, letters)
def test_the_rows_applied_to_the_left_give_the_right(before, after):
    """Each effect of either side is in one row; the left ones in order; the right ones too, but those that moved."""
    left, right = effects(before), effects(after)
    rows = align(left, right)
    assert [row.left for row in rows if row.left is not None] == left
    stayed = [row.right for row in rows if row.right is not None and row.op != "moved"]
    moved = [row.right for row in rows if row.op == "moved"]
    assert sorted(stayed + moved, key=lambda one: one.place) == right
    assert stayed == sorted(stayed, key=lambda one: one.place)
    for row in rows:
        assert (row.left is None) == (row.op == "extra")
        assert (row.right is None) == (row.op == "missing")
        if row.op in ("same", "moved"):
            assert row.left.asked == row.right.asked
    gone = Counter(one.asked for row in rows if row.op in ("missing", "changed") for one in [row.left])
    come = Counter(one.asked for row in rows if row.op in ("extra", "changed") for one in [row.right])
    assert not gone & come


@given(letters)
def test_what_is_the_same_has_no_other_row(texts):
    """A task beside itself has equal rows alone, whatever its paths are."""
    left, right = effects(texts), effects(texts, scope="elsewhere.1/")
    assert {row.op for row in align(left, right)} <= {"same"}


@settings(max_examples=300)
@given(st.text("abcdefgh", min_size=1, max_size=12), st.data())
def test_one_edit_has_one_row(texts, data):
    """One effect added, dropped or changed is one row that is not `same`, wherever it is and whatever repeats."""
    at = data.draw(st.integers(0, len(texts) - 1))
    for op, after in (
        ("missing", texts[:at] + texts[at + 1 :]),
        ("extra", texts[:at] + "Z" + texts[at:]),
        ("extra", texts[:at] + texts[at] + texts[at:]),
        ("changed", texts[:at] + "Z" + texts[at + 1 :]),
    ):
        found = [row.op for row in align(effects(texts), effects(after)) if row.op != "same"]
        assert found == [op], (texts, after)


def test_repeated_calls_do_not_hide_what_was_replaced():
    """Between changes, of two equal calls one is replaced: that is a change, and not one dropped and one added."""
    assert [row[0] for row in ops(effects("paaq"), effects("PZaQ"))] == ["changed", "changed", "same", "changed"]
    assert [row[0] for row in ops(effects("PZaQ"), effects("paaq"))] == ["changed", "changed", "same", "changed"]


@given(st.permutations("abcdefgh"), st.integers(0, 7), st.integers(0, 7))
def test_a_move_is_one_row(texts, start, end):
    """One effect that is taken elsewhere is one moved row, and no missing and no extra one."""
    after = texts[:start] + texts[start + 1 :]
    after.insert(end, texts[start])
    found = [row[0] for row in ops(effects(texts), effects(after)) if row[0] != "same"]
    assert found == (["moved"] if start != end else [])


def test_a_swap_is_one_move():
    """A, B and then B, A: one effect moved."""
    assert ops(effects("ab"), effects("ba")) == [("moved", "a", "a"), ("same", "b", "b")]


def test_two_far_swaps_are_moves_and_no_changes():
    """What changed places round something equal was not changed."""
    assert Counter(row[0] for row in ops(effects("axb"), effects("bxa"))) == {"same": 1, "moved": 2}


def test_in_a_replaced_block_names_find_each_other():
    """A changed call corresponds to the call of its name, and of several to the one that it resembles."""
    left = [effect("first words", 1), effect("more words here", 2, name="read"), effect("x", 3, kind="model", name="m")]
    right = [
        effect("other", 1, name="read"),
        effect("more words", 2, name="read"),
        effect("y", 3, kind="model", name="m"),
    ]
    assert ops(left, right) == [
        ("changed", "first words", "other"),
        ("changed", "more words here", "more words"),
        ("changed", "x", "y"),
    ]
    left, right = [effect("hello old world")], [effect("brand new"), effect("hello new world", 2)]
    assert ops(left, right) == [("extra", None, "brand new"), ("changed", "hello old world", "hello new world")]


def test_a_large_replaced_block_is_paired_in_order():
    """Where there are too many to weigh each against each, names still find each other, in order."""
    left = effects(f"left {number}" for number in range(150))
    right = [effect("new", 0, name="other"), *effects(f"right {number}" for number in range(150))]
    rows = align(left, right)
    assert [row.op for row in rows] == ["extra"] + ["changed"] * 150
    assert all(row.left.name == row.right.name for row in rows[1:])


def test_a_request_that_came_to_something_else_is_changed():
    """The same request with another value is in one row, which is not `same`."""
    assert [row.op for row in align([effect("a")], [attrs.evolve(effect("a"), value="b")])] == ["changed"]
    times = [Effect(path="1", kind="now", name="", request=None, outcome="done", value=value) for value in (1, 2)]
    assert [row.op for row in align(times[:1], times[1:])] == ["same"]


# Tasks


def test_a_task_more_shifts_no_other_task():
    """A new first task of a function: the others are the same, although all of their numbers are others."""
    left = course(*effects("ab", "get.1/"), *effects("cd", "get.2/"))
    right = course(*effects("xy", "get.1/"), *effects("ab", "get.2/"), *effects("cd", "get.3/"))
    rows = [row for group in align_courses(left, right) for row in group]
    assert Counter(row.op for row in rows) == {"same": 4, "extra": 2}
    assert {row.right.scope for row in rows if row.op == "extra"} == {"get.1"}


def test_a_change_in_a_task_stays_in_it():
    """Tasks that nothing else tells apart correspond by what they have in common, also below each other."""
    left = course(*effects("abc", "get.1/"), *effects("de", "get.2/"), *effects("fg", "get.2/put.1/"))
    right = course(*effects("de", "get.1/"), *effects("fX", "get.1/put.1/"))
    found = [(row.op, row.left.path) for group in align_courses(left, right) for row in group if row.op != "same"]
    assert found == [("missing", f"get.1/{n}") for n in (1, 2, 3)] + [("changed", "get.2/put.1/2")]


def test_what_another_task_does_now_has_moved():
    """A call that went from one task to another is one moved effect."""
    left = course(*effects("ab"), *effects("cde", "get.1/"))
    right = course(*effects("adb"), *effects("ce", "get.1/"))
    rows = [row for group in align_courses(left, right) for row in group if row.op != "same"]
    assert [(row.op, row.left.path, row.right.path) for row in rows] == [("moved", "get.1/2", "2")]


@given(st.lists(st.tuples(st.sampled_from(["", "f.1/", "f.2/", "f.2/g.1/", "h.10/", "#2/", "odd/"]), letters)))
def test_every_effect_of_two_runs_is_in_one_row(parts):
    """Whatever tasks there are on either side, no effect is lost, and none is told twice."""
    whole: dict[str, str] = {}
    for scope, texts in parts:
        whole[scope] = whole.get(scope, "") + texts
    left = course(*(one for scope, texts in whole.items() for one in effects(texts, scope)))
    right = course(*(one for scope, texts in list(whole.items())[::2] for one in effects(texts[::-1], scope)))
    for one, other in ((left, right), (right, left), (left, left), (left, course())):
        rows = [row for group in align_courses(one, other) for row in group]
        assert Counter(row.left.path for row in rows if row.left) == Counter(e.path for e in one.effects)
        assert Counter(row.right.path for row in rows if row.right) == Counter(e.path for e in other.effects)


# Texts


def applied(before, lines):
    """A text changed as a text diff of it says, hunk by hunk."""
    old, new, at = before.split("\n"), [], 0
    for line in lines:
        if line.startswith("@@"):
            start = int(line.split()[1][1:].split(",")[0]) - 1
            new += old[at:start]
            at = start
        elif line[0] == "+":
            new.append(line[1:])
        else:
            assert old[at] == line[1:]
            new += [old[at]] if line[0] == " " else []
            at += 1
    return "\n".join(new + old[at:])


@settings(max_examples=200)
@given(*[st.lists(st.sampled_from("abcdef"), min_size=2, max_size=40).map("\n".join)] * 2)
def test_a_text_diff_applied_to_a_text_gives_the_other(before, after):
    """The hunks turn one text into the other, and two equal texts have none."""
    assert applied(before, text_diff(before, after)) == after
    assert text_diff(before, before) == []


def test_a_text_diff_shows_what_is_around():
    """Three lines before and behind a change, and a header with both places."""
    lines = [str(number) for number in range(20)]
    assert text_diff("\n".join(lines), "\n".join([*lines[:10], "new", *lines[11:]])) == [
        "@@ -8,7 +8,7 @@", " 7", " 8", " 9", "-10", "+new", " 11", " 12", " 13",
    ]  # fmt: skip


def test_a_long_line_is_compared_by_its_clauses():
    """A prompt without line breaks shows the clause that changed, and not all of it."""
    before = "You are an agent. " + "Be kind. " * 40 + "Answer in one word, please."
    found = text_diff(before, before.replace("one word", "two words"))
    assert [line for line in found if line[0] in "+-"] == ["-Answer in one word,", "+Answer in two words,"]
    assert len(found) == 7


def test_huge_texts_are_cut():
    """Two texts of a million lines in which nothing is equal end after 400 lines that are shown."""
    found = text_diff("\n".join(map(str, range(1_000_000))), "\n".join(f"x{n}" for n in range(1_000_000)))
    assert len(found) == 401
    assert found[-1] == "… and 1,999,601 more lines"
    assert max(map(len, text_diff("a" * 100_000, "b" * 100_000))) <= 1001


@pytest.mark.parametrize(
    "before, after, text",
    [("a\nb", "c", True), ("x" * 201, "", True), ("a", "b", False), (1, "a\nb", False), ("a\nb", None, False)],
)
def test_what_is_a_text(before, after, text):
    """Two texts of which one is long or has lines; no other values."""
    assert is_text(before, after) is text
