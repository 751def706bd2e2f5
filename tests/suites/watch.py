"""What must hold of a log of runs after every command, read from its records, its folds and its queue."""

from __future__ import annotations

from collections import Counter
from typing import Any

from suites.machine import Model

from ledger_core import chain
from ledger_core.log import audit, index
from ledger_core.log.log import Event, Log
from ledger_core.log.store import Tree
from ledger_core.run import schedule
from ledger_core.run.state import RunState, fold
from ledger_core.runtime.folds import stream_of

GIVEN_UP = frozenset(
    ("lease_expired", "step_released", "step_retry_scheduled", "step_completed", "step_failed", "step_cancelled")
)


class Watch:
    """One log, compared with a model step by step."""

    def __init__(self, log: Log, model: Model) -> None:
        self.log, self.model = log, model
        self.folds: dict[str, RunState] = {}
        self.counts: dict[str, tuple[Counter[str], Counter[str]]] = {}
        self.births: dict[str, set[int]] = {}
        self.held: dict[str, tuple[int, int] | None] = {}
        self.final: set[tuple[str, str]] = set()
        self.checked = log.head()
        self.last: dict[int, tuple[int, int, bytes]] = {}

    def look(self) -> None:
        """After one command: the log grew as the model says, and all that is known of its runs agrees."""
        wanted, events = self.model.told(), self._new()
        assert wanted == [(one.stream.removeprefix("run/"), one.type) for one in events]
        held = dict(self.held)
        for event in events:
            self._event(event, held)
        for run in {event.stream.removeprefix("run/") for event in events}:
            assert self.model.runs[run].seen() == _seen(self.folds[run])
        self._places()
        self._families()

    def end(self) -> None:
        """At the end: verification finds nothing, and folding anew comes to the same."""
        if self.checked != self.log.head():
            return  # a check has failed before
        assert [] == list(audit.whole(self.log._store))
        for run, state in self.folds.items():
            events = self.log.stream(stream_of(run), contents=False)
            assert state == fold((one.seq, one.time_ns, one.type, one.body) for one in events)

    def _new(self) -> list[Event]:
        """What was appended, checked as records (invariants 1 and 2)."""
        seq, hash_ = self.checked
        with self.log._store.read() as reader:
            for key, data in reader.scan(Tree.EVENTS, index.seq_key(seq + 1)):
                header = chain.unpack(data)
                before = self.last.get(header.stream, (0, 0, bytes(32)))
                assert index.parse_seq(key) == header.seq == seq + 1
                assert header.prev_hash == hash_
                assert (header.stream_seq, header.stream_prev_seq, header.stream_prev_hash) == (
                    before[0] + 1,
                    before[1],
                    before[2],
                )
                seq, hash_ = header.seq, chain.stored_hash(data)
                self.last[header.stream] = (header.stream_seq, seq, hash_)
        events = list(self.log.read(self.checked.seq, contents=False))
        self.checked = self.log.head()
        assert self.checked == (seq, hash_)
        return events

    def _event(self, event: Event, held: dict[str, tuple[int, int] | None]) -> None:
        """What one event may be, whatever the model says."""
        run, body = event.stream.removeprefix("run/"), event.body
        counts, tools = self.counts.setdefault(run, (Counter(), Counter()))
        if event.epoch is not None:  # 13
            assert held[run] is not None and held[run][0] == event.epoch, "a fenced worker wrote"
        if event.type == "run_created":
            self.births[run] = {self.log.clock.now_ns(), event.time_ns}
        if event.type == "step_claimed":
            assert body.epoch == self.folds[run].epoch + 1, "epochs only grow"
            assert body.base_version == self.folds[run].version
            self.held[run] = (body.epoch, body.base_version)
        if event.type in GIVEN_UP:
            self.held[run] = None
        if event.type == "state_patch_committed":  # 14
            assert (body.base_version, body.version) == (held[run][1], held[run][1] + 1)
        if event.type == "tool_call_completed" or (event.type == "tool_call_settled" and body.outcome == "succeeded"):
            assert (run, body.path) not in self.final, "a second final outcome"  # 7
            self.final.add((run, body.path))
        if event.type == "tool_call_requested":
            assert (run, body.path) not in self.final
            row = self.folds[run].ledger.get(body.path)
            assert row is None or row.status == "FAILED_NO_EFFECT", "made again while nobody knew"  # 16
            tools[body.tool] += 1
        if event.type in ("run_completed", "run_failed", "run_cancelled"):
            assert (body.counts, body.tools) == (counts, tools)
        counts[event.type] += 1
        state = self.folds.setdefault(run, RunState())
        state.apply(event.seq, event.time_ns, event.type, body)

    def _places(self) -> None:
        rows = {row.stream.removeprefix("run/"): row for row in self.log.queued(limit=1000)}
        for run, ran in self.model.runs.items():
            row, wanted = rows.pop(run, None), ran.place()
            assert wanted == (None if row is None else self._read(row.key, row.note, run))
            placement = schedule.place(self.folds[run])
            timed = wanted is not None and wanted[0] in ("timer", "held")
            own = None if row is None else row.key if timed else row.key[:-8]
            assert own == (placement.key if timed or placement.key is None else placement.key[:-8])
            assert row is None or row.note == placement.note
        assert not rows

    def _read(self, key: bytes, note: Any, run: str) -> tuple[Any, ...]:
        """What a place says, as its words in `schedule` have it."""
        kind, number = key[:1], int.from_bytes(key[-8:], "big")
        if kind == b"t":
            return ("timer", number)
        if kind == b"w":
            return ("held", note["worker"])
        assert number in self.births[run]
        return ("ready", 127 - key[17]) if kind == b"r" else {b"p": ("waiting",), b"x": ("attention",)}[kind]

    def _families(self) -> None:
        """A parent that was cancelled has no child that lives and that nobody holds."""
        for ran in self.model.runs.values():
            parent = self.model.runs.get(ran.parent or "")
            if parent is not None and parent.status == "cancelled" and not ran.over and not ran.newer:
                assert ran.cancelling and ran.owner is not None


def _seen(state: RunState) -> dict[str, Any]:
    return {
        "status": state.status,
        "why": state.waiting if state.status == "waiting" else None,
        "cancelling": state.cancelling,
        "owner": state.worker,
        "epoch": state.epoch,
        "attempt": state.attempt,
        "retry_ns": state.retry_ns,
        "losses": state.losses,
        "version": state.version,
        "step": state.step_number,
        "code": state.code_digest,
        "waits": {one.path: (one.kind, one.name, one.wake_ns) for one in state.waits.values()},
        "inbox": state.signals,
        "answers": state.approvals,
        "children": {one.run: (one.status, one.ended) for one in state.children.values()},
        "calls": {one.path: (one.status, one.attempt) for one in state.ledger.values()},
        "newer": state.newer is not None,
    }
