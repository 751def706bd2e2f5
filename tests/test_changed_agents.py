"""Every way to change an agent is found by replay, called by its name, and shown at its line.

`fixtures/agents/changes` has two originals and a file for each change. The changed line says the code that it is to be
found by; where a call was dropped, the line is that of what the code does in its place.
"""

from __future__ import annotations

import ast
import asyncio
import difflib
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from suites.shuffling import in_time

from agentledger import Runtime
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.target import load
from replay import replaying

CHANGES = Path(__file__).resolve().parent.parent / "fixtures" / "agents" / "changes"
ORIGINALS = ("triage", "triage_in_a_row", "errands")
TICKET = {"ticket": 7}
SEEDS = range(20)


class Change(NamedTuple):
    """What is to be said of a change: where it is met, what stood there, and the fields that differ."""

    code: str
    path: str
    recorded: str
    attempted: str | None = None
    """None where it depends on what came to stand there."""
    fields: frozenset[str] = frozenset()
    """Places that must be named, where the requests can be compared."""
    besides: tuple[str, ...] = ()
    """Paths that the same change is met at later on."""
    line: bool = True
    """Whether there is a line: not where the code does nothing at all."""


def _fields(*names: str) -> frozenset[str]:
    return frozenset(names)


PAGE, REPLY, HISTORY, QUEUE = "tool people.page", "tool tickets.reply", "tool tickets.history", "tool tickets.queue"
RESULT = 'a result: {"sort": "bug", "desk": "desk 7", "kept": "draft", "ok": tr…'
LARGE, PROMPT = "model large", _fields("$.messages[0].content")
FOUND: dict[str, Change] = {
    "added_call": Change("AL102", "12", "", QUEUE),
    "added_in_a_row": Change("AL102", "14", "", QUEUE),
    "added_in_a_task": Change("AL102", "said.1/3", "", HISTORY, besides=("said.2/3",)),
    "added_last_call": Change("AL102", "15", "", QUEUE),
    "an_argument_more": Change("AL105", "3", "model small", "model small", _fields("$.parameters.seed")),
    "an_error_at_the_end": Change("AL108", "end", RESULT, "AssertionError: it was in order", line=False),
    "another_argument": Change("AL105", "12", REPLY, REPLY, _fields("$.arguments.text")),
    "another_argument_in_a_task": Change(
        "AL105", "said.1/2", HISTORY, HISTORY, _fields("$.arguments.number"), besides=("said.2/2",)
    ),
    "another_artifact": Change("AL105", "11", "artifact agentledger.artifact.v0"),
    "another_kind_in_a_row": Change("AL103", "10", PAGE, "model small"),
    "another_model": Change("AL104", "10", LARGE, "model larger", _fields("$.name", "$.model")),
    "another_parameter": Change("AL105", "3", "model small", "model small", _fields("$.parameters.temperature")),
    "another_pause": Change("AL105", "9", "sleep", "sleep", _fields("$.seconds")),
    "another_prompt": Change("AL105", "10", LARGE, LARGE, PROMPT),
    "another_prompt_in_a_row": Change("AL105", "12", LARGE, LARGE, PROMPT),
    "another_return_value": Change(
        "AL108", "end", RESULT, RESULT.replace("bug", "BUG"), _fields("$.output.sort"), line=False
    ),
    "another_return_value_in_a_row": Change(
        "AL108", "end", RESULT, RESULT.replace("bug", "BUG"), _fields("$.output.sort"), line=False
    ),
    "another_state_key": Change("AL107", "4", "patch", "patch", _fields("$.sort", "$.kind"), besides=("end",)),
    "another_state_key_in_a_row": Change("AL107", "4", "patch", "patch", _fields("$.sort", "$.kind"), besides=("end",)),
    "another_state_value": Change("AL107", "13", "patch", "patch", _fields("$.answered"), besides=("end",)),
    "another_system_prompt": Change("AL105", "3", "model small", "model small", PROMPT),
    "another_tool_version": Change("AL111", "8", f"{PAGE}, version 1", f"{PAGE}, version 2"),
    "another_tool_version_in_a_row": Change("AL111", "10", f"{PAGE}, version 1", f"{PAGE}, version 2"),
    "branch_not_taken": Change("AL101", "8", PAGE),
    "branch_taken": Change("AL102", "9", "", QUEUE),
    "branch_to_another": Change("AL104", "8", PAGE, QUEUE),
    "branch_to_another_kind": Change("AL103", "8", PAGE, "model small"),
    "clock_read_directly": Change(
        "AL105", "5", "tool customers.find", "tool customers.find", _fields("$.arguments.email")
    ),
    "dropped_call": Change("AL101", "8", PAGE),
    "dropped_in_a_row": Change("AL101", "10", PAGE),
    "dropped_in_a_task": Change("AL101", "said.1/2", HISTORY, besides=("said.2/2",), line=False),
    "dropped_last_call": Change("AL101", "14", "now", "", line=False),
    "longer_loop_in_a_row": Change("AL102", "9", "", HISTORY, besides=("15",)),
    "renamed_capture": Change("AL104", "7", "capture desk", "capture place"),
    "renamed_to_nothing": Change("AL104", "12", REPLY, "tool tickets.respond"),
    "renamed_tool": Change("AL104", "12", REPLY, "tool tickets.answer"),
    "swapped_calls": Change("AL106", "12", f"{REPLY} at 12", f"{REPLY} at 13", besides=("13",)),
    "swapped_in_a_gather": Change("AL106", "5", "tool customers.find at 5", "tool customers.find at 6", besides=("6",)),
    "swapped_in_a_row": Change("AL106", "5", "tool customers.find at 5", "tool customers.find at 6", besides=("6",)),
    "swapped_in_a_task": Change(
        "AL106",
        "said.1/1",
        f"{HISTORY} at said.1/1",
        f"{HISTORY} at said.1/2",
        besides=("said.1/2", "said.2/1", "said.2/2"),
    ),
}
"""All changes but one: what `unsorted_set` is to be found by depends on the process."""


