"""Bisecting two runs: few comparisons, the explanation that a whole comparison gives, and digests that tell nobody."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import attrs
import needs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.stories import object_of, text_of, told

from agentledger import BadInput, Log, NotFound, Runtime, agent, tool
from cli.commands.bisect import bisect as command
from cli.commands.compare import divergence
from ledger_core.errors import Damaged, Refused
from ledger_core.events.effect import ToolCallCompleted, ToolCallRequested, ValueCaptured
from ledger_core.events.run import RunCreated
from ledger_core.events.step import AgentResultReturned, StepClaimed, StepCreated
from ledger_core.log.record import Draft
from projections import excerpt, prefixes, prefixes_kept
from projections.course import Course, Effect
from projections.evidence import bundle
from projections.prefixes import Search, of_course
from replay import bisecting
from replay.bisecting import bisect, of_run
from replay.comparing import compare
from replay.sides import of_run as course_of

# Courses that are made up


def course(rows, **more):
    """A course of `(task, kind, name, request, value)`; tasks are numbered as they begin, as a run numbers them."""
    met, numbered, effects = Counter(), {"": ""}, []
    for number, (task, kind, name, request, value) in enumerate(rows, 1):
        above = ""
        for part in task.split("/")[:-1]:
            base, here = part.rpartition(".")[0], f"{above}{part}/"
            if here not in numbered:
                met[numbered[above], base] += 1
                numbered[here] = f"{numbered[above]}{base}.{met[numbered[above], base]}/"
            above = here
        met[task] += 1
        given_ = {"request": request, "outcome": "done", "value": value, "seq": number, "log_seq": number}
        effects.append(Effect(path=f"{numbered[task]}{met[task]}", kind=kind, name=name, **given_))
    given_ = {"source": "s", "run_id": "r", "agent": "a", "status": "completed", "initial_state": {}, "output": "end"}
    return Course(**given_ | {"effects": tuple(effects), "state": {}} | more)


def bisected(left, right, **how):
    return bisect(bisecting.of_course(left), bisecting.of_course(right), **how)


tasks = st.sampled_from(["", "", "f.1/", "g.1/", "f.1/g.1/", "f.1/k.1/"])


@st.composite
def rows(draw):
    """A row. Each function has one task, and what it asks for no other does, or nobody could say which of them did."""
    task = draw(tasks)
    return (task, draw(st.sampled_from(["tool", "model", "now"])), draw(st.sampled_from("ab")),
            f"{task}{draw(st.integers(0, 2))}", draw(st.integers(0, 1)))  # fmt: skip


@st.composite
def edits(draw):
    """Rows, and the same rows with one edit."""
    before = draw(st.lists(rows(), min_size=1, max_size=30))
    after, more = list(before), {}
    at = draw(st.integers(0, len(before) - 1))
    edit = draw(st.sampled_from(["request", "value", "insert", "leave out", "swap", "move", "task", "end", "begin"]))
    if edit == "request":
        after[at] = (*after[at][:3], -1, after[at][4])
    elif edit == "value":
        after[at] = (*after[at][:4], -1)
    elif edit == "insert":
        after.insert(at, draw(rows()))
    elif edit == "leave out":
        del after[at]
    elif edit == "swap":
        mine = [place for place, row in enumerate(before) if row[0] == before[at][0]]
        other = draw(st.sampled_from(mine))
        after[at], after[other] = after[other], after[at]
    elif edit == "move":
        after.insert(draw(st.integers(0, len(after) - 1)), after.pop(at))
    elif edit == "task":
        after[at:at] = [("h.1/", "tool", "a", 5, 5)] * draw(st.integers(1, 3))
    else:
        more = {"output": "other"} if edit == "end" else {"initial_state": {"k": 1}}
    return before, after, more


@settings(max_examples=400)
@given(edits(), st.booleans())
def test_a_single_edit_is_explained_as_by_comparing_all(edit, turned):
    """Changed, inserted, left out, swapped, moved, a task more: the divergence is the first one of the whole."""
    before, after, more = edit
    pair = (course(before), course(after, **more))
    left, right = pair[::-1] if turned else pair
    whole, found = compare(left, right), bisected(left, right)
    assert found.divergence == (whole.divergences[0] if whole.divergences else None)
    assert found.same == whole.same
    json.dumps(found.as_json(), allow_nan=False)
    if found.same:
        assert (found.comparisons, found.looked_at) == (1, 0)
    if left.digest == right.digest:
        assert found.comparisons == 1


@settings(max_examples=200)
@given(st.integers(24, 60), st.integers(0, 19), st.sampled_from(["change", "insert", "leave out", "swap", "move"]))
def test_what_differs_far_apart_is_read_at_both_ends(length, at, edit):
    """A swap or a move over more effects than are read is still named as that: both of its ends are read."""
    before = [("", "tool", "t", number, 0) for number in range(length)]
    after = list(before)
    if edit == "swap":
        after[at], after[-1] = after[-1], after[at]
    elif edit == "move":
        after.append(after.pop(at))
    elif edit == "insert":
        after.insert(at, ("", "tool", "t", -1, 0))
    elif edit == "leave out":
        del after[at]
    else:
        after[at] = ("", "tool", "t", -1, 0)
    left, right = course(before), course(after)
    found = bisected(left, right, window=4)
    assert found.divergence == compare(left, right).divergences[0]
    assert found.place == at
    assert found.looked_at <= 2 * (2 * 4 + 4)
    assert found.comparisons <= (2 if edit in ("swap", "move") else 1) * math.ceil(math.log2(length + 2)) + 3


statuses = st.sampled_from(["completed", "failed", "running", "waiting"])
outcomes = st.sampled_from(["done", "done", "failed", "open", "in doubt", "assumed"])


@st.composite
def any_course(draw):
    made = course(draw(st.lists(rows(), max_size=8)), status=draw(statuses))
    effects = tuple(attrs.evolve(one, outcome=draw(outcomes)) for one in made.effects)
    return attrs.evolve(made, effects=effects)


@settings(max_examples=300)
@given(any_course(), any_course(), st.sampled_from([1, 64]))
def test_two_runs_are_the_same_where_nothing_diverges(left, right, window):
    """Whatever two runs are, bisecting says that they are the same exactly where comparing tells no divergence."""
    assert bisected(left, right, window=window).same == compare(left, right).same
    again = attrs.evolve(left, status="running", effects=left.effects[:-1])
    assert bisected(left, again, window=window).same == compare(left, again).same


@settings(max_examples=200)
@given(st.lists(rows(), max_size=20), st.lists(rows(), max_size=20))
def test_the_search_finds_what_a_look_at_every_effect_finds(mine, theirs):
    """The tasks that differ, and in each how many effects are the same before and behind."""
    left, right = course(mine), course(theirs)
    search = Search(of_course(left), of_course(right))
    one, other = ({"": (), **side.scopes} for side in (left, right))
    digests = [{name: [one.digest for one in found] for name, found in side.items()} for side in (one, other)]
    differ = {name for name in {*one, *other} if digests[0].get(name) != digests[1].get(name)}
    assert set(search.scopes()) == differ
    for name in differ:
        a, b = (side.get(name, []) for side in digests)
        before = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert search.first(name) == before
        a, b = a[before:][::-1], b[before:][::-1]
        behind = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert search.last(name, before) == behind


def test_one_task_more_shifts_nothing():
    """Among 2,000 tasks one of a function that only one run has, or one that did otherwise: a few comparisons."""
    before = [(f"f.{task}/", "tool", "t", task * 10 + call, 0) for task in range(2000) for call in range(3)]
    for after in (
        [*before[:900], ("extra.1/", "tool", "t", 7, 0), *before[900:]],
        [*before[:901], ("f.300/", "tool", "t", -1, 0), *before[902:]],
    ):
        left, right = course(before), course(after)
        found = bisected(left, right)
        assert found.comparisons < 30
        assert found.looked_at < 12
        assert found.divergence == compare(left, right).divergences[0]


def test_tasks_that_begin_behind_the_first_differences_are_not_searched():
    """One task less among 2,000 of one function renumbers those behind it: a few of them are read, and it is named."""
    before = [(f"f.{task}/", "tool", "t", task * 10 + call, 0) for task in range(2000) for call in range(3)]
    for after in (
        [row for row in before if row[0] != "f.300/"],
        [*before[:900], ("f.9999/", "tool", "t", -1, 0), *before[900:]],
    ):
        left, right = course(before), course(after)
        found = bisected(left, right)
        assert found.looked_at < 120
        assert found.comparisons < 2 * 2000
        assert found.divergence == compare(left, right).divergences[0]


def test_what_differs_in_every_task_is_told_at_the_first():
    """Of many tasks that differ, only the first ones are read, and the first is told."""
    before = [(f"f.{task}/", "tool", "t", 100 * task + call, 0) for call in range(40) for task in range(60)]
    after = [(*row[:3], -1 - number, 0) if number >= 1000 else row for number, row in enumerate(before)]
    left, right = course(before), course(after)
    found = bisected(left, right, window=8)
    assert found.divergence == compare(left, right).divergences[0]
    assert found.divergence.seq == 1001
    assert found.looked_at < len(before)


def test_a_task_that_only_one_run_has_is_told_where_it_began():
    """What only the right has stands behind what came before it: a change before it is first, one behind it is not."""
    before = [("", "tool", "t", number, 0) for number in range(300)]
    for changed, code in ((50, "AL105"), (250, "AL102")):
        after = list(before)
        after[changed] = ("", "tool", "t", -1, 0)
        after[150:150] = [("h.1/", "tool", "new", 1, 0)]
        left, right = course(before), course(after)
        found = bisected(left, right)
        assert found.divergence == compare(left, right).divergences[0]
        assert found.divergence.kind.code == code
        assert found.last_equal.left.path == ("50" if code == "AL105" else "150")


def test_what_was_cut_out_is_not_taken_for_the_first_difference():
    """Where the digests first differ in what is none, what is open, and parts are left out, all is compared."""
    before = course([("", "tool", "t", number, 0) for number in range(300)], status="running", output=None)
    opened = attrs.evolve(before.effects[0], outcome="open", value=None)
    left = attrs.evolve(before, effects=(opened, *before.effects[1:]))
    after = [("", "tool", "t", number, 0) for number in [*range(150), -1, *range(150, 299), -2]]
    right = course(after, status="running", output=None)
    found = bisected(left, right, window=4)
    assert (found.divergence.kind.code, found.divergence.path, found.place) == ("AL102", "151", 150)
    assert found.divergence == compare(left, right).divergences[0]


def test_courses_without_a_log_are_ordered_as_they_stand():
    """Effects that were never recorded have no seqs: their order in the course is theirs."""
    effects = [
        attrs.evolve(one, seq=None, log_seq=None) for one in course([("", "tool", "t", n, 0) for n in "abc"]).effects
    ]
    left = attrs.evolve(course([]), effects=tuple(effects))
    right = attrs.evolve(left, effects=(effects[0], attrs.evolve(effects[1], request="x"), effects[2]))
    found = bisected(left, right)
    assert (found.divergence.path, found.last_equal.left.path, found.place) == ("2", "1", 1)


@given(any_course())
def test_prefixes_come_back_from_bytes(one):
    """Encoded and decoded they are the same; a cut, another version and other bytes are refused."""
    made = of_course(one)
    data = prefixes.encode(made)
    assert prefixes.decode(data) == made
    for wrong in (data[:-1], b"", b"\x93\x07" + data[2:], b"\xc0", data + b"\0"):
        with pytest.raises(Damaged):
            prefixes.decode(wrong)


# Runs of 100,000 events

EVENTS = 100_000


def long(log, run, edit, at):
    """A run of 100,000 events, one an effect, with an edit at one of them."""
    names = [(f"n{number % 7}", number) for number in range(EVENTS - 4)]
    if edit == "changed":
        names[at] = (names[at][0], -1)
    elif edit == "inserted":
        names.insert(at, ("new", -1))
    elif edit == "missing":
        del names[at]
    bodies = [
        RunCreated(run=run, agent="long", seed=bytes(32), initial_state={}),
        StepCreated(step="s", number=1, agent="long"),
        StepClaimed(step="s", epoch=1, worker="w", base_version=0),
        *(
            ValueCaptured(path=str(number), source="capture", name=name, value=value)
            for number, (name, value) in enumerate(names, 1)
        ),
        AgentResultReturned(step="s", output="end"),
    ]
    for first in range(0, len(bodies), 5000):
        log.append(*(Draft(stream=f"run/{run}", body=body, step="s") for body in bodies[first : first + 5000]))


@pytest.mark.slow
def test_runs_of_100_000_events_are_bisected_by_fewer_than_20_comparisons(tmp_path):
    """One changed, one inserted, one missing effect: found, explained, and the second time read by a few effects."""
    expected = {"changed": ("AL108", "71"), "inserted": ("AL102", "50001"), "missing": ("AL101", "99991")}
    with Log.open(tmp_path / "ledger") as log:
        long(log, "base", "", 0)
        for edit, (_, path) in expected.items():
            long(log, edit, edit, int(path) - 1)
        base = of_run(log, "base")
        for edit, (code, path) in expected.items():
            first = bisect(base, of_run(log, edit))
            assert first.counts[0] == EVENTS - 4
            assert first.comparisons < 20
            assert (first.divergence.kind.code, first.divergence.path) == (code, path)
            assert first.last_equal.left.path == first.last_equal.right.path == str(int(path) - 1)
            left, right = of_run(log, "base"), of_run(log, edit)
            assert bisect(left, right) == first
            assert not (left.is_read or right.is_read)
            assert first.looked_at <= 10


# Runs as they are recorded


@tool(side_effect="external_write")
def post(text: str) -> str:
    return text.upper()


@tool
async def read(number: int) -> int:
    await asyncio.sleep(0.001 * (number % 3))
    return number


async def _each(ctx, number):
    return await ctx.call_tool("read", number=number)


@agent(name="a", tools=[post, read], models=lambda request: {"content": str(len(request["messages"]))})
async def work(ctx, state):
    ctx.now()
    for number in range(state.get("before", 40)):
        await ctx.call_tool("read", number=number)
    await asyncio.gather(*(_each(ctx, number) for number in state.get("numbers", [1, 2, 3])))
    await ctx.call_model({"model": "m", "messages": [{"role": "user", "content": state.get("prompt", "Hello.")}]})
    await ctx.call_tool("post", text="a")
    if state.get("more"):
        await ctx.call_tool("post", text="more")
    for number in range(40):
        ctx.capture(f"n{number}", lambda: 7)
    ctx.write_state_patch("done", True)
    return "end"


def small(path, **runs):
    """A ledger with a run of `work` for each initial state."""
    with Runtime(Log.open(path)) as runtime:
        for name, state in ({"base": {}, "equal": {}} | runs).items():
            assert runtime.run(work, run_id=name, initial_state=state).ok
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("bisect") / "ledger"
    return small(place, other={"prompt": "Bye."}, more={"more": True}, gone={})


@pytest.fixture
def root(made, tmp_path):
    """A copy of a ledger in which nothing is kept."""
    return shutil.copytree(made, tmp_path / "ledger")


def kept(root):
    return sorted((root / "views.lmdb" / "prefixes").glob("*"))


def test_runs_that_raced_are_the_same():
    """Two runs of one agent are told to be the same by one comparison, however their tasks raced."""
    with Runtime.in_memory() as runtime:
        for name in "ab":
            assert runtime.run(work, run_id=name, initial_state={"numbers": list(range(9))}).ok
        found = bisect(of_run(runtime.log, "a"), of_run(runtime.log, "b"))
        assert (found.same, found.comparisons, found.looked_at) == (True, 1, 0)


CRASHING = """
import os, sys
from agentledger import Runtime, Log, agent, tool

