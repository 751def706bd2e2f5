"""Model calls: one row each, with what it took and how it ended.

A call's attempts are one row; a call that a step makes when its code begins afresh is another. A call that nobody had
answered when its step ended, or began afresh, is `lost`: whether it was answered, and what it cost, nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ledger_core.events.effect import ModelCallCompleted, ModelCallFailed, ModelCallRequested
from ledger_core.events.step import StepCancelled, StepCompleted, StepFailed, StepRetryScheduled
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, counted, of_effect

_SAID = ("input_tokens", "output_tokens", "cached_tokens", "usd_nano", "proposed", "streamed")
_ENDINGS = (StepCompleted, StepFailed, StepCancelled, StepRetryScheduled)


def _open(_: Event, state: RunState) -> Iterable[str]:
    """Calls that somebody may still wait for."""
    return tuple(state.asking)


def _of_retry(event: Event, state: RunState) -> Iterable[str]:
    body: Any = event.body
    return _open(event, state) if body.fresh else ()


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if isinstance(body, ModelCallRequested):
        row = row or {
            **about(event, state),
            "path": body.path,
            **dict.fromkeys(_SAID),
            "requested_ns": event.time_ns,
        }
        row |= {
            "model": body.model,
            "status": "running",
            "attempt": body.attempt,
            "ended_ns": None,
            "seq": event.seq,
            "done": None,
            "category": None,
            "error_type": None,
        }
        return row
    if row is None:
        return None
    if isinstance(body, _ENDINGS):
        if row["status"] == "running":
            row["status"], row["ended_ns"] = "lost", event.time_ns
        return row
    row["ended_ns"], row["done"] = event.time_ns, event.seq
    if isinstance(body, ModelCallCompleted):
        row["status"], row["category"], row["error_type"] = "completed", None, None
        row |= {name: getattr(body, name) for name in _SAID}
    elif isinstance(body, ModelCallFailed):
        row["status"], row["category"], row["error_type"] = "failed", body.category, body.error_type
    return row


def _sums(row: Row) -> Iterable[Contribution]:
    took = row["ended_ns"] - row["requested_ns"] if row["done"] is not None else 0  # of lost ones nobody knows
    amounts = {name: row[name] or 0 for name in _SAID[:4]}
    yield counted(("model", row["model"]), calls=1, took_ns=took, **{row["status"]: 1}, **amounts)


MODELS = Projection(
    name="models",
    version=1,
    keys={
        **dict.fromkeys((ModelCallRequested, ModelCallCompleted, ModelCallFailed), of_effect),
        **dict.fromkeys(_ENDINGS, _open),
        StepRetryScheduled: _of_retry,
    },
    fold=_fold,
    sums=_sums,
)
