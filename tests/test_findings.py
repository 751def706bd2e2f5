"""What verification says of single kinds of damage, of what it cannot check, and of what lies beside the damage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from suites.forging import (
    Rows,
    call,
    change,
    draft,
    facts_in,
    fill,
    indexed,
    messages,
    note,
    rows_of,
    seal,
    seq,
    store_of,
)

from ledger_core import chain, codec
from ledger_core.errors import CannotOpen
from ledger_core.events import Unknown
from ledger_core.ids import Hash, Head, Seq
from ledger_core.log import verify
from ledger_core.log.log import KEYS, STORE, Log
from ledger_core.log.record import Draft
from ledger_core.log.store import Tree
from ledger_core.log.verify_jobs import Report, verify_ledger, verify_stream


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def kinds(report: Report) -> set[tuple[str, int | None]]:
    return {(one.kind, one.seq) for one in report.findings}


@pytest.mark.parametrize(
    ("counts", "tools"),
    [({"value_captured": 1}, {}), ({"value_captured": 2}, {"post": 1}), ({"value_captured": 2, "x": 0}, {}), ({}, {})],
)
def test_a_run_that_miscounts_itself_is_found(root: Path, counts: dict[str, int], tools: dict[str, int]) -> None:
    """The counts that a run's last event asserts are compared with its stream, type by type and tool by tool."""
    with Log.open(root) as log:
        log.append(note("run/a", 1), note("run/b", 1), note("run/a", 2))
        log.append(draft("run/b", "run_completed", counts={"value_captured": 1}, tools={}))
        log.append(draft("run/a", "run_completed", counts=counts, tools=tools))

    assert {("counts", 6)} == kinds(verify_ledger(root))
    assert {("counts", 6)} == kinds(verify_stream(root, "run/a"))


def test_an_unknown_type_is_verified_as_a_known_one(root: Path) -> None:
    """An event of a type that this version does not know is verified whole, the rows of its keys too."""
    with Log.open(root) as log:
        log.append(Draft(stream="s", body=Unknown(type="from_the_future", version=3, facts={"x": [1]})))
        log.append(call("s", "post", b"k" * 32))
        rows = rows_of(log._store)
    data = rows[Tree.EVENTS][seq(3)]
    envelope = codec.decode(facts_in(data))
    envelope[0], envelope[1] = "tool_used", 7
    rows[Tree.EVENTS][seq(3)] = seal(data, facts=codec.encode(envelope))
    rows = indexed(rows)
    change(root, rows)
    assert verify_ledger(root).ok
    with Log.open(root) as log:
        assert ["from_the_future", "tool_used"] == [event.type for event in log.stream("s")]

    change(root, [rows[0], rows[1], {key: value for key, value in rows[2].items() if key[:1] != b"k"}])
    assert ("index", 3) in kinds(verify_ledger(root))


def test_every_missing_chunk_of_every_blob_is_found(root: Path, findings: Any) -> None:
    """A blob's chunk, or the list of an event's blobs, that is gone is found at the event that stored it."""
    with Log.open(root) as log:
        log.append(note("s", "x" * 150_000), messages("s", 100), note("s", 1))
        rows = rows_of(log._store)
    assert len(rows[Tree.BLOBS]) > 100

    wrong = []
    for key in rows[Tree.BLOBS]:
        without: Rows = [rows[0], {k: v for k, v in rows[1].items() if k != key}, rows[2]]
        try:
            found = findings(store_of(without))
            if not {2, 3} & {one.seq for one in found if one.kind in {"blob", "facts"}}:
                wrong.append((key.hex(), found))
        except Exception as error:
            wrong.append((key.hex(), repr(error)))

    assert [] == wrong


@pytest.mark.parametrize(
    "facts",
    [[], {}, 1, ["x"], [1] * 8, [None] * 8, ["t", 1, None, None, None, None, 5, {}], ["t", 1, "", "", 1, 1, {}, 5]],
    ids=repr,
)
def test_forged_facts_of_any_shape_are_a_finding(findings: Any, facts: Any) -> None:
    """Facts that are no event's, under a hash that fits, are found, and verification does not stumble over them."""
    with Log.in_memory() as log:
        fill(log)
        rows = rows_of(log._store)
    wrong = []
    for at in (1, 2, 4, 5, 8):
        forged = dict(rows[0]) | {seq(at): seal(rows[0][seq(at)], facts=codec.encode(facts))}
        try:
            if not findings(store_of([forged, rows[1], rows[2]])):
                wrong.append((at, "nothing"))
        except Exception as error:
            wrong.append((at, repr(error)))

    assert [] == wrong


def test_damage_does_not_hide_what_lies_beyond_it(root: Path) -> None:
    """One event whose lengths were altered leaves all others checked, in later snapshots of the same task too."""
    with Log.open(root) as log:
        log.append(note("rare", 1), *[note("s", n) for n in range(2 * verify.SNAPSHOT)], note("rare", 2))
        rows = rows_of(log._store)
    damaged = bytearray(rows[Tree.EVENTS][seq(2)])
    damaged[chain.FACTS_AT - 5] ^= 1  # the last byte of the content's size
    rows[Tree.EVENTS][seq(2)] = bytes(damaged)
    change(root, rows)

    report = verify_ledger(root)

    assert [] == report.not_checked
    assert 2 * verify.SNAPSHOT + 3 == report.sums.events
    assert ("record", 2) in kinds(report)
    assert {one.seq for one in report.findings} <= {2, 2 * verify.SNAPSHOT + 3, None}