def _load(name: str) -> AgentSpec:
    return load(f"{CHANGES / name}.py:{'errands' if name == 'errands' else 'triage'}")


def _original(name: str) -> str:
    return "triage_in_a_row" if name.endswith("in_a_row") else "triage"


def _marked(name: str) -> tuple[str, int]:
    """The code that a changed file says it is found by, and the number of the line that says so."""
    lines = (CHANGES / f"{name}.py").read_text().splitlines()
    marks = [(found[1], number) for number, text in enumerate(lines, 1) if (found := re.search(r"# (AL\d+)", text))]
    assert len(marks) == 1, f"{name} has {len(marks)} marks"
    return marks[0]


@pytest.fixture
def recorded():
    """A ledger in memory with the run of an original: `recorded(name)`."""
    opened = []

    def record(name: str) -> Runtime:
        runtime = Runtime.in_memory()
        opened.append(runtime)
        assert runtime.run(_load(_original(name)), run_id="r", initial_state=TICKET).ok
        return runtime

    yield record
    for runtime in opened:
        runtime.close()


def _replayed(runtime: Runtime, name: str, mode: Any) -> Any:
    """A replay, which sends nothing and appends nothing, and comes to an end."""
    sent, head = sys.modules["desk"].SENT, runtime.log.head()
    before = len(sent)
    spec = _load(name)
    found = in_time(lambda: replaying.replay(runtime, "r", spec, mode=mode))
    assert (len(sent), runtime.log.head()) == (before, head)
    return found


@pytest.mark.invariant(8)
@pytest.mark.parametrize("name", FOUND)
def test_a_change_is_found_at_its_place(name, recorded):
    """Strict replay stops at the change, with its code, effect, line, and the fields that differ; nothing is sent."""
    change, (code, number) = FOUND[name], _marked(name)
    found = _replayed(recorded(name), name, "strict")
    met = found.divergence
    assert met is not None, f"{name} was not found"
    assert (met.kind.code, met.path) == (change.code, change.path)
    assert code == change.code
    assert met.line == (f"{name}.py:{number}" if change.line else None)
    assert found.divergences == (met,)
    if change.recorded:
        assert met.recorded == change.recorded
    if change.attempted is not None:
        assert met.attempted == change.attempted
    if change.fields:
        assert {one.at for one in met.differences} == change.fields
    assert not found.ok
    assert not found.complete


@pytest.mark.parametrize("name", FOUND)
def test_all_that_a_change_makes_different_is_collected(name, recorded):
    """Collecting replay goes on behind the change, and tells of it and what follows from it: of nothing else."""
    change = FOUND[name]
    found = _replayed(recorded(name), name, "collect")
    assert [(one.kind.code, one.path) for one in found.divergences[:1]] == [(change.code, change.path)]
    assert {one.path for one in found.divergences} <= {change.path, *change.besides}
    tasks = {one for one in change.besides if one.startswith("said.2") and change.path.startswith("said.1")}
    assert not tasks or tasks & {one.path for one in found.divergences}
    assert found.mode == "collect"


@pytest.mark.parametrize("name", ["another_tool_version", "another_tool_version_in_a_row"])
def test_another_version_of_a_tool_is_named(name, recorded):
    """The difference of a tool's version says what it was and what it is."""
    met = _replayed(recorded(name), name, "strict").divergence
    assert met is not None
    assert [("version" in one.at, one.recorded, one.attempted) for one in met.differences] == [(True, "1", "2")]


def test_other_bytes_of_an_artifact_are_named(recorded):
    """The difference of an artifact says that it is what it holds that differs."""
    met = _replayed(recorded("another_artifact"), "another_artifact", "strict").divergence
    assert met is not None
    assert [one.at for one in met.differences] in (["$.holds"], ["$.data"])


