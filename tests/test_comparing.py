"""Two runs compared: each single difference has its one code, and what is no difference has none."""

from __future__ import annotations

import asyncio
import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger import Runtime, agent, tool
from projections.course import Course, Effect, of_json
from replay.comparing import compare
from replay.sides import of_run


def call(path, text="a", *, kind="tool", name="write", value="ok", **more):
    request = {"arguments": {"text": text}} if kind != "patch" else {text: 1}
    fields = {"outcome": "done", "value": None if kind == "patch" else value} | more
    number = int(str(path).rpartition("/")[2])
    return Effect(
        path=str(path), kind=kind, name="" if kind == "patch" else name, request=request,
        **{"seq": number, "log_seq": number + 10, "hash": f"{number:064x}"} | fields,
    )  # fmt: skip


def course(*effects, **more):
    given = {"source": "s", "run_id": "r", "agent": "a", "status": "completed", "initial_state": {}, "output": "end"}
    return Course(**given | {"effects": tuple(effects), "state": {}} | more)


BASE = course(
    call(1, "one"),
    call(2, "hi", kind="model", name="m", cost={"input_tokens": 5}),
    call(3, "two", policy="allow", version="1", writes=True),
    call(4, "k", kind="patch"),
    call(5, "three", name="read"),
    code_digest="aa",
)


def with_(*effects, **more):
    return attrs.evolve(BASE, effects=tuple(effects), code_digest="bb", **more)


def changed(place, **fields):
    """The base with one effect that is another one."""
    effects = list(BASE.effects)
    effects[place] = attrs.evolve(effects[place], **fields)
    return with_(*effects)


E1, E2, E3, E4, E5 = BASE.effects
NEW = call(9, "new", name="added", line="a.py:3")
ASKED = {"arguments": {"text": "changed"}}
SINGLE = [
    ("AL101", "3", with_(E1, E2, E4, E5), []),
    ("AL102", "9", with_(E1, E2, E3, E4, E5, NEW), []),
    (
        "AL103",
        "3",
        changed(2, kind="model", request={"model": "m"}, version=None, policy=None, writes=False),
        ["$.kind"],
    ),
    ("AL104", "3", changed(2, name="renamed"), ["$.name"]),
    (
        "AL105",
        "3",
        changed(2, request=ASKED, value="another", version="2"),
        ["$.arguments.text", "$.version", "$.value"],
    ),
    ("AL106", "1", with_(attrs.evolve(E2, path="1"), attrs.evolve(E1, path="2"), E3, E4, E5), []),
    ("AL107", "4", changed(3, request={"k": 2}), ["$.k"]),
    ("AL108", "3", changed(2, value="another"), ["$.value"]),
    ("AL108", "3", changed(2, outcome="failed", error_type="E", value="m"), ["$.outcome", "$.error_type", "$.value"]),
    (
        "AL109",
        "3",
        changed(2, policy="deny", outcome="failed", error_type="PermissionDenied", value="no"),
        ["$.policy"],
    ),
    ("AL110", "2", changed(1, cost={"input_tokens": 6}), ["$.cost.input_tokens"]),
    ("AL111", "3", changed(2, version="2", value="another"), ["$.version", "$.value"]),
    ("AL108", "end", with_(*BASE.effects, output="other"), ["$.output"]),
    ("AL108", "end", with_(*BASE.effects, output=None, status="failed", error_type="E", message="m"), ["$.status"]),
    ("AL107", "end", with_(*BASE.effects, state={"k": 1}), ["$.k"]),
    ("AL105", "start", with_(*BASE.effects, initial_state={"k": 1}), ["$.initial_state.k"]),
    ("AL104", "start", with_(*BASE.effects, agent="b"), ["$.agent"]),
]


@pytest.mark.parametrize("code, path, other, places", SINGLE, ids=[f"{one[0]} at {one[1]}" for one in SINGLE])
def test_a_single_difference_has_its_one_code(code, path, other, places):
    """One edit is one divergence, with its place, its event, both digests of code and what differs in it."""
    (found,) = compare(BASE, other).divergences
    assert (found.kind.code, found.path) == (code, path)
    assert [one.at for one in found.differences][: len(places)] == places
    assert (found.recorded_code, found.attempted_code) == ("aa", "bb")
    if path in "12345":
        recorded = BASE.effects[int(path) - 1]
        assert (found.seq, found.event, found.hash) == (recorded.log_seq, recorded.seq, recorded.hash)
    else:
        assert (found.seq, found.event, found.hash) == (None, None, None)
    assert found.recorded != found.attempted or code in ("AL105", "AL107")
    json.dumps(compare(BASE, other).as_json(every=True), allow_nan=False)


