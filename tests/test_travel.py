"""Going through a run: its timeline for a person, its state at any event, and keys on a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites import histories
from suites.stories import model, object_of, text_of, told

from agentledger import BadInput, Budget, InDoubt, Log, Runtime, ToolFailed, agent, tool
from cli import viewer
from cli.commands.travel import debug, timetravel
from cli.panes import Panes
from ledger_core.events import REGISTRY, Unknown
from ledger_core.events.effect import (
    ModelCallCompleted,
    ModelCallFailed,
    ModelCallRequested,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSettled,
)
from ledger_core.events.govern import BudgetChanged
from ledger_core.events.run import RunCreated
from ledger_core.events.step import StepCreated
from ledger_core.log.record import Draft, Event
from projections import panes
from projections.dialogue import SPEAKS, Dialogue
from projections.frames import Reel, deltas, frames
from projections.messages import repair
from projections.telling import TELLINGS, span
from projections.timeline import timeline
from projections.transcript import of_events
from projections.usage import budgets_at
from projections.wire import event_json


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A ledger of runs that went through much."""
    path = tmp_path_factory.mktemp("travel") / "ledger"
    with Runtime(Log.open(path), models=model) as runtime:
        told(runtime)
    return path


def event(seq, body, seconds=None):
    time_ns = (seq if seconds is None else seconds) * 10**9
    return Event(seq, bytes(32), time_ns, "run/r", 1, seq, body.kind.name, "t", None, None, None, body)


# The timeline


def test_every_type_of_a_run_has_words():
    """Each registered type of a run's stream is told in words of its own, or is told by nobody on purpose."""
    elsewhere = {
        "ledger_created",
        "content_forgotten",
        "projection_certified",
        "replay_certified",
        "session_created",
        "session_updated",
        "session_run_added",
        "policy_adopted",
        "budget_changed",
    }
    assert {name for name, kind in REGISTRY.items() if kind.cls not in TELLINGS} == elsewhere


@settings(max_examples=80)
@given(made=st.lists(histories.bodies(), max_size=30))
def test_any_history_has_a_timeline(made):
    """Whatever happened, in whatever order: lines come in order, in JSON, and no gap is negative."""
    lines = list(timeline([event(seq, body) for seq, body in enumerate(made, 1)], diffs=True))

    assert [line.seq for line in lines] == sorted({line.seq for line in lines})
    for line in lines:
        json.dumps(line.as_json(), allow_nan=False)
        assert line.words
        assert line.idle_ns is None or line.idle_ns >= 0
        assert line.took_ns is None or line.took_ns >= 0


def test_an_unknown_type_is_told_by_its_name():
    """An event of a type that is not known has a line: nobody knows that it does not matter."""
    created = RunCreated(run="r", agent="a", seed=bytes(32), initial_state={})
    unknown = event(1, created)._replace(
        seq=2, stream_seq=2, type="run_polished", body=Unknown(type="run_polished", version=3, facts={"path": 7})
    )
    assert [line.words for line in timeline([event(1, created), unknown])][1] == "run polished"


def test_a_timeline_says_what_happened(root, capsys):
    """Tools with arguments and results, failures, waits with their length, attempts, and what to do next."""
    out = text_of(capsys, debug, root, "r")

    assert re.search(r"tool post  \{\"text\": \"a\"\}\n.*\+ 3 post returned \(.*\)  a\n", out)
    assert re.search(r"m answered: 12 tokens in, 4 tokens out \(.*\)  \{\"content\": \"hi\"", out)
    assert re.search(r"✗ 8 flaky failed: ValueError \(tool\) \(.*\)  not yet", out)
    assert "attempt 2 is to come" in out
    assert re.search(r"^ +attempt 2$", out, re.MULTILINE)
    assert re.search(r"⋯ .* of waiting for child run_", out)
    assert "asks a person: appr_" in out
    assert '{"by": "Ada", "reason": "fine"}' in out
    assert "r is completed, 1 model call, 3 tool calls" in out
    assert out.rstrip().endswith("verify r")
    assert "20780" not in out  # no gap is counted from 1970


def test_a_run_in_doubt_says_what_to_settle(root, capsys):
    """The end of a timeline is where the run stands, and the command that brings it on."""
    out = text_of(capsys, debug, root, "d")
    assert "nobody knows whether it happened" in out
    assert re.search(r"in doubt: post at effect \d+: did it happen\?", out)
    assert re.search(r"ledger settle d:\d+ --as", out)

    waiting = text_of(capsys, debug, root, "w")
    assert "waits for signal never at effect 1" in waiting
    assert "signal w never --payload JSON" in waiting


def test_what_a_terminal_would_obey_is_shown_as_text(root, capsys):
    """Control characters in what agents said do not reach the terminal."""
    out = text_of(capsys, debug, root, "f")
    assert "\x1b" not in out
    assert "\\x1b[31m" in out
    assert "ünïcode" in out


