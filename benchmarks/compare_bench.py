"""Forks and bisections of long runs beside those of short ones: what must not grow with a run, and what may."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Row, in_turns, seconds

from agentledger import Runtime, agent, tool
from ledger_core.runtime.folds import stream_of
from replay import bisecting, sides
from replay.comparing import compare

SHORT, LONG = 94, 99_994
"""Effects of a run of 100, and of one of 100,000 events."""
_OTHER: list[int] = []
"""Numbers that the agent takes for others."""


@tool(name="first", side_effect="external_read")
def first() -> int:
    """The first live effect of a fork."""
    return 1


@agent(tools=[first])
def clock(ctx: Any, state: dict[str, Any]) -> None:
    for number in range(state["effects"]):
        ctx.capture(f"n{number % 10}", lambda number=number: -1 if number in _OTHER else number)
    ctx.call_tool("first")


def fork(base: Path) -> list[Row]:
    """Making a fork of a run of 100,000 events, to one of 100; and the time until its first effect of its own."""
    rows: list[Row] = []
    with Runtime.local(base / "forks") as runtime:
        for name, effects in (("short", SHORT), ("long", LONG)):
            runtime.run(clock, run_id=name, initial_state={"effects": effects})
        ends = {name: runtime.state(name).events - 7 for name in ("short", "long")}
        sizes = {name: runtime.state(name).events for name in ends}
        head = runtime.log.head().seq
        short, long_ = in_turns(
            41, lambda: runtime.fork("short", at=ends["short"]), lambda: runtime.fork("long", at=ends["long"])
        )
        added = (runtime.log.head().seq - head) / 82
        events = f"{sizes['long']:,} to {sizes['short']:,} events, {added:.0f} events appended by each"
        rows.append(Row("a fork of a long run, to one of a short run", long_ / short, "near 1", events))
        made = {name: runtime.fork(name, at=ends[name]) for name in ends}
        took = {name: seconds(lambda name=name: runtime.run(clock, run_id=made[name])) for name in ends}
        whole = seconds(lambda: runtime.run(clock, initial_state={"effects": LONG}))
        rows.append(
            Row(
                "a fork of a long run to its first live effect and its end, to the run itself",
                took["long"] / whole,
                "< 1",
                f"{took['long']:.2f} s, of a short run {took['short'] * 1000:.0f} ms",
            )
        )
    return rows


def bisect(base: Path) -> list[Row]:
    """Finding the first difference of two runs of 100,000 events, to comparing them whole."""
    with Runtime.local(base / "bisections") as runtime:
        runtime.run(clock, run_id="a", initial_state={"effects": LONG})
        _OTHER.append(LONG // 2)
        runtime.run(clock, run_id="b", initial_state={"effects": LONG})

        def whole() -> bool:
            return compare(sides.of_run(runtime.log, "a"), sides.of_run(runtime.log, "b")).same

        def halves() -> int:
            found = bisecting.bisect(bisecting.of_run(runtime.log, "a"), bisecting.of_run(runtime.log, "b"))
            assert not found.same
            return found.comparisons

        number = halves()
        slow, quick = in_turns(3, whole, halves)
        events = runtime.log.stream_head(stream_of("a"))
    return list(_bisected(number, slow, quick, 0 if events is None else events.stream_seq))


def _bisected(number: int, slow: float, quick: float, events: int) -> Iterator[Row]:
    detail = f"{quick * 1000:.0f} ms, {number} comparisons of digests, {events:,} events each"
    yield Row("comparing two long runs whole, to bisecting them", slow / quick, "> 10", detail)
