"""The queue: where streams stand in it, what a decision sees of it, and that verification finds every wrong row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from suites.forging import Rows, change, facts_in, fill, indexed, note, placed, rechained, rows_of, seal, seq, store_of

from ledger_core import codec
from ledger_core.errors import BadInput, Damaged, Refused
from ledger_core.events import Unknown
from ledger_core.log.lmdb_store import open_store
from ledger_core.log.log import STORE, Draft, Event, Log, Placement, Queued
from ledger_core.log.store import Tree
from ledger_core.log.verify import Checker
from ledger_core.log.verify_jobs import verify_ledger, verify_stream


def put(stream: str, key: bytes | None, said: object = None) -> Draft:
    return placed(note(stream, 0), key, said)


def standing(log: Log, *where: Any) -> list[tuple[bytes, str]]:
    return [(queued.key, queued.stream) for queued in log.queued(*where)]


def places(log: Log) -> dict[bytes, bytes]:
    """The rows of the queue."""
    return {key: value for key, value in rows_of(log._store)[Tree.INDEX].items() if key[:1] in (b"q", b"s")}


# Places


def test_an_event_places_its_stream_moves_it_and_takes_it_out(log: Log) -> None:
    """A stream stands where its last placement put it, with that event's seq and note, until one takes it out."""
    log.append(put("run/a", b"ready", {"at": [1, 2.5, b"\0"]}), put("run/b", b"ready"), note("run/c", 1))
    assert log.queued() == [
        Queued(b"ready", "run/a", 2, {"at": [1, 2.5, b"\0"]}), Queued(b"ready", "run/b", 3, None)
    ]  # fmt: skip

    log.append(note("run/a", 2), put("run/b", b"later", "soon"))
    assert log.queued() == [Queued(b"later", "run/b", 6, "soon"), Queued(b"ready", "run/a", 2, {"at": [1, 2.5, b"\0"]})]

    log.append(put("run/b", b"later"), put("run/a", None, "done"), put("run/c", None))
    assert log.queued() == [Queued(b"later", "run/b", 7, None)]

    log.append(put("run/a", b"k"), put("run/a", b"ready"), put("run/b", None), put("run/b", None))
    assert log.queued() == [Queued(b"ready", "run/a", 11, None)]
    assert len(places(log)) == 1 + 3


def test_an_event_that_places_nothing_leaves_no_row(log: Log) -> None:
    """Without placements there are no rows, and where there are, an event without one changes none."""
    log.append(note("run/a", 1), note("run/b", 1))
    assert places(log) == {}

    log.append(put("run/a", b"k"))
    before = places(log)
    log.append(note("run/a", 1), note("run/b", 1))

    assert places(log) == before


def test_the_queue_is_read_by_key_from_a_prefix_and_a_start(log: Log) -> None:
    """A reader gets the keys that begin with a prefix, in order, from the first that is not below a start."""
    keys = [b"a", b"r1", b"r2", b"r2", b"r3\xff", b"s", b"\xff" * 64]
    log.append(*(put(f"run/{number}", key) for number, key in enumerate(keys)))

    assert [key for key, _ in standing(log)] == keys
    assert standing(log, b"r") == [(b"r1", "run/1"), (b"r2", "run/2"), (b"r2", "run/3"), (b"r3\xff", "run/4")]
    assert [key for key, _ in standing(log, b"r", b"r2")] == [b"r2", b"r2", b"r3\xff"]
    assert [key for key, _ in standing(log, b"r", b"a")] == keys[1:5]
    assert [key for key, _ in standing(log, b"", b"r3")] == keys[4:]
    assert standing(log, b"r", b"s") == standing(log, b"rr") == standing(log, b"r", b"r4") == []
    assert standing(log, b"", b"", 3) == standing(log)[:3]
    assert standing(log, b"\xff" * 64) == [(b"\xff" * 64, "run/6")]
    assert standing(log, b"\xff" * 600) == standing(log, b"", b"\xff" * 600) == []