def test_a_forgotten_run_has_its_timeline(root, capsys):
    """What was forgotten is `<forgotten>`; what happened, and where the run stands, is all there."""
    out = text_of(capsys, debug, root, "e", "--include-diffs")
    assert "run of agent bad  <forgotten>" in out
    assert "the step failed: ValueError (unhandled)  <forgotten>" in out
    assert "Ada" not in out


def test_a_timeline_as_json(root, capsys):
    """Lines with fields for programs, the run's status, and the next step; differences where they are asked for."""
    found = object_of(capsys, debug, root, "r")
    lines = found["timeline"]
    assert (found["run_id"], found["status"], found["worker_lost"]) == ("r", "completed", False)
    assert found["next"].startswith("It is done")
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)
    (flaky,) = [line for line in lines if line["mark"] == "failed" and line["path"] == "8"]
    assert (flaky["said"], flaky["attempt"], flaky["step"]) == ("not yet", 1, 1)
    assert flaky["took"] >= 0
    assert all("diff" not in line for line in lines)
    assert [line["idle"] for line in lines if line["idle_for"].startswith("child run_")][0] > 0

    with_diffs = object_of(capsys, debug, root, "r", "--include-diffs")["timeline"]
    assert any(line["diff"].get("ledger") == {"3": {"status": "SUCCEEDED"}} for line in with_diffs)


def test_spans_of_time_are_said_in_a_word():
    """Short and long times read well, with the unit that fits."""
    assert [span(one) for one in (0, 40 * 10**6, 12_500 * 10**6, 7_300 * 10**9, 3 * 86_400 * 10**9)] == [
        "0 ms",
        "40 ms",
        "12.5 s",
        "2 h",
        "3 d",
    ]


# Any event of a run


def test_the_run_at_one_event(root, capsys):
    """`--at-seq` gives the event, the run after it, its state as the code sees it, and what the event changed."""
    with Log.open(root, readonly=True) as log:
        events = list(log.stream("run/r"))
    expected, reel = list(zip(events, frames(events), deltas(events), strict=True)), Reel(events)
    for at in (1, 6, 12, len(events)):
        one, frame, change = expected[at - 1]
        found = object_of(capsys, timetravel, root, "r", "--at-seq", str(at))
        assert found == {
            "run_id": "r",
            "seq": at,
            "last": len(events),
            "event": json.loads(json.dumps(event_json(one))),
            "standing": json.loads(json.dumps(frame.standing)),
            "state": frame.draft,
            "diff": json.loads(json.dumps(change.patch)),
            "steps": [attrs.asdict(step) for step in reel.steps(frame)],
            "budget": {**change.use.as_json(), "budgets": []},
            "transcript": json.loads(json.dumps(of_events(events[:at]).as_json())),
            "forked_from": None,
        }
    shown = text_of(capsys, timetravel, root, "r", "--at-seq", "6")
    assert "event 6 of" in shown
    assert '"asked": true' in shown


def test_plain_output_ends_with_the_budget_and_what_was_said_last(root, capsys):
    """What was used is a line, what bounds it another, and the last messages a line each, however long they are."""
    ended = text_of(capsys, timetravel, root, "r", "--at-seq", "38").split("\nbudget\n")[1]
    assert ended.split("\n")[:2] == [
        "used 1 step, 1 model call, 3 tool calls, 12 tokens in and 4 out, $1",
        "no budget bounds it",
    ]
    assert ended.split("\n")[3:] == ["transcript: 2 messages", "     user  hi", "assistant  hi", ""]
    assert "transcript: nothing was said yet" in text_of(capsys, timetravel, root, "w", "--at-seq", "2")


def test_an_event_that_is_not_there_is_refused(root, capsys):
    """A seq before the run's first or behind its last says how many there are, and how they are counted."""
    for seq in ("999", "0", "-1", "99999999999999999999"):
        with pytest.raises(BadInput, match=f"has 38 events, counted from 1; there is none at {int(seq):,}."):
            text_of(capsys, timetravel, root, "r", "--at-seq", seq)
    with pytest.raises(BadInput, match="A page holds all events"):
        text_of(capsys, timetravel, root, "r", "--at-seq", "3", "--html", "x.html")


