"""Model calls: one row each, with what it took and how it ended."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.events.effect import ModelCallCompleted, ModelCallFailed, ModelCallRequested
from ledger_core.log.record import Event
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, about, counted, of_path

_SAID = ("input_tokens", "output_tokens", "cached_tokens", "usd_nano", "proposed", "streamed")


def _fold(row: Row | None, event: Event, state: RunState) -> Row | None:
    body = event.body
    if isinstance(body, ModelCallRequested):
        row = row or {
            **about(event, state),
            "path": body.path,
            "model": body.model,
            **dict.fromkeys(_SAID),
            "requested_ns": event.time_ns,
        }
        row |= {
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
    row["ended_ns"], row["done"] = event.time_ns, event.seq
    if isinstance(body, ModelCallCompleted):
        row["status"] = "completed"
        row |= {name: getattr(body, name) for name in _SAID}
    elif isinstance(body, ModelCallFailed):
        row["status"], row["category"], row["error_type"] = "failed", body.category, body.error_type
    return row


def _sums(row: Row) -> Iterable[Contribution]:
    took = 0 if row["ended_ns"] is None else row["ended_ns"] - row["requested_ns"]
    amounts = {name: row[name] or 0 for name in _SAID[:4]}
    yield counted(("model", row["model"]), calls=1, took_ns=took, **{row["status"]: 1}, **amounts)


MODELS = Projection(
    name="models",
    version=1,
    keys=dict.fromkeys((ModelCallRequested, ModelCallCompleted, ModelCallFailed), of_path),
    fold=_fold,
    sums=_sums,
)
