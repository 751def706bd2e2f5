"""Evidence of a run: its sealed bytes, what they say, and what follows from them, in one object that proves itself.

Rules: the records and blobs are the log's own, byte for byte; everything else is a function of them (`event_json`,
`derived`) that whoever checks a bundle computes again. A bundle carries the run's key, so that its contents can be
opened; one that is sealed carries none, and shows no content. A bundle holds all of the run's events up to the log's
head at that time; the run may go on meanwhile. What this process keeps secret is never disclosed: such a run can only
be exported sealed.

Byte by byte: `contracts/EVIDENCE.md`. This file does not know files or terminals.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any, Final

import attrs

from ledger_core import __version__, chain
from ledger_core.clock import NS
from ledger_core.errors import NotFound, Refused
from ledger_core.events import FORGOTTEN, Missing
from ledger_core.events.base import content_of
from ledger_core.events.step import AgentResultReturned, StepFailed, StepRetryScheduled
from ledger_core.events.wait import ChildRunEnded
from ledger_core.governance.artifacts import ARTIFACT, MEDIA, STREAM
from ledger_core.ids import Seq
from ledger_core.log.cipher import ID_SIZE, Cipher
from ledger_core.log.log import Log
from ledger_core.log.raw import LIST
from ledger_core.log.record import Event, checked_header
from ledger_core.run.state import RunState, fold
from ledger_core.runtime.folds import stream_of
from ledger_core.runtime.governing import idempotency_key
from ledger_core.secret import VAULT
from projections.evidence_json import DIGEST, digest
from projections.evidence_records import SCHEMA, SEALED, Held, Words, commitments, events_of, list_digest
from projections.folding import Folded, of_events
from projections.frames import deltas
from projections.table import Row
from projections.wire import event_json, plain, status_json

PARTS: Final = (
    "summary",
    "steps",
    "tool_ledger",
    "approvals",
    "cost_records",
    "failures",
    "policy_decisions",
    "models",
    "artifacts",
    "media_artifacts",
    "stream_checkpoints",
    "children",
    "final_state",
    "frames",
)
"""What is derived from the events."""


def bundle(log: Log, run_id: str, *, sealed: bool = False) -> dict[str, Any]:
    """The evidence of a run. Raises `NotFound`, `Damaged`, and `Refused` where it would disclose a secret."""
    stream = stream_of(run_id)
    if log.stream_head(stream) is None:
        raise NotFound(f"There is no run {run_id!r}.", hint="`agentledger runs` lists them; `latest` is the newest.")
    head = log.head()  # before the records: with all of them up to it, whoever holds the ledger finds one cut off
    found = None if sealed else log.key(stream)
    held = _held(log, stream, head.seq)
    cipher = None if found is None else Cipher(found[1])
    words = None if cipher is None else Words(held, cipher)
    events = list(events_of(held, words, SEALED if sealed else FORGOTTEN))
    _discloses_nothing(run_id, held, events if words else ())
    parts = derived(events)
    frames = parts.pop("frames")
    made = {
        "schema": SCHEMA,
        "run_id": run_id,
        "ledger_id": log.id.hex(),
        "exported": log.clock.now_ns() / NS,
        "agentledger": __version__,
        "sealed": sealed,
        "stream": {"name": stream, "number": held.number, "key": None if found is None else found[1].hex()},
        "head": {"seq": head.seq, "hash": head.hash.hex()},
        "stream_head": {"seq": events[-1].seq, "stream_seq": events[-1].stream_seq, "hash": events[-1].hash.hex()},
        **parts,
        "events": [event_json(event) for event in events],
        "frames": frames,
        **held.as_json(),
    }
    return made | {DIGEST: digest(made)}


def derived(events: Sequence[Event]) -> dict[str, Any]:
    """All `PARTS` of a bundle, from the run's events in order: the same for the same events."""
    rows = of_events(events)
    state = fold((event.seq, event.time_ns, event.type, event.body) for event in events)
    at = {event.seq: event for event in events}
    frames, document = [], None
    for one in deltas(events):
        frames.append({"seq": one.seq, "patch": one.patch})
        document = one.state
    kept = [_with(at, row, "manifest", "data") for row in _rows(rows, "artifacts")]
    parts = {
        "summary": _summary(state, events, rows),
        "steps": _rows(rows, "steps"),
        "tool_ledger": [_call(state, _with(at, row, "arguments")) for row in _rows(rows, "tool_ledger")],
        "approvals": [_answered(at, _with(at, row, "arguments", "asked")) for row in _rows(rows, "approvals")],
        "cost_records": _rows(rows, "costs"),
        "failures": [_worded(at, row) for row in _rows(rows, "failures")],
        "policy_decisions": [_with(at, row, "reason") for row in _rows(rows, "policy_decisions")],
        "models": _rows(rows, "models"),
        "artifacts": [row for row in kept if row["schema"] == ARTIFACT],
        "media_artifacts": [row for row in kept if row["schema"] == MEDIA],
        "stream_checkpoints": [row for row in kept if row["schema"] == STREAM],
        "children": _children(events, _rows(rows, "children")),
        "final_state": {
            "version": state.version,
            "state": document,
            "output": _output(state, events),
            "status": state.status,
        },
        "frames": frames,
    }
    return {name: plain(parts[name]) for name in PARTS}


