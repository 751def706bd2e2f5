"""Named places where a test may kill this process for real, to see what is left.

Rules: costs one call of an empty function when not armed. `AGENTLEDGER_FAILPOINT=N` kills with SIGKILL at the Nth
place reached, `AGENTLEDGER_FAILPOINT=name:N` at the Nth of that name; `AGENTLEDGER_FAILPOINT_TRACE=FILE` writes down
the names that are reached. Nothing else is ever done here: a failpoint that raised could be caught.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

_reached: Counter[str] = Counter()
_at = ""
_trace = ""


def reach(name: str) -> None:
    """Come by a place where the process may be killed."""
    if _at or _trace:
        _come_by(name)


def arm(at: str, trace: str = "") -> None:
    """Have this process killed at a place; count from here."""
    global _at, _trace
    _reached.clear()
    _at, _trace = at, trace


def _come_by(name: str) -> None:
    if _trace:
        with Path(_trace).open("a", encoding="utf-8") as file:
            file.write(name + "\n")
    _reached.update((name, ""))
    if _at in (str(_reached[""]), f"{name}:{_reached[name]}"):
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("AGENTLEDGER_FAILPOINT", ""), os.environ.get("AGENTLEDGER_FAILPOINT_TRACE", ""))
