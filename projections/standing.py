"""Where a run stands, for a person: what it waits for, for whom, since when, and what to do next.

Rules: pure, over facts; time comes in. Words are for people, fields for programs. A fold of nothing but `RunState`.
"""

from __future__ import annotations

from typing import Any

from ledger_core.run.budget import Account, amount_words
from ledger_core.run.schedule import STUCK
from ledger_core.run.state import RunState, Wait

_NS = 1_000_000_000
_NEXT = {
    "pending": "Nobody works on it yet. Go on with: agentledger resume {run}, or a worker: agentledger worker TARGET",
    "running": "A worker holds it. Follow it with: agentledger log tail -f --run {run}",
    "parked": "It costs one worker after the other. Find out why, then: agentledger resume {run}",
    "diverged": "Put the code back that agrees with the record, then: agentledger resume {run}",
    "completed": "It is done. Prove it with: agentledger verify {run}",
    "failed": "The agent failed. See: agentledger log show {run} --type step_failed",
    "cancelled": "It was cancelled. See who asked, and why: agentledger log show {run} --type run_cancel_requested",
}
_STUCK = {
    "in doubt": "Find out whether that happened, and say so: "
    "agentledger ledger settle {run}:{path} --as succeeded|no-effect --because TEXT",
    "blocked": "Mend that, then: agentledger resume {run}",
}
_WAITS = {
    "sleep": "Nothing: it wakes by itself where a worker serves it, or with: agentledger resume {run}",
    "retry": "Nothing: it is tried again by itself where a worker serves it, or with: agentledger resume {run}",
    "outage": "Bring back what is not there; it is tried again by itself where a worker serves it",
    "settle": "Nothing: it is asked again by itself where a worker serves it, or with: agentledger resume {run}",
    "child": "See the child: agentledger status {name}",
    "signal": "Send it: agentledger signal {run} {name} --payload JSON",
    "budget": "Raise it: agentledger budget set; or let those settle that hold it: agentledger ledger --in-doubt",
    "key": "See the run that holds the key: agentledger status {name}",
    "approval": "Answer: agentledger approve {name}, or agentledger deny {name} --reason TEXT",
}
_WHO = {
    "sleep": "a time",
    "retry": "its next attempt",
    "outage": "{name} to be there again",
    "settle": "word of what became of {name}",
    "child": "child run {name}",
    "signal": "signal {name}",
    "approval": "a person to answer {name}",
    "budget": "room in the budget of {name}",
    "key": "run {name}, which holds the same logical key",
}


def waits_json(state: RunState) -> list[dict[str, Any]]:
    """What the branches of a run wait for, the next to come first."""
    return [
        {
            "path": one.path,
            "kind": one.kind,
            "name": one.name,
            "since": one.since_ns / _NS,
            "until": None if one.wake_ns is None else one.wake_ns / _NS,
        }
        for one in _ordered(state)
    ]


def waits_lines(state: RunState, now_ns: int) -> list[str]:
    """The same in words."""
    lines = [_line(one, now_ns, come=state.answer(one.path) is not None) for one in _ordered(state)]
    if state.retry_ns is not None:
        lines.insert(0, f"attempt {state.attempt}, {_when(state.retry_ns, now_ns)}")
    return lines


def next_step(state: RunState, *, lost: bool = False) -> str:
    """What a person does next."""
    if lost:
        text = _NEXT["pending"].replace("Nobody works on it yet.", "Its worker is gone.")
    elif state.status == "waiting" and state.waiting in STUCK:
        text = _STUCK[str(state.waiting)].replace("{path}", state.in_doubt[0].path if state.in_doubt else "PATH")
    elif state.status == "waiting" and state.retry_ns is not None:
        text = _WAITS["retry"]
    elif any(state.answer(path) is not None for path in state.waits) and state.status == "waiting":
        text = "What it waits for has come. A worker goes on with it, or: agentledger resume {run}"
    elif state.status == "waiting" and state.waits:
        first = min(state.waits.values(), key=lambda one: one.kind not in ("approval", "signal"))
        text = _WAITS[first.kind].replace("{name}", first.name)
    elif state.driver == "external" and not state.ended:
        text = "It goes on when code attaches itself to it again"
    elif state.cancelling:
        text = "It was asked to end, and will at its next effect. Follow it: agentledger log tail -f --run {run}"
    else:
        text = _NEXT.get(state.status, _NEXT["pending"])
    return text.replace("{run}", state.run)


def cost_words(state: RunState) -> str:
    """What a run has cost so far."""
    calls = f"{state.model_calls:,} model call{'' if state.model_calls == 1 else 's'}"
    tools = sum(state.tools.values())
    words = f"{calls}, {tools:,} tool call{'' if tools == 1 else 's'}"
    tokens = state.input_tokens + state.output_tokens
    words += f", {state.input_tokens:,} tokens in and {state.output_tokens:,} out" if tokens else ""
    return words + (f", {amount_words('usd_nano', state.usd_nano)}" if state.usd_nano else "")


def budget_lines(account: Account | None) -> list[str]:
    """What is left of the budget of a run and its children."""
    if account is None:
        return []
    lines = []
    for name, limit in account.limits.items():
        held = account.reserved.get(name, 0)
        held_words = f", {amount_words(name, held)} reserved" if held else ""
        words = f"{amount_words(name, account.left(name) or 0)} left of {amount_words(name, limit)}{held_words}"
        lines.append(words)
    return lines


def _ordered(state: RunState) -> list[Wait]:
    return sorted(state.waits.values(), key=lambda one: (one.wake_ns is None, one.wake_ns or 0, one.since_ns))


def _line(one: Wait, now_ns: int, *, come: bool) -> str:
    until = "" if one.wake_ns is None else f", {_when(one.wake_ns, now_ns)}"
    until = ": it has come" if come else until
    return f"{_WHO[one.kind].format(name=one.name)} at effect {one.path}, for {_span(now_ns - one.since_ns)}{until}"


def _when(wake_ns: int, now_ns: int) -> str:
    return f"due for {_span(now_ns - wake_ns)}" if wake_ns <= now_ns else f"until in {_span(wake_ns - now_ns)}"


def _span(ns: int) -> str:
    seconds = max(0, ns) / _NS
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