@tool(side_effect="none")
def step(n: int) -> int:
    if n == 3 and sys.argv[2] == "crash" and not os.path.exists(sys.argv[3]):
        open(sys.argv[3], "w").close()
        os._exit(9)
    return n

@agent(name="a", tools=[step])
def work(ctx):
    ctx.now()
    return [ctx.call_tool("step", n=n) for n in range(6)]

with Runtime(Log.open(sys.argv[1]), lease=1.0) as runtime:
    assert runtime.run(work, run_id=sys.argv[2]).ok
"""


def test_a_crashed_run_is_the_same_as_one_that_went_through(python, tmp_path):
    """A process that ended in a tool, and the run that was gone on with: one comparison says that nothing differs."""
    place, flag = tmp_path / "ledger", tmp_path / "flag"
    child = python.start(CRASHING, place, "crash", flag)
    child.communicate(timeout=60)
    assert child.returncode == 9
    python.run(CRASHING, place, "crash", flag)
    python.run(CRASHING, place, "whole", flag)
    with Log.open(place) as log:
        events = [len(list(log.stream(f"run/{name}", contents=False))) for name in ("crash", "whole")]
        assert events[0] > events[1]
        found = bisect(of_run(log, "crash"), of_run(log, "whole"))
        assert (found.same, found.comparisons) == (True, 1)


def test_what_is_kept_answers_as_the_log_does(root):
    """Bisected again, with nothing read but a few effects, it is told the same; and as a whole comparison has it."""
    with Log.open(root) as log:
        for name in ("other", "more"):
            first = bisect(of_run(log, "base"), of_run(log, name))
            left, right = of_run(log, "base"), of_run(log, name)
            assert bisect(left, right) == first
            assert not (left.is_read or right.is_read)
            assert first.divergence == compare(course_of(log, "base"), course_of(log, name)).divergences[0]
            assert first.divergence.path == "start"
        assert bisect(of_run(log, "base"), of_run(log, "equal")).same
    assert len(kept(root)) == 4
    assert {path.stat().st_mode & 0o777 for path in kept(root)} == {0o600}


def test_every_effect_can_be_read_by_itself_or_is_not_believed(tmp_path):
    """Of runs with retries, approvals, refusals, children, costs and doubts, an excerpt is what the whole says."""
    believed = 0
    with Runtime(Log.open(tmp_path / "ledger"), models=lambda _: {"content": "hi"}) as runtime:
        told(runtime)
        for run in ("r", "d", "f", "g", "w"):
            whole = course_of(runtime.log, run)
            made, _ = prefixes_kept.of_run(runtime.log, run)
            for scope, effects in whole.scopes.items():
                for place, one in enumerate(effects):
                    (found,) = excerpt.effects(runtime.log, [one.log_seq], 64) or [None]
                    if found is not None and made.strands[scope].holds(place, [found]):
                        assert found == one
                        believed += 1
    assert believed > 15


def test_a_fork_inherits_its_ancestors_prefixes_and_their_keys(tmp_path):
    """What a fork shares is read where it stands; once its ancestor is forgotten, what was kept of it opens no more."""
    with Log.open(tmp_path / "ledger") as log:
        first = [RunCreated(run="a", agent="x", seed=bytes(32), initial_state={}), _step(), _claim()]
        at = log.append(*(Draft(stream="run/a", body=body) for body in [*first, *_calls(0, 300)]))[-1]
        fork = RunCreated(
            run="b", agent="x", seed=bytes(32), initial_state={}, lineage="a", lineage_seed=bytes(32),
            ancestor="a", ancestor_event=at.stream_seq, ancestor_seq=at.seq, ancestor_hash=at.hash,
        )  # fmt: skip
        log.append(*(Draft(stream="run/b", body=body) for body in [fork, _step(), _claim(), *_calls(300, 400)]))
        for run, changed in (("same", -1), ("early", 100), ("late", 350)):
            bodies = [attrs.evolve(first[0], run=run), _step(), _claim(), *_calls(0, 400, changed)]
            log.append(*(Draft(stream=f"run/{run}", body=body) for body in bodies))
        for _ in "ab":  # made, and as it is kept
            assert bisect(of_run(log, "b"), of_run(log, "same")).comparisons == 1
            for run, place in (("early", 100), ("late", 350)):
                left, right = of_run(log, "b"), of_run(log, run)
                found = bisect(left, right)
                assert (found.divergence.kind.code, found.place) == ("AL105", place)
                assert found.last_equal.left.path == str(place)
                assert found.divergence == compare(course_of(log, "b"), course_of(log, run)).divergences[0]
        assert not (left.is_read or right.is_read)
        assert len(kept(log.root)) == 4
        log.forget("run/a")
        assert of_run(log, "b").is_read
        assert not of_run(log, "same").is_read
        with pytest.raises(Refused, match="forgotten"):
            of_run(log, "a")


def _step():
    return StepCreated(step="s", number=1, agent="x")


def _claim():
    return StepClaimed(step="s", epoch=1, worker="w", base_version=0)


def _calls(first, last, changed=-1):
    what = {"attempt": 1, "tool": "t", "tool_version": "1", "side_effect": "none", "request": bytes(32)}
    for number in range(first, last):
        arguments = {"n": number if number != changed else -5}
        yield ToolCallRequested(path=str(number + 1), arguments=arguments, **what)
        yield ToolCallCompleted(path=str(number + 1), attempt=1, result=number)


def test_an_outcome_far_behind_its_intent_is_read_as_well(tmp_path):
    """An effect is believed as the digests have it only: one that came to its end much later is read up to there."""
    with Log.open(tmp_path / "ledger") as log:
        for run, result in (("a", 1), ("b", 2)):
            (asked, _), others = _calls(0, 1), _calls(1, 300)
            late = ToolCallCompleted(path="1", attempt=1, result=result)
            created = RunCreated(run=run, agent="x", seed=bytes(32), initial_state={})
            bodies = [created, _step(), _claim(), asked, *others, late, *_calls(300, 400)]
            log.append(*(Draft(stream=f"run/{run}", body=body) for body in bodies))
            of_run(log, run)
        left, right = of_run(log, "a"), of_run(log, "b")
        found = bisect(left, right)
        assert (found.divergence.kind.code, found.divergence.path, found.last_equal) == ("AL108", "1", None)
        assert found.divergence == compare(course_of(log, "a"), course_of(log, "b")).divergences[0]
        assert left.part([("", range(3))]).effects == course_of(log, "a").effects[:3]
        assert not (left.is_read or right.is_read)


def test_what_the_policy_said_before_is_read_as_well(tmp_path):
    """The word of the policy stands before the call that it allowed: an excerpt has it too."""
    rules = {"version": 1, "name": "p", "rules": [{"name": "all", "verdict": "allow", "tools": ["*"]}]}
    with Runtime(Log.open(tmp_path / "ledger"), policy=rules) as runtime:

        @agent(tools=[post])
        def calls(ctx):
            for number in range(200):
                ctx.call_tool("post", text=f"{number}" if number != 150 else ctx.run_id)

        for name in "ab":
            runtime.run(calls, run_id=name)
            of_run(runtime.log, name)
        left, right = of_run(runtime.log, "a"), of_run(runtime.log, "b")
        found = bisect(left, right)
        assert (found.divergence.kind.code, found.place) == ("AL105", 150)
        assert found.last_equal.left.path == "150"
        (effect,) = left.part([("", range(150, 151))]).effects
        assert effect.policy == "allow"
        assert not (left.is_read or right.is_read)


# What is kept


def test_a_forgotten_run_is_refused_and_what_was_kept_of_it_opens_no_more(root):
    """Once its key is destroyed nobody reads its digests; the other side's are as they were."""
    with Log.open(root) as log:
        assert bisect(of_run(log, "base"), of_run(log, "gone")).same
        (path,) = {*kept(root)} - {prefixes_kept._seal(log, "base", _hash(log, "base")).path}
        seal = prefixes_kept._seal(log, "gone", _hash(log, "gone"))
        assert seal.path == path
        assert prefixes_kept._read(seal) is not None
        log.forget("run/gone")
        with pytest.raises(Refused, match="forgotten"):
            of_run(log, "gone")
        assert prefixes_kept._seal(log, "gone", _hash(log, "gone")) is None
        assert of_run(log, "base").is_read is False
        found = of_course(course_of(log, "base")).strand("")
        data = path.read_bytes()
        assert not any(found.before(place) in data for place in range(1, len(found)))


