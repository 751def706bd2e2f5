"""Governed tool calls, many runs at once, and replay; beside agentledger-runtime 1.0.0 in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import venv
from pathlib import Path

from measure import Row, in_turns, rate

from agentledger import NoEffect, Runtime, agent, tool
from ledger_core.runtime.agent import agent_of
from replay.replaying import replay as strict_replay

CALLS = 100


def _find(**_: object) -> None:
    raise NoEffect


@tool(name="issues.create", side_effect="external_write", verify=_find)
def create(title: str) -> dict[str, str]:
    return {"external_id": title}


@tool(name="issues.create_async", side_effect="external_write", verify=_find)
async def create_async(title: str) -> dict[str, str]:
    return {"external_id": title}


@tool(name="issues.read", side_effect="external_read")
async def read(number: int) -> dict[str, int]:
    return {"number": number}


@agent(tools=[create])
def writer(ctx):
    for number in range(CALLS):
        ctx.call_tool("issues.create", title=f"issue {number}")
    return CALLS


@agent(tools=[create_async])
async def async_writer(ctx):
    for number in range(CALLS):
        await ctx.call_tool("issues.create_async", title=f"issue {number}")
    return CALLS


@agent(tools=[read])
async def reader(ctx):
    for number in range(5000):
        await ctx.call_tool("issues.read", number=number)


@agent(tools=[read])
def sync_reader(ctx):
    for number in range(5000):
        ctx.call_tool("issues.read", number=number)


def runs(base: Path) -> list[Row]:
    """One run, and 64 at once in one loop."""
    with Runtime.local(base / "runs") as runtime:

        async def many() -> None:
            await asyncio.gather(*(runtime.arun(async_writer) for _ in range(64)))

        sync, one, all_ = in_turns(
            3, lambda: runtime.run(writer), lambda: runtime.run(async_writer), lambda: asyncio.run(many())
        )
    return [
        Row("64 runs at once in asyncio, to one run", 64 * one / all_, "≥ 10", f"{rate(64 * CALLS, all_)} calls"),
        Row("one async run, to one sync run", sync / one, "", f"{rate(CALLS, one)} to {rate(CALLS, sync)} calls"),
    ]


def replay(base: Path) -> list[Row]:
    """Replay of recorded runs."""
    rows = []
    with Runtime.local(base / "replay") as runtime:
        for what in (reader, sync_reader):
            result = runtime.run(what)
            (taken,) = in_turns(3, lambda: strict_replay(runtime, result.run_id, agent_of(what)))
            name = "async" if what is reader else "sync"
            ratio = 5000 / taken / 20_000
            rows.append(Row(f"replay of an {name} run, to 20,000 effects a second", ratio, "≥ 1", rate(5000, taken)))
    return rows


SEED = f"""
import sys, time
from agentledger import Runtime, agent
runtime = Runtime.local(sys.argv[1])
@runtime.tool(name="issues.create", side_effect="external_write", idempotency=True)
def create(request):
    return {{"external_id": request["title"]}}
@agent(role="Writer")
async def writer(ctx):
    for number in range({CALLS}):
        await ctx.call_tool("issues.create", {{"title": f"issue {{number}}", "_logical_operation": f"op {{number}}"}})
    return {CALLS}
best = 1e9
for _ in range(5):
    start = time.perf_counter()
    result = runtime.run(writer)
    assert result.ok, result
    best = min(best, time.perf_counter() - start)
print(best)
"""


def seed(base: Path) -> list[Row]:
    """The same calls on agentledger-runtime 1.0.0 (SQLite), in turns with ours."""
    place = base / "seed-environment"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "agentledger-runtime==1.0.0"], check=True)
    (base / "seed.py").write_text(SEED)
    theirs, ours = [], []
    with Runtime.local(base / "ours") as runtime:
        for number in range(3):
            (taken,) = in_turns(5, lambda: runtime.run(writer))
            ours.append(taken)
            ran = subprocess.run(
                [python, base / "seed.py", base / f"seed-{number}"],
                check=False,
                capture_output=True,
                text=True,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            )
            if ran.returncode:
                sys.exit(ran.stderr)
            theirs.append(float(ran.stdout.split()[-1]))
    a, b = sorted(ours)[1], sorted(theirs)[1]
    return [
        Row(
            "a governed write with one run, to agentledger-runtime 1.0.0",
            b / a,
            "≥ 2",
            f"{rate(CALLS, a)} to {rate(CALLS, b)} calls",
        )
    ]