def test_a_key_never_passes_for_a_longer_one(log: Log) -> None:
    """A key whose stream's number goes on as a longer key would is told apart from it, by prefix and by start."""
    log.append(put("run/a", b"k"), put("run/b", b"k\0"), put("run/c", b"k" + bytes(7)))

    assert sorted(standing(log)) == [(b"k", "run/a"), (b"k\0", "run/b"), (b"k" + bytes(7), "run/c")]
    assert sorted(standing(log, b"k\0")) == [(b"k\0", "run/b"), (b"k" + bytes(7), "run/c")]
    assert sorted(standing(log, b"", b"k\0\0")) == [(b"k" + bytes(7), "run/c")]


def test_more_than_a_page_is_read_in_pages(log: Log) -> None:
    """Without a limit there are 64, and the last key begins the next page."""
    log.append(*(put(f"run/{number:03}", b"%03d" % number) for number in range(100)))

    first = log.queued()
    rest = log.queued(start=first[-1].key)

    assert [queued.key for queued in first + rest[1:]] == [b"%03d" % number for number in range(100)]


def test_places_are_there_when_the_ledger_is_opened_again(tmp_path: Path) -> None:
    """Another process, and one that only reads, find the queue; and move what stands in it."""
    with Log.open(tmp_path) as log, Log.open(tmp_path) as other:
        log.append(put("run/a", b"1"), put("run/b", b"2"))
        other.append(put("run/b", b"0"))
        log.append(put("run/a", None))
    with Log.open(tmp_path, readonly=True) as log:
        assert log.queued() == [Queued(b"0", "run/b", 4, None)]


# Decisions


def test_a_decision_sees_the_places_of_commands_before_it(batch: Any, log: Log) -> None:
    """A command sees what those before it in its batch placed, moved and took out, in new streams too."""
    log.append(put("run/old", b"5"), put("run/gone", b"6"))
    seen: list[list[tuple[bytes, str, int]]] = []

    def look(view: Any) -> list[Draft]:
        seen.append([(queued.key, queued.stream, queued.seq) for queued in view.queue()])
        seen.append([(queued.key, queued.stream, queued.seq) for queued in view.queue(b"7")])
        first = next(iter(view.queue(start=b"4")))  # whoever takes the first reads no further
        return [put(first.stream, None)]

    batch.run(
        lambda _: [put("run/new", b"7"), put("run/old", b"4"), put("run/gone", None)],
        look,
        lambda _: [put("run/x", b"1")],
    )

    assert seen == [[(b"4", "run/old", 5), (b"7", "run/new", 4)], [(b"7", "run/new", 4)]]
    assert standing(log) == [(b"1", "run/x"), (b"7", "run/new")]


def test_a_decision_reads_the_streams_that_it_finds(batch: Any, log: Log) -> None:
    """While it goes through the queue, a decision may read heads and events of streams that its own batch wrote."""
    seen: list[Any] = []

    def look(view: Any) -> list[Draft]:
        for queued in view.queue():
            events = [event.seq for event in view.events(queued.stream)]
            seen.append((queued.key, view.head(queued.stream).seq, events))
        return []

    log.append(put("run/2", b"2"))
    batch.run(lambda _: [put(f"run/{n}", b"%d" % n) for n in (3, 1, 2)], look)

    assert seen == [(b"1", 4, [4]), (b"2", 5, [2, 5]), (b"3", 3, [3])]


def test_an_abandoned_batch_leaves_no_row(batch: Any, log: Log) -> None:
    """What is refused, and what was sealed beside something unfit, moves nobody; the others of the batch move."""
    log.append(put("run/a", b"a"), put("run/b", b"b"))

    def refuse(view: Any) -> list[Draft]:
        raise Refused("No.")

    with pytest.raises(BadInput):
        log.append(put("run/a", b"x"), put("run/new", b"y"), put("run/b", None), note("run/b", object()))
    assert standing(log) == [(b"a", "run/a"), (b"b", "run/b")]

    outcomes = batch.run(
        lambda _: [put("run/a", b"c")], lambda _: [put("run/new", b"y"), put("run/b", b"")], refuse,
        lambda _: [put("run/a", b"d")],
    )  # fmt: skip

    assert [type(outcome) for outcome in outcomes] == [list, BadInput, Refused, list]
    assert standing(log) == [(b"b", "run/b"), (b"d", "run/a")]
    assert len(places(log)) == 4