def _hash(log, run):
    return log.stream_head(f"run/{run}").hash


def test_what_was_changed_is_made_again(root):
    """Flipped, cut, another run's, of another version, a link, a pipe, a directory: made again, and right."""
    with Log.open(root) as log:
        expected = bisect(of_run(log, "base"), of_run(log, "more"))
        seals = {name: prefixes_kept._seal(log, name, _hash(log, name)) for name in ("base", "more")}
        path, other = seals["base"].path, seals["more"].path
        good = path.read_bytes()
        older = seals["base"].cipher.encrypt(prefixes.encode(of_course(course_of(log, "base"))), b"older", bytes(12))
        nothing = seals["base"].cipher.encrypt(b"\xc0", seals["base"].place, bytes(12))
        wrongs = [good[:40] + b"\0" + good[41:], good[:-1], b"", other.read_bytes(), older, nothing]
        for wrong in wrongs:
            path.write_bytes(wrong)
            side = of_run(log, "base")
            assert side.is_read
            assert bisect(side, of_run(log, "more")) == expected
            assert not of_run(log, "base").is_read
        path.unlink()
        target = root / "elsewhere"
        target.write_bytes(good)
        path.symlink_to(target)
        assert of_run(log, "base").is_read
        assert target.read_bytes() == good
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        assert of_run(log, "base").is_read
        assert not of_run(log, "base").is_read
        path.unlink()
        path.mkdir()
        assert bisect(of_run(log, "base"), of_run(log, "more")) == expected