def row_json(row: Row) -> dict[str, Any]:
    """A row as other systems read it: times as unix seconds without the unit in their name, dollars beside the rest."""
    said: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("_ns"):
            said[name.removesuffix("_ns")] = None if value is None else value / NS
        else:
            said[name] = plain(value)
        if name == "usd_nano":
            said["usd"] = None if value is None else value / 1_000_000_000
    return said


def _held(log: Log, stream: str, stop: Seq) -> Held:
    """The run's bytes up to a seq; raises `Damaged`."""
    records: list[bytes] = []
    beginnings: dict[bytes, int] = {}
    for seq, data in takewhile(lambda row: row[0] <= stop, log.records(stream)):
        header = checked_header(data, seq)
        records.append(data)
        if (listed := list_digest(data, header)) is not None:
            beginnings[listed[:ID_SIZE]] = seq
    chunks: dict[bytes, list[bytes]] = defaultdict(list)
    lists: dict[int, bytes] = {}
    for row in log.blob_chunks(stream):
        if row.chunk != LIST:
            chunks[row.id].append(row.data)
        elif row.id in beginnings:
            lists[beginnings[row.id]] = row.data
    blobs: dict[bytes, list[bytes]] = {}
    for data in records:
        for one in commitments(data, chain.unpack(data), lists):
            blobs[one.id] = chunks.get(one.id, [])
    return Held(stream=stream, number=chain.unpack(records[0]).stream, records=records, lists=lists, blobs=blobs)


def _summary(state: RunState, events: Sequence[Event], rows: Folded) -> dict[str, Any]:
    """The run at a look; `counts` are events by type."""
    said = {name: value for name, value in status_json(state).items() if name != "ledger"}
    failed = [event.body for event in events if isinstance(event.body, (StepFailed, StepRetryScheduled))]
    last = failed[-1] if failed and state.status == "failed" else None
    return {
        **said,
        "duration": (state.updated_ns - state.created_ns) / NS,
        "tool_calls": sum(state.tools.values()),
        "usd_nano": state.usd_nano,
        "tool_statuses": dict(sorted(Counter(row.status for row in state.ledger.values()).items())),
        "failures": {key: said.get("failures", 0) for key, said in rows.sums("failures", "category").items()},
        "error_type": None if last is None else last.error_type,
        "message": None if last is None else last.message,
        "output": _output(state, events),
        "not_folded": [attrs.asdict(one) for one in rows.parked],
    }


def _output(state: RunState, events: Sequence[Event]) -> Any:
    """What the agent returned, if the run completed."""
    if state.status != "completed":
        return None
    said = [event.body.output for event in events if isinstance(event.body, AgentResultReturned)]
    return said[-1] if said else None


def _rows(rows: Folded, name: str) -> list[dict[str, Any]]:
    """Rows of a projection, in the order in which they began."""
    return [row_json(row) for row in sorted(rows.rows(name), key=lambda row: row.get("first_seq") or row["seq"])]


def _with(at: dict[Seq, Event], row: dict[str, Any], *names: str) -> dict[str, Any]:
    """A row with fields of the event at its seq, where that has them."""
    body = at[row["seq"]].body
    return row | {name: plain(getattr(body, name)) for name in names if hasattr(body, name)}


def _call(state: RunState, row: dict[str, Any]) -> dict[str, Any]:
    """A call of the tool ledger, with how a person and the other side name it."""
    entry = state.ledger[row["path"]]
    return {"call": f"{state.run}:{entry.path}", **row, "idempotency_key": idempotency_key(state, entry)}


def _answered(at: dict[Seq, Event], row: dict[str, Any]) -> dict[str, Any]:
    """An approval with who answered, and why."""
    body: Any = None if row["decided_seq"] is None else at[row["decided_seq"]].body
    return row | {"by": plain(getattr(body, "by", None)), "reason": plain(getattr(body, "reason", None))}


def _worded(at: dict[Seq, Event], row: dict[str, Any]) -> dict[str, Any]:
    """A failure with its words."""
    body: Any = None if row["message_seq"] is None else at[row["message_seq"]].body
    said = getattr(body, "message", getattr(body, "reason", None))
    return row | {"message": plain(said)}


def _children(events: Sequence[Event], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Children, each with its last event as the parent heard of it."""
    ends = {one.body.run: one.body for one in events if isinstance(one.body, ChildRunEnded)}
    said = ((row, ends.get(row["child"])) for row in rows)
    return [row | {"head": None if end is None else {"seq": end.seq, "hash": end.hash.hex()}} for row, end in said]


def _discloses_nothing(run_id: str, held: Held, events: Iterable[Event]) -> None:
    """Raise `Refused` where a bundle would hold what this process keeps secret: the log holds it, so no copy may."""
    for data in held.records:
        if VAULT.holds(data[chain.HASH_SIZE : len(data) - chain.unpack(data).content_size]):
            raise Refused(f"The facts of run {run_id} hold a secret, at seq {chain.unpack(data).seq}.")
    for event in events:
        inside = content_of(event.body)
        if any(not isinstance(value, Missing) and VAULT.clean(value) != value for value in inside.values()):
            raise Refused(
                f"Run {run_id} said something that is kept secret here, in its event at seq {event.seq}: a bundle "
                "with its key would disclose it.",
                hint="Leave its key and its contents out: agentledger evidence RUN --sealed.",
            )
