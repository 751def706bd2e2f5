"""Spans of runs: of whatever happened, the same each time, in a tree, without a word that anybody said."""

from __future__ import annotations

import json
from datetime import datetime

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites import histories
from suites.stories import RUNS, command, model, told

from agentledger import BadInput, Log, NotFound, Runtime, agent
from cli import scopes
from cli.commands.travel import trace
from ledger_core.clock import NS
from ledger_core.events.effect import ToolCallFailed, ToolCallRequested, ToolCallSettled
from ledger_core.events.run import RunCreated
from ledger_core.events.step import StepClaimed, StepCreated, StepFailed, StepRetryScheduled
from ledger_core.events.wait import ChildRunRequested, SignalAwaited
from ledger_core.log.record import Event
from projections.scope import Scope, runs_of
from projections.spans import MOST_EVENTS, SCHEMA, span_id
from projections.trace import of_scope, spans
from projections.views import open_caught_up

LEDGER = bytes(16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A ledger of runs that went through much."""
    path = tmp_path_factory.mktemp("trace") / "ledger"
    with Runtime(Log.open(path), models=model) as runtime:
        told(runtime)
    return path


def lines(capsys, root, *arguments):
    capsys.readouterr()
    assert command(trace, root, *arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]]


def of_kind(found, kind, run=None):
    return [
        one
        for one in found
        if one["attributes"]["agentledger.kind"] == kind and run in (None, one["attributes"]["agentledger.run_id"])
    ]


def event(seq, body):
    return Event(seq, bytes(32), seq * NS, "run/r", 1, seq, body.kind.name, "t", None, None, None, body)


@settings(max_examples=100)
@given(made=st.lists(histories.bodies(), min_size=1, max_size=40))
def test_any_history_has_spans(made):
    """Whatever happened, in whatever order: each event is in one span, ids are unique, parents are there, one run."""
    found = [one.as_json() for one in spans(LEDGER, [event(seq, body) for seq, body in enumerate(made, 1)])]
    told_ = sorted(one["attributes"]["agentledger.run_seq"] for span in found for one in span["events"])

    assert told_ == list(range(1, len(made) + 1))
    ids = [span["span_id"] for span in found]
    assert len(set(ids)) == len(ids)
    assert [span["attributes"]["agentledger.kind"] for span in found].count("run") == 1
    assert found[-1]["attributes"]["agentledger.kind"] == "run"
    for span in found[:-1]:
        assert span["parent_span_id"] in ids
    for span in found:
        json.dumps(span, allow_nan=False)
        assert span["end_time_unix_nano"] is None or span["end_time_unix_nano"] >= span["start_time_unix_nano"]
        assert "words" not in json.dumps(span)  # what histories put wherever somebody speaks


def test_a_run_and_its_children_are_one_trace(root, capsys):
    """Run, steps, effects and waits hang together, over the border of the child's run, and have one trace id."""
    found = lines(capsys, root, "r")
    by_id = {one["span_id"]: one for one in found}
    assert {one["schema"] for one in found} == {SCHEMA}
    assert len({one["trace_id"] for one in found}) == 1
    roots = [one for one in found if one["parent_span_id"] not in by_id]
    assert [(one["name"], one["parent_span_id"]) for one in roots] == [("run main", None)]

    (child_run,) = [one for one in of_kind(found, "run") if one["name"] == "run child"]
    starts = by_id[child_run["parent_span_id"]]
    assert (starts["name"], starts["status"]["code"], starts["status"]["message"]) == (
        "child child",
        "ERROR",
        "ValueError",
    )
    assert by_id[by_id[starts["parent_span_id"]]["parent_span_id"]]["name"] == "run main"


def test_effects_have_their_times_status_and_cost(root, capsys):
    """A model's tokens, a tool's price, failures by type, waits from asking to answer, attempts in one step."""
    found = lines(capsys, root, "r")
    (asked,) = of_kind(found, "model", "r")
    assert asked["attributes"]["gen_ai.usage.input_tokens"] == 12
    assert [one["name"] for one in asked["events"]] == ["model_call_requested", "model_call_completed"]
    tools = of_kind(found, "tool", "r")
    assert [one["attributes"]["gen_ai.tool.name"] for one in tools].count("post") == 2
    assert {one["attributes"].get("agentledger.usd") for one in tools if one["name"] == "tool post"} == {0.25}
    failed = [one for one in tools if one["status"]["code"] == "ERROR"]
    assert [(one["name"], one["status"]["message"]) for one in failed] == [("tool flaky", "ValueError")]
    waits = {one["name"]: one["status"]["code"] for one in of_kind(found, "wait", "r")}
    assert waits["wait signal go"] == "OK"
    assert [one["status"]["message"] for one in of_kind(found, "wait", "r") if one["status"]["code"] == "ERROR"] == [
        "WaitTimedOut"
    ]
    (step,) = of_kind(found, "step", "r")
    assert (step["attributes"]["agentledger.attempts"], step["status"]["code"]) == (2, "OK")
    (whole,) = of_kind(found, "run", "r")
    assert whole["attributes"]["agentledger.usd"] == 1.0
    assert all(one["end_time_unix_nano"] is not None for one in found)


def test_what_has_not_ended_ends_at_null(root, capsys):
    """A run in flight, its step and its wait are open; so is a call in doubt, and nothing else of its run."""
    waiting = lines(capsys, root, "w")
    assert [one["end_time_unix_nano"] for one in waiting] == [None] * 3
    assert {one["attributes"]["agentledger.kind"] for one in waiting} == {"run", "step", "wait"}

    doubtful = [one for one in lines(capsys, root, "d") if one["end_time_unix_nano"] is None]
    assert [one["attributes"]["agentledger.kind"] for one in doubtful] == ["tool", "step", "run"]
    assert doubtful[0]["attributes"]["agentledger.in_doubt"] is True


def test_exported_twice_it_is_the_same(root, capsys):
    """Every id and every time of an export are those of the one before; the whole ledger's are those of its runs."""
    whole = lines(capsys, root)
    assert whole == lines(capsys, root)
    assert len({one["span_id"] for one in whole}) == len(whole)
    own = [one for run in RUNS for one in lines(capsys, root, run)]
    assert sorted(whole, key=lambda one: one["span_id"]) == sorted(own, key=lambda one: one["span_id"])


def test_nothing_that_anybody_said_is_in_it(root, capsys):
    """Arguments, answers, reasons, error texts and state are nowhere in a trace."""
    text = json.dumps(lines(capsys, root), ensure_ascii=False)
    for said in ("ünïcode", "own words", "Ada", "fine", "May I?", "not yet", '"hi"', "asked"):
        assert said not in text


def test_a_span_holds_so_many_events(tmp_path, capsys):
    """A step of thousands of writes to its state is one span of the first events, and the number of the others."""

    @agent(name="long")
    def long(ctx):
        for number in range(1_000):
            ctx.write_state_patch("k", number)

    with Runtime(Log.open(tmp_path / "l")) as runtime:
        runtime.run(long, run_id="long")
    (step,) = of_kind(lines(capsys, tmp_path / "l"), "step")
    assert len(step["events"]) == MOST_EVENTS
    assert step["dropped_events_count"] > 800


def test_a_call_begun_again_in_an_open_span_is_the_same_span(runtime):
    """A run that lost its worker between intent and outcome goes on in the same span, and its ids do not move."""

    @agent(name="a")
    def main(ctx):
        ctx.wait_signal("go")
        return ctx.wait_signal("go")

    runtime.run(main, run_id="r", wait=False)
    early = {one.span_id: one for one in of_scope(runtime.log, Scope(run="r"))}
    runtime.signal("r", "go", 1)
    runtime.signal("r", "go", 2)
    runtime.run(main, run_id="r")
    late = {one.span_id: one for one in of_scope(runtime.log, Scope(run="r"))}
    assert early.keys() < late.keys()
    assert all(one.end_ns is None for one in early.values())
    assert all(one.end_ns is not None for one in late.values())
    assert span_id(runtime.log.id, "r", 0) in early


def _told(*made):
    return list(spans(LEDGER, [event(seq, body) for seq, body in enumerate(made, 1)]))


BEGUN = (
    RunCreated(run="r", agent="a", seed=bytes(32), initial_state={}),
    StepCreated(step="s", number=1, agent="a"),
    StepClaimed(step="s", epoch=1, worker="w", base_version=0),
)
WRITE = {"tool": "t", "tool_version": "1", "side_effect": "external_write", "request": b"x", "arguments": {}}


def test_a_call_in_doubt_is_open_until_somebody_knows():
    """A call that is sent again, or whose failure is not the end, goes on; the word of a person ends it."""
    call = {"path": "1", "attempt": 1}
    lost = ToolCallFailed(**call, category="tool", error_type="E", in_doubt=True, message="")
    resent = ToolCallSettled(**call, outcome="resent", by="key")
    again = ToolCallSettled(**call, outcome="no_effect", by="verify", again=True)
    asked = ToolCallRequested(**call, **WRITE)
    for made in ((asked, lost), (asked, lost, resent), (asked, lost, again)):
        (tool_span,) = [one for one in _told(*BEGUN, *made) if one.kind == "tool"]
        assert tool_span.end_ns is None
    settled = ToolCallSettled(**call, outcome="succeeded", by="person")
    (tool_span,) = [one for one in _told(*BEGUN, asked, lost, resent, settled) if one.kind == "tool"]
    assert (tool_span.end_ns, tool_span.status) == (7 * NS, "OK")


def test_what_the_code_does_not_wait_for_any_more_ends():
    """The end of a step, and an attempt from its beginning, end its waits; a call in doubt and a child stay open."""
    waits = SignalAwaited(path="1", name="go", request=b"x", asked=None)
    calls = ToolCallRequested(path="2", attempt=1, **WRITE)
    spawns = ChildRunRequested(path="3", run="c", agent="a", request=b"x", asked=None)
    fresh = StepRetryScheduled(
        step="s", epoch=1, attempt=2, wake_ns=9, category="retryable", error_type="E", fresh=True, message=""
    )
    failed = StepFailed(step="s", epoch=1, category="unhandled", error_type="E", message="")
    for breaks in (fresh, failed):
        found = {one.kind: one for one in _told(*BEGUN, waits, calls, spawns, breaks)}
        assert found["wait"].end_ns == 7 * NS
        assert found["wait"].attributes["agentledger.dropped"] is True
        assert (found["tool"].end_ns, found["child"].end_ns) == (None, None)


# Scopes


def test_scopes_of_runs_sessions_times_and_all(root, capsys):
    """A run with its children, a session, a span of time and everything."""
    with Log.open(root, readonly=True) as log, open_caught_up(log) as views:
        every = set(runs_of(log, Scope()))
        created = {row["run"]: row["created_ns"] for row in views.rows("runs")}
        kids = {row["run"]: row["parent"] for row in views.rows("runs") if row["parent"]}
        assert every == created.keys()
        assert set(kids.values()) == {"r", "d", "g"}
        half = created["f"]
        for scope, expected in (
            (Scope(), every),
            (Scope(run="r"), {"r", *(kid for kid, parent in kids.items() if parent == "r")}),
            (Scope(run="f"), {"f"}),
            (Scope(session="S"), {"r", "d", *(kid for kid, parent in kids.items() if parent in "rd")}),
            (Scope(since_ns=half), {run for run, at in created.items() if at >= half}),
            (Scope(until_ns=half), {run for run, at in created.items() if at < half}),
            (Scope(since_ns=half, until_ns=half), set()),
        ):
            assert set(runs_of(log, scope)) == expected, scope
            assert len(list(runs_of(log, scope))) == len(expected)
        with pytest.raises(NotFound):
            list(runs_of(log, Scope(run="nobody")))
        with pytest.raises(NotFound):
            list(runs_of(log, Scope(session="nobody")))
    assert lines(capsys, root, "--session", "S")
    assert lines(capsys, root, "--since", "1h")
    assert lines(capsys, root, "--until", "1h") == []


def test_times_as_people_write_them():
    """Dates and times with and without a zone, and how long ago; anything else is refused with what to write."""
    now = int(datetime.fromisoformat("2026-11-23T12:00:00+00:00").timestamp()) * NS
    assert scopes.time_of("2h", now) == now - 7_200 * NS
    assert scopes.time_of("1.5 d ago", now) == now - 129_600 * NS
    assert scopes.time_of("90s", now) == now - 90 * NS
    assert scopes.time_of("0s", now) == now
    assert scopes.time_of("2026-11-23T12:00:00Z") == now
    assert scopes.time_of("2026-11-23T13:00+01:00") == now
    assert scopes.time_of("2026-11-23T12:00:00.250000Z") == now + NS // 4
    local = datetime.fromisoformat("2026-11-23")
    assert scopes.time_of("2026-11-23") == int(local.timestamp()) * NS
    for wrong in ("", "yesterday", "h", "-2h", "2026-13-01", "1e9d", "99999999999d", "2 fortnights", "٣d"):
        with pytest.raises(BadInput, match="is no time"):
            scopes.time_of(wrong)


def test_scopes_that_say_two_things_are_refused(root, capsys):
    """A run beside other options, times the wrong way round and sessions that are not there are refused."""
    for arguments in (
        ("r", "--session", "S"),
        ("r", "--since", "1h"),
        ("--since", "1h", "--until", "2h"),
        ("--session", "nobody"),
        ("nobody",),
    ):
        with pytest.raises((BadInput, NotFound)):
            command(trace, root, *arguments)


def test_an_empty_ledger_has_no_spans(tmp_path, capsys):
    """A ledger without runs has an empty trace, and a word about it."""
    Log.open(tmp_path / "l").close()
    assert lines(capsys, tmp_path / "l") == []
    command(trace, tmp_path / "l")
    assert "no runs" in capsys.readouterr().err


def test_json_changes_nothing_and_the_help_says_so(capsys, root):
    """A line is a JSON object, with --json and without, and no help promises one object."""
    assert len(lines(capsys, root)) > 1
    assert lines(capsys, root, "--json") == lines(capsys, root)
    words = trace.get_help(click.Context(trace))
    assert "Print one JSON object" not in words
    assert "a JSON object a line" in words