@pytest.mark.parametrize("code, path, other, places", SINGLE, ids=[f"{one[0]} at {one[1]}" for one in SINGLE])
def test_a_difference_is_one_from_either_side(code, path, other, places):
    """Held the other way round, what was missing is extra, and all else is what it was."""
    del places
    (found,) = compare(other, BASE).divergences
    assert found.kind.code == {"AL101": "AL102", "AL102": "AL101"}.get(code, code)
    assert found.path == path


def test_a_run_is_the_same_as_itself():
    """Nothing diverges, every row is `same`, and the costs have no difference."""
    found = compare(BASE, BASE)
    assert (found.same, found.divergences, found.cut_short) == (True, (), None)
    assert [row.op for row in found.aligned] == ["same"] * 5
    assert found.cost == {"left": {"input_tokens": 5}, "right": {"input_tokens": 5}, "difference": {"input_tokens": 0}}


def test_what_differs_by_its_nature_is_no_difference():
    """Times, ids of children and of approvals, and where an effect stands in its log are no differences."""
    effects = (
        Effect(path="1", kind="now", name="", request=None, outcome="done", value=1, seq=3, log_seq=3),
        Effect(path="2", kind="child", name="c", request={"agent": "c"}, outcome="done", value="run_1"),
        Effect(path="3", kind="join", name="run_1", request=None, outcome="done", value="x"),
        Effect(path="4", kind="question", name="q", request={"question": "?"}, outcome="done", value="appr_1"),
        Effect(path="5", kind="answer", name="appr_1", request={}, outcome="done", value={"approved": True}),
    )
    others = [{"value": 2, "seq": 9}, {"value": "run_2"}, {"name": "run_2"}, {"value": "appr_2"}, {"name": "appr_2"}]
    right = [attrs.evolve(one, **fields) for one, fields in zip(effects, others, strict=True)]
    assert compare(course(*effects), course(*right)).same
    right[4] = attrs.evolve(right[4], value={"approved": False})
    (found,) = compare(course(*effects), course(*right)).divergences
    assert (found.kind.code, found.path) == ("AL108", "5")


def test_a_child_that_failed_is_told():
    """What is read anew when it was done is compared where it failed."""
    child = Effect(path="1", kind="child", name="c", request={"agent": "c"}, outcome="done", value="run_1")
    failed = attrs.evolve(child, outcome="failed", error_type="Refused", value="no")
    assert [one.kind.code for one in compare(course(child), course(failed)).divergences] == ["AL108"]
    assert compare(course(failed), course(attrs.evolve(failed, value="other"))).divergences[0].kind.code == "AL108"


def test_several_differences_come_in_the_order_of_the_run():
    """The start, effects as they were recorded and extra ones where they stand, and the end."""
    right = with_(
        attrs.evolve(NEW, path="1"), attrs.evolve(E2, request=ASKED), call(3, "also new"), attrs.evolve(E3, path="4"),
        E5,
        initial_state={"a": 1}, output="other",
    )  # fmt: skip
    found = compare(BASE, right)
    assert [(one.kind.code, one.path) for one in found.divergences] == [
        ("AL105", "start"), ("AL104", "1"), ("AL105", "2"), ("AL102", "3"), ("AL101", "4"), ("AL108", "end"),
    ]  # fmt: skip


def test_a_missing_effect_has_the_line_of_what_came_in_its_place():
    """The line is the next attempted effect's; where nothing came any more there is none."""
    right = with_(E1, E2, attrs.evolve(E4, line="a.py:7"), E5)
    assert compare(BASE, right).divergences[0].line == "a.py:7"
    assert compare(BASE, with_(E1, E2, E3, E4)).divergences[0].line is None
    assert compare(BASE, with_(*BASE.effects, NEW)).divergences[0].line == "a.py:3"


def test_a_changed_patch_explains_the_state_it_leads_to():
    """A state that differs because a patch does is not told a second time."""
    right = attrs.evolve(changed(3, request={"k": 2}), state={"k": 2})
    assert [one.path for one in compare(attrs.evolve(BASE, state={"k": 1}), right).divergences] == ["4"]