def test_what_a_lie_was_sealed_of_is_not_said(root):
    """Whoever holds the key and seals other digests gets another place looked at, and no other words."""
    with Log.open(root) as log:
        seal = prefixes_kept._seal(log, "base", _hash(log, "base"))
        whole = course_of(log, "base")
        lie = [attrs.evolve(one, value="a lie") if number == 20 else one for number, one in enumerate(whole.effects)]
        of_run(log, "base")
        prefixes_kept._write(seal, of_course(attrs.evolve(whole, effects=tuple(lie))))
        side = of_run(log, "base")
        assert not side.is_read
        found = bisect(side, of_run(log, "equal"))
        assert found.comparisons > 1
        assert found.same


def test_a_run_that_goes_on_is_made_anew(tmp_path):
    """What is kept stands for the run's last event: behind another one it is not used."""
    with Runtime(Log.open(tmp_path / "ledger")) as runtime:

        @agent
        def waits(ctx):
            ctx.now()
            return ctx.wait_signal("go")

        for name in "ab":
            runtime.run(waits, run_id=name)
        log = runtime.log
        assert bisect(of_run(log, "a"), of_run(log, "b")).same
        assert not of_run(log, "a").is_read
        runtime.signal("a", "go", 1)
        runtime.run(waits, run_id="a")
        assert of_run(log, "a").is_read
        found = bisect(of_run(log, "a"), of_run(log, "b"))
        assert found.divergence == compare(course_of(log, "a"), course_of(log, "b")).divergences[0]
        assert len(kept(log.root)) == 2


