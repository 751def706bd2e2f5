"""A changed program is stopped before it does anything; an unchanged one never is."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentledger import Diverged, Runtime, agent, tool
from cli.tour.service import serve
from ledger_core.runtime.agent import agent_of
from ledger_core.runtime.recorded import RunRecord, stream_of
from ledger_core.runtime.target import load
from replay import replaying
from replay.steps import Executed, Step, end_differences

FORTY = Path(__file__).resolve().parent.parent / "fixtures" / "agents" / "forty.py"
DID: list[str] = []


@tool(side_effect="external_write")
def write(text: str) -> str:
    DID.append(text)
    return text


@tool
async def read(number: int) -> int:
    await asyncio.sleep(0.0005 * (number * 7 % 5))
    return number


@tool
def other(text: str) -> str:
    return text


TOOLS = [write, read, other]
model = lambda request: {"content": "yes"}


def before(ctx):
    ctx.call_tool("write", text="first")
    return _rest(ctx)


def _rest(ctx):
    ctx.write_state_patch("k", 1)
    ctx.call_model({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    ctx.call_tool("other", text="x")
    return "end"


def missing(ctx):
    ctx.call_tool("write", text="first")
    return "end"


def other_kind(ctx):
    ctx.call_model({"model": "m", "messages": []})  # AL103
    return _rest(ctx)


def other_name(ctx):
    ctx.call_tool("other", text="first")  # AL104
    return _rest(ctx)


def other_request(ctx):
    ctx.call_tool("write", text="changed")  # AL105
    return _rest(ctx)


def other_state(ctx):
    ctx.call_tool("write", text="first")
    ctx.write_state_patch("k", 2)  # AL107
    ctx.call_tool("write", text="beyond")


CHANGED = [(missing, "AL101"), (other_kind, "AL103"), (other_name, "AL104"), (other_request, "AL105")]
CHANGED.append((other_state, "AL107"))


def _line(function, code):
    source = FORTY.parents[2].joinpath("tests/test_divergence.py").read_text().splitlines()
    found = [number for number, text in enumerate(source, 1) if f"# {code}" in text]
    return f"test_divergence.py:{found[0]}" if found else None


def _as(function, *, stop=False):
    def body(ctx):
        output = function(ctx)
        if stop:
            raise KeyboardInterrupt
        return output

    return agent(name="a", tools=TOOLS, models=model)(body)


@pytest.mark.parametrize("changed, code", CHANGED)
def test_a_changed_program_is_stopped_on_recovery(log, changed, code):
    """Recovered with changed code, a run stops with the difference on record, and nothing was done outside."""
    runtime = Runtime(log)
    with pytest.raises(KeyboardInterrupt):
        runtime.run(_as(before, stop=True), run_id="r")
    DID.clear()
    with pytest.raises(Diverged) as caught:
        runtime.run(_as(changed), run_id="r")
    assert (caught.value.divergence.kind.code, DID) == (code, [])
    assert caught.value.divergence.line == _line(changed, code)
    found = [event.body for event in log.stream(stream_of("r")) if event.type == "divergence_detected"]
    assert [(body.code, body.difference["line"]) for body in found] == [(code, _line(changed, code))]
    assert runtime.state("r").status == "diverged"
    assert runtime.run(_as(before), run_id="r").ok


@pytest.mark.parametrize("changed, code", CHANGED)
def test_a_changed_program_is_found_by_replay(log, changed, code):
    """Replay finds the same difference, and appends nothing."""
    runtime = Runtime(log)
    assert runtime.run(_as(before), run_id="r").ok
    head, _ = log.head(), DID.clear()
    found = replaying.replay(runtime, "r", agent_of(_as(changed)))
    assert (found.divergence.kind.code, found.divergence.line) == (code, _line(changed, code))
    assert (log.head(), DID) == (head, [])


def test_an_added_last_effect_has_its_line(log):
    """Replay names the line of an effect that was added behind the recorded end."""
    runtime = Runtime(log)
    assert runtime.run(_as(before), run_id="r").ok
    found = replaying.replay(runtime, "r", agent_of(_as(lambda ctx: (before(ctx), ctx.call_tool("other", text="new")))))
    assert (found.divergence.kind.code, found.divergence.attempted) == ("AL102", "tool other")
    assert found.divergence.line is not None


def test_another_output_is_a_divergence(log):
    """Code that returns something else is found by replay."""
    runtime = Runtime(log)
    assert runtime.run(_as(before), run_id="r").ok
    found = replaying.replay(runtime, "r", agent_of(_as(lambda ctx: (before(ctx), "other")[1])))
    assert found.divergence.kind.code == "AL108"


def test_a_renamed_tool_is_named(log):
    """Where the recorded tool is called by a name that is not registered, the difference says so."""
    runtime = Runtime(log)
    assert runtime.run(_as(before), run_id="r").ok
    found = replaying.replay(runtime, "r", agent_of(_as(lambda ctx: ctx.call_tool("renamed", text="first"))))
    assert "renamed" in found.divergence.attempted


def test_a_capture_added_on_recovery_is_not_called(log):
    """A captured function that the record does not hold is not called while the record is not exhausted."""
    called = []

    def build(extra, stop):
        async def body(ctx):
            async def child():
                await ctx.call_tool("read", number=1)
                if extra:
                    ctx.capture("x", lambda: called.append(1))

            await asyncio.create_task(child())
            await ctx.call_tool("read", number=2)
            if stop:
                raise KeyboardInterrupt

        return agent(name="a", tools=TOOLS)(body)

    runtime = Runtime(log)
    with pytest.raises(KeyboardInterrupt):
        runtime.run(build(False, True), run_id="r")
    with pytest.raises(Diverged):
        runtime.run(build(True, False), run_id="r")
    assert called == []


@pytest.mark.parametrize("name", ["forty", "forty_in_a_row"])
def test_the_fixture_never_diverges(name, log, tmp_path, monkeypatch):
    """Forty effects of every kind, unchanged, replay to their end."""
    server = serve(str(tmp_path / "tickets.sqlite"), 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("FORTY_SERVICE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("FORTY_NOTES", os.devnull)
    spec = load(f"{FORTY}:{name}")
    runtime = Runtime(log)
    assert runtime.run(spec, run_id="r").ok
    server.shutdown()
    thread.join()
    server.server_close()
    found = replaying.replay(runtime, "r", spec)
    assert found.ok and found.complete and found.effects >= 40, found.divergence


class Shuffling(asyncio.SelectorEventLoop):
    """A loop that runs what is ready in another order."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._dice = random.Random(seed)

    def _run_once(self) -> None:
        ready = list(self._ready)
        self._dice.shuffle(ready)
        self._ready = deque(ready)
        super()._run_once()