def test_a_fork_says_where_what_was_before_it_is_told(tmp_path, capsys):
    """A fork has events of its own, and names the run and the event that it goes on from."""
    with Log.open(tmp_path / "l") as log:
        first = RunCreated(run="old", agent="a", seed=bytes(32), initial_state={})
        fork = attrs.evolve(first, run="new", ancestor="old", ancestor_event=1, ancestor_seq=2, ancestor_hash=b"x")
        log.append(Draft(stream="run/old", body=first), Draft(stream="run/new", body=fork))
    found = object_of(capsys, timetravel, tmp_path / "l", "new", "--at-seq", "1")
    assert (found["forked_from"], found["last"]) == ({"run_id": "old", "seq": 1}, 1)
    assert found["transcript"] == {"conversations": []}
    out = text_of(capsys, timetravel, tmp_path / "l", "new", "--at-seq", "1")
    assert out.endswith("It is a fork of old behind its event 1: what was before that is told there.\n")
    with pytest.raises(BadInput, match="Run new has 1 event, counted from 1; there is none at 2."):
        text_of(capsys, timetravel, tmp_path / "l", "new", "--at-seq", "2")


def test_all_events_with_what_was_asked_for(root, capsys):
    """Without `--at-seq`, each event, with its difference and its standing where they are asked for."""
    plain = object_of(capsys, timetravel, root, "r")["events"]
    assert "standing" not in plain[0]
    assert "diff" not in plain[0]
    whole = object_of(capsys, timetravel, root, "r", "--include-diffs", "--include-states")["events"]
    assert [one["seq"] for one in whole] == list(range(1, len(plain) + 1))
    assert whole[-1]["standing"]["status"] == "completed"
    assert whole[-1]["budget"]["used"]["tool_calls"] == 3
    assert whole[5]["diff"]["proposed"] == [{"asked": True}]

    out = text_of(capsys, timetravel, root, "r", "--include-diffs", "--include-states")
    assert '± {"proposed": [{"asked": true}]' in out
    assert "step_claimed" in out


def test_a_page_is_written(root, capsys, tmp_path):
    """`--html` writes the run as a page of its own, and says so."""
    page = tmp_path / "r.html"
    found = object_of(capsys, timetravel, root, "r", "--html", str(page))
    assert found == {"run_id": "r", "html": str(page)}
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    assert page.stat().st_mode & 0o777 == 0o600  # it carries the run's key
    with pytest.raises(BadInput, match="cannot be written"):
        text_of(capsys, timetravel, root, "r", "--html", str(tmp_path / "no" / "r.html"))


# What was said, at any event


def talks(seed, turns=14):
    """Bodies of a run whose agents talk with models in every shape, and whose calls come to every end, or to none."""
    chance = random.Random(seed)
    bodies = [
        RunCreated(run="r", agent="a", seed=bytes(32), initial_state={}),
        StepCreated(step="s", number=1, agent="a"),
    ]
    open_talks, paths = [], iter(range(1, 10_000))
    for _ in range(turns):
        if not open_talks or chance.random() < 0.25:
            open_talks.append(
                [{"role": "user", "content": chance.choice(["hi", "ünï\n𝄞", "", [{"type": "text", "text": "b"}]])}]
            )
        said = chance.choice(open_talks)
        path = str(next(paths))
        messages = chance.choice([said, said, said, said[-3:], *([["odd", 7]] if chance.random() < 0.2 else [])])
        bodies.append(
            ModelCallRequested(
                path=path, attempt=1, model=chance.choice("mn"), request=b"x", messages=messages, parameters={}
            )
        )
        if chance.random() < 0.15:
            why = {"category": "model", "error_type": "E", "message": "down"}
            bodies.append(ModelCallFailed(path=path, attempt=1, **why))
            continue
        calls = [
            (f"c{chance.randrange(6)}", chance.choice("tu"), {"q": chance.choice([1, 1.0, "ä", None])})
            for _ in range(chance.randrange(3))
        ]
        response, message, streamed = _response(chance, calls)
        bodies.append(ModelCallCompleted(path=path, attempt=1, streamed=streamed, response=response))
        if message is not None:
            said.append(message)
        for id_, name, arguments in calls:
            outcome = _call(bodies, chance, str(next(paths)), name, arguments)
            if outcome is not None and chance.random() < 0.6:
                said += _result(chance, id_, outcome)
        if chance.random() < 0.5:
            said.append({"role": "user", "content": "go on"})
    return bodies