def test_every_change_is_expected():
    """Every file of the directory is an original, or a change with a mark that says what it is found by."""
    files = {file.stem for file in CHANGES.glob("*.py")} - {"desk", *ORIGINALS}
    assert files == {*FOUND, "unsorted_set"}
    assert {change.code for change in FOUND.values()} == {
        f"AL{number}" for number in (101, 102, 103, 104, 105, 106, 107, 108, 111)
    }
    assert _marked("unsorted_set")[0] == "AL105"


@pytest.mark.parametrize("name", [*FOUND, "unsorted_set"])
def test_a_change_is_one_change(name):
    """A changed file differs from its original in one place of its agent; imports and comments are not counted."""
    before, after = (_agent(one) for one in (_original(name), name))
    changed = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
    assert 1 <= len(changed) <= 4, changed


def _agent(name: str) -> list[str]:
    tree = ast.parse((CHANGES / f"{name}.py").read_text())
    return ast.unparse(next(node for node in tree.body if hasattr(node, "decorator_list"))).splitlines()


CHILD = """
    import json, sys
    from agentledger import Runtime
    from ledger_core.runtime.target import load
    from replay import replaying

    root, place, what = sys.argv[1:]
    spec = lambda name, agent="triage": load(f"{place}/{name}.py:{agent}")
    with Runtime.local(root) as runtime:
        if what == "record":
            for name, agent in (("triage", "triage"), ("triage_in_a_row", "triage"), ("errands", "errands")):
                state = {"errands": [2, 12, 0, 3, 5]} if agent == "errands" else {"ticket": 7}
                assert runtime.run(spec(name, agent), run_id=name, initial_state=state).ok
            assert runtime.run(spec("unsorted_set"), run_id="unsorted", initial_state={"ticket": 7}).ok
        said = {
            name: replaying.replay(runtime, name, spec(name, agent)).as_json()
            for name, agent in (("triage", "triage"), ("triage_in_a_row", "triage"), ("errands", "errands"))
        }
        said["against the original"] = replaying.replay(runtime, "triage", spec("unsorted_set")).as_json()
        said["against itself"] = replaying.replay(runtime, "unsorted", spec("unsorted_set")).as_json()
        from desk import MAIL
        print(json.dumps([list(set(MAIL["tags"])), said]))
"""


@pytest.fixture
def under_seeds(python, tmp_path) -> dict[int, Any]:
    """What child processes say, each with another seed of hashes, of what the first of them recorded."""

    def say(seed: int, what: str) -> Any:
        before = ("env", f"PYTHONHASHSEED={seed}")
        return json.loads(python.run(CHILD, tmp_path / "ledger", CHANGES, what, before=before))

    found = {SEEDS[0]: say(SEEDS[0], "record")}
    with ThreadPoolExecutor(2) as threads:
        found |= dict(zip(SEEDS[1:], threads.map(lambda seed: say(seed, "replay"), SEEDS[1:]), strict=True))
    return found


@pytest.mark.slow
def test_the_order_of_a_set_is_found_where_it_differs_and_an_original_never(under_seeds):
    """Under twenty seeds no original diverges; what iterates a set does exactly where its requests are others."""
    recorded, _ = under_seeds[SEEDS[0]]
    came = {"against the original": set(), "against itself": set()}
    number = _marked("unsorted_set")[1]
    for seed, (order, said) in under_seeds.items():
        assert [name for name in ORIGINALS if not (said[name]["ok"] and said[name]["complete"])] == [], seed
        for name, before in (("against the original", sorted(order)), ("against itself", recorded)):
            came[name].add(order == before)
            assert said[name]["ok"] is (order == before), seed
            if order != before:
                met = said[name]["divergence"]
                assert (met["code"], met["path"], met["line"]) == ("AL105", "6", f"unsorted_set.py:{number}")
                expected = {f"$.arguments.tags[{at}]" for at, tag in enumerate(order) if tag != before[at]}
                assert {one["at"] for one in met["differences"]} == expected
    assert False in came["against the original"]
    assert came["against itself"] == {True, False}


@pytest.mark.parametrize("name", ORIGINALS)
def test_an_original_is_the_same_wherever_it_runs(name):
    """An original replays without divergence, strictly and collecting, also within a loop that runs already."""
    state = {"errands": [2, 12, 0, 3, 5]} if name == "errands" else TICKET
    with Runtime.in_memory() as runtime:
        assert runtime.run(_load(name), run_id="r", initial_state=state).ok
        for mode in ("strict", "collect"):
            assert _replayed(runtime, name, mode).ok

        async def inside() -> Any:
            return replaying.replay(runtime, "r", _load(name))

        assert asyncio.run(inside()).complete