def test_a_last_record_far_beyond_the_others_is_found(root: Path, python: Any) -> None:
    """A record moved to a seq in the far future is a finding, at the cost of the records that are there."""
    with Log.open(root) as log:
        fill(log)
        rows = rows_of(log._store)
    rows[Tree.EVENTS][seq(8 + (1 << 56))] = rows[Tree.EVENTS].pop(seq(8))
    change(root, rows)
    script = """
        import sys, resource
        from pathlib import Path
        from ledger_core.log.verify_jobs import verify_ledger
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
        print(verify_ledger(Path(sys.argv[1])).exit_code)
    """

    assert "3" == python.run(script, root, timeout=30).strip()


def test_two_jobs_find_what_one_finds(root: Path) -> None:
    """A ledger of several tasks, damaged in each, gives the same report whoever checks which of them."""
    with Log.open(root) as log:
        for n in range(20):
            log.append(*[note(f"run/{(n * 1000 + m) % 13}", m) for m in range(1000)])
        head, rows = log.head(), rows_of(log._store)
    for at in (5, 9_000, 16_384, 16_385, 19_999):
        damaged = bytearray(rows[Tree.EVENTS][seq(at)])
        damaged[40] ^= 0x10
        rows[Tree.EVENTS][seq(at)] = bytes(damaged)
    change(root, rows)
    progress: list[tuple[int, int]] = []

    one = verify_ledger(root, jobs=1, against=head)
    two = verify_ledger(root, jobs=2, against=head, progress=lambda done, of: progress.append((done, of)))

    assert kinds(one) == kinds(two)
    assert {5, 9_000, 16_384, 16_385, 19_999} == {at for kind, at in kinds(one) if kind == "record" and at}
    assert (20_001, 20_001) == (one.sums.events, two.sums.events)
    assert (20_001, 20_001) == progress[-1]
    assert progress == sorted(progress)


def test_lost_keys_break_no_integrity(root: Path) -> None:
    """Altered or lost keys make contents unreadable, and leave every hash, chain and sum as it was."""
    with Log.open(root) as log:
        fill(log)
        head = log.head()
    page = next((root / KEYS).iterdir())
    keys = bytearray(page.read_bytes())
    for at in range(64, len(keys), 32):
        keys[at] ^= 0xFF
    page.write_bytes(keys)
    assert verify_ledger(root, against=head).ok

    page.unlink()
    assert verify_ledger(root, against=head).ok
    with Log.open(root) as log:
        assert 8 == len(list(log.read()))


def test_verification_changes_nothing(root: Path) -> None:
    """Verification changes no byte of the data or of the keys."""
    with Log.open(root) as log:
        fill(log)
    files = [root / STORE / "data.mdb", *(root / KEYS).iterdir()]
    before = [hashlib.sha256(path.read_bytes()).digest() for path in files]

    assert verify_ledger(root, jobs=2).ok
    assert before == [hashlib.sha256(path.read_bytes()).digest() for path in files]


def test_a_held_head_of_another_ledger_is_found(root: Path, tmp_path: Path) -> None:
    """A head from elsewhere, of any seq, never passes."""
    with Log.open(root) as log:
        fill(log)
    with Log.open(tmp_path / "other") as other:
        fill(other)
        heads = [Head(event.seq, event.hash) for event in other.read()] + [Head(Seq(99), Hash(b"\0" * 32))]

    wanted = [[("rewritten", n)] for n in range(1, 9)] + [[("truncated", 8)]]
    assert wanted == [sorted(kinds(verify_ledger(root, against=head))) for head in heads]


def test_where_there_is_no_ledger_nothing_is_verified(root: Path) -> None:
    """Verification of nothing is refused, not well."""
    with pytest.raises(CannotOpen, match="no ledger"):
        verify_ledger(root)
    (root / STORE).mkdir(parents=True)
    with pytest.raises(CannotOpen):
        verify_ledger(root)


def test_what_cannot_be_read_is_not_checked(root: Path) -> None:
    """A ledger of a newer format is neither well nor damaged: it is said that it was not checked, and the code is 6."""
    with Log.open(root) as log, log._store.write() as writer:
        writer.put(Tree.INDEX, b"\0format", b"AgentLedger\n\0\0\0\2" + bytes(16))

    report = verify_ledger(root)

    assert (6, []) == (report.exit_code, report.findings)
    assert "format 2" in " ".join(report.not_checked)


def test_only_so_many_findings_are_kept(root: Path) -> None:
    """Where everything is damaged the report keeps to its limit and says that there was more."""
    with Log.open(root) as log:
        log.append(*[note("s", n) for n in range(60)])
        rows = rows_of(log._store)
    change(root, [{key: bytes(len(data)) for key, data in rows[0].items()}, rows[1], rows[2]])

    report = verify_ledger(root, most=20)

    assert (21, "more") == (len(report.findings), report.findings[-1].kind)
