"""Workers: a new run beside 10,000 that sleep, and many runs through a worker."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from measure import Row, in_turns, rate

from agentledger import Runtime, agent

SLEEPING = 10_000
RUNS = 200


@agent(name="sleeps")
async def sleeps(ctx):
    await ctx.sleep(30 * 86_400)


@agent(name="short")
async def short(ctx):
    return ctx.now().isoformat()


def workers(base: Path) -> list[Row]:
    """A run through a worker in an empty ledger, and in one where 10,000 runs sleep."""
    with Runtime.local(base / "empty") as empty, Runtime.local(base / "full") as full:
        _put_to_sleep(full)
        alone, beside = in_turns(41, lambda: empty.run(short), lambda: full.run(short))
        worker, thread = _serving(full)
        one, many = in_turns(5, lambda: _through(full, 1), lambda: _through(full, RUNS))
        worker.stop()
        thread.join()
    return [
        Row(
            "a new run beside 10,000 that sleep, to one in an empty ledger",
            alone / beside,
            "≥ 0.9",
            f"{beside * 1000:.1f} ms",
        ),
        Row(
            f"{RUNS} runs through one worker, to one after the other",
            RUNS * one / many,
            "",
            f"{rate(RUNS, many)} runs",
        ),
    ]


def _put_to_sleep(runtime: Runtime) -> None:
    worker = runtime.worker(sleeps, concurrency=500)
    for number in range(SLEEPING):
        runtime.create_run(sleeps, run_id=f"s{number}")
    worker.run(drain=True)


def _serving(runtime: Runtime):
    worker = runtime.worker(sleeps, short, concurrency=64)
    thread = threading.Thread(target=worker.run)
    thread.start()
    return worker, thread


def _through(runtime: Runtime, count: int) -> None:
    names = [runtime.create_run(short) for _ in range(count)]
    while not all(runtime.state(name).ended for name in names):
        time.sleep(0.0005)
