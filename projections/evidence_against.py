"""A bundle of evidence held against others: the ledger that it says it is of, and the bundles of the run's children.

Rules: byte for byte. A ledger may be damaged, another one, or further on; whatever it is, it is a finding or a number,
never an error. A child's own bundle is checked by itself; here it is only asked for the event that its parent heard of,
and for the parent's event that it says it was started by.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from ledger_core import chain
from ledger_core.errors import LedgerError
from ledger_core.events import FORGOTTEN
from ledger_core.log.log import Log
from ledger_core.log.verify import Finding
from projections.evidence_records import Held
from projections.evidence_sealed import MALFORMED, finding


def holds_any(log: Log, held: Held) -> bool:
    """Whether a ledger has one of a bundle's records, at its seq: then the run is of it, whatever the bundle says."""
    mine = {chain.stored_hash(data) for data in held.records if data}
    try:
        return any(chain.stored_hash(stored) in mine for _, stored in log.records(held.stream))
    except MALFORMED:
        return False


def against_ledger(
    bundle: Mapping[str, Any], held: Held, log: Log, checked: dict[str, int]
) -> Generator[Finding, None, int | None]:
    """Hold a bundle's bytes and head against a ledger; returns how many events the run has had since."""
    if bundle.get("ledger_id") != log.id.hex():
        said = f"the bundle is of another ledger than this one, {log.id.hex()}"
        if holds_any(log, held):
            said = f"the bundle names another ledger than this one, {log.id.hex()}, and its records are in this one"
        yield finding("ledger", held.stream, said)
        return None
    try:
        rows = log.records(held.stream)
        for mine in held.records:
            seq, stored = next(rows, (0, b""))
            if stored != mine:
                place = checked["in_ledger"] + 1
                yield finding("ledger", held.stream, f"the ledger has no such record as event {place}", seq or None)
                break
            checked["in_ledger"] += 1
        head = bundle["head"]
        later = [seq for seq, _ in rows]
        if any(seq <= head["seq"] for seq in later):
            yield finding(
                "ledger", held.stream, "the run has events before the bundle's head that are not in the bundle"
            )
        left = {(blob, number) for blob, chunks in held.blobs.items() for number in range(len(chunks))}
        for row in log.blob_chunks(held.stream):
            if (row.id, row.chunk) in left and held.blobs[row.id][row.chunk] == row.data:
                left.discard((row.id, row.chunk))
        for blob in sorted({blob for blob, _ in left}):
            yield finding("ledger", held.stream, f"the ledger has no such blob as {blob.hex()}")
        unread = bundle.get("sealed") is not True and bundle["stream"]["key"] is None
        if unread and checked["in_ledger"] and log.key(held.stream) is not None:
            yield finding(
                "ledger",
                held.stream,
                f"the ledger has the key, and can read what the bundle shows as {FORGOTTEN}",
            )
        if log.event(head["seq"], contents=False).hash.hex() != head["hash"]:
            yield finding("ledger", held.stream, "the head is not in the ledger: one of the two was rewritten")
    except MALFORMED as wrong:
        said = wrong.sentence if isinstance(wrong, LedgerError) else f"{type(wrong).__name__}: {wrong}"
        yield finding("ledger", held.stream, f"the ledger and the bundle cannot be compared: {said}"[:300])
        return None
    return len(later)


def against_children(
    bundle: Mapping[str, Any], log: Log | None, children: Mapping[str, Any]
) -> Generator[Finding, None, list[str]]:
    """Hold what a run heard of its children against their bundles, or the ledger; returns those that are not here."""
    missing: list[str] = []
    rows = bundle.get("children")
    for row in rows if isinstance(rows, list) else ():
        child = row.get("child") if isinstance(row, dict) else None
        if not isinstance(child, str):
            continue
        try:
            if child in children:
                fits = _fits(bundle, row["head"], children[child])
            elif log is not None:
                fits = _is_logged(log, child, row["head"])
            else:
                missing.append(child)
                continue
        except MALFORMED:
            fits = False
        if not fits:
            detail = f"child {child[:100]} was not started by this run, or has another end than the run heard of"
            yield finding("children", f"run/{bundle.get('run_id')}", detail)
    return missing


def _fits(bundle: Mapping[str, Any], head: Any, child: Any) -> bool:
    """Whether a child's bundle names its parent's event, and holds the one that its parent heard of."""
    started = child["events"][0]["facts"]
    mine = {row["seq"]: row["hash"] for row in bundle["records"]}
    if started.get("parent") != bundle["run_id"] or mine.get(started.get("parent_seq")) != started.get("parent_hash"):
        return False
    return head is None or any((row["seq"], row["hash"]) == (head["seq"], head["hash"]) for row in child["records"])


def _is_logged(log: Log, child: str, head: Any) -> bool:
    """Whether a ledger has a child, and the event of it that its parent heard of."""
    if head is None:
        return log.stream_head(f"run/{child}") is not None
    event = log.event(head["seq"], contents=False)
    return event.hash.hex() == head["hash"] and event.stream == f"run/{child}"
