"""Runs that went through much, recorded for real: what timelines, traces and reports are tested on.

`told(runtime)` makes, in this order: `r`, which failed once, waited for people and completed; `d`, whose last write is
in doubt; `f`, which failed; `g`, whose child's failure failed it; `w`, which waits for a signal; `e`, whose content was
forgotten.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from agentledger import InDoubt, RetryableAgentError, ToolFailed, WaitTimedOut, agent, tool
from cli.output import Settings
from ledger_core.events.effect import ToolCallCompleted, ToolCallFailed, ToolCallRequested
from ledger_core.events.run import RunCompleted, RunCreated
from ledger_core.events.step import AgentResultReturned, StepClaimed, StepCompleted, StepCreated
from ledger_core.log.record import Draft
from ledger_core.runtime.runtime import Runtime

SOON = {"max_attempts": 3, "initial": 0.01, "maximum": 0.02}
RUNS = ("r", "d", "f", "g", "w", "e")


def model(request: Any) -> Any:
    """Says hi, and what it took."""
    if request["model"] == "down":
        raise ConnectionError("the provider is not there")
    return {"content": "hi", "usage": {"input_tokens": 12, "output_tokens": 4}}


class Told:
    """The agents, and what their tools did outside."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.flaky = 0

        @tool(name="post", side_effect="external_write", cost=0.25)
        def post(text: str) -> str:
            if text == "lost":
                raise ConnectionResetError("the answer was lost")
            self.posted.append(text)
            return text

        @tool(name="flaky")
        def flaky() -> str:
            self.flaky += 1
            if self.flaky % 2:
                raise ValueError("not yet")
            return "well"

        @agent(name="child")
        def child(ctx: Any, state: Any) -> None:
            ctx.sleep(0.15)
            raise ValueError("the child's own words")

        @agent(name="main", tools=[post, flaky])
        def main(ctx: Any, state: Any) -> Any:
            ctx.call_model({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
            ctx.write_state_patch("asked", True)
            ctx.call_tool("post", text="a")
            ctx.record_cost("gpu", usd=0.5)
            kid = ctx.spawn(child, {"n": 1})
            try:
                kid.join()
            except Exception as error:
                ctx.write_state_patch("child", type(error).__name__)
            try:
                ctx.call_tool("flaky")
            except ToolFailed as failed:
                raise RetryableAgentError("again") from failed
            try:
                ctx.request_approval("Late?", timeout=0.01)
            except WaitTimedOut:
                pass
            ctx.create_artifact("report", "words")
            ctx.request_approval("May I?")
            ctx.wait_signal("go")
            return ctx.call_tool("post", text=state["text"])

        @agent(name="bad")
        def bad(ctx: Any, state: Any) -> None:
            ctx.call_model({"model": "m", "messages": []})
            raise ValueError("broken: \x1b[31m<b>ünïcode</b>")

        @agent(name="parent")
        def parent(ctx: Any) -> Any:
            return ctx.spawn(bad, {}).join()

        @agent(name="waits")
        def waits(ctx: Any) -> Any:
            return ctx.wait_signal("never")

        self.main, self.bad, self.parent, self.waits = main, bad, parent, waits


def told(runtime: Runtime) -> Told:
    """Make the runs."""
    story = Told()
    for run_id, text in (("r", "b"), ("d", "lost")):
        runtime.run(story.main, run_id=run_id, initial_state={"text": text}, session_id="S", retry_policy=SOON)
        state = runtime.state(run_id)
        (asked,) = [one.name for one in state.waits.values() if one.kind == "approval"]
        runtime.approve(asked, by="Ada", reason="fine")
        runtime.signal(run_id, "go", 1)
        if text == "lost":
            with pytest.raises(InDoubt):
                runtime.run(story.main, run_id=run_id, wait=False)
        else:
            runtime.run(story.main, run_id=run_id)
    runtime.run(story.bad, run_id="f")
    runtime.run(story.parent, run_id="g")
    runtime.run(story.waits, run_id="w", wait=False)
    runtime.run(story.bad, run_id="e", initial_state={"name": "Ada"})
    runtime.log.forget("run/e")
    return story


def command(name: Any, root: Any, *arguments: str, json_: bool = False) -> Any:
    """Call a click command as `cli.main` does; its exit code, if it gave one."""
    return name.main(list(arguments), obj=Settings(root=root, json=json_), standalone_mode=False) or 0


def object_of(capsys: Any, name: Any, root: Any, *arguments: str, code: int = 0) -> Any:
    """What a command prints with `--json`."""
    capsys.readouterr()
    assert command(name, root, *arguments, json_=True) == code
    return json.loads(capsys.readouterr().out)


def text_of(capsys: Any, name: Any, root: Any, *arguments: str, code: int = 0) -> str:
    """What a command prints for a person."""
    capsys.readouterr()
    assert command(name, root, *arguments) == code
    return str(capsys.readouterr().out)


def long_run(log: Any, run: str, calls: int) -> None:
    """A run of `2 * calls + 6` events, as a worker would have written them: each tenth call failed."""
    bodies: list[Any] = [
        RunCreated(run=run, agent="long", seed=bytes(32), initial_state={"n": 1}),
        StepCreated(step=f"step_{run}", number=1, agent="long"),
        StepClaimed(step=f"step_{run}", epoch=1, worker="w", base_version=0),
    ]
    for number in range(1, calls + 1):
        call: Any = {"path": str(number), "attempt": 1}
        what: Any = {"tool": f"t{number % 5}", "tool_version": "1", "side_effect": "external_write"}
        bodies.append(ToolCallRequested(**call, **what, request=bytes(32), arguments={"n": number}))
        if number % 10:
            bodies.append(ToolCallCompleted(**call, spent={"usd_nano": 1_000}, result=number))
        else:
            why: Any = {"category": "tool", "error_type": "ValueError", "in_doubt": False}
            bodies.append(ToolCallFailed(**call, **why, spent={"usd_nano": 500}, message=f"no {number}"))
    bodies += [AgentResultReturned(step=f"step_{run}", output=1), StepCompleted(step=f"step_{run}", epoch=1)]
    counts = Counter(body.kind.name for body in bodies)
    tools = Counter(body.tool for body in bodies if isinstance(body, ToolCallRequested))
    bodies.append(RunCompleted(counts=dict(counts), tools=dict(tools)))
    for at in range(0, len(bodies), 5_000):
        log.append(*(Draft(stream=f"run/{run}", body=body) for body in bodies[at : at + 5_000]))
