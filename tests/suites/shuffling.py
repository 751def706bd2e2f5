"""Event loops that run what is ready in another order, and agents whose tasks race for real on them.

Rules: a loop is a real one; of what is ready in one pass, any may run first, and all of it does. Tools really wait,
each time for another time. What an agent decides depends on outcomes, and on their order: an outcome is given to one
task at a time, and so its order is on record. What answers at the call itself (`now`, a patch, a captured value) has no
such order. A program that lets two tasks race for nothing but the loop's next pass cannot be repeated on such a loop,
and none of these does so.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agentledger import NoEffect, ToolFailed, agent, tool

DICE = random.Random(0)
"""How long tools take: for all loops of this process, so that no recording is like another."""
SLOW, PATIENCE = 0.12, 0.02
"""Seconds: of a tool that nobody waits for, and for which it is waited."""


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


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Have whatever asks asyncio for a new loop given a shuffling one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.events, "new_event_loop", lambda: Shuffling(seed))
        yield


def in_time(work: Callable[[], Any], seconds: float = 30) -> Any:
    """What `work` returns; fails where it does not end. What hangs is left behind in a thread that dies with us."""
    came: list[Any] = []

    def carry() -> None:
        try:
            came.append((work(), None))
        except BaseException as error:  # the test's own thread is to hear of it
            came.append((None, error))

    thread = threading.Thread(target=carry, daemon=True)
    thread.start()
    thread.join(seconds)
    if not came:
        pytest.fail(f"it still runs after {seconds:g} s")
    value, error = came[0]
    if error is not None:
        raise error
    return value


DONE: dict[str, str] = {}


def find(text: str, idempotency_key: str) -> str:
    if idempotency_key not in DONE:
        raise NoEffect
    return DONE[idempotency_key]


@tool(side_effect="external_write", verify=find)
async def write(text: str, idempotency_key: str) -> str:
    await asyncio.sleep(DICE.random() * 0.001)
    DONE[idempotency_key] = text
    return text


@tool
async def look(number: int) -> int:
    await asyncio.sleep(DICE.choice([0, 0, 0.0004, 0.001, 0.003]))
    return number * number


@tool
async def look_for_long(number: int) -> int:
    await asyncio.sleep(SLOW)
    return number


@tool
async def fail(number: int) -> None:
    await asyncio.sleep(DICE.random() * 0.002)
    raise ValueError(f"{number} is none")


@tool
def add(number: int, other: int) -> int:
    return number + other


TOOLS = [write, look, look_for_long, fail, add]
AGENTS: list[Any] = []
SETTLED: list[Any] = []
"""Those whose course does not depend on who is first."""


def _racing(function: Callable[..., Any]) -> Any:
    AGENTS.append(agent(tools=TOOLS)(function))
    return function


def _settled(function: Callable[..., Any]) -> Any:
    SETTLED.append(_racing(function))
    return function


@_settled
async def gathers_within_gathers(ctx):
    async def inner(number):
        first = await ctx.call_tool("look", number=number)
        two = await asyncio.gather(ctx.call_tool("look", number=first), ctx.call_tool("add", number=first, other=1))
        ctx.write_state_patch(f"inner {number}", two)
        return [first, *two]

    async def outer(number):
        return await asyncio.gather(*(inner(number * 3 + place) for place in range(2)))

    return await asyncio.gather(*(outer(number) for number in range(3)), ctx.call_tool("write", text="beside"))


@_settled
async def groups(ctx):
    seen = []

    async def member(number):
        for place in range(number):
            seen.append([number, place, await ctx.call_tool("look", number=number + place)])

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(member(number))
    await ctx.call_tool("write", text=str(sorted(seen)))
    return sorted(seen)


@_racing
async def takes_them_as_they_come(ctx):
    came = []
    tasks = [asyncio.create_task(ctx.call_tool("look", number=number)) for number in range(5)]
    for one in asyncio.as_completed(tasks):
        came.append(await one)
        ctx.write_state_patch(str(len(came)), came[-1])
    return [came, await ctx.call_tool("write", text=str(came))]


@_racing
async def cancels_the_losers(ctx):
    wins = []
    for lap in range(3):
        tasks = [asyncio.create_task(ctx.call_tool("look", number=lap * 4 + number)) for number in range(3)]
        tasks.append(asyncio.create_task(ctx.call_tool("look_for_long", number=lap)))
        first, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        wins.append(sorted(task.result() for task in first))
        await ctx.call_tool("write", text=str(wins))
    return wins


@_racing
async def appends_in_order_of_completion(ctx):
    shared = []

    async def racer(number):
        for lap in range(2):
            await ctx.call_tool("look", number=number + lap)
            shared.append(number)
            await ctx.call_tool("write", text=str(shared))

    await asyncio.gather(*(racer(number) for number in range(3)))
    return [shared, await ctx.call_tool("add", number=shared[0], other=shared[-1])]


@_racing
async def hands_over_by_queues(ctx):
    work, done = asyncio.Queue(maxsize=2), []

    async def producer():
        for number in range(5):
            await work.put(await ctx.call_tool("look", number=number))
        for number in range(2):
            await ctx.call_tool("look", number=number)  # two that are woken at once would race for the loop's next pass
            await work.put(None)

    async def consumer(name):
        await ctx.call_tool("look", number=9)  # who comes first is on record
        while (found := await work.get()) is not None:
            await ctx.call_tool("look", number=found)
            done.append([name, await ctx.call_tool("add", number=found, other=len(done))])

    await asyncio.gather(producer(), consumer("a"), consumer("b"))
    return done


@_racing
async def shares_locks_and_semaphores(ctx):
    few, alone, order = asyncio.Semaphore(2), asyncio.Lock(), []

    async def worker(number):
        await ctx.call_tool("look", number=-number)  # who comes first is on record
        async with few:
            found = await ctx.call_tool("look", number=number)
        async with alone:
            order.append(number)
            return await ctx.call_tool("write", text=f"{order} {found}")

    return [await asyncio.gather(*(worker(number) for number in range(5))), order]


@_racing
async def fails_with_its_siblings(ctx):
    ends = []

    async def member(number):
        try:
            for place in range(4):
                await ctx.call_tool("look", number=number + place)
        except asyncio.CancelledError:
            ends.append(f"{number} was cancelled")
            raise

    async def weak():
        await ctx.call_tool("look", number=1)
        await ctx.call_tool("fail", number=9)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(member(number))
            group.create_task(weak())
    except* ToolFailed as failed:
        ends.append([error.message for error in failed.exceptions])
    return await ctx.call_tool("write", text=str(sorted(map(str, ends))))


@_racing
async def gives_up_after_a_time(ctx):
    ends = []

    async def patient(name, number):
        try:
            async with asyncio.timeout(PATIENCE if name == "look_for_long" else 60):
                ends.append(await ctx.call_tool(name, number=number))
        except TimeoutError:
            ends.append("late")
            await ctx.call_tool("look", number=len(ends))

    await asyncio.gather(patient("look", 2), patient("look_for_long", 3), patient("look", 4))
    try:
        await asyncio.wait_for(ctx.call_tool("look_for_long", number=5), PATIENCE)
    except TimeoutError:
        ends.append(await asyncio.wait_for(ctx.call_tool("look", number=6), 60))
    return await ctx.call_tool("write", text=str(ends))


@_racing
async def wakes_others(ctx):
    go, order, changed = asyncio.Event(), [], asyncio.Condition()

    async def sleeper(number):
        await ctx.sleep(0.001 * number)
        await go.wait()
        await ctx.call_tool("look", number=number)
        async with changed:
            order.append(number)
            changed.notify_all()

    async def counter():
        async with changed:
            await changed.wait_for(lambda: len(order) >= 2)
            return await ctx.call_tool("write", text=str(order[:2]))

    tasks = [asyncio.create_task(sleeper(number)) for number in range(3)]
    last = asyncio.create_task(counter())
    await ctx.call_tool("look", number=7)
    go.set()
    await asyncio.gather(*tasks)
    return [order, await last]


@_racing
async def waits_for_what_failed(ctx):
    ends = []

    async def one(number):
        try:
            await ctx.call_tool("fail" if number % 2 else "look", number=number)
            ends.append(number)
        except ToolFailed as error:
            ends.append(error.message)
            ctx.write_state_patch(f"failed {number}", len(ends))

    tasks = [asyncio.create_task(one(number)) for number in range(5)]
    first, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    met = await asyncio.gather(ctx.call_tool("look", number=len(ends)), *late)
    return [len(first) > 0, met[0] >= 0, ends, await ctx.call_tool("write", text=str(ends))]


@_settled
async def makes_tasks_of_tasks(ctx):
    async def tree(depth):
        found = await ctx.call_tool("look", number=depth)
        if depth == 0:
            return found
        left, right = asyncio.create_task(tree(depth - 1)), asyncio.create_task(tree(depth - 1))
        return [found, await right, await left, await ctx.call_tool("add", number=depth, other=1)]

    return await tree(2)
