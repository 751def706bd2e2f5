"""Appending, group commit and verification, beside bare LMDB."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from bare import Bare
from measure import Row, in_turns, rate, seconds

from ledger_core.events.effect import ToolCallRequested
from ledger_core.log.log import Draft, Log
from ledger_core.log.verify_jobs import verify_ledger

ARGUMENTS = {"title": "Cart empties itself after login", "body": "nine items " * 12, "labels": ["bug", "cart"]}
FACTS = {"path": "12", "attempt": 1, "tool": "issues.create", "tool_version": "1", "side_effect": "external_read"}


def draft(stream: str = "run/bench") -> Draft:
    """An event such as most are."""
    body = ToolCallRequested(**FACTS, request=bytes(32), arguments=ARGUMENTS)
    return Draft(stream=stream, body=body, actor="agent", step="step_0123456789abcdef", epoch=1)


BARE_FACTS = ["tool_call_requested", 1, "agent", "step_0123456789abcdef", 1, None, {**FACTS, "request": bytes(32)}]
BARE_CONTENT = {"arguments": ARGUMENTS}


def append(base: Path) -> list[Row]:
    """Single and batched appends."""
    log, bare = Log.open(base / "append"), Bare(base / "bare")
    one, count = draft(), 200
    drafts = [one] * 1000

    def single() -> None:
        for _ in range(count):
            log.append(one)

    def bare_single() -> None:
        for _ in range(count):
            bare.append(BARE_FACTS, BARE_CONTENT, 1)

    log.append(one)
    a, b = in_turns(9, single, bare_single)
    c, d = in_turns(15, lambda: log.append(*drafts), lambda: bare.append(BARE_FACTS, BARE_CONTENT, 1000))
    log.close()
    bare.close()
    return [
        Row("one durable append, to a bare synced commit", b / a, "≥ 0.8", f"{rate(count, a)} to {rate(count, b)}"),
        Row("append in batches of 1,000, to a bare loop", d / c, "≥ 0.5", f"{rate(1000, c)} to {rate(1000, d)}"),
    ]


def group(base: Path) -> list[Row]:
    """64 appenders at once, in threads and in tasks, to one."""
    log = Log.open(base / "group")
    count, each = 64, 20

    def alone() -> None:
        for _ in range(200):
            log.append(draft())

    def threads() -> None:
        def work(number: int) -> None:
            for _ in range(each):
                log.append(draft(f"run/{number}"))

        all_ = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in all_:
            thread.start()
        for thread in all_:
            thread.join()

    async def tasks() -> None:
        async def work(number: int) -> None:
            for _ in range(each):
                await log.adecide(lambda _: [draft(f"run/{number}")])

        await asyncio.gather(*(work(number) for number in range(count)))

    threads()
    a, b, c = in_turns(7, alone, threads, lambda: asyncio.run(tasks()))
    single = 200 / a
    log.close()
    return [
        Row("64 threads appending, to one", count * each / b / single, "> 1", rate(count * each, b)),
        Row("64 tasks appending, to one", count * each / c / single, "> 1", rate(count * each, c)),
    ]


def verify(base: Path) -> list[Row]:
    """Verification in children, to a bare scan with two hashes an event; a child's start is measured and taken off."""
    count = 400_000
    log, bare = Log.open(base / "verify"), Bare(base / "scan")
    for _ in range(count // 1000):
        log.append(*[draft()] * 1000)
        bare.append(BARE_FACTS, BARE_CONTENT, 1000)
    log.close()
    with Log.open(base / "tiny") as tiny:
        tiny.append(draft())
    cores = os.cpu_count() or 1
    start = min(seconds(lambda: verify_ledger(base / "tiny", jobs=1)) for _ in range(3))
    one, scan, all_ = in_turns(
        3,
        lambda: verify_ledger(base / "verify", jobs=1),
        bare.scan,
        lambda: verify_ledger(base / "verify", jobs=cores),
    )
    bare.close()
    one, all_ = one - start, all_ - start
    return [
        Row("verify on one core, to a bare scan", scan / one, "≥ 0.7", f"{rate(count, one)} to {rate(count, scan)}"),
        Row(f"verify on {cores} cores, to one", one / all_, f"near {cores}", rate(count, all_)),
    ]
