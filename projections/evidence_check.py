"""Checking a bundle of evidence: its bytes against their hashes, what it shows against its bytes, and against a ledger.

Rules: nothing is raised for what is found, whatever JSON is given; findings are values, and so is what was not checked.
Two things are told apart: what nobody can see in one bundle (`not_checked`), and what could have been looked at and was
not, because it is not there (`incomplete`). What is shown is never read for its meaning: it is computed again from the
sealed bytes and compared, so that an edited number is found even where the digest was made anew. Parts that another
version of the program made may have other fields; a field that both have must say the same.

This file knows no files, and does not look at sealed bytes itself (`evidence_sealed`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from ledger_core import __version__, chain
from ledger_core.errors import LedgerError
from ledger_core.events import FORGOTTEN, Unknown
from ledger_core.ids import LedgerId
from ledger_core.log.cipher import Cipher
from ledger_core.log.log import Log
from ledger_core.log.record import Event
from ledger_core.log.verify import Finding
from projections.evidence import PARTS, derived
from projections.evidence_against import against_children, against_ledger, holds_any
from projections.evidence_json import DIGEST, differences, digest, of_hex, same
from projections.evidence_records import SCHEMA, SEALED, Held, Words, events_of
from projections.evidence_sealed import Chain, finding, parse, printable
from projections.wire import event_json

MOST: Final = 1000
"""Findings that are kept."""
_KEYS: Final = (
    "schema",
    "run_id",
    "ledger_id",
    "exported",
    "agentledger",
    "sealed",
    "stream",
    "head",
    "stream_head",
    *PARTS[:-1],
    "events",
    "frames",
    "records",
    "blobs",
    DIGEST,
)
_PLACES: Final = re.compile(r"\[\d+\]")
_SHORT: Final = 80


@attrs.define(kw_only=True)
class EvidenceReport:
    """What a check of a bundle found, what it checked, and what it could not."""

    run_id: str | None = None
    digest: str | None = None
    sealed: bool = False
    findings: list[Finding] = attrs.field(factory=list)
    checked: dict[str, int] = attrs.field(
        factory=lambda: dict.fromkeys(("records", "contents", "blobs", "opened", "events", "parts", "in_ledger"), 0)
    )
    """How many: records, contents and blobs against their digests; contents opened with the key; events and derived
    parts that are shown, against the sealed bytes; records against the ledger's."""
    not_checked: list[str] = attrs.field(factory=list)
    """What this bundle cannot show by itself."""
    incomplete: list[str] = attrs.field(factory=list)
    """What could be checked if it were there."""
    since: int | None = None
    """Events that the run has had since, if a ledger was asked."""

    @property
    def ok(self) -> bool:
        return not self.findings and not self.incomplete

    @property
    def exit_code(self) -> int:
        """3 where something was found, 6 where something was missing, else 0."""
        return 3 if self.findings else 6 if self.incomplete else 0

    def add(self, *found: Finding) -> None:
        """Keep findings, as far as there is room."""
        for one in found:
            if len(self.findings) < MOST:
                self.findings.append(one)
            elif len(self.findings) == MOST:
                self.findings.append(Finding(kind="more", detail=f"more than {MOST:,} findings"))

    def as_json(self) -> dict[str, Any]:
        """The object that `agentledger evidence-check --json` prints, for one bundle."""
        return {"ok": self.ok, **attrs.asdict(self)}


def check(
    bundle: Any, log: Log | None = None, *, children: Mapping[str, Any] | None = None, demanded: bool = True
) -> EvidenceReport:
    """What is wrong with a bundle, by itself and, with `log`, against the ledger that it says it is of.

    `children` are bundles by run id: those of the run's children are compared with what the run heard of them. A log
    that is only at hand (not `demanded`) is not asked if it is another ledger, and has none of the bundle's records.
    """
    report = EvidenceReport()
    try:
        for one in _checked(bundle, log, children or {}, report, demanded=demanded):
            report.add(one)
    except Exception as error:  # JSON can be anything, and sealed bytes can be anybody's
        report.add(finding("shape", None, f"the check could not go on: {type(error).__name__}: {error}"))
    report.incomplete = [printable(text, 500) or "" for text in report.incomplete]
    return report


