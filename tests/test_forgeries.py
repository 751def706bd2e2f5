"""Forged ledgers: hashed, linked and indexed as they should be, and wrong in one thing that no hash excuses.

Rules: forged from `contracts/FORMAT.md` with the second reader's primitives. What is wrong is named by what the second
reader must say of it: a ledger that is rejected for another reason is no proof.
"""

from __future__ import annotations

from typing import Any

import pytest
import second_reader
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from second_reader import Ledger, Rejected, derive, encode, keyed, u64

from ledger_core import chain, codec
from ledger_core.log.memory_store import MemoryStore
from ledger_core.log.store import Tree

KEY = b"\x07" * 32
AEAD, ID_KEY = AESGCM(derive(KEY, "content key")), derive(KEY, "blob id")
LEDGER = bytes(range(16))
Forged = dict[str, Any]


def blob_id(data: bytes) -> bytes:
    return blake3(data, key=ID_KEY).digest()[:16]


def forge(events: list[Forged]) -> Ledger:
    """A ledger of events, each what it has of `type stream flags facts extra queue content blobs ids header sealed`."""
    rows: tuple[dict[bytes, bytes], ...] = ({}, {}, {b"\0format": b"AgentLedger\n\0\0\0\1" + LEDGER})
    lasts, placed, previous = {}, {}, keyed("genesis", LEDGER)
    for seq, event in enumerate(events, 1):
        number, extra = event.get("stream", 1), dict(event.get("extra", {}))
        first, last, stream_seq, hash_ = lasts.get(number, (seq, 0, 0, bytes(32)))
        flags = (2 if last == 0 else 0) | (4 if "blobs" in event else 0) | event.get("flags", 0)
        if "queue" in event:
            flags, extra["queue"], placed[number] = flags | 32, event["queue"], (seq, event["queue"])
        if flags & 2:
            names = {"stream": "ledger" if number == 1 else f"run/{number}"}
            extra = names | {"key_check": derive(KEY, "key check")[:8]} | extra
            rows[2][b"n" + extra["stream"].encode()] = u64(number)
        listed = []
        for data, id_ in zip(event.get("blobs", ()), event.get("ids", map(blob_id, event.get("blobs", ())))):
            sealed = bytes(12) + AEAD.encrypt(bytes(12), data, id_ + b"\0\0\0\0\1")
            rows[1][u64(number) + id_ + bytes(4)] = sealed
            listed.append([id_, 1, keyed("blob", sealed)])
        if "blobs" in event:
            extra = {"blobs": listed} | extra
            if event.get("list", len(listed) > 64):
                row = codec.encode(listed)
                extra["blobs"] = keyed("blob list", row)
                rows[1][u64(number) + extra["blobs"][:16] + b"\xff" * 4] = row
        stored = b""
        if "content" in event:
            stored = bytes(12) + AEAD.encrypt(bytes(12), event["content"], u64(number, stream_seq + 1))
        own = event.get("facts", {"ledger": LEDGER} if seq == 1 else {})
        facts = [event.get("type", "ledger_created" if seq == 1 else "said"), 1, "me", None, None, None, own]
        sealed = event.get("sealed", codec.encode([*facts, extra] if flags & 46 else facts))
        digest, sizes = keyed("content", stored) if stored else bytes(32), (len(stored), len(sealed))
        in_stream = (number, stream_seq + 1, last, hash_)
        header = chain.Sealed(1, flags, 0, seq, seq, previous, *in_stream, digest, *sizes)
        header = header._replace(**event.get("header", {}))
        sealed = chain.HEADER.pack(*header) + sealed
        previous = keyed("event", sealed)
        rows[0][u64(seq)] = previous + sealed + stored
        if header.stream_seq % 256 == 0:
            rows[2][b"p" + u64(header.stream, header.stream_seq)] = u64(seq)
        for tag in (own[name] for name in extra.get("tags", ()) if name in own):
            rows[2].setdefault(b"k" + tag, u64(seq))
        rows[2][b"h" + u64(number)] = u64(first, seq, header.stream_seq) + previous
        lasts[number] = (first, seq, header.stream_seq, previous)
    for number, (seq, said) in placed.items():
        rows[2][b"s" + u64(number)] = u64(seq)
        if type(said[1]) is bytes:
            rows[2][b"q" + said[1] + u64(number)] = u64(seq) + encode(said[-1])
    return Ledger(*rows, lambda _: KEY)