# Runs that stop


RUNNING = {"status": "running", "output": None}


@pytest.mark.parametrize("turned", [False, True])
def test_what_lies_beyond_the_end_of_a_record_is_told_as_such(turned):
    """A run that stops where the other one goes on: the rest is extra, or missing, and says that the record stops."""
    short, whole = course(E1, E2, **RUNNING), BASE
    found = compare(whole, short) if turned else compare(short, whole)
    assert found.cut_short == ("right" if turned else "left")
    assert [one.kind.code for one in found.divergences] == [*["AL101" if turned else "AL102"] * 3, "AL108"]
    words = [one.attempted if turned else one.recorded for one in found.divergences]
    assert words == ["nothing: the record stops there"] * 3 + ["no end: it is running"]


def test_what_is_missing_before_a_record_stops_is_missing():
    """Only what lies behind the last effect of a run is cut off; before it, an effect is missing as ever."""
    found = compare(BASE, course(E1, E3, E4, **RUNNING))
    assert [(one.path, one.attempted) for one in found.divergences[:2]] == [
        ("2", ""),
        ("5", "nothing: the record stops there"),
    ]


def test_an_open_effect_is_no_other_output():
    """What is open or in doubt in a run that goes on may still come to the same; in two that ended it did not."""
    for outcome in ("open", "in doubt"):
        opened = attrs.evolve(E3, outcome=outcome, value=None, policy=None)
        found = compare(BASE, course(E1, E2, opened, **RUNNING))
        assert [row.op for row in found.aligned] == ["same", "same", "same", "missing", "missing"]
        assert "3" not in [one.path for one in found.divergences]
        found = compare(BASE, with_(E1, E2, attrs.evolve(opened, policy="allow"), E4, E5))
        assert [(one.kind.code, one.path) for one in found.divergences] == [("AL108", "3")]
        otherwise = compare(BASE, course(E1, E2, attrs.evolve(opened, request=ASKED), **RUNNING))
        assert ("AL105", "3") in [(one.kind.code, one.path) for one in otherwise.divergences]


def test_two_runs_that_stop_at_one_place_are_the_same():
    """Neither is cut short, and that both have no end is no difference, whatever they wait for."""
    found = compare(course(E1, **RUNNING), course(E1, status="waiting", output=None))
    assert (found.same, found.cut_short) == (True, None)


# Any two courses


paths = st.lists(st.sampled_from(["", "f.1/", "f.2/", "f.2/g.1/"]), max_size=10)
kinds = st.sampled_from(["tool", "model", "patch", "now", "join", "sleep"])
values = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))


@st.composite
def courses(draw):
    made, met = [], dict[str, int]()
    for number, scope in enumerate(draw(paths), 1):
        met[scope] = met.get(scope, 0) + draw(st.integers(1, 2))
        made.append(
            Effect(
                path=f"{scope}{met[scope]}",
                kind=draw(kinds),
                name=draw(st.sampled_from("ab")),
                request=draw(values),
                outcome=draw(st.sampled_from(["done", "failed", "open", "in doubt", "given up"])),
                value=draw(values),
                policy=draw(st.sampled_from([None, "allow"])),
                cost=draw(st.sampled_from([{}, {"usd_nano": 5}])),
                seq=number,
                log_seq=number,
            )
        )
    status = draw(st.sampled_from(["completed", "failed", "cancelled", "running"]))
    return course(*made, status=status, output=draw(values), state=draw(values), initial_state=draw(values))


@settings(max_examples=200)
@given(courses(), courses())
def test_any_two_courses_compare(left, right):
    """Every effect is in one row; rows that say something are those that differ; the JSON is JSON."""
    found = compare(left, right)
    assert sorted(row.left.path for row in found.aligned if row.left) == sorted(one.path for one in left.effects)
    assert sorted(row.right.path for row in found.aligned if row.right) == sorted(one.path for one in right.effects)
    assert {number for number, row in enumerate(found.aligned) if row.op != "same"} == set(found.at)
    assert found.same == (not found.divergences)
    json.loads(json.dumps(found.as_json(every=True), allow_nan=False))
    before = [row.left.log_seq for row in found.aligned if row.left]
    assert before == sorted(before)
    for one in found.divergences:
        assert one.sentence()
    if not {left.status, right.status} - {"completed", "failed"} and left.digest == right.digest:
        assert found.same


