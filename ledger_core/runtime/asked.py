"""What callers say of new runs and of times, checked at the door.

Rules: pure; raises `BadInput` with one sentence and a hint, before anything was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from ledger_core import secret
from ledger_core.clock import NS
from ledger_core.errors import BadInput
from ledger_core.ids import check_name
from ledger_core.run.budget import budget_of
from ledger_core.run.retry import policy_of

LONGEST: Final = 100 * 366 * 86_400.0
"""Longest wait, s."""


def run_options(initial_state: Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller says of a new run, checked; raises `BadInput`."""
    known = {"run_id", "priority", "capabilities", "retry_policy", "timeout", "budget"}
    if unknown := sorted(set(options) - known):
        raise BadInput(f"A run has no {', '.join(unknown)}.", hint=f"It has: {', '.join(sorted(known))}.")
    if initial_state is not None and not isinstance(initial_state, Mapping):
        raise BadInput("The initial state is a dict.", hint="Pass initial_state={…}.")
    priority = options.get("priority") or 0
    if type(priority) is not int or not -128 <= priority <= 127:
        raise BadInput(f"A priority of {priority!r:.50} is none.", hint="It is a whole number from -128 to 127.")
    names = options.get("capabilities") or ()
    if isinstance(names, str) or len(names) > 16:
        raise BadInput("Capabilities are a list of up to 16 names.", hint='Write capabilities=["gpu"].')
    capabilities = sorted({check_name(name, "capability") for name in names})
    if sum(len(name.encode()) for name in capabilities) > 256:
        raise BadInput("The names of the capabilities are too long together.", hint="They may have 256 bytes in all.")
    budget = budget_of(options.get("budget"))
    retry, timeout = options.get("retry_policy"), duration(options.get("timeout"))
    return {
        "initial_state": secret.plain(dict(initial_state or {})),
        "run_id": options.get("run_id"),
        "priority": priority,
        "capabilities": capabilities or None,
        "retry": None if retry is None else policy_of(retry).as_json(),
        "budget": None if budget is None else budget.limits,
        "timeout_ns": None if timeout is None else int(timeout * NS),
    }


def duration(value: Any, *, needed: bool = False) -> float | None:
    """Seconds that somebody asked for; raises `BadInput`."""
    if value is None and not needed:
        return None
    if type(value) not in (int, float) or not 0 <= value <= LONGEST:
        raise BadInput(f"{value!r:.50} is no duration.", hint="It is a number of seconds, from 0 up.")
    return float(value)


def instant(when: Any) -> int:
    """A time in ns since 1970; raises `BadInput`."""
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise BadInput(f"{when!r:.50} is no time with a time zone.", hint="Write datetime(…, tzinfo=UTC).")
    return int(when.timestamp()) * NS + when.microsecond * 1000


def tool_arguments(arguments: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """What a tool is called with: a dict, keywords, or both; raises `BadInput`."""
    if arguments is not None and not isinstance(arguments, Mapping):
        raise BadInput("A tool's arguments are a dict or keywords.", hint='Write ctx.call_tool("name", {"a": 1}).')
    return {**(arguments or {}), **keywords}
