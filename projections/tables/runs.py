"""Runs: one row each, with how it stands, what it waits for and what it has cost (no amount is larger than `MOST`)."""

from __future__ import annotations

from collections.abc import Iterable

from ledger_core.log.record import Event
from ledger_core.run.budget import MOST
from ledger_core.run.state import RunState
from projections.table import Contribution, Projection, Row, counted, of_stream


def _fold(_: Row | None, event: Event, state: RunState) -> Row:
    return {
        "run": state.run,
        "agent": state.agent,
        "role": state.role,
        "session": state.session,
        "driver": state.driver,
        "status": state.status,
        "waiting": state.waiting,
        "category": state.category,
        "created_ns": state.created_ns,
        "updated_ns": state.updated_ns,
        "since_ns": state.since_ns,
        "events": state.events,
        "effects": state.effects,
        "model_calls": state.model_calls,
        "tool_calls": sum(state.tools.values()),
        "input_tokens": min(state.input_tokens, MOST),
        "output_tokens": min(state.output_tokens, MOST),
        "cached_tokens": min(state.cached_tokens, MOST),
        "usd_nano": min(state.usd_nano, MOST),
        "in_doubt": len(state.in_doubt),
        "artifacts": state.artifacts,
        "refused": {name: state.refused[name] for name in sorted(state.refused)},
        "parent": state.parent,
        "parent_path": state.parent_path,
        "root": state.root or state.run,
        "step": state.step,
        "step_number": state.step_number,
        "step_agent": state.step_agent,
        "step_status": state.step_status,
        "attempt": state.attempt,
        "epoch": state.epoch,
        "worker": state.worker,
        "priority": state.priority,
        "losses": state.losses,
        "cancelling": state.cancelling,
        "version": state.version,
        "entry_point": state.entry_point,
        "code_digest": state.code_digest,
        "first_seq": state.first_seq,
        "seq": event.seq,
        "waits": [[one.path, one.kind, one.name, one.since_ns, one.wake_ns] for one in state.waits.values()],
    }


def _sums(row: Row) -> Iterable[Contribution]:
    yield counted(("status", row["status"]), runs=1)
    yield counted(("agent", row["agent"]), ("session", row["session"]), runs=1, **{row["status"]: 1})
    yield counted(("ledger", ""), runs=1, in_doubt=row["in_doubt"], events=row["events"], effects=row["effects"])


RUNS = Projection(name="runs", version=1, keys=of_stream, fold=_fold, latest=True, sums=_sums)