def ref(code: int, data: bytes) -> bytes:
    """A document whose one field is a reference."""
    return b"\x81\xa1a" + (b"\xd8\x01" if code == 1 else b"\xc7\x11\x02") + data


def node(level: int, *ids: bytes, root: int = 1, more: bytes = b"") -> Forged:
    """An event whose content is a list with this root over ids of blobs that it stores."""
    data = bytes([level]) + b"".join(ids) + more
    return {"blobs": [data, *LEAVES], "content": ref(2, bytes([root]) + blob_id(data))}


def closing(**counts: int) -> Forged:
    """The last event of stream 2, with counts by type."""
    return {"stream": 2, "facts": {"counts": counts, "tools": {}}, "flags": 16}


BORN: Forged = {}
LEAVES = [codec.encode(f"leaf {number}") for number in range(40)]
IDS = [blob_id(leaf) for leaf in LEAVES]
UNCUT = [id_ for id_ in IDS if id_[0] >= 0x20]
LOW = next(id_ for id_ in IDS if id_[0] < 0x20)
HELLO = codec.encode("hello")
HELLO_ID = blob_id(HELLO)
SAYS: Forged = {"stream": 2, "content": codec.encode({"a": "hello"})}
STORES: Forged = {"stream": 2, "blobs": [HELLO], "content": ref(1, blob_id(HELLO))}
TAGS: Forged = {"stream": 2, "facts": {"key": b"k" * 32}, "extra": {"tags": ["key", "other"]}, "flags": 8}
WAITS: Forged = {"stream": 2, "queue": [1, b"t1", {"at": 7}]}
MOVES, LEAVES_QUEUE = WAITS | {"queue": [2, b"t12", None]}, WAITS | {"queue": [3, None, "done"]}
LARGEST = 65_535 - 148 - len(codec.encode(["said", 1, "me", None, None, None, {"a": "x" * 60_000}])) + 60_000
"""How many letters facts may have at most whose one fact they are."""
SOUND = [BORN, SAYS, STORES, {"stream": 2, "content": ref(1, blob_id(HELLO))}, {"stream": 3}]
ODD: dict[str, dict[str, list[Forged]]] = {
    "does not link to the one before it": {
        "an event that names another one before": [BORN, SAYS | {"header": {"prev_hash": bytes(32)}}],
    },
    "has another place or size": {
        "an event that names another seq": [BORN, SAYS | {"header": {"seq": 3}}],
        "a content of another size": [BORN, SAYS | {"header": {"content_size": 5}}],
    },
    "are too large": {
        "facts that are too large": [BORN, SAYS, {"stream": 2, "facts": {"a": "x" * (LARGEST + 1)}}],
    },
    "is of a kind not known here": {
        "another format": [BORN, SAYS | {"header": {"format": 2}}],
        "reserved bytes": [BORN, SAYS | {"header": {"reserved": 1}}],
        "an unknown flag": [BORN, SAYS | {"flags": 0x40}],
    },
    "is dated before the one before it": {
        "a time before": [BORN, SAYS | {"header": {"time_ns": 0}}],
    },
    "content 2 was altered": {
        "another digest of content": [BORN, SAYS | {"header": {"content_digest": bytes(32)}}],
        "a digest without content": [BORN, {"stream": 2, "header": {"content_digest": b"x" * 32}}],
    },
    "is no ciphertext": {
        "content of no bytes in clear": [BORN, {"stream": 2, "content": b""}],
    },
    "content is no map": {
        "content that is no map": [BORN, {"stream": 2, "content": b"\x90"}],
    },
    "a uint is not in its shortest form": {
        "content that is not canonical": [BORN, {"stream": 2, "content": b"\x81\xa1a\xcc\x01"}],
    },
    "begins nothing that is allowed here": {
        "content with a deep reference": [BORN, STORES | {"content": b"\x81\xa1b" + ref(1, blob_id(HELLO))}],
        "content with another extension": [BORN, {"stream": 2, "content": b"\x81\xa1a\xd4\x03x"}],
    },
    "a reference is of an unknown kind": {
        "content with an unknown reference": [BORN, {"stream": 2, "content": b"\x81\xa1a\xd8\x03" + bytes(16)}],
    },
    "content names a blob that nobody stored": {
        "content with a blob that is not there": [BORN, {"stream": 2, "content": ref(1, bytes(16))}],
        "content with a blob of another stream": [BORN, STORES, {"stream": 3, "content": ref(1, blob_id(HELLO))}],
    },
    "content names a blob of a later event": {
        "content with a blob of a later event": [BORN, {"stream": 2, "content": ref(1, blob_id(HELLO))}, STORES],
    },
    "stored a blob that its content does not name": {
        "a blob that is not used": [BORN, STORES | {"content": SAYS["content"]}],
    },
    "stores a blob again": {
        "a blob that is stored again": [BORN, STORES, STORES],
    },
    "a chunk of seq 2 is missing": {
        "a blob without its row": [BORN, STORES | {"extra": {"blobs": [[HELLO_ID, 2, b""]]}}],
    },
    "the last chunk of a blob": {
        "an empty blob": [BORN, {"stream": 2, "blobs": [b""], "content": ref(1, blob_id(b""))}],
        "a blob that is too large": [BORN, {"stream": 2, "blobs": [bytes(65_537)]}],
    },
    "the list of blobs of seq": {
        "a list row for few blobs": [BORN, STORES | {"list": True}],
        "a list of no blobs": [BORN, STORES | {"extra": {"blobs": []}}],
        "many blobs without a list row": [BORN, {"stream": 2, "blobs": [*map(codec.encode, range(65))], "list": False}],
    },
    "was altered": {
        "a blob of another digest": [BORN, STORES | {"extra": {"blobs": [[HELLO_ID, 1, bytes(32)]]}}],
    },
    "a commitment of seq": {
        "a blob of no chunks": [BORN, STORES | {"extra": {"blobs": [[HELLO_ID, 0, b""]]}}],
        "a blob with a short id": [BORN, STORES | {"extra": {"blobs": [[HELLO_ID[:15], 1, b""]]}}],
        "a blob of too many chunks": [BORN, STORES | {"extra": {"blobs": [[HELLO_ID, 1025, b""]]}}],
    },
    "a blob is not what its id says": {
        "a blob under another id": [BORN, STORES | {"ids": [bytes(16)], "content": ref(1, bytes(16))}],
    },
    "the flags and the extras of record": {
        "a flag without blobs": [BORN, SAYS | {"flags": 4}],
        "blobs without a flag": [BORN, SAYS | {"extra": {"blobs": []}}],
        "a flag without tags": [BORN, SAYS | {"flags": 8}],
        "tags without a flag": [BORN, TAGS | {"flags": 0}],
        "a flag without a placement": [BORN, SAYS | {"flags": 32}],
        "a placement without a flag": [BORN, TAGS | {"extra": {"tags": ["key"], "queue": [1, b"k", None]}}],
        "a name where no stream opens": [BORN, SAYS, TAGS | {"extra": {"tags": ["key"], "stream": "run/2"}}],
    },
    "the facts of record": {
        "an opening without a flag": [BORN, SAYS | {"header": {"flags": 0}}],
        "an opening with no name": [BORN, SAYS | {"extra": {"stream": ""}, "sealed": b"\x98" + b"\xc0" * 8}],
        "facts of another shape": [BORN, SAYS, SAYS | {"sealed": codec.encode(["said", 1, "me", None, None, None])}],
        "facts with extras and no flag": [BORN, SAYS, SAYS | {"sealed": b"\x98\xa1a\1\xa1b\xc0\xc0\xc0\x80\x80"}],
        "facts of another type": [BORN, SAYS, SAYS | {"sealed": b"\x97\xa1a\1\xa1b\1\xc0\xc0\x80"}],
        "facts with a flag and no extras": [BORN, SAYS, TAGS | {"sealed": b"\x97\xa1a\1\xa1b\xc0\xc0\xc0\x80"}],
        "facts of version true": [BORN, SAYS, SAYS | {"sealed": b"\x97\xa1a\xc3\xa1b\xc0\xc0\xc0\x80"}],
        "facts of version 0": [BORN, SAYS, SAYS | {"sealed": b"\x97\xa1a\0\xa1b\xc0\xc0\xc0\x80"}],
    },
    "the opening at seq": {
        "an opening with a wrong key check": [BORN, SAYS | {"extra": {"key_check": b"1234567"}}],
        "a name with blanks": [BORN, SAYS | {"extra": {"stream": "run/a b"}}],
        "a name of no kind": [BORN, SAYS | {"extra": {"stream": "/a"}}],
        "a name that ends a line": [BORN, SAYS | {"extra": {"stream": "run/a\n"}}],
        "a name that is too long": [BORN, SAYS | {"extra": {"stream": "run/" + "a" * 129}}],
    },
    "does not open its stream once": {
        "a stream that opens twice": [BORN, SAYS, SAYS | {"flags": 2}],
    },
    "opens a stream out of turn": {
        "a stream out of turn": [BORN, {"stream": 3}],
        "two streams of one name": [BORN, SAYS, {"stream": 3, "extra": {"stream": "run/2"}}],
    },
    "has another place in its stream": {
        "another place in the stream": [BORN, SAYS, SAYS | {"header": {"stream_seq": 3}}],
    },
    "does not link to its stream": {
        "another event before in the stream": [BORN, SAYS, SAYS | {"header": {"stream_prev_seq": 1}}],
        "another hash before in the stream": [BORN, SAYS, SAYS | {"header": {"stream_prev_hash": bytes(32)}}],
    },
    "a str is not in its shortest form": {
        "facts that are not canonical": [BORN, SAYS, SAYS | {"sealed": b"\x97\xa1a\1\xd9\1b\xc0\xc0\xc0\x80"}],
    },
    "the log does not begin with its creation": {
        "another first type": [BORN | {"type": "said"}],
        "another first stream": [BORN | {"extra": {"stream": "run/1"}}],
    },
    "the first event names another ledger": {
        "another ledger's first event": [BORN | {"facts": {"ledger": bytes(16)}}],
    },
    "names no tag that it has": {
        "tags of no facts": [BORN, TAGS | {"facts": {}}],
        "no tags": [BORN, TAGS | {"extra": {"tags": []}}],
    },
    "the placement of seq 2 is malformed": {
        "a placement without a note": [BORN, WAITS | {"queue": [1, b"k"]}],
        "a placement of four": [BORN, WAITS | {"queue": [1, b"k", None, None]}],
        "a placement that is a map": [BORN, {"stream": 2, "flags": 32, "extra": {"queue": {"a": 1, "b": 2, "c": 3}}}],
    },
    "miscounts the placements": {
        "a first placement of number 2": [BORN, WAITS | {"queue": [2, b"k", None]}],
        "a first placement of number true": [BORN, WAITS | {"queue": [True, b"k", None]}],
        "two first placements": [BORN, WAITS, WAITS],
        "a placement left out": [BORN, WAITS, LEAVES_QUEUE],
    },
    "the key or the note of seq 2 is none": {
        "a key of no bytes": [BORN, WAITS | {"queue": [1, b"", None]}],
        "a key of 65 bytes": [BORN, WAITS | {"queue": [1, b"k" * 65, None]}],
        "a key that is text": [BORN, WAITS | {"queue": [1, "k", None]}],
        "a note of 1,025 bytes": [BORN, WAITS | {"queue": [1, b"k", "x" * 1_022]}],
    },
    "are no list of names": {
        "a tag that is named twice": [BORN, TAGS | {"extra": {"tags": ["key", "key"]}}],
        "tags that are a map": [BORN, TAGS | {"extra": {"tags": {"key": 1}}}],
    },
    "a tag of seq 2 is malformed": {
        "a tag of 31 bytes": [BORN, TAGS | {"facts": {"key": b"k" * 31}}],
    },
    "miscounts its stream": {
        "a wrong count": [BORN, SAYS, closing(said=2)],
        "a wrong count of tools": [BORN, SAYS, closing(said=1) | {"facts": {"counts": {"said": 1}, "tools": {"t": 1}}}],
    },
    "a node has another level": {
        "a node of another level": [BORN, node(2, *UNCUT[:1], root=1)],
        "a node of level 0": [BORN, node(0, *UNCUT[:1], root=0)],
    },
    "a node is malformed": {
        "a node with half an id": [BORN, node(1, *UNCUT[:1], more=UNCUT[1][:8])],
        "a node without ids": [BORN, node(1)],
        "a node of 33 ids": [BORN, node(1, *UNCUT[:33])],
    },
    "a node goes on behind a cut": {
        "a node that goes on behind a cut": [BORN, node(1, LOW, UNCUT[0])],
    },
}
"""Why it is rejected -> what is odd -> the events."""