@given(courses())
def test_any_course_is_the_same_as_itself(one):
    """Whatever happened in a run, it does not diverge from itself."""
    assert compare(one, one).same


# Real runs


@tool(side_effect="external_write")
def write(text: str) -> str:
    return text.upper()


@tool
async def read(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def _each(ctx, number):
    return await ctx.call_tool("read", number=number)


@agent(name="a", tools=[write, read], models=lambda request: {"content": "hi", "usage": {"input_tokens": 3}})
async def work(ctx, state):
    ctx.now()
    ctx.capture("desk", lambda: 7)
    await ctx.call_tool("write", text=state.get("text", "a"))
    await asyncio.gather(*(_each(ctx, number) for number in state["numbers"]))
    child = await ctx.spawn(nested)
    await child.join()
    await ctx.call_model({"model": "m", "messages": [{"role": "user", "content": state["prompt"]}]})
    if state.get("more"):
        await ctx.call_tool("write", text="more")
    ctx.write_state_patch("done", True)
    return "end"


@agent
async def nested(ctx):
    return 3


STATE = {"numbers": [1, 2, 3], "prompt": "Hello."}


def test_real_runs_compare():
    """Two runs of one agent are the same; with another state, what differs is what the state changed."""
    with Runtime.in_memory() as runtime:
        for name, state in (("a", {}), ("b", {}), ("c", {"prompt": "Bye.", "more": True}), ("d", {"numbers": [1, 3]})):
            assert runtime.run(work, run_id=name, initial_state=STATE | state).ok
        a, b, c, d = (of_run(runtime.log, name) for name in "abcd")
    assert compare(a, b).same
    assert a.digest == b.digest
    found = compare(a, c)
    assert [(one.kind.code, one.path) for one in found.divergences] == [
        ("AL105", "start"), ("AL105", "6"), ("AL102", "7"),
    ]  # fmt: skip
    assert found.divergences[1].differences[0].at == "$.messages[0].content"
    assert found.as_json()["ledger"][0]["right"]["name"] == "write"
    assert found.events["tool_call_requested"] == {"left": 4, "right": 5}
    found = compare(a, d)
    assert [(one.kind.code, one.path) for one in found.divergences] == [("AL105", "start"), ("AL101", "_each.2/1")]


def test_a_run_that_lost_its_process_is_the_same_as_one_that_did_not():
    """A run that stopped, and went on, has the course of one that never stopped; meanwhile it is cut short."""
    stop = [True]

    @agent(name="a", tools=[write])
    def stopped(ctx):
        ctx.call_tool("write", text="one")
        if stop[0]:
            raise KeyboardInterrupt
        return ctx.call_tool("write", text="two")

    with Runtime.in_memory() as runtime:
        with pytest.raises(KeyboardInterrupt):
            runtime.run(stopped, run_id="broken")
        stop[0] = False
        assert runtime.run(stopped, run_id="whole").ok
        found = compare(of_run(runtime.log, "broken"), of_run(runtime.log, "whole"))
        assert (found.cut_short, [one.path for one in found.divergences]) == ("left", ["2", "end"])
        assert runtime.run(stopped, run_id="broken").ok
        assert compare(of_run(runtime.log, "broken"), of_run(runtime.log, "whole")).same


@pytest.mark.slow
def test_a_hundred_thousand_effects_compare():
    """Long runs with few differences, and two that have nothing in common, are compared whole."""
    left = course(*(call(number, str(number)) for number in range(1, 100_001)))
    right = course(*(call(number, str(number if number % 10_000 else -number)) for number in range(1, 100_001)))
    assert len(compare(left, right).divergences) == 10
    other = course(*(call(number, f"x{number}", name="other") for number in range(1, 100_001)))
    assert compare(left, other).counts["changed"] == 100_000


def test_a_course_comes_back_from_its_text():
    """What is nothing to Python is something to a run: 0, false, an empty text, an empty request stay what they are."""
    for value in (0, 0.0, False, "", [], {}, None):
        one = Effect(path="1", kind="tool", name="t", request={}, outcome="done", value=value)
        course = attrs.evolve(with_(one), output=value)
        again = of_json(json.loads(json.dumps(course.as_json())), "a file")
        assert (again.effects, again.digest) == (course.effects, course.digest)