def test_nothing_needs_to_be_kept(root, tmp_path):
    """Where a file or a link is in the way, and where `views.lmdb` leads elsewhere, it is bisected as well."""
    with Log.open(root) as log:
        expected = bisect(of_run(log, "base"), of_run(log, "more"))
    views, away = root / "views.lmdb", tmp_path / "away"
    away.mkdir()
    for spoil in (
        lambda: views.write_text("x"),
        lambda: (views.mkdir(), (views / "prefixes").write_text("x")),
        lambda: (views.mkdir(), (views / "prefixes").symlink_to(away)),
        lambda: views.symlink_to(away),
    ):
        shutil.rmtree(views) if views.is_dir() and not views.is_symlink() else views.unlink(missing_ok=True)
        spoil()
        with Log.open(root, readonly=True) as log:
            for _ in range(2):
                side = of_run(log, "base")
                assert side.is_read
                assert bisect(side, of_run(log, "more")) == expected
    assert list(away.iterdir()) == []


READER = """
import os, sys
import cli.commands.bisect
from ledger_core.log.log import Log
from replay.bisecting import bisect, of_run
Log.in_memory().close()  # all that is imported must be, while it can be read
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with Log.open(sys.argv[1], readonly=True) as log:
    sides = of_run(log, "base"), of_run(log, "more")
    print(bisect(*sides).divergence.path, sides[0].is_read)
"""