def _response(chance, calls):
    """What a model answers, in some provider's shape; as its agent says it again; and whether it came in chunks."""
    kind = chance.choice(["openai", "anthropic", "chunks", "events", "odd"])
    if kind == "odd":
        return chance.choice(["words", {"choices": []}, None, 3.5, {"a": [1, {"b": None}]}, []]), None, None
    if kind in ("anthropic", "events"):
        blocks = [{"type": "text", "text": "so"}] if chance.random() < 0.6 or not calls else []
        blocks += [{"type": "tool_use", "id": id_, "name": name, "input": given} for id_, name, given in calls]
        message = {"role": "assistant", "content": blocks}
        chunks = [{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}]
        chunks += [{"index": 0, "delta": {"type": "text_delta", "text": one}} for one in ("s", "o")]
        for at, (id_, name, given) in enumerate(calls, 1):
            chunks.append({"index": at, "content_block": {"type": "tool_use", "id": id_, "name": name, "input": {}}})
            chunks.append({"index": at, "delta": {"type": "input_json_delta", "partial_json": json.dumps(given)}})
        if kind == "events":
            return chunks, None, True
        return {"id": "x", "usage": {}, "stop_reason": "end", **message}, message, None
    listed = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": json.dumps(given)}}
        for id_, name, given in calls
    ]
    message = {"role": "assistant", "content": chance.choice(["yes", None, ""])} | (
        {"tool_calls": listed} if calls else {}
    )
    if kind == "chunks":
        deltas = [{"choices": [{"index": 0, "delta": {"content": one}}]} for one in ("y", "es")]
        for at, one in enumerate(listed):
            deltas.append({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": at, **one}]}}]})
        return deltas, None, True
    return {"id": "x", "choices": [{"message": message}]}, message, None


def _call(bodies, chance, path, name, arguments):
    """A call of a tool, to some end; what it returned, if it did."""
    if chance.random() < 0.2:
        return None
    writes = chance.choice(["external_write", "none"])
    bodies.append(
        ToolCallRequested(
            path=path, attempt=1, tool=name, tool_version="1", side_effect=writes, request=b"x", arguments=arguments
        )
    )
    end = chance.choice(["done", "done", "failed", "again", "doubt", "settled", "lost"])
    value = chance.choice(["text", {"n": 0.1, "b": [True, None]}, None, 1e22, [{"type": "text", "text": "t"}]])
    why = {"category": chance.choice(["tool", "unknown"]), "error_type": "ValueError", "message": "no"}
    if end == "done":
        bodies.append(ToolCallCompleted(path=path, attempt=1, result=value))
        return value
    if end == "failed":
        bodies.append(ToolCallFailed(path=path, attempt=1, in_doubt=False, **why))
    elif end == "again":
        bodies.append(ToolCallFailed(path=path, attempt=1, in_doubt=False, retry_ns=5, **why))
    elif end in ("doubt", "settled"):
        bodies.append(ToolCallFailed(path=path, attempt=1, in_doubt=True, **why))
    if end == "settled":
        outcome = chance.choice(["succeeded", "no_effect", "compensated", "resent"])
        bodies.append(ToolCallSettled(path=path, attempt=1, outcome=outcome, by="person", result=value))
    return None


def _result(chance, id_, value):
    """A result as an agent says it: in either shape, twice, or of no call."""
    text = value if isinstance(value, str) else json.dumps(value)
    one = {"role": "tool", "tool_call_id": id_, "content": text}
    block = {
        "type": "tool_result",
        "tool_use_id": id_,
        "content": chance.choice([text, [{"type": "text", "text": text}]]),
    }
    other = {"role": "user", "content": [block, {"type": "text", "text": "and"}]}
    return chance.choice(
        [[one], [one], [other], [one, one], [{**one, "tool_call_id": "nobody"}], [{**one, "content": 7}]]
    )


def _log_of(bodies):
    log = Log.in_memory()
    log.append(*(Draft(stream="run/r", body=body) for body in bodies))
    return log


@pytest.mark.parametrize("seed", range(8))
def test_the_transcript_at_any_event_is_that_of_the_events_up_to_there(seed):
    """Gone to in any order, forwards and backwards, it is what the events before make anew, and always valid."""
    with _log_of(talks(seed)) as log:
        events = list(log.stream("run/r"))
        expected = [of_events(events[:at]).as_json() for at in range(len(events) + 1)]
        spoken = [one.stream_seq for one in events if one.type in SPEAKS]
        dialogue = Dialogue(spoken, lambda seq: events[seq - 1])
        chance = random.Random(seed)
        order = [chance.randrange(len(events) + 1) for _ in range(150)]
        for seq in [*order, *range(len(events) + 1), *reversed(range(len(events) + 1))]:
            found = dialogue.at(seq)
            assert found.as_json() == expected[seq], seq
            for one in found.conversations:
                assert repair(one.messages).messages == one.messages


def test_going_back_through_a_transcript_reads_little_again():
    """A step forwards fetches one event at most; all the way back, an event is read again a few times, not n times."""
    with _log_of(talks(1, turns=150)) as log:
        events = list(log.stream("run/r"))
    fetched = []
    spoken = [one.stream_seq for one in events if one.type in SPEAKS]
    assert len(spoken) > 300
    dialogue = Dialogue(spoken, lambda seq: fetched.append(seq) or events[seq - 1])
    dialogue.at(len(events))
    assert fetched == spoken
    fetched.clear()
    for seq in reversed(range(1, len(events) + 1)):
        dialogue.at(seq)
    assert len(fetched) < len(spoken) * len(spoken).bit_length()
    for seq in range(1, len(events) + 1):
        before = len(fetched)
        dialogue.at(seq)
        assert len(fetched) - before <= 1


# What was used, at any event


def spending(runtime):
    """Runs that reserve, pay, fail, and are given up in doubt; `paying` and `doubting` have a budget of their own."""

    @tool(side_effect="external_write", cost=0.25)
    def pay(n: int) -> int:
        if n == 9:
            raise ConnectionResetError("the answer was lost")
        return n

    @tool
    def look(n: int) -> int:
        if n < 0:
            raise ValueError("nothing there")
        return n

    def asked(request):
        call = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": json.dumps({"n": 1})}}
        usage = {"prompt_tokens": 1_200, "completion_tokens": 34}
        return {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}], "usage": usage}

    @agent(name="kid", tools=[pay])
    async def kid(ctx):
        return await ctx.call_tool("pay", n=1)

    @agent(name="payer", tools=[pay, look], models=asked)
    async def payer(ctx, state):
        await ctx.call_model({"model": "m", "messages": [{"role": "user", "content": "pay for it"}]})
        await asyncio.gather(
            *(ctx.call_tool("pay", n=n) for n in (1, 2)), *(ctx.call_tool("look", n=n) for n in (1, 2))
        )
        try:
            await ctx.call_tool("look", n=-1)
        except ToolFailed:
            ctx.record_cost("gpu", usd=0.125, input_tokens=3)
        await (await ctx.spawn(kid, {})).join()
        if state["last"]:
            await ctx.call_tool("pay", n=state["last"])

    whole = Budget(usd=5, tool_calls=40, tokens=90_000)
    runtime.set_budget(Budget(usd=1_000), agent="payer")
    runtime.run(payer, run_id="paying", initial_state={"last": 0}, budget=whole, session_id="S")
    runtime.run(payer, run_id="free", initial_state={"last": 0})
    with pytest.raises(InDoubt):
        runtime.run(payer, run_id="doubting", initial_state={"last": 9}, budget=whole)
    runtime.set_budget(Budget(usd=7), run="doubting", reason="more")
    runtime.cancel_run("doubting")