def _checked(
    bundle: Any, log: Log | None, children: Mapping[str, Any], report: EvidenceReport, *, demanded: bool
) -> Iterator[Finding]:
    if not isinstance(bundle, Mapping) or bundle.get("schema") != SCHEMA:
        yield Finding(kind="shape", detail=f"this is no bundle of evidence: its schema is not {SCHEMA}")
        return
    name, run_id = f"run/{bundle.get('run_id')}", bundle.get("run_id")
    report.run_id, report.sealed = printable(run_id), bundle.get("sealed") is True
    for wrong in _envelope(bundle, report):
        yield finding("shape", name, wrong)
    yield from _digest(bundle, name, report)
    held, unread = parse(bundle)
    yield from unread
    ledger = of_hex(bundle.get("ledger_id"), 16)
    chained = Chain(held=held, ledger=None if ledger is None else LedgerId(ledger))
    broken = list(chained.check())
    yield from broken
    report.checked |= {"records": len(held.records), "contents": chained.contents, "blobs": chained.blobs}
    yield from _heads(bundle, held, name)
    if log is not None and not demanded and bundle.get("ledger_id") != log.id.hex() and not holds_any(log, held):
        report.not_checked.append(f"anything in the ledger here: {log.id.hex()} is another one, and has not this run")
        log = None
    _limits(report, log)
    if unread or broken:
        report.not_checked.append("what is shown: the sealed bytes that it would be compared with are damaged")
    else:
        yield from _shown(bundle, held, chained.key_check, report)
    if log is not None:
        report.since = yield from against_ledger(bundle, held, log, report.checked)
    missing = yield from against_children(bundle, log, children)
    if missing:
        names = ", ".join(missing[:4]) + (", …" if len(missing) > 4 else "")
        count = f"{len(missing):,} child run" + ("" if len(missing) == 1 else "s")
        report.incomplete.append(f"{count}, whose evidence is not here: {names}"[:300])


def _envelope(bundle: Mapping[str, Any], report: EvidenceReport) -> Iterator[str]:
    """What is wrong with the bundle's own fields."""
    for name in _KEYS:
        if name not in bundle:
            yield f"{name} is missing"
    more = [str(name)[:_SHORT] for name in bundle if name not in _KEYS]
    if more:
        report.incomplete.append(f"fields that this version does not know: {', '.join(more[:8])}")
    stream = bundle.get("stream")
    stream = stream if isinstance(stream, Mapping) else {}
    if set(stream) != {"name", "number", "key"} or type(stream.get("number")) is not int:
        yield "stream is no object with name, number and key"
    if not isinstance(bundle.get("run_id"), str) or stream.get("name") != f"run/{bundle.get('run_id')}":
        yield "run_id and stream.name are not of one run"
    if of_hex(bundle.get("ledger_id"), 16) is None:
        yield "ledger_id is not 16 bytes in hex"
    exported = bundle.get("exported")
    if type(exported) not in (int, float) or not math.isfinite(exported):  # type: ignore[arg-type]  # looked at before
        yield "exported is no time"
    if not isinstance(bundle.get("agentledger"), str):
        yield "agentledger is no version"
    if type(bundle.get("sealed")) is not bool:
        yield "sealed is neither true nor false"
    key = stream.get("key")
    if key is not None and (bundle.get("sealed") is True or of_hex(key, 32) is None):
        yield "stream.key is there and the bundle is sealed, or it is not 32 bytes in hex"


def _digest(bundle: Mapping[str, Any], name: str, report: EvidenceReport) -> Iterator[Finding]:
    try:
        found = digest(bundle)
    except (TypeError, ValueError, RecursionError) as error:
        yield finding("digest", name, f"the bundle has no canonical JSON: {error}"[:300])
        return
    report.digest = found
    if bundle.get(DIGEST) != found:
        yield finding("digest", name, f"the bundle's digest is {found}, not the one that it names")


def _heads(bundle: Mapping[str, Any], held: Held, name: str) -> Iterator[Finding]:
    """The head of the run is the last record; the log's is not before it."""
    if not held.records or not held.records[-1]:
        return
    last = chain.unpack(held.records[-1])
    hash_ = chain.stored_hash(held.records[-1]).hex()
    wanted = {"seq": last.seq, "stream_seq": last.stream_seq, "hash": hash_}
    if not same(bundle.get("stream_head"), wanted):
        yield finding("head", name, "stream_head is not the last record")
    head = bundle.get("head")
    if not isinstance(head, Mapping) or set(head) != {"seq", "hash"} or type(head.get("seq")) is not int:
        yield finding("head", name, "head is no object with seq and hash")
    elif of_hex(head.get("hash"), 32) is None or head["seq"] < last.seq:
        yield finding("head", name, "head is before the run's last record, or names no hash")
    elif head["seq"] == last.seq and head["hash"] != hash_:
        yield finding("head", name, "head is the run's last record, and names another hash")