def _on(loop, work):
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


_calls = st.tuples(st.sampled_from(["read", "other", "now", "capture", "patch"]), st.integers(0, 9))
_programs = st.recursive(
    _calls,
    lambda inner: st.tuples(
        st.sampled_from(["row", "gather", "group", "race"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=10,
)


async def _execute(ctx, program):
    kind, what = program
    match kind:
        case "read":
            return await ctx.call_tool("read", number=what)
        case "other":
            return await ctx.call_tool("other", text=str(what))
        case "now":
            return str(ctx.now())
        case "capture":
            return ctx.capture("dice", random.random)
        case "patch":
            return ctx.write_state_patch(f"k{what}", what)
        case "row":
            return [await _execute(ctx, one) for one in what]
        case "gather":
            return await asyncio.gather(*(_execute(ctx, one) for one in what))
        case "group":
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_execute(ctx, one)) for one in what]
            return [task.result() for task in tasks]
    tasks = [asyncio.create_task(_execute(ctx, one)) for one in what]
    first, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return [number for number, task in enumerate(tasks) if task in first]


@pytest.mark.invariant(11)
@settings(max_examples=60, deadline=None)
@given(_programs, st.integers(0, 1000))
def test_random_programs_never_diverge(program, seed):
    """An unchanged program replays to the same end, also where the loop's order is shuffled, live and replayed."""

    async def body(ctx):
        return await _execute(ctx, program)

    spec = agent_of(agent(name="a", tools=TOOLS)(body))
    with Runtime.in_memory() as runtime:
        assert _on(Shuffling(seed), runtime.arun(spec, run_id="r")).ok
        assert replaying.replay(runtime, "r", spec).ok
        record, tag = RunRecord.read(runtime.log, "r"), runtime.log.tagger(stream_of("r"))
        execution = runtime.execution(spec, record.state, record.journal, record.initial, tag, None, None)
        ended = _on(Shuffling(seed + 1), execution.arun())
        step = Step(record=record, spec=spec, following=None)
        assert ended.stopped is None and list(end_differences(Executed(step, spec, record.journal, ended))) == []