SHAPES = {
    "the facts of record",
    "the flags and the extras of record",
    "the opening at seq",
    "a tag of seq 2 is malformed",
}
SHAPES |= {"a str is not in its shortest form", "the log does not begin with its creation", "names no tag that it has"}
SHAPES |= {"are no list of names", "the list of blobs of seq", "the last chunk of a blob"}
CONTENTS = {
    why for why in ODD if why.startswith(("content ", "a reference", "a node", "a blob is", "a uint", "stored a"))
}
UNSEEN = SHAPES | CONTENTS - {"content 2 was altered"} | {"begins nothing that is allowed here"}
"""Why -> what `verify` does not look at, as section 9 of FORMAT.md says: shapes, and what takes a key."""


def stored(ledger: Ledger) -> MemoryStore:
    """A store of the project with a ledger's rows."""
    store = MemoryStore()
    with store.write() as writer:
        for tree, rows in zip(Tree, ledger[:3], strict=True):
            for key, value in rows.items():
                writer.put(tree, key, value)
    return store


def test_a_sound_forgery_is_accepted(findings):
    """What is wrong with each odd ledger below is the one thing that it names: the same without it is a ledger."""
    listed = {"blobs": [b"\1" + b"".join(UNCUT[:32]), *(x for x in LEAVES if blob_id(x) in UNCUT[:32])]}
    whole = listed | {"content": ref(2, b"\1" + blob_id(listed["blobs"][0]))}
    many = [codec.encode(n) for n in range(65)]
    refs = b"".join(b"\xa2%02x" % n + ref(1, blob_id(data))[3:] for n, data in enumerate(many))
    row = {"blobs": many, "content": b"\xde\0\x41" + refs}
    large = {"stream": 2, "facts": {"a": "x" * LARGEST}}
    edge = {"stream": 3, "queue": [1, b"k" * 64, "x" * 1_021]}

    for events in (
        [*SOUND, closing(said=3)],
        [BORN, whole, row],
        [BORN, TAGS, TAGS, large],
        [BORN, WAITS, MOVES, LEAVES_QUEUE, edge],
        [BORN, *[SAYS] * 513],
    ):
        assert len(list(second_reader.read(forge(events)))) == len(events)
        assert findings(stored(forge(events))) == []


