"""Named places where a test may kill this process for real, to see what is left.

Rules: costs one comparison when not armed. `AGENTLEDGER_FAILPOINT=N` kills with SIGKILL at the Nth place reached,
`AGENTLEDGER_FAILPOINT=name` (or `name:N`) at the first (Nth) of that name; `AGENTLEDGER_FAILPOINT_TRACE=FILE` writes
down the names that are reached. Nothing else is ever done here: a failpoint that raised could be caught.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_at = os.environ.get("AGENTLEDGER_FAILPOINT", "")
_trace = os.environ.get("AGENTLEDGER_FAILPOINT_TRACE", "")
_reached: dict[str, int] = {}


def _reach(name: str) -> None:
    if _trace:
        with Path(_trace).open("a", encoding="utf-8") as file:
            file.write(name + "\n")
    _reached[name] = _reached.get(name, 0) + 1
    _reached[""] = _reached.get("", 0) + 1
    if _at in {str(_reached[""]), f"{name}:{_reached[name]}"} or (_at == name and _reached[name] == 1):
        os.kill(os.getpid(), signal.SIGKILL)


def _pass(name: str) -> None:
    """Not armed."""


reach = _reach if _at or _trace else _pass
