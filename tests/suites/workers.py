"""What tests of workers share: a worker beside the test, a clock that can be moved, and words for where a run is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentledger import Clock, Runtime
from ledger_core.clock import NS
from ledger_core.runtime.recorded import stream_of

AGENTS = Path(__file__).resolve().parent.parent / "fixtures" / "agents" / "held.py"
DAY = 86_400


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.01)


@contextmanager
def working(runtime: Runtime, *agents: Any, **options: Any) -> Iterator[Any]:
    """A worker in a thread of this process, while the block lasts."""
    worker = runtime.worker(*agents, **options)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(40)
        assert not thread.is_alive()


def status(runtime: Runtime, run_id: str = "r") -> str:
    return runtime.state(run_id).status


def suspended(runtime: Runtime, run_id: str = "r") -> bool:
    state = runtime.state(run_id)
    return state.status == "waiting" and state.worker is None


def kinds(runtime: Runtime, run_id: str = "r") -> list[str]:
    return [event.type for event in runtime.log.stream(stream_of(run_id))]


class Moved:
    """A clock that a test moves; the time between its moves is the system's, or stands still."""

    def __init__(self, *, still: bool = False) -> None:
        self._offset = 0
        self._still = time.time_ns() if still else None
        self.clock = Clock(now_ns=self.now_ns)

    def now_ns(self) -> int:
        return (self._still or time.time_ns()) + self._offset

    def on(self, seconds: float) -> None:
        self._offset += int(seconds * NS)


def ring(runtime: Runtime) -> None:
    """A commit that concerns nobody."""
    runtime.create_run("nobody")