@pytest.mark.parametrize(("why", "name"), [(why, name) for why in ODD for name in ODD[why]])
def test_a_ledger_that_is_odd_in_one_thing_is_rejected_for_it(why, name):
    """A verifier checks what sealed bytes say, not only that they are sealed."""
    with pytest.raises(Rejected, match=why):
        list(second_reader.read(forge(ODD[why][name])))


@pytest.mark.parametrize(("why", "name"), [(why, name) for why in ODD for name in ODD[why] if why not in UNSEEN])
def test_the_project_finds_what_is_odd_too(why, name, findings):
    """`verify` finds something in the same ledgers, but for what it does not look at."""
    assert findings(stored(forge(ODD[why][name])))


def test_every_changed_byte_of_a_forgery_is_rejected():
    """No byte of any key or value of any tree can change unnoticed, and no row can be missing or too many."""
    stays = {"stream": 4, "queue": [1, b"t1", 9]}
    events = [*SOUND, TAGS, STORES | stays, WAITS, MOVES, closing(said=6) | {"queue": [3, None, None]}]
    events.append({"stream": 3, "queue": [1, b"t2", {}]})
    ledger = forge(events)
    assert len(list(second_reader.read(ledger))) == len(events)
    tried = 0
    for tree in ("events", "blobs", "index"):
        rows = dict(getattr(ledger, tree))
        for key, value in list(rows.items()):
            whole = key + value
            for at in range(len(whole)):
                changed = bytearray(whole)
                changed[at] ^= 1 << at % 8
                other = {k: v for k, v in rows.items() if k != key}
                other[bytes(changed[: len(key)])] = bytes(changed[len(key) :])
                with pytest.raises(Rejected):
                    list(second_reader.read(ledger._replace(**{tree: other})))
                tried += 1
            with pytest.raises(Rejected):
                list(second_reader.read(ledger._replace(**{tree: {k: v for k, v in rows.items() if k != key}})))
        with pytest.raises(Rejected):
            list(second_reader.read(ledger._replace(**{tree: {**rows, b"x" * 28: b"x"}})))
    assert tried > 2_000


