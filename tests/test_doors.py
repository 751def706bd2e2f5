"""What is refused at the door, in one sentence with a hint, and leaves no event; attached code; sessions."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from suites.runs import TOOLS, bodies

from agentledger import BadInput, KeyConflict, LedgerError, NotFound, Refused, Runtime, agent, tool
from ledger_core.runtime.protocol import Protocol

LONG = "x" * 200


@agent(name="ok", tools=TOOLS)
async def ok(ctx):
    return 1


@pytest.mark.parametrize(
    "asking",
    [
        lambda rt: rt.run(ok, run_id=""),
        lambda rt: rt.run(ok, run_id="a\nb"),
        lambda rt: rt.run(ok, run_id="latest"),
        lambda rt: rt.run(ok, run_id=LONG),
        lambda rt: rt.run(ok, session_id=""),
        lambda rt: rt.run(ok, initial_state=[1]),
        lambda rt: rt.run(ok, initial_state={"a": object()}),
        lambda rt: rt.run(ok, retry_policy={"max_attempts": 0}),
        lambda rt: rt.run(ok, retry_policy=0),
        lambda rt: rt.run(ok, retry_policy={"attempts": 3}),
        lambda rt: rt.run(ok, priority=1000),
        lambda rt: rt.run(ok, priority="high"),
        lambda rt: rt.run(ok, capabilities="gpu"),
        lambda rt: rt.run(ok, capabilities=["a\nb"]),
        lambda rt: rt.run(ok, timeout=-1),
        lambda rt: rt.run(ok, colour="red"),
        lambda rt: rt.create_run("a\nb"),
        lambda rt: rt.create_run(""),
        lambda rt: rt.worker(),
        lambda rt: rt.worker(ok, concurrency=0),
        lambda rt: rt.worker(ok, capabilities="gpu"),
        lambda rt: rt.signal("nobody", "go"),
        lambda rt: rt.signal("", "go"),
        lambda rt: rt.cancel_run("nobody"),
        lambda rt: rt.cancel_run(""),
        lambda rt: rt.approve(""),
        lambda rt: rt.approve("appr_nobody"),
        lambda rt: rt.resume("nobody", ok),
        lambda rt: rt.session(""),
        lambda rt: rt.session("s", user=""),
        lambda rt: rt.session("s", channel="a\nb"),
        lambda rt: rt.session("s", variables=[1]),
        lambda rt: rt.session("s", grants="all"),
        lambda rt: rt.get_session("nobody"),
        lambda rt: rt.attach("").__enter__(),
        lambda rt: rt.attach("a", agent="").__enter__(),
        lambda rt: tool(name="t", timeout=0)(lambda: 1),
        lambda rt: tool(name="t", settle_after=-1)(lambda: 1),
        lambda rt: tool(name="t", retry=0)(lambda: 1),
        lambda rt: tool(name="t", outage=("x",))(lambda: 1),
        lambda rt: agent(name="a\nb")(lambda ctx: 1),
        lambda rt: agent(name="a", timeout=0)(lambda ctx: 1),
    ],
)
def test_bad_input_is_refused_and_leaves_no_event(runtime, asking):
    """One typed error, in a sentence, and the log is as it was."""
    before = runtime.log.head()

    with pytest.raises(LedgerError) as raised:
        asking(runtime)

    assert raised.value.sentence.endswith(".")
    assert "\n" not in raised.value.sentence
    assert runtime.log.head() == before


@pytest.mark.parametrize(
    "doing",
    [
        lambda ctx: ctx.wait_signal(""),
        lambda ctx: ctx.wait_signal("a\nb"),
        lambda ctx: ctx.wait_signal("go", timeout=-1),
        lambda ctx: ctx.sleep(-1),
        lambda ctx: ctx.sleep("1"),
        lambda ctx: ctx.sleep(float("nan")),
        lambda ctx: ctx.sleep(float("inf")),
        lambda ctx: ctx.sleep_until(datetime(2030, 1, 1)),
        lambda ctx: ctx.request_approval(object()),
        lambda ctx: ctx.spawn(""),
        lambda ctx: ctx.spawn("a\nb"),
        lambda ctx: ctx.spawn(ok, [1]),
        lambda ctx: ctx.spawn(ok, run_id=""),
        lambda ctx: ctx.spawn(ok, retry_policy={"max_attempts": 0}),
        lambda ctx: ctx.spawn(ok, colour=1),
        lambda ctx: ctx.patched(""),
        lambda ctx: ctx.write_state_patch("a", object()),
        lambda ctx: ctx.write_state_patch([1]),
        lambda ctx: ctx.write_state_patch({1: 2}),
        lambda ctx: ctx.scope("a/b").__enter__(),
        lambda ctx: ctx.call_model({"messages": []}, timeout=-1),
        lambda ctx: ctx.call_tool("a\nb"),
    ],
)
def test_bad_input_of_an_agent_records_no_effect(runtime, doing):
    """An agent that asks for nonsense is told at the call, and no effect of it is in the log."""

    @agent(name="a")
    def main(ctx):
        with pytest.raises(BadInput):
            doing(ctx)
        return "told"

    result = runtime.run(main, run_id="r")

    if result.status == "waiting":  # a tool that is not there is for somebody to mend
        assert runtime.state("r").waiting == "blocked"
    else:
        assert result.output == "told"
    assert runtime.state("r").effects == 0


def test_nobody_waits_for_its_own_parent(runtime):
    """A run that would be its own parent, or joins what is no child of it, is stopped with the reason, and waits."""

    @agent(name="a")
    async def own(ctx):
        await ctx.spawn(own, run_id=ctx.run_id)

    @agent(name="b")
    async def joins(ctx):
        await ctx.join("r")

    with pytest.raises(KeyConflict):
        runtime.run(own, run_id="r")
    with pytest.raises(BadInput):
        runtime.run(joins, run_id="s")

    assert [runtime.state(name).waiting for name in ("r", "s")] == ["blocked", "blocked"]
    assert bodies(runtime, "child_run_requested") == []


def test_what_cannot_be_stored_fails_the_run(runtime):
    """An agent that returns what no document can hold has failed, and says what it was."""

    @agent(name="a")
    def main(ctx):
        return {"open": object()}

    result = runtime.run(main, run_id="r")

    assert (result.status, result.error_type) == ("failed", "NotStorable")


def test_a_finished_run_takes_nothing_more(runtime):
    """A signal, a cancellation and an attachment to a run that has ended are refused, and leave no event."""
    runtime.run(ok, run_id="r")
    before = runtime.log.head()

    for late in (
        lambda: runtime.signal("r", "go"),
        lambda: runtime.cancel_run("r"),
        lambda: runtime.attach("r", agent="ok").__enter__(),
    ):
        with pytest.raises(Refused):
            late()
    assert runtime.log.head() == before


def test_a_session_holds_its_runs(runtime):
    """A session's user, channel, variables and grants are events; its runs are in it, and see its variables."""

    @agent(name="a")
    def main(ctx):
        return [ctx.session_id, ctx.variables]

    first = runtime.session("s", user="Ada", channel="mail", variables={"lang": "de", "tz": "CET"}, grants=["b", "a"])
    assert (first.user, first.channel, first.grants) == ("Ada", "mail", ("a", "b"))
    assert runtime.run(main, run_id="r", session_id="s").output == ["s", {"lang": "de", "tz": "CET"}]
    head = runtime.log.head()
    runtime.session("s", variables={"lang": "de"})
    assert runtime.log.head() == head
    changed = runtime.session("s", variables={"tz": None}, grants=[])

    assert (changed.variables, changed.grants, changed.runs) == ({"lang": "de"}, (), ("r",))
    with pytest.raises(BadInput):
        runtime.session("s", user="Eve")
    assert runtime.run(main, session_id="new").output == ["new", {}]


