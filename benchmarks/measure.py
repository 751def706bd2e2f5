"""How things are measured: in turns, and as ratios of medians.

Rules: two things that are compared run alternately, so that whatever else the machine does hits both. A row says what
was measured, the ratio, what was aimed at, and the rates behind it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the result."""

    what: str
    ratio: float
    aim: str
    detail: str


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each, taken alternately."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for place, work in enumerate(works):
            times[place].append(seconds(work))
    return [statistics.median(found) for found in times]


def rate(count: int, taken: float) -> str:
    """Things a second, for reading."""
    return f"{count / taken:,.0f}/s"