UNFIT: dict[str, Callable[[], Placement]] = {
    "a key of no bytes": lambda: Placement(b""),
    "a key of 65 bytes": lambda: Placement(b"k" * 65),
    "a key that is text": lambda: Placement("k"),
    "a key that may change": lambda: Placement(bytearray(b"k")),
    "a note of 1,025 bytes": lambda: Placement(b"k", "x" * 1_022),
    "a large note of nowhere": lambda: Placement(None, "x" * 1_022),
    "an object": lambda: Placement(b"k", object()),
    "not a number": lambda: Placement(b"k", [float("nan")]),
    "a number as key of a map": lambda: Placement(b"k", {1: 1}),
    "too deep": lambda: Placement(b"k", reduce(lambda inner, _: [inner], range(62), 1)),
    "a forged reference": lambda: Placement(b"k", codec.Ref(1, b"x" * 16)),
    "a lone surrogate": lambda: Placement(b"k", "\ud800"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_keys_and_notes_have_limits(log: Log, what: str) -> None:
    """A key of another size or type, and a note that is large or has no encoding, are refused; nothing is written."""
    before = log.head()

    with pytest.raises(BadInput):
        log.append(put("run/a", b"k"), Draft(stream="run/b", body=note("run/b", 1).body, queue=UNFIT[what]()))

    assert (before, []) == (log.head(), log.queued())


def test_the_largest_keys_and_notes_are_kept(log: Log) -> None:
    """A key of 64 bytes and a note of 1,024 come back as they were, for a stream with the longest of names."""
    deep = reduce(lambda inner, _: [inner], range(56), 1)
    stream = "a" * 32 + "/" + "b" * 128
    log.append(put(stream, b"\0" * 64, "x" * 1_021), put("run/deep", b"\xff" * 64, deep))

    assert log.queued() == [Queued(b"\0" * 64, stream, 2, "x" * 1_021), Queued(b"\xff" * 64, "run/deep", 3, deep)]


def test_a_forgotten_stream_keeps_its_place(log: Log) -> None:
    """Places are facts: forgetting a stream destroys its contents, and neither its place nor the way out of it."""
    log.append(put("run/a", b"k", "said in clear"))
    log.forget("run/a")
    assert log.queued() == [Queued(b"k", "run/a", 2, "said in clear")]

    log.append(Draft(stream="run/a", body=Unknown(type="run_left", version=1, facts={}), queue=Placement(None)))
    assert log.queued() == []


# Drafts that are made when those before them are sealed


def test_a_child_and_its_parent_name_each_others_events(log: Log) -> None:
    """A later draft is made of the events that its decision sealed before it: hashes, heads, in the same commit."""
    version = log._store.version()

    def decision(_: Any) -> Iterator[Any]:
        yield note("run/parent", "began")
        yield lambda events: note("run/child", events[0].hash)
        yield note("run/child", "ended")
        yield lambda events: placed(note("run/parent", [events[-1].stream_seq, events[-1].hash]), b"joined")

    events = log.decide(decision)

    read = [event.body.value for event in log.read(1)]
    assert read == ["began", events[0].hash, "ended", [2, events[2].hash]]
    assert (version + 1, [(b"joined", "run/parent")]) == (log._store.version(), standing(log))
    alone = log.append(lambda before: note("run/x", len(before)))
    assert [0] == [event.body.value for event in alone]


def test_a_later_draft_sees_only_its_own_decision(batch: Any, log: Log) -> None:
    """The events that a later draft is given are those of its own command, in every attempt the same ones."""
    given: list[list[tuple[str, int]]] = []

    def later(events: Sequence[Event]) -> Draft:
        given.append([(event.stream, event.seq) for event in events])
        return note("run/c", len(events))

    first, unfit, last = batch.run(
        lambda _: [note("run/a", 1), note("run/a", 2)],
        lambda _: [note("run/x", object())],
        lambda _: [note("run/b", 1), later],
    )

    assert isinstance(unfit, BadInput)
    assert ([2, 3], [4, 5]) == ([event.seq for event in first], [event.seq for event in last])
    assert given[-1] == [("run/b", 4)]


@pytest.mark.parametrize("error", [KeyError("x"), Refused("No."), RuntimeError("broken")], ids=repr)
def test_a_later_draft_that_raises_writes_nothing(batch: Any, log: Log, error: Exception) -> None:
    """What a later draft raises comes out of the append; what was sealed before it is not written, nor its places."""

    def later(_: Sequence[Event]) -> Draft:
        raise error

    before = log.head()
    with pytest.raises(type(error)):
        log.append(put("run/a", b"k"), later)
    assert (before, {}, None) == (log.head(), places(log), log.stream_head("run/a"))

    outcomes = batch.run(
        lambda _: [put("run/b", b"b")], lambda _: [put("run/a", b"k"), later], lambda _: [put("run/c", b"c")]
    )

    assert outcomes[1] is error
    assert standing(log) == [(b"b", "run/b"), (b"c", "run/c")]


# Verification

Q2, S1, S2 = b"qt2" + seq(3), b"s" + seq(2), b"s" + seq(3)
"""Of `fill`: run/a is stream 2, and has left; run/b is stream 3, moved by the event at seq 6."""
WRONG: dict[str, tuple[Callable[[dict[bytes, bytes]], Any], str]] = {
    "a place that is missing": (lambda rows: rows.pop(Q2), "run/b"),
    "a place of another event": (lambda rows: rows.update({Q2: seq(3) + rows[Q2][8:]}), "run/b"),
    "a place with another note": (lambda rows: rows.update({Q2: rows[Q2][:8] + b"\xc0"}), "run/b"),
    "a place with more than a note": (lambda rows: rows.update({Q2: rows[Q2] + b"\xc0"}), "run/b"),
    "a place under another key": (lambda rows: rows.update({b"qt3" + seq(3): rows.pop(Q2)}), "run/b"),
    "a place too many": (lambda rows: rows.update({b"qt3" + seq(3): rows[Q2]}), "run/b"),
    "a place that was left": (lambda rows: rows.update({b"qr" + seq(3): seq(3) + b"\x91\x02"}), "run/b"),
    "a place of a stream that has left": (lambda rows: rows.update({b"qt1" + seq(2): seq(5) + b"\xc0"}), "run/a"),
    "a place of a stream never placed": (lambda rows: rows.update({b"qx" + seq(1): seq(1) + b"\xc0"}), "ledger"),
    "a last placement that is missing": (lambda rows: rows.pop(S2), "run/b"),
    "a last placement of a stream that has left, missing": (lambda rows: rows.pop(S1), "run/a"),
    "a last placement that is not the last": (lambda rows: rows.update({S2: seq(3)}), "run/b"),
    "an earlier placement, with its place": (
        lambda rows: rows.update({S2: seq(3), b"qr" + seq(3): seq(3) + b"\x91\x02"}) or rows.pop(Q2), "run/b",
    ),
    "a last placement by an event that places nothing": (lambda rows: rows.update({S1: seq(7)}), ""),
    "a last placement by another stream's event": (lambda rows: rows.update({S2: seq(8)}), ""),
    "a last placement by no event": (lambda rows: rows.update({S2: seq(99)}), ""),
    "a last placement of a stream that was never placed": (lambda rows: rows.update({b"s" + seq(1): seq(1)}), ""),
    "a last placement of 7 bytes": (lambda rows: rows.update({S2: seq(6)[1:]}), "run/b"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_every_wrong_row_of_the_queue_is_found(tmp_path: Path, findings: Any, what: str) -> None:
    """Rows missing, too many, stale or altered are findings on the index that name the stream, in children too."""
    with Log.open(tmp_path / "ledger") as log:
        fill(log)
        rows = rows_of(log._store)
    break_, stream = WRONG[what]
    break_(rows[Tree.INDEX])

    found = findings(store_of(rows))

    assert {"index"} == {one.kind for one in found}
    assert not stream or stream in {one.stream for one in found}
    change(tmp_path / "ledger", rows)
    reports = verify_ledger(tmp_path / "ledger", jobs=2), verify_ledger(tmp_path / "ledger", deep=True)
    for report in reports:
        assert {(one.kind, one.stream) for one in report.findings} == {(one.kind, one.stream) for one in found}


def test_placements_are_summed_in_ranges_and_at_the_end(tmp_path: Path) -> None:
    """Sums of ranges, by any number of children, are what the rows are compared with, and later events are counted."""
    root = tmp_path / "ledger"
    with Log.open(root) as log:
        for start in range(0, 20_000, 1_000):
            log.append(
                *(put(f"run/{n % 700}", b"%d" % (n % 90) if n % 11 else None) for n in range(start, start + 1_000))
            )
        streams = len(log.queued(limit=1_000))
    wanted = (20_000, 700)

    for report in (verify_ledger(root), verify_ledger(root, jobs=2), verify_ledger(root, deep=True)):
        assert (report.ok, wanted) == (True, (report.sums.placements, report.sums.placed_streams))
    assert 500 < streams < 700


@pytest.mark.parametrize(
    ("what", "stream"),
    [("a place that is missing", "run/b"), ("a place with another note", "run/b"),
     ("a last placement that is not the last", "run/b"), ("a last placement that is missing", "run/b"),
     ("a last placement by an event that places nothing", "run/a")],
)  # fmt: skip
def test_a_stream_by_itself_has_its_place_checked(tmp_path: Path, what: str, stream: str) -> None:
    """Verification of one stream finds what is wrong with its rows, and nothing in the other's."""
    root = tmp_path / "ledger"
    with Log.open(root) as log:
        fill(log)
        rows = rows_of(log._store)
    assert verify_stream(root, "run/a").ok and verify_stream(root, "run/b").ok
    WRONG[what][0](rows[Tree.INDEX])
    change(root, rows)

    other = {"run/a": "run/b", "run/b": "run/a"}[stream]
    assert {("index", stream)} == {(one.kind, one.stream) for one in verify_stream(root, stream).findings}
    assert verify_stream(root, other).ok


def _renumbered(rows: Rows, at: int, ordinal: int) -> Rows:
    """The placement at a seq with another ordinal, all hashes and rows made anew."""
    records = list(rows[Tree.EVENTS].values())
    facts = codec.decode(facts_in(records[at - 1]))
    facts[7]["queue"][0] = ordinal
    records[at - 1] = seal(records[at - 1], facts=codec.encode(facts))
    return indexed([rechained(records), rows[Tree.BLOBS], rows[Tree.INDEX]])


@pytest.mark.parametrize(("at", "ordinal"), [(2, 2), (3, 2), (5, 1), (5, 3), (6, 3), (8, 2), (8, 4), (6, 0), (6, -1)])
def test_ordinals_that_do_not_add_up_are_found(findings: Any, at: int, ordinal: int) -> None:
    """A ledger rewritten whole, with one placement numbered otherwise, is found by its sums."""
    with Log.in_memory() as log:
        fill(log)
        rows = rows_of(log._store)
    assert [] == findings(store_of(_renumbered(rows, 5, 2)))

    assert findings(store_of(_renumbered(rows, at, ordinal)))


def test_a_writer_does_not_build_on_a_damaged_row(tmp_path: Path) -> None:
    """Where the row of a last placement names nothing that places the stream, moving it is refused as damage."""
    with Log.open(tmp_path) as log:
        fill(log)
        with log._store.write() as writer:
            writer.put(Tree.INDEX, b"s" + seq(3), seq(8))
        head = log.head()

        with pytest.raises(Damaged, match="does not place"):
            log.append(put("run/b", b"k"))
        assert log.head() == head
        log.append(note("run/b", 1))


def test_swift_and_slow_checks_count_alike(tmp_path: Path) -> None:
    """What a range holds is the same sum, whether all was well at once or was looked at one by one."""
    with Log.open(tmp_path) as log:
        fill(log)
    store = open_store(tmp_path / STORE, readonly=True)
    swift, slow = Checker(), Checker(deep=True)
    with store.read() as reader:
        assert [] == [*swift.range(reader, 1, 8), *slow.range(reader, 1, 8)]
    store.close()

    assert swift.sums == slow.sums
    assert (5, 2, 9) == (swift.sums.placements, swift.sums.placed_streams, swift.sums.ordinals)
