"""Time and randomness, the two things that pure code may not have: here, and handed down as values.

Rules: nobody else in `ledger_core` calls the system's clock or its random source. Tests pass their own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import attrs

NS = 1_000_000_000


@attrs.frozen(kw_only=True)
class Clock:
    """Wall time in ns since 1970, monotonic time in ns, and random bytes."""

    now_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    random: Callable[[int], bytes] = os.urandom


SYSTEM = Clock()
