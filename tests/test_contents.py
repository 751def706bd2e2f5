"""Contents: inline or in blobs, stored once per stream, opened with the stream's key only, and forgotten with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from suites.forging import draft, facts_in, note, rows_of

from ledger_core import chain
from ledger_core.errors import LedgerError, NotFound, Refused
from ledger_core.events import FORGOTTEN, REGISTRY, UNREAD
from ledger_core.log import blobs, content
from ledger_core.log.keys import MemoryKeys
from ledger_core.log.log import KEYS, Log
from ledger_core.log.record import Draft
from ledger_core.log.store import Tree

SIZES = [
    0,
    1,
    90,
    900,
    content.INLINE - 10,
    content.INLINE + 10,
    blobs.CHUNK - 5,
    blobs.CHUNK - 3,
    blobs.CHUNK,
    200_000,
]


def say(stream: str, said: list[Any], **more: Any) -> Draft:
    fields: dict[str, Any] = {"request": b"r" * 32, "messages": said, "parameters": more}
    return draft(stream, "model_call_requested", path="1", attempt=1, model="m", **fields)


def stored(log: Log) -> tuple[int, int]:
    """Number and bytes of the rows of blobs."""
    rows = rows_of(log._store)[Tree.BLOBS]
    return len(rows), sum(map(len, rows.values()))


@pytest.mark.parametrize("size", SIZES)
def test_contents_of_every_size_come_back(log: Log, size: int) -> None:
    """A content around every limit comes back as it was, and a record stays small however large the content."""
    value = [os.urandom(size // 2).hex(), {"a": size}, b"\xff" * (size % 100)]
    log.append(note("s", value), say("s", [value, value], extra=value))

    first, second = log.stream("s")

    assert value == first.body.value
    assert ([value, value], {"extra": value}) == (second.body.messages, second.body.parameters)
    assert max(map(len, rows_of(log._store)[Tree.EVENTS].values())) < 1800


@pytest.mark.parametrize("said", [[], None, "text", {"a": 1}, [None], [[]], ["a", "a", "a"]], ids=repr)
def test_messages_of_every_shape_come_back(log: Log, said: Any) -> None:
    """What is no list of messages, an empty list, and repeated messages come back as they were."""
    log.append(say("s", said))

    assert said == next(log.stream("s")).body.messages


def test_a_blob_is_stored_once_per_stream(log: Log) -> None:
    """The same content said again in its stream stores nothing; in another stream it is stored under another id."""
    log.append(note("a", "x" * 100_000))
    once = stored(log)
    log.append(note("a", "x" * 100_000), note("a", "x" * 100_000))

    assert once == stored(log)
    log.append(note("b", "x" * 100_000))
    rows = rows_of(log._store)[Tree.BLOBS]
    assert 2 * once[0] == len(rows) == len({key[8:] for key in rows}) == len(set(rows.values()))


@pytest.mark.parametrize("kind", ["growing", "sliding", "edited"])
def test_a_conversation_costs_its_length(log: Log, kind: str) -> None:
    """A conversation of n turns costs O(n) bytes: grown, with its beginning dropped, or with a message changed."""
    turns = [{"role": "user" if n % 2 else "assistant", "content": os.urandom(100).hex()} for n in range(400)]
    costs = []
    for n in range(400):
        said = turns[: n + 1] if kind == "growing" else turns[n // 2 : n + 1]
        if kind == "edited":
            said = [{"role": "system", "content": f"turn {n}"}, *turns[: n + 1]]
        log.append(say("s", said))
        if n in (99, 199, 399):
            costs.append(sum(len(value) for tree in rows_of(log._store)[:2] for value in tree.values()))

    assert said == list(log.stream("s"))[-1].body.messages
    assert costs[2] - costs[1] < 3 * (costs[1] - costs[0])  # 200 turns against 100; O(n²) would be 4
    assert costs[2] < 400 * 2_000


@pytest.mark.parametrize("place", [0, 1500, 2999])
def test_a_long_conversation_changed_in_one_place_costs_little(log: Log, place: int) -> None:
    """A conversation of 3,000 messages with one of them dropped, added or changed stores a few nodes, not all anew."""
    said: list[Any] = [f"message {n}" for n in range(3000)]
    changed = [[*said[:place], *said[place + 1 :]], [*said[:place], "new", *said[place:]]]
    changed.append([*said[:place], "other", *said[place + 1 :]])
    log.append(say("s", said))
    for other in changed:
        before = stored(log)[1]
        log.append(say("s", other))

        assert stored(log)[1] - before < 5_000
    assert [said, *changed] == [event.body.messages for event in log.stream("s")]


def test_no_nonce_is_used_twice(log: Log) -> None:
    """Every content and every chunk of a blob is encrypted under a nonce of its own, in one batch and in many."""
    for n in range(20):
        log.append(*[note(f"s{m % 3}", [n, m]) for m in range(70)], note("s", os.urandom(200_000)))
    rows = rows_of(log._store)
    contents = [data[chain.FACTS_AT + len(facts_in(data)) :] for data in rows[Tree.EVENTS].values()]
    nonces = [sealed[:12] for sealed in [*contents[1:], *rows[Tree.BLOBS].values()]]

    assert len(nonces) == 20 * 71 + 20 * 4 == len(set(nonces))


def test_an_abandoned_batch_leaves_no_blobs(log: Log) -> None:
    """What a refused append had stored is gone with it, and is stored by the append that comes after."""
    with pytest.raises(LedgerError):
        log.append(note("s", "x" * 5000), note("s", object()))
    assert (0, 0) == stored(log)

    log.append(note("s", "x" * 5000))
    assert "x" * 5000 == next(log.stream("s")).body.value


def _bytes_of(root: Path) -> bytes:
    return b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())


def test_words_are_nowhere_and_a_forgotten_key_neither(lmdb_log: Log) -> None:
    """No file holds a word of any content in clear; after forgetting none holds the key that would open it."""
    secret = "the treasure lies beneath the old oak"
    lmdb_log.append(note("s", secret), say("s", [secret] * 3), note("s", secret * 300), note("t", "other"))
    number, key = lmdb_log.key("s") or (0, b"")
    assert key in _bytes_of(lmdb_log.root)
    assert b"capture" in _bytes_of(lmdb_log.root)  # facts are in clear

    assert lmdb_log.forget("s", "he asked for it")

    everything = _bytes_of(lmdb_log.root)
    assert b"treasure" not in everything
    assert b"asked" not in everything
    assert key not in everything
    assert (lmdb_log.key("t") or (0, b""))[1] in everything
    assert 2 == number


@pytest.mark.invariant(21)
def test_forgetting_takes_the_contents_and_leaves_the_facts(log: Log) -> None:
    """A forgotten stream keeps its facts, places and hashes; its contents are `FORGOTTEN`, and no more can be said."""
    log.append(note("s", "word"), note("t", "other"), say("s", ["a"]))
    before = [(event.hash, event.type, event.body.path) for event in log.stream("s")]

    assert log.forget("s", "asked")
    assert not log.forget("s")

    events = list(log.stream("s"))
    assert before == [(event.hash, event.type, event.body.path) for event in events]
    assert [FORGOTTEN, FORGOTTEN] == [events[0].body.value, events[1].body.messages]
    assert UNREAD is next(log.stream("s", contents=False)).body.value
    assert "other" == next(log.stream("t")).body.value
    assert (2, "asked") == ((forgotten := list(log.stream("ledger"))[-1].body).stream, forgotten.reason)
    assert (None, None) == (log.key("s"), log.tagger("s"))
    with pytest.raises(Refused, match="nothing more can be said"):
        log.append(note("s", "more"))
    assert (
        3
        == log.append(Draft(stream="s", body=REGISTRY["step_created"].cls(step="1", number=1, agent="a")))[0].stream_seq
    )
    with pytest.raises(NotFound):
        log.forget("none")


def test_the_ledgers_own_stream_is_not_forgotten(log: Log) -> None:
    """The ledger's own stream holds the reasons of all forgetting: to forget it is refused."""
    log.append(note("s", 1))
    with pytest.raises(LedgerError):
        log.forget("ledger")

    assert log.forget("s", "why")


