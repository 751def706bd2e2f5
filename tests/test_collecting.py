"""Replay that goes on behind a difference: all that changed is told, each with its code, and nothing leaves."""

from __future__ import annotations

from agentledger import Runtime, agent, tool
from replay.replaying import replay

SENT: list[str] = []


@tool(name="send", side_effect="external_write")
def send(text: str) -> str:
    SENT.append(text)
    return f"sent {text}"


@agent(name="letters", tools=[send])
def before(ctx):
    ctx.call_tool("send", text="one")
    ctx.call_tool("send", text="two")
    ctx.call_tool("send", text="three")
    return "done"


@agent(name="letters", tools=[send])
def after(ctx):
    ctx.call_tool("send", text="zero")
    ctx.call_tool("send", text="one")
    ctx.call_tool("send", text="three")
    return "finished"


def test_all_that_changed_is_collected():
    """An added call, a dropped one and another output are three divergences; strict replay tells the first place."""
    with Runtime.in_memory() as runtime:
        run_id = runtime.run(before).run_id
        sent, head = list(SENT), runtime.log.head()
        found = replay(runtime, run_id, _spec(after), mode="collect")
        assert [one.kind.code for one in found.divergences] == ["AL102", "AL101", "AL108"]
        assert (SENT, runtime.log.head()) == (sent, head)
        assert replay(runtime, run_id, _spec(before), mode="collect").ok


def _spec(function):
    return function.__agentledger_agent__