def test_attached_code_goes_on_where_it_was(runtime):
    """Code that is not one function appends through a leased context; leaving it commits the state."""
    with runtime.attach("r", agent="script", tools=TOOLS, initial_state={"n": 1}) as ctx:
        assert ctx.call_tool("whole", {"a": 1}) == {"got": {"a": 1}}
        ctx.write_state_patch("m", 2)
        call = ctx.begin_tool("mail.send", {"to": "x"})
        call.succeeded({"id": 7})
        asked = ctx.begin_model({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        asked.succeeded({"content": "yo", "usage": {"input_tokens": 3, "output_tokens": 4}})
        with pytest.raises(Refused), runtime.attach("r", agent="script"):
            pass
        with pytest.raises(BadInput):
            call.succeeded(1)
    with pytest.raises(Refused):
        runtime.run(agent(name="script")(lambda ctx: 1), run_id="r")
    with pytest.raises(ZeroDivisionError), runtime.attach("r", agent="script") as ctx:
        assert ctx.state == {"n": 1, "m": 2}
        ctx.write_state_patch("m", 3)
        raise ZeroDivisionError
    with runtime.attach("r", agent="script") as ctx:
        assert ctx.state["m"] == 3
        ctx.complete("done")

    assert runtime.result("r").output == "done"
    assert (runtime.state("r").input_tokens, runtime.state("r").output_tokens) == (3, 4)
    assert runtime.state("r").ledger["attach.1/3"].status == "SUCCEEDED"


def test_what_a_lost_attachment_left_open_is_settled_or_named(runtime):
    """A call that was begun and never ended is asked about by its verify hook, or stands in doubt."""

    @tool(name="known", side_effect="external_write", verify=lambda n: {"n": n})
    def known(n: int):
        raise AssertionError

    with runtime.attach("r", agent="script") as ctx:
        ctx.begin_tool("known", {"n": 1})
        ctx.begin_tool("unknown", {"n": 2})
    with runtime.attach("r", agent="script", tools=[known]) as ctx:
        assert [row.tool for row in ctx.in_doubt] == ["unknown"]

    assert [row.status for row in runtime.state("r").ledger.values()] == ["SUCCEEDED", "PENDING_VERIFICATION"]


def test_an_attachment_that_was_taken_over_is_fenced(runtime):
    """Whoever lost the lease changes nothing more; whoever has it goes on."""
    other = Runtime(runtime.log)
    with pytest.raises(LedgerError) as raised, runtime.attach("r", agent="script") as ctx:
        runtime._lease.end()
        with other.attach("r", agent="script") as later:
            later.write_state_patch("by", "later")
        ctx.begin_tool("x", {})

    assert type(raised.value).__name__ == "Fenced"
    assert runtime.result("r").state == {"by": "later"}


def test_the_protocol_answers_every_line(runtime):
    """Each line has one answer, also nonsense; what was done is in the run."""
    lines = [
        ("{", False),
        ("[1]", False),
        ('{"op": "dance"}', False),
        ('{"op": "help"}', True),
        ('{"op": "call_tool"}', False),
        ('{"op": "call_tool", "name": "whole", "arguments": {"a": 1}}', True),
        ('{"op": "begin_tool", "name": "x", "arguments": {}}', True),
        ('{"op": "end", "call": "nobody"}', False),
        ('{"op": "end", "call": "attach.1/2", "error": {"type": "E", "message": "m"}, "no_effect": true}', True),
        ('{"op": "begin_model", "request": {"messages": []}}', True),
        ('{"op": "end", "call": "attach.1/3", "result": {"content": ""}}', True),
        ('{"op": "patch", "patch": {"a": 1}}', True),
        ('{"op": "patch", "patch": 3}', False),
        ('{"op": "capture", "name": "v", "value": [1]}', True),
        ('{"op": "now"}', True),
        ('{"op": "uuid"}', True),
        ('{"op": "random"}', True),
        ('{"op": "sleep", "seconds": "x"}', False),
        ('{"op": "sleep", "seconds": 0.01}', True),
        ('{"op": "wait_signal", "name": "go", "timeout": 0.01}', False),
        ('{"op": "heartbeat"}', True),
        ('{"op": "state"}', True),
        ('{"op": "complete", "output": {"b": 2}}', True),
    ]
    with runtime.attach("r", tools=TOOLS) as ctx:
        protocol = Protocol(ctx)
        for line, well in lines:
            answer = json.loads(json.dumps(protocol.answer(line)))
            assert answer["ok"] is well, (line, answer)
            assert well or {"error", "message", "hint"} <= answer.keys()

    assert runtime.result("r").output == {"b": 2}
    assert runtime.result("r").state == {"a": 1}


def test_finding_what_is_not_there(runtime):
    """A session, a run or an approval of no such name is not found, and says where to look."""
    for find in (lambda: runtime.get_session("x"), lambda: runtime.state("x"), lambda: runtime.deny("x")):
        with pytest.raises(NotFound) as raised:
            find()
        assert "agentledger" in raised.value.hint