def test_who_may_not_write_bisects_without_keeping(made, python):
    """Another user, who may read the ledger and write nothing, is answered, and leaves nothing behind."""
    needs.root()
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # pytest's own directories are closed to others
        os.chmod(place, 0o755)
        root = Path(shutil.copytree(made, Path(place) / "ledger"))
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o666)
        assert python.run(READER, root).split() == ["start", "True"]
        assert not (root / "views.lmdb").exists()


FULL = """
import resource, signal, sys
from ledger_core.log.log import Log
from replay.bisecting import bisect, of_run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Log.open(sys.argv[1], readonly=True) as log:
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
    print(bisect(of_run(log, "base"), of_run(log, "more")).divergence.path, of_run(log, "base").is_read)
"""


def test_a_full_device_keeps_nothing_and_answers(root, python):
    """A write that is cut short leaves no file, and no draft of one."""
    assert python.run(FULL, root).split() == ["start", "True"]
    assert kept(root) == []


MANY = """
import sys
from ledger_core.log.log import Log
from replay.bisecting import bisect, of_run
with Log.open(sys.argv[1], readonly=True) as log:
    for _ in range(5):
        print(bisect(of_run(log, "base"), of_run(log, "more")).divergence.path)
"""


def test_processes_keep_side_by_side(root, python):
    """Four processes that make and read the same at once all answer, and leave one whole file a run."""
    children = [python.start(MANY, root) for _ in range(4)]
    assert [python.ends(child).split() for child in children] == [["start"] * 5] * 4
    assert len(kept(root)) == 2
    with Log.open(root) as log:
        assert not of_run(log, "base").is_read