def test_what_is_held_is_what_the_budget_has_reserved():
    """At each event of a run that has a budget to itself, its calls hold what the budget says is reserved, then."""
    with Runtime.in_memory() as runtime:
        spending(runtime)
        log = runtime.log
        for run_id in ("paying", "doubting"):
            events = list(log.stream(f"run/{run_id}"))
            kids = {one.seq for name in log.streams("run/run_") for one in log.stream(name)}
            steps = [(one, change.use) for one, change in zip(events, deltas(events), strict=True)]
            for one, use in steps:
                own, both = budgets_at(log, one, use)
                assert (own.name, both.name) == (f"run:{run_id}", "agent:payer")
                if one.seq + 1 not in kids:  # a child draws on its parent's budget
                    assert use.held.get(own.name, {}) == own.reserved, one
                    assert own.open == use.open
            assert {use.open for _, use in steps} >= {0, 1, 2, 3, 4}
            (last, use), (begun, nothing) = steps[-1], steps[0]
            assert (
                budgets_at(log, last, use)[0]
                == runtime.budgets()[[b.name for b in runtime.budgets()].index(f"run:{run_id}")]
            )
            assert budgets_at(log, begun, nothing)[0].spent == {}
            assert (use.model_calls, use.input_tokens, use.output_tokens) == (1, 1_203, 34)
        assert use.held == {
            "agent:payer": {"usd_nano": 250_000_000},
            "run:doubting": {"tool_calls": 1, "usd_nano": 250_000_000},
        }
        assert budgets_at(log, last, use)[0].limits == {"usd_nano": 7_000_000_000}
        assert budgets_at(log, begun, nothing)[0].limits == nothing.bounds
        free = list(log.stream("run/free"))
        assert [one.name for one in budgets_at(log, free[-1], list(deltas(free))[-1].use)] == ["agent:payer"]


def test_a_budget_of_thousands_of_changes_is_found_at_any_event():
    """However often a budget moved, it is found as it was: by each event's own change."""
    with Log.in_memory() as log:
        body = RunCreated(run="r", agent="a", seed=bytes(32), initial_state={}, budget={"calls": 9_000})
        limits = {"account": "run:r", "limits": {"calls": 9_000}, "open": 0}
        what = {"tool": "t", "tool_version": "1", "side_effect": "none", "request": b"x", "arguments": None}
        drafts = [Draft(stream="run/r", body=body)]
        drafts.append(
            Draft(stream="budget_run/r", body=BudgetChanged(**limits, why="set", run="r", spent={}, reserved={}))
        )
        for n in range(1, 1_501):
            call = {"path": str(n), "attempt": 1}
            spent, held = {"calls": n - 1}, {"calls": 1}
            moves = {"run": "r", **call}
            drafts += [
                Draft(stream="run/r", body=ToolCallRequested(**call, **what, reserved={"run:r": held})),
                Draft(
                    stream="budget_run/r",
                    body=BudgetChanged(**limits, why="reserved", spent=spent, reserved=held, **moves),
                ),
                Draft(stream="run/r", body=ToolCallCompleted(**call, result=None)),
                Draft(
                    stream="budget_run/r",
                    body=BudgetChanged(**limits, why="settled", spent={"calls": n}, reserved={}, **moves),
                ),
            ]
        log.append(*drafts)
        events = list(log.stream("run/r"))
        uses = [one.use for one in deltas(events)]
        for at in (0, 1, 2, 3, 500, 777, 1_500, 2_998, 2_999, 3_000):
            (found,) = budgets_at(log, events[at], uses[at])
            assert found.spent.get("calls", 0) == at // 2
            assert found.reserved == uses[at].held.get("run:r", {}) == ({"calls": 1} if at % 2 else {})