def test_forgetting_reaches_every_log_that_is_open(tmp_path: Path) -> None:
    """A log that has used a stream's key says, reads and tags nothing with it once another has forgotten the stream."""
    with Log.open(tmp_path) as one, Log.open(tmp_path) as two:
        one.append(note("s", "word"))
        assert two.tagger("s")(b"data") == one.tagger("s")(b"data")
        assert "word" == next(two.stream("s")).body.value
        two.append(note("s", "another"))
        one.forget("s")

        assert FORGOTTEN is next(two.stream("s")).body.value
        assert two.tagger("s") is None
        with pytest.raises(Refused, match="nothing more can be said"):
            two.append(note("s", "more"))


def test_forgetting_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    """A crash after the event of forgetting and before the key is destroyed is made good when the log is opened."""
    with Log.open(tmp_path) as log:
        log.append(note("s", "word"), note("t", "other"))
        number, key = log.key("s") or (0, b"")
        log.append(draft("ledger", "content_forgotten", stream=number, reason="asked"))
    assert key in _bytes_of(tmp_path / KEYS)

    with Log.open(tmp_path) as log:
        assert ([FORGOTTEN], ["other"]) == (
            [e.body.value for e in log.stream("s")],
            [e.body.value for e in log.stream("t")],
        )
    assert key not in _bytes_of(tmp_path / KEYS)


def test_a_key_handed_over_opens_its_stream_alone(tmp_path: Path) -> None:
    """Who was handed one stream's key reads that stream, and of all others the facts."""
    with Log.open(tmp_path) as log:
        log.append(note("s", "word"), note("t", "other"), note("s", "long " * 1000))
        number, key = log.key("s") or (0, b"")

    with Log.open(tmp_path, readonly=True, keys=MemoryKeys({number: key})) as auditor:
        assert ["word", FORGOTTEN, "long " * 1000] == [event.body.value for event in auditor.read(1)]

    with Log.open(tmp_path, readonly=True, keys=MemoryKeys({number: bytes(32)})) as wrong:
        assert {FORGOTTEN} == {event.body.value for event in wrong.read(1)}


def test_a_content_opens_in_its_own_place_only(log: Log) -> None:
    """The same words twice are different bytes, and tags are equal within a stream and different between streams."""
    log.append(note("s", "word"), note("s", "word"), note("t", "word"))
    contents = {
        data[chain.FACTS_AT + len(facts_in(data)) :] for data in list(rows_of(log._store)[Tree.EVENTS].values())[1:]
    }

    assert 3 == len(contents)
    assert log.tagger("s")(b"x") == log.tagger("s")(b"x") != log.tagger("t")(b"x")
    assert log.tagger("none") is None
