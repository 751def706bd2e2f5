"""What tests of runs share: a runtime on every kind of log, and what must be true of a recorded run."""

from __future__ import annotations

import asyncio

from agentledger import tool
from ledger_core.runtime.agent import agent_of
from ledger_core.runtime.recorded import stream_of
from replay import replaying


def replayed(runtime, function, run_id="r", *, once=False):
    """The run replays to its end, all its steps, to the same course: requests, outcomes, order, output and state.

    With `once`, the code is executed a single time, for tests that count what it does.
    """
    found = replaying.replay(runtime, run_id, agent_of(function))
    assert found.ok, found.divergence
    assert found.complete
    assert found.executed == found.steps
    if not once:
        again = replaying.attempt(runtime, run_id, agent_of(function))
        assert again.same, "\n".join(f"{one.sentence()} {one.differences}" for one in again.divergences)
        lefts, rights = ({one.path: one for one in side.effects} for side in (again.recorded, again.attempted))
        other = [path for path in {**lefts, **rights} if _digest(lefts.get(path)) != _digest(rights.get(path))]
        assert again.attempted.digest == again.recorded.digest, [(lefts.get(one), rights.get(one)) for one in other]


def _digest(effect):
    return None if effect is None else effect.digest


def bodies(runtime, kind, run_id="r"):
    return [event.body for event in runtime.log.stream(stream_of(run_id)) if event.type == kind]


@tool(side_effect="external_read")
async def slow_read(n: int) -> int:
    await asyncio.sleep(0.001 * (5 - n % 5))
    return n


@tool
def whole(payload: dict) -> dict:
    return {"got": payload}


@tool(side_effect="external_write")
def keyed(idempotency_key: str) -> str:
    return idempotency_key


@tool
def fails(text: str) -> None:
    raise ValueError(text)


TOOLS = [slow_read, whole, keyed, fails]