def test_what_was_not_used_for_longest_makes_room(root, monkeypatch):
    """Above its bound the oldest goes first, and drafts that nobody finished; what has another name stays."""
    with Log.open(root) as log:
        for name in ("base", "equal", "more"):
            of_run(log, name)
        paths = {name: prefixes_kept._seal(log, name, _hash(log, name)).path for name in ("base", "equal", "more")}
        for age, name in enumerate(("base", "equal", "more")):
            os.utime(paths[name], (1000 + age, 1000 + age))
        of_run(log, "base")
        directory = paths["base"].parent
        (directory / f"{'0' * 32}.00000000").write_bytes(b"x")
        os.utime(directory / f"{'0' * 32}.00000000", (1, 1))
        (directory / "mine.txt").write_text("x")
        monkeypatch.setattr(prefixes_kept, "_MOST", int(2.5 * paths["base"].stat().st_size))
        of_run(log, "other")
        assert {path.name for path in directory.iterdir()} == {
            paths["base"].name, prefixes_kept._seal(log, "other", _hash(log, "other")).path.name, "mine.txt"
        }  # fmt: skip


# The command

PROMPT = "You are an agent.\nYou answer.\n- Be short.\n- Be %s.\n- Say one thing.\n"
HOSTILE = "\x1b[31mred\u202e"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A ledger with runs that differ in a prompt, in a tool's answer, and in how far they came."""
    path = tmp_path_factory.mktemp("shown") / "ledger"

    @agent(name="b", tools=[post], models=lambda _: {"content": "hi"})
    def talks(ctx):
        ctx.capture("before", lambda: 1)
        ctx.capture("tone", lambda: 2)
        prompt = PROMPT % ("polite" if ctx.run_id == "y" else "kind")
        ctx.call_model({"model": "m", "messages": [{"role": "user", "content": prompt}]})
        ctx.call_tool("post", text=HOSTILE if ctx.run_id == "z" else "fine")
        if ctx.run_id == "w":
            ctx.wait_signal("never")

    with Runtime(Log.open(path)) as runtime:
        for name in ("x", "x2", "y", "z", "w"):
            runtime.run(talks, run_id=name)
        for name in ("x", "y"):
            path.with_name(f"{name}.json").write_text(json.dumps(bundle(runtime.log, name)))
    return path