# The view


def _view(root, run="r"):
    with Log.open(root, readonly=True) as log:
        events = list(log.stream(f"run/{run}"))
    reel = Reel(events)
    texts = [json.dumps(event_json(one)) for one in events]

    def find(text, seq):
        places = [*range(seq, len(texts)), *range(seq)]
        return next((place + 1 for place in places if text in texts[place]), None)

    return viewer.View(reel=reel, event=lambda seq: event_json(events[seq - 1]), find=find, title=run)


def _shown(view, width=80, height=24):
    return [line.plain for line in viewer.screen(view, width, height)]


def test_keys_move_and_stay_inside(root):
    """Arrows, pages, ends, a number and a search move through the run, and never out of it."""
    view = _view(root)
    last = len(view.reel)

    def press(*keys):
        for key in keys:
            view.press(key)
        return view.seq

    assert press("\x1b[D") == 1
    assert press("\x1b[C", "l", "j") == 4
    assert press("h") == 3
    assert press("\x1b[6~") == 23
    assert press("\x1b[6~", "\x1b[6~") == last
    assert press("\x1b[5~") == last - 20
    assert press("\x1b[H") == 1
    assert press("G") == last
    assert press("g", "1", "x", "2", "\r") == 12
    assert press("g", *"999999999999999999", "\r") == last
    assert press("g", "\r") == last
    assert press("g", "5", "\x7f", "7", "\r") == 7
    assert press("g", "\x1b") == 7
    assert press("/", *"flaky", "\r") > 7
    assert press("n") > view.reel.delta(1).seq
    assert press("?", "\x1b[Z", "ü") == view.seq
    press("/", *"nowhere at all", "\r")
    assert "nothing holds" in view.notice
    assert not view.done
    press("q")
    assert view.done


def test_what_is_shown_follows_the_view(root):
    """The event, how the run stands, its changes and its state, as the keys say; cut to any terminal."""
    view = _view(root)
    view.seq = 6
    shown = "\n".join(_shown(view, 100, 40))
    assert "event 6 of" in shown
    assert "state_patch_proposed" in shown
    assert '"proposed_count": 1' in shown
    view.press("d")
    assert '"proposed_count": 1' not in "\n".join(_shown(view, 100, 40))
    view.press("s")
    assert '"asked": true' in "\n".join(_shown(view, 100, 40))
    for width, height in ((80, 24), (10, 3), (1, 1), (300, 100)):
        for seq in (1, 6, len(view.reel)):
            view.seq = seq
            lines = _shown(view, width, height)
            assert len(lines) == height
            assert all(len(line) <= width for line in lines)
            assert "\x1b" not in "".join(lines)


def test_a_frame_is_at_hand_for_a_forgotten_run(root):
    """A run whose content is gone can be gone through."""
    view = _view(root, "e")
    view.state = True
    for seq in range(1, len(view.reel) + 1):
        view.seq = seq
        assert "<forgotten>" in "\n".join(_shown(view, 100, 60))


def _panes(log, run):
    events = list(log.stream(f"run/{run}"))
    reel = Reel(events)
    view = viewer.View(reel=reel, event=lambda seq: event_json(events[seq - 1]), find=lambda *_: None, title=run)
    return Panes(
        view=view,
        dialogue=Dialogue(reel.of_types(SPEAKS), lambda seq: events[seq - 1]),
        budgets=lambda seq, use: budgets_at(log, events[seq - 1], use),
    )


def _drawn(shown, width=80, height=24):
    return "\n".join(line.plain for line in shown.screen(width, height))