def _limits(report: EvidenceReport, log: Log | None) -> None:
    """What no look at one bundle can tell."""
    report.not_checked += [
        *(["that the ledger has this id and these events, and whether the run went on (hold it against the ledger)"])
        * (log is None),
        "that the log's other events are intact (agentledger verify, where the ledger is)",
        "that the head is one that was kept elsewhere: hashes need no secret, so all could have been made anew",
        "when the bundle was exported, and by which version",
    ]


# What is shown


def _shown(bundle: Mapping[str, Any], held: Held, key_check: bytes, report: EvidenceReport) -> Iterator[Finding]:
    """What is shown, against the events that the sealed bytes give."""
    key = of_hex(bundle["stream"]["key"], 32) if isinstance(bundle.get("stream"), Mapping) else None
    cipher = None if key is None else Cipher(key)
    if cipher is not None and cipher.check != key_check:
        yield finding("key", held.stream, "the key is not the one that the run was begun with")
        report.not_checked.append("contents and what is shown: the key is another run's")
        return
    words = None if cipher is None else Words(held, cipher)
    if cipher is None:
        why = "the bundle is sealed" if report.sealed else "the run was forgotten, or its key was not at hand"
        report.not_checked.append(f"what contents say: {why}")
    events: list[Event] = []
    try:
        for event in events_of(held, words, SEALED if report.sealed else FORGOTTEN):
            events.append(event)
            sized = chain.unpack(held.records[len(events) - 1]).content_size
            report.checked["opened"] += bool(words is not None and sized)
    except LedgerError as damage:
        yield finding("content", held.stream, damage.sentence, damage.fields.get("seq"))
        report.not_checked.append("what is shown: not all contents open")
        return
    unknown = sorted({event.type for event in events if isinstance(event.body, Unknown)})
    if unknown:
        report.incomplete.append(f"events of types that this version does not know: {', '.join(unknown)[:_SHORT]}")
    first = getattr(events[0].body, "run", None)
    if first != bundle.get("run_id") or events[0].type != "run_created":
        yield finding("facts", held.stream, "its first event does not create the run", events[0].seq)
    yield from _compared(bundle, events, report)


def _compared(bundle: Mapping[str, Any], events: Sequence[Event], report: EvidenceReport) -> Iterator[Finding]:
    other: set[str] = set()
    mine = bundle.get("agentledger") == __version__
    stream = events[0].stream
    given = bundle.get("events")
    given = given if isinstance(given, list) else []
    if len(given) != len(events):
        yield finding("shown", stream, f"{len(given):,} events are shown, and {len(events):,} are sealed")
    for event, said in zip(events, given, strict=False):
        report.checked["events"] += 1
        for kind, where in differences(said, event_json(event), f"events[{event.stream_seq - 1}]"):
            if kind == "other" or mine:
                yield finding("shown", stream, f"{where} is not what its sealed bytes say", event.seq)
            else:
                other.add(_PLACES.sub("[]", where))
    for event in events:
        if max(getattr(event.body, name, None) or 0 for name in ("attempt", "epoch")) > event.stream_seq:
            yield finding("facts", stream, "it is of an attempt that its run had no events for", event.seq)
            return  # folds count attempts: a forged one could have them count for ever
    try:
        parts = derived(events)
    except Exception as error:  # facts that nobody would have recorded
        yield finding("derived", stream, f"nothing can be derived: {type(error).__name__}: {error}"[:300])
        return
    for name in PARTS:
        report.checked["parts"] += 1
        for kind, where in differences(bundle.get(name), parts[name], name):
            if kind == "other" or mine:
                yield finding("derived", stream, f"{where} is not what the sealed events give")
            else:
                other.add(_PLACES.sub("[]", where))
    if other:
        names = ", ".join(sorted(other)[:8])
        report.incomplete.append(f"fields that only one of the two versions has, of {len(other)}: {names}")
