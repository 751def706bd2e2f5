"""What work costs in syncs, counted by strace in a process of its own: a sync is one `fdatasync` of a commit."""

from __future__ import annotations

import subprocess
import sys

import needs
import pytest

AGENTS = """
import sys
from agentledger import Runtime, agent, tool, NoEffect

def find(**_):
    raise NoEffect

@tool(side_effect="external_write", verify=find)
def write(number: int) -> int:
    return number

@tool(side_effect="external_read")
def read(number: int) -> int:
    return number

@agent
def hello(ctx):
    return "hello world"

@agent(tools=[write, read])
def reads(ctx):
    ctx.write_state_patch("now", str(ctx.now()))
    return [ctx.call_tool("read", number=number) for number in range(10)] + [ctx.capture("x", lambda: 1)]

@agent(tools=[write, read])
def writes(ctx):
    return [ctx.call_tool("write", number=number) for number in range(10) if ctx.call_tool("read", number=number) >= 0]

@agent(tools=[write, read], models=lambda request: {"content": "yes"})
async def models(ctx):
    for _ in range(10):
        await ctx.call_model({"model": "m", "messages": []})

with Runtime.local(sys.argv[1]) as runtime:
    runtime.run(hello)
    for _ in range(int(sys.argv[3])):
        assert runtime.run(globals()[sys.argv[2]]).ok
"""


def _syncs(tmp_path, agent: str, times: int) -> int:
    program, trace = tmp_path / "program.py", tmp_path / f"{agent}-{times}.trace"
    program.write_text(AGENTS)
    command = ["strace", "-f", "-qq", "-o", trace, "-e", "trace=fdatasync,fsync,msync,sync_file_range,sync"]
    root = tmp_path / f"{agent}-{times}"
    subprocess.run([*command, sys.executable, program, root, agent, str(times)], check=True)
    return len([line for line in trace.read_text().splitlines() if "sync" in line and "unfinished" not in line])


@pytest.mark.invariant(6)
@pytest.mark.parametrize(
    ("agent", "syncs"),
    [("hello", 2), ("reads", 2), ("writes", 2 + 2 * 10), ("models", 2 + 2 * 10)],
)
def test_a_run_costs_two_syncs_and_two_for_each_outside_write_or_model(agent, syncs, tmp_path):
    """A run costs two syncs, reads and state cost none, an outside write or a model call exactly two."""
    needs.strace()

    assert syncs == _syncs(tmp_path, agent, 2) - _syncs(tmp_path, agent, 1)