def test_keys_lead_through_the_panes():
    """Numbers and Tab show state, steps, ledger, budget and transcript of the event, and go on with it."""
    with Runtime.in_memory() as runtime:
        spending(runtime)
        shown = _panes(runtime.log, "paying")
        shown.press("G")
        assert "status    completed" in _drawn(shown)
        for key, words in (
            ("1", '"last": 0'),
            ("2", "   1  completed        payer  attempt 1, epoch"),
            ("3", "SUCCEEDED             pay  attempt 1"),
            ("4", "left     run paying: "),
            ("5", "     user  pay for it"),
        ):
            shown.press(key)
            assert words in _drawn(shown), key
        assert "→ pay" in _drawn(shown)
        shown.press("\t")
        assert "status    completed" in _drawn(shown)
        shown.press("\x1b[Z")
        assert "pay for it" in _drawn(shown)
        shown.press("\x1b[H")
        assert "Nothing was said yet." in _drawn(shown)
        shown.press("4")
        assert "used     0 steps, 0 model calls, 0 tool calls" in _drawn(shown)
        shown.press("2")
        assert "No step was created yet." in _drawn(shown)
        for key in ("g", "1", "2", "\r"):  # digits that are typed go to no pane
            shown.press(key)
        assert (shown.view.seq, shown.pane) == (12, 2)


def test_the_end_of_a_long_transcript_is_shown_and_what_is_before_can_be_scrolled_to():
    """On 80 by 24 the end is in sight with a count of what is before; each key goes a page, and never out of it."""
    said = [
        {"role": "user", "content": f"message {number}\nsecond line \x1b[31m {'word ' * 40}"} for number in range(200)
    ]
    with _log_of(
        [
            RunCreated(run="r", agent="a", seed=bytes(32), initial_state={"n": list(range(300))}),
            ModelCallRequested(path="1", attempt=1, model="m", request=b"x", messages=said, parameters={}),
        ]
    ) as log:
        shown = _panes(log, "r")
        for key in ("G", "5"):
            shown.press(key)
        assert "message 199" in _drawn(shown)
        assert re.search(r"… [\d,]+ more lines above, and 1\d\d messages", _drawn(shown))
        seen = ""
        for _ in range(200):
            seen += _drawn(shown)
            shown.press("[")
        assert all(f"message {number}\n" in re.sub(" +\n", "\n", seen) for number in range(200))
        assert "── m, 200 messages" in _drawn(shown)
        for _ in range(200):
            _drawn(shown)
            shown.press("]")
        assert "message 199" in _drawn(shown)
        assert shown.scroll == 0
        shown.press("1")
        assert _drawn(shown).count("more lines below") == 1
        shown.press("]")
        assert "more lines above" in _drawn(shown)
        for pane in range(6):
            shown.press(str(pane))
            for width, height in ((80, 24), (10, 3), (1, 1), (300, 100), (7, 2)):
                lines = shown.screen(width, height)
                assert len(lines) == height, (pane, width, height)
                assert all(line.cell_len <= width for line in lines)
                assert "\x1b" not in "".join(line.plain for line in lines)


def test_steps_are_as_they_stood():
    """A run of several steps has those that were created by an event, the last of them as the run is then."""

    @agent(name="second")
    async def second(ctx, state):
        return ctx.capture("n", lambda: state["n"])

    @agent(name="first")
    async def first(ctx, state):
        ctx.capture("n", lambda: 1)
        return ctx.continue_with(second, {"n": 2})

    with Runtime.in_memory() as runtime:
        assert runtime.run(first, run_id="r").status == "completed"
        events = list(runtime.log.stream("run/r"))
    reel = Reel(events)
    created = [one.stream_seq for one in events if one.type == "step_created"]
    ended = [one.stream_seq for one in events if one.type == "step_completed"]
    assert len(created) == len(ended) == 2
    for seq in range(1, len(events) + 1):
        rows = reel.steps(reel.frame(seq))
        assert [(one.agent, one.created) for one in rows] == [
            (name, at) for name, at in zip(("first", "second"), created, strict=True) if at <= seq
        ]
        assert [one.ended for one in rows] == [at if at <= seq else 0 for at in ended[: len(rows)]]
    assert [one.status for one in reel.steps(reel.frame(created[1]))] == ["completed", "pending"]
    assert [one.status for one in reel.steps(reel.frame(ended[0] - 1))] == ["running"]


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"role": "user", "content": "hi"}, ["hi"]),
        ({"role": "user", "content": None}, []),
        ({}, []),
        ({"content": [{"type": "text"}, 7, {"type": "image"}]}, ["", "7", '{"type": "image"}']),
        ({"content": [{"type": "tool_use", "name": "t", "input": {"a": 1}}]}, ['→ t {"a": 1}']),
        ({"content": [{"type": "tool_result", "content": [{"type": "text", "text": "r"}]}]}, ["← r"]),
        ({"content": "", "tool_calls": [{"function": {"name": "t", "arguments": "{}"}}, 3]}, ["", "→ t {}", "→  "]),
    ],
)
def test_a_message_in_words(message, parts):
    """Whatever a message is, what it says, asks for and brings back is told in lines."""
    assert panes.parts_of(message) == parts


# A real terminal

