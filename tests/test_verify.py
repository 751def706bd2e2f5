"""Verification: nothing of a ledger can change without a finding that says what and where, and it raises for none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from suites.forging import Rows, change, facts_in, fill, indexed, rechained, rows_of, seal, seq, store_of

from ledger_core.errors import CannotOpen
from ledger_core.ids import Head, Seq
from ledger_core.log import index
from ledger_core.log.log import Log
from ledger_core.log.store import Tree
from ledger_core.log.verify_jobs import verify_ledger, verify_stream


@pytest.fixture
def small() -> Iterator[Log]:
    with Log.in_memory() as log:
        fill(log)
        yield log


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    with Log.open(tmp_path / "ledger") as log:
        fill(log)
    return tmp_path / "ledger"


def test_a_clean_ledger_has_no_findings(ledger: Path) -> None:
    """A ledger that nobody touched verifies, with the sums of what was checked, in one process or two."""
    with Log.open(ledger) as log:
        head = log.head()

    one, two = (verify_ledger(ledger, jobs=jobs, against=head) for jobs in (1, 2))

    assert (one.ok, one.exit_code, one.head) == (True, 0, head)
    assert one.as_json() == two.as_json()
    checked = one.as_json()["checked"]
    assert checked.pop("blobs") in range(4, 16, 2)  # two messages, a large field, a node; two more for every cut by id
    assert {"events": 8, "streams": 3, "contents": 6} == checked
    assert verify_stream(ledger, "run/a").ok
    assert not verify_stream(ledger, "run/none").ok


KINDS = {
    Tree.EVENTS: {
        "record",
        "chain",
        "stream_chain",
        "content",
        "gap",
        "facts",
        "index",
        "time",
        "format",
        "counts",
        "blob",
    },
    Tree.BLOBS: {"blob"},
    Tree.INDEX: {"index", "format", "facts", "missing", "counts", "stream_chain"},
}


@pytest.mark.invariant(4)
@pytest.mark.parametrize("tree", Tree, ids=lambda tree: tree.name.lower())
@pytest.mark.parametrize("part", ["key", "value"])
def test_every_flipped_byte_is_found(small: Log, findings: Any, tree: Tree, part: str) -> None:
    """Each byte of each row changed in turn, in keys and values, is a finding that names its kind and the event."""
    true = rows_of(small._store)
    silent, misnamed, raised, tried = [], [], [], 0
    for key, value in true[tree].items():
        for place in range(len(key if part == "key" else value)):
            rows = [dict(one) for one in true]
            del rows[tree][key]
            flipped = bytearray(key if part == "key" else value)
            flipped[place] ^= 1 << place % 8
            new = (bytes(flipped), value) if part == "key" else (key, bytes(flipped))
            if new[0] in rows[tree]:
                continue
            rows[tree][new[0]] = new[1]
            tried += 1
            try:
                found = findings(store_of(rows))
            except CannotOpen:  # a newer format is refused before anything is checked
                assert key == index.FORMAT_ROW
                continue
            except Exception as error:
                raised.append((key, place, repr(error)))
                continue
            if not found:
                silent.append((key, place))
            at = int.from_bytes(key, "big") if tree is Tree.EVENTS else None
            if not {one.kind for one in found} <= KINDS[tree] or (at and at not in {one.seq for one in found}):
                misnamed.append((key, place, found))

    assert tried >= sum(len(key if part == "key" else value) for key, value in true[tree].items()) * 0.95
    assert ([], [], []) == (silent[:3], misnamed[:3], raised[:3])


@pytest.mark.parametrize("tree", Tree, ids=lambda tree: tree.name.lower())
def test_every_removed_row_is_found(small: Log, findings: Any, tree: Tree) -> None:
    """Each row removed in turn is a finding, and so is each row that was put there by nobody."""
    true = rows_of(small._store)
    for key in true[tree]:
        rows = [dict(one) for one in true]
        value = rows[tree].pop(key)
        assert findings(store_of(rows)), f"without {key.hex()}"
        rows[tree] |= {key: value, key[:-1] + bytes([key[-1] ^ 0x80]): value}
        assert findings(store_of(rows)), f"with a twin of {key.hex()}"


Forgery = Callable[[Rows], Rows]


def _swapped(rows: Rows) -> Rows:
    rows[Tree.EVENTS][seq(4)], rows[Tree.EVENTS][seq(5)] = rows[Tree.EVENTS][seq(5)], rows[Tree.EVENTS][seq(4)]
    return rows


def _without(number: int) -> Forgery:
    return lambda rows: [{k: v for k, v in rows[0].items() if k != seq(number)}, rows[1], rows[2]]


def _repeated(rows: Rows) -> Rows:
    rows[Tree.EVENTS][seq(5)] = rows[Tree.EVENTS][seq(4)]
    return rows


def _appended(rows: Rows) -> Rows:
    rows[Tree.EVENTS][seq(9)] = rows[Tree.EVENTS][seq(8)]
    return rows


def _altered_alone(rows: Rows) -> Rows:
    rows[Tree.EVENTS][seq(2)] = seal(rows[Tree.EVENTS][seq(2)], time_ns=1)
    return rows


def _dated_back(rows: Rows) -> Rows:
    records = list(rows[Tree.EVENTS].values())
    records[4] = seal(records[4], time_ns=1)
    return indexed([rechained(records), rows[Tree.BLOBS], rows[Tree.INDEX]])


def _links(**fields: Any) -> Forgery:
    """Seq 5, the third event of its stream, linked wrongly; all else as it must be."""

    def forge(rows: Rows) -> Rows:
        records = rechained(list(rows[Tree.EVENTS].values()), {5: fields})
        return indexed([records, rows[Tree.BLOBS], rows[Tree.INDEX]])

    return forge


FORGED: dict[str, tuple[Forgery, str, int]] = {
    "an event removed": (_without(5), "gap", 5),
    "the first event removed": (_without(1), "gap", 1),
    "the last event removed": (_without(8), "index", 8),
    "two events swapped": (_swapped, "record", 4),
    "an event repeated in another's place": (_repeated, "record", 5),
    "an event repeated at the end": (_appended, "record", 9),
    "an event with a hash that fits": (_altered_alone, "chain", 3),
    "an event that links to another hash in its stream": (_links(stream_prev_hash=bytes(32)), "stream_chain", 5),
    "an event that links to another seq in its stream": (_links(stream_prev_seq=3), "stream_chain", 5),
    "an event that links to itself in its stream": (_links(stream_prev_seq=5), "stream_chain", 5),
    "an event that is not the next in its stream": (_links(stream_seq=9), "stream_chain", 5),
    "an event that links to another hash in the log": (_links(prev_hash=bytes(32)), "chain", 5),
    "an event dated before the one before it": (_dated_back, "time", 5),
}


@pytest.mark.invariant(2)
@pytest.mark.parametrize("what", FORGED)
def test_a_forged_order_is_found(small: Log, ledger: Path, findings: Any, what: str) -> None:
    """Events removed, swapped, repeated or altered are found, with the place where it shows; by child processes too."""
    forge, kind, at = FORGED[what]
    rows = forge(rows_of(small._store))

    assert (kind, at) in {(one.kind, one.seq) for one in findings(store_of(rows))}

    change(ledger, rows)
    assert (kind, at) in {(one.kind, one.seq) for one in verify_ledger(ledger).findings}
    assert 3 == verify_ledger(ledger, jobs=2).exit_code


def test_a_rewritten_history_is_found_against_a_held_head(small: Log, findings: Any) -> None:
    """A history re-chained to its very end is as consistent as the true one; a head that was held tells."""
    head, middle = small.head(), Head(Seq(4), small.event(4).hash)
    true = rows_of(small._store)
    records = list(true[Tree.EVENTS].values())
    records[5] = seal(records[5], facts=facts_in(records[5]).replace(b"post", b"pest"))
    forged = store_of(indexed([rechained(records), true[Tree.BLOBS], true[Tree.INDEX]]))

    assert [] == findings(forged)
    assert [("rewritten", 8)] == [(one.kind, one.seq) for one in findings(forged, against=head)]
    assert [] == findings(forged, against=middle)


def test_a_tail_cut_off_cleanly_is_found_against_a_held_head(small: Log, findings: Any) -> None:
    """A log without its last events, index and all, is a shorter log; a head that was held tells."""
    head = small.head()
    true = rows_of(small._store)
    records = list(true[Tree.EVENTS].values())[:6]
    short = store_of(indexed([rechained(records), true[Tree.BLOBS], true[Tree.INDEX]]))
    with short.write() as writer:  # what only the cut events accounted for goes too
        for key in [key for key in true[Tree.BLOBS] if _stored_by_seq_7(true, key)]:
            writer.delete(Tree.BLOBS, key)

    assert [] == findings(short)
    assert [("truncated", 6)] == [(one.kind, one.seq) for one in findings(short, against=head)]


def _stored_by_seq_7(rows: Any, key: bytes) -> bool:
    return key[8:24] in facts_in(rows[Tree.EVENTS][seq(7)])