def test_altered_rows_of_a_forgery_are_rejected():
    """A record cut short, another ciphertext of a blob, and another list row are found, each by its own rule."""
    sound, many = forge(SOUND), forge([BORN, {"blobs": [codec.encode(n) for n in range(65)]}])
    short = {**sound.events, u64(5): sound.events[u64(5)][:100]}
    ((key, sealed),) = sound.blobs.items()
    row = next(key for key in many.blobs if key.endswith(b"\xff" * 4))
    listed = {**many.blobs, row: many.blobs[row][:-1] + b"\0"}
    for broken, why in (
        (sound._replace(events=short), "record 5 is cut short"),
        (sound._replace(blobs={key: sealed[::-1]}), "a blob of seq 3 was altered"),
        (many._replace(blobs=listed), "the list of blobs of seq 2 was altered"),
    ):
        with pytest.raises(Rejected, match=why):
            list(second_reader.read(broken))


def test_a_stream_is_read_from_waypoints_that_follow_from_its_records():
    """The index holds a row for every 256th event of a stream, and no other."""
    sound = forge([BORN, *[SAYS] * 513])
    places = [key for key in sound.index if key[:1] == b"p"]

    assert places == [b"p" + u64(2, 256), b"p" + u64(2, 512)]
    for index in (
        {key: row for key, row in sound.index.items() if key != places[0]},
        sound.index | {places[0]: u64(258)},
        sound.index | {b"p" + u64(2, 513): u64(514)},
    ):
        with pytest.raises(Rejected, match="an index row"):
            list(second_reader.read(sound._replace(index=index)))


def test_only_the_ledgers_own_stream_says_what_is_forgotten():
    """A stream is forgotten when an event of the stream `ledger` says so; no other stream can say it."""
    says = {"type": "content_forgotten", "facts": {"stream": 2}}
    contents = [
        [event["content"] for event in second_reader.read(forge([BORN, SAYS, says | {"stream": number}]))]
        for number in (1, 3)
    ]

    assert contents == [[{}, None, {}], [{}, {"a": "hello"}, {}]]


def test_a_rewritten_or_cut_tail_shows_only_against_a_held_head():
    """A history made anew to its end is as consistent as the true one; a head held elsewhere tells them apart."""
    head = (5, forge(SOUND).events[u64(5)][:32])
    rewritten, cut = forge([*SOUND[:4], SOUND[4] | {"header": {"time_ns": 9}}]), forge(SOUND[:4])

    assert len(list(second_reader.read(forge(SOUND), held=head))) == 5
    for other, length, why in ((rewritten, 5, "rewritten"), (cut, 4, "ends before")):
        assert len(list(second_reader.read(other))) == length
        with pytest.raises(Rejected, match=why):
            list(second_reader.read(other, held=head))