_SCRIPT = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is this session's own: Ctrl-C is its interrupt
from pathlib import Path
from cli.commands.travel import timetravel
from cli.output import Settings
try:
    timetravel.main([sys.argv[2]], obj=Settings(root=Path(sys.argv[1])), standalone_mode=False)
finally:
    print("LEFT")
"""


@attrs.define
class Terminal:
    """A process on a pseudo terminal."""

    master: int
    child: subprocess.Popen[bytes]
    text: str = ""

    def wait(self, pattern: str, seconds: float = 30) -> str:
        """What was printed until a pattern came, since the last time."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            left = end - time.monotonic()
            assert left > 0, f"{pattern!r} did not come in:\n{self.text[-3000:]}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    self.text += os.read(self.master, 65_536).decode(errors="replace")
                except OSError:
                    assert re.search(pattern, self.text), self.text[-3000:]
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@pytest.fixture
def terminal(root):
    """`timetravel r` on a pseudo terminal of 100 by 30."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (30, 100))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm-256color"}
    command = [sys.executable, "-c", _SCRIPT, str(root), "r"]
    child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
    yield Terminal(master, child), slave
    if child.poll() is None:
        child.kill()
    child.wait()
    os.close(master)
    os.close(slave)


def test_keys_on_a_real_terminal(terminal):
    """Keys move the state that is shown, q leaves, and the terminal is as it was."""
    shown, slave = terminal
    before = termios.tcgetattr(slave)
    shown.wait(r"event 1 of (\d+)")
    shown.press("\x1b[C")
    shown.wait("event 2 of")
    shown.press("lll")
    shown.wait("event 5 of")
    assert not termios.tcgetattr(slave)[3] & termios.ICANON
    shown.press("\x1b[D")
    shown.wait("event 4 of")
    shown.press("g12\r")
    shown.wait("event 12 of")
    shown.press("/flaky\r")
    shown.wait("tool_call_requested  8")
    shown.press("s")
    shown.wait("state, as the code sees it")
    shown.press("\x1b[F")
    shown.wait("run_completed")
    shown.press("5")
    shown.wait("assistant  hi")
    shown.press("4")
    shown.wait(r"used     1 step, 1 model call, 3 tool calls")
    shown.press("\x1b[H")
    shown.wait(r"used     0 steps")
    shown.press("\t")
    shown.wait("Nothing was said yet")
    shown.press("3g11\r")
    shown.wait("SUCCEEDED             post")
    shown.press("2[]")
    shown.wait("   1  running          main")
    shown.press("q")
    shown.wait("LEFT")
    assert shown.child.wait(30) == 0
    assert termios.tcgetattr(slave) == before


@pytest.mark.parametrize("leave", ["ctrl-c", "ctrl-d", "escape", "terminated"])
def test_the_terminal_comes_back_however_one_leaves(terminal, leave):
    """Ctrl-C, Ctrl-D, Escape and a polite signal leave the view, and the terminal is as it was."""
    shown, slave = terminal
    before = termios.tcgetattr(slave)
    shown.wait("event 1 of")
    if leave == "terminated":
        shown.child.send_signal(signal.SIGTERM)
    else:
        shown.press({"ctrl-c": "\x03", "ctrl-d": "\x04", "escape": "\x1b"}[leave])
    left = shown.wait("LEFT")
    assert "\x1b[?25h\x1b[?1049l" in left
    assert shown.child.wait(30) == (128 + signal.SIGTERM if leave == "terminated" else 0)
    assert termios.tcgetattr(slave) == before


def test_a_terminal_of_no_size_is_drawn_on(root):
    """A view draws on whatever there is: a terminal that says it has no columns, and one that is resized meanwhile."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "dumb"}
    child = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(root), "r"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    shown = Terminal(master, child)
    try:
        shown.wait("event 1 of")
        termios.tcsetwinsize(slave, (2, 7))
        shown.press("l")
        termios.tcsetwinsize(slave, (40, 120))
        shown.wait("event 2 of")
        shown.press("l")
        shown.wait("event 3 of")
        shown.press("\x1b")
        shown.wait("LEFT")
        assert child.wait(30) == 0
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        os.close(master)
        os.close(slave)


def test_a_long_run_has_its_timeline(tmp_path, capsys):
    """A run of thousands of effects has a timeline with a line for each, and any of its states."""

    @agent(name="long")
    def long(ctx):
        for number in range(1_000):
            ctx.write_state_patch(f"k{number % 5}", number)

    with Runtime(Log.open(tmp_path / "l")) as runtime:
        runtime.run(long, run_id="long")
    lines = object_of(capsys, debug, tmp_path / "l", "long")["timeline"]
    assert sum(line["type"] == "state_patch_proposed" for line in lines) == 1_000
    found = object_of(capsys, timetravel, tmp_path / "l", "long", "--at-seq", "500")
    assert found["standing"]["proposed_count"] == 497