def test_the_command_tells_where_two_runs_part(shown, capsys):
    """Comparisons, the last effect that is the same, the first difference line by line, its cause, and what to do."""
    lines = text_of(capsys, command, shown, "x", "y").splitlines()
    assert re.fullmatch(r"x and y differ: \d comparisons of digests, for 4 and 4 effects[.]", lines[0])
    assert lines[2] == "The last that is the same: effect 2, capture tone"
    assert re.fullmatch(r"  x: event \d+ of the run, seq \d+, [0-9a-f]{16}…", lines[3])
    assert re.fullmatch(r"  y: event \d+ of the run, seq \d+, [0-9a-f]{16}…", lines[4])
    assert lines[6].startswith("AL105 other request at effect 3: recorded model m, attempted the same")
    assert re.fullmatch(r"  x: event \d+ of the run, seq \d+, [0-9a-f]{16}…", lines[7])
    assert {"  -- Be kind.", "  +- Be polite."} <= {*lines}
    assert any(line.startswith("  The same call with other arguments") for line in lines)
    assert lines[-1] == "All that differs: agentledger diff x y"


def test_the_command_says_that_runs_are_the_same(shown, capsys):
    """One line, and one comparison; of one run named twice as well."""
    for names in (("x", "x2"), ("x", "x")):
        out = text_of(capsys, command, shown, *names)
        assert out == f"{names[0]} and {names[1]} are the same: 1 comparison of digests, for 4 and 4 effects.\n"
    value = object_of(capsys, command, shown, "x", "x2")
    assert (value["same"], value["comparisons"], value["divergence"], value["last_equal"]) == (True, 1, None, None)


def test_the_command_prints_one_object(shown, capsys):
    """Both sides, comparisons, place, the last equal effect of both, and the divergence as `divergence` prints it."""
    value = object_of(capsys, command, shown, "x", "y")
    assert [*value] == [
        "same", "comparisons", "left", "right", "scope", "place", "last_equal", "divergence",
    ]  # fmt: skip
    assert (value["same"], value["scope"], value["place"]) == (False, "", 2)
    assert (value["left"]["source"], value["right"]["effects"]) == ("x", 4)
    assert [value["last_equal"][side]["path"] for side in ("left", "right")] == ["2", "2"]
    told_ = object_of(capsys, divergence, shown, "x", "y")
    assert value["divergence"] == told_["divergences"][0]


def test_what_a_terminal_would_obey_is_shown_as_what_it_is(shown, capsys):
    """Escapes and turned text of a run's own words do not reach the terminal."""
    out = text_of(capsys, command, shown, "x", "z")
    assert "AL105 other request at effect 4" in out
    assert "[31mred" in out
    assert not {"\x1b", "\u202e"} & {*out}


def test_a_run_that_stops_is_told_as_such(shown, capsys):
    """Where one side goes on and the other ended, what it does next is the first difference."""
    out = text_of(capsys, command, shown, "x", "w")
    assert "AL102 extra effect at effect 5: recorded nothing, attempted signal never." in out
    out = text_of(capsys, command, shown, "w", "x")
    assert "AL101 missing effect at effect 5: recorded signal never, attempted nothing." in out


def test_files_are_bisected_without_a_ledger(shown, capsys, tmp_path):
    """Evidence is a side as a run is; two files need no ledger; a file and a run are compared as well."""
    files = [str(shown.with_name(f"{name}.json")) for name in ("x", "y")]
    value = object_of(capsys, command, tmp_path / "nowhere", *files)
    assert value["divergence"] == object_of(capsys, command, shown, "x", "y")["divergence"]
    assert object_of(capsys, command, shown, files[0], "x2")["same"] is True
    assert not (tmp_path / "nowhere").exists()


def test_what_names_nothing_is_refused_in_a_sentence(shown, capsys):
    """A run or a file that is not there, an empty name, a name of several runs: one error, with what to do next."""
    for name, error in (("nobody", NotFound), ("", BadInput), ("nowhere.json", NotFound)):
        for names in (("x", name), (name, "x")):
            with pytest.raises(error) as caught:
                text_of(capsys, command, shown, *names)
            assert caught.value.hint
            assert "\n" not in caught.value.sentence
