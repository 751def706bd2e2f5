"""Histories that no run would have: any event in any order, in streams of every kind, with names that meet.

Rules: values come from small pools, so that outcomes find intents, answers find questions, and steps end that began.
"""

from __future__ import annotations

import typing
from typing import Any

import attrs
from hypothesis import strategies as st

from ledger_core.events import REGISTRY, Body, run, step
from ledger_core.log.record import Draft

_POOLS: dict[str, list[Any]] = {
    "path": ["1", "2", "#2/1"],
    "step": ["st1", "st2"],
    "approval": ["ap1", "ap2"],
    "run": ["r1", "c1", "c2"],
    "tool": ["pay", "read"],
    "model": ["m1", "m2"],
    "agent": ["triage", "billing"],
    "session": ["s1"],
    "status": ["completed", "failed"],
    "outcome": ["succeeded", "no_effect", "compensated", "resent"],
    "code": ["D01"],
    "reopened": ["1", None],
    "spent": [None, {"usd_nano": 5}, {"usd_nano": 7, "tokens": 3}],
    "reserved": [None],
    "wake_ns": [None, 1, 1 << 62],
    "retry_ns": [None, 1],
    "retry": [None],
}
_SKIPPED = {"ledger_created", "content_forgotten", "projection_certified"}


def bodies() -> st.SearchStrategy[Body]:
    """Any body that a run's stream may hold."""
    return st.sampled_from(sorted(REGISTRY.keys() - _SKIPPED)).flatmap(lambda name: _body(REGISTRY[name].cls))


def drafts(streams: tuple[str, ...] = ("run/r1", "run/r2", "run/r3", "session/s1", "budget_run/r1")) -> Any:
    """Lists of drafts: those of a run mostly begin as a run does."""
    begun = st.builds(beginning, st.sampled_from(streams[:3]))
    free = st.builds(lambda stream, body: [Draft(stream=stream, body=body)], st.sampled_from(streams), bodies())
    return st.lists(st.one_of(free, free, free, begun), min_size=1, max_size=60).map(lambda parts: sum(parts, []))


def beginning(stream: str) -> list[Draft]:
    """How a run begins."""
    made: list[Any] = [
        run.RunCreated(run=stream[4:], agent="triage", seed=bytes(32), initial_state={}),
        step.StepCreated(step="st1", number=1, agent="triage"),
        step.StepClaimed(step="st1", epoch=1, worker="w", base_version=0),
    ]
    return [Draft(stream=stream, body=body) for body in made]


def _body(cls: Any) -> st.SearchStrategy[Body]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: _value(field, hints[field.name]) for field in attrs.fields(cls)})


def _value(field: Any, hint: Any) -> st.SearchStrategy[Any]:
    if field.metadata["part"] != "facts":
        return st.just([] if field.metadata["part"] == "messages" else "words")
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    kinds = typing.get_args(hint) or (hint,)
    plain = tuple(typing.get_origin(kind) or kind for kind in kinds)
    fitting = [one for one in _POOLS.get(field.name, []) if type(one) in plain]
    if fitting:
        return st.sampled_from(fitting)
    if type(None) in plain:
        return st.sampled_from([None, True]) if bool in plain else st.none()
    values = {str: st.just("x"), int: st.integers(1, 3), bool: st.booleans(), bytes: st.just(bytes(32))}
    return values.get(hint, st.just({}))
