"""Checking evidence: whatever is changed in a bundle is found, whatever is given is survived, and limits are said."""

from __future__ import annotations

import base64
import copy
import json
import math
import random
import re
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.evidence import (
    Bundle,
    as_read,
    changed,
    failed_bundle,
    kid_bundle,
    places,
    rebuilt,
    resealed,
    rich_bundle,
    run_rich,
    signed,
)

from agentledger import agent
from ledger_core import chain, codec
from ledger_core.errors import Damaged
from ledger_core.events import FORGOTTEN, Unknown
from ledger_core.log.cipher import Cipher
from ledger_core.log.log import Draft, Log
from ledger_core.log.record import place as place_of
from ledger_core.runtime.runtime import Runtime
from projections import evidence_records
from projections.evidence import PARTS, bundle, derived
from projections.evidence_check import MOST, EvidenceReport, check
from projections.evidence_json import canonical, differences, of_hex, of_text, same, to_text
from projections.evidence_records import Held, Words, events_of
from projections.evidence_sealed import parse
from projections.wire import event_json

SAID_ELSEWHERE = ("exported", "agentledger", "ledger_id", "head")
"""What a bundle alone cannot prove, and does not say that it does."""
KIDS = {"kid": kid_bundle()}


def kinds(report: EvidenceReport) -> set[str]:
    return {one.kind for one in report.findings}


def other(value: Any) -> Any:
    """Another value of the same kind, as near as can be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return math.nextafter(value, math.inf)
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return {None: 0, dict: {"more": 1}, list: [None]}[None if value is None else type(value)]


def flipped(text: str, at: int, bit: int = 0) -> str:
    data = bytearray(base64.b64decode(text))
    data[at] ^= 1 << bit
    return base64.b64encode(data).decode()


# What is well


def test_what_is_intact_is_found_so():
    """A run with everything in it, sealed and not, one that failed, and a child: no finding, and all was looked at."""
    report = check(rich_bundle(), children=KIDS)
    assert report.ok, report
    records = rich_bundle()["records"]
    assert report.checked["records"] == report.checked["events"] == len(records)
    assert report.checked["opened"] == report.checked["contents"] == sum(bool(one["content"]) for one in records)
    assert report.checked["blobs"] == len(rich_bundle()["blobs"])
    assert report.checked["parts"] == len(PARTS)
    for made in (rich_bundle(sealed=True), kid_bundle(), failed_bundle()):
        report = check(made, children=KIDS)
        assert (report.ok, report.exit_code) == (True, 0), report
    assert check(rich_bundle(sealed=True)).checked["opened"] == 0


def test_a_check_changes_nothing_and_says_its_limits():
    """The bundle is as it was; what one bundle cannot show is said in words, with and without the ledger."""
    made = rich_bundle()
    before = copy.deepcopy(made)
    report = check(made)
    assert made == before
    said = " ".join(report.not_checked)
    for words in ("that the ledger has this id", "other events are intact", "kept elsewhere", "exported"):
        assert words in said
    assert (report.incomplete, report.exit_code) == (["1 child run, whose evidence is not here: kid"], 6)
    assert json.loads(json.dumps(report.as_json())) == report.as_json()


# One thing changed


def test_every_byte_that_is_sealed_is_guarded():
    """Any byte of any record of a small run, with another bit: found, though the digest is made anew."""
    made = failed_bundle()
    for number, row in enumerate(made["records"]):
        for part in ("sealed", "content"):
            for at in range(len(base64.b64decode(row[part]))):
                forged = changed(made, ["records", number, part], flipped(row[part], at, at % 8))
                assert check(signed(forged)).findings, (number, part, at)


def test_bytes_of_a_run_with_everything_are_guarded():
    """A byte here and there of every record and blob of a large run: found, the digest made anew."""
    made = rich_bundle()
    draw = random.Random(5)
    where: list[tuple[list[Any], str]] = []
    for number, row in enumerate(made["records"]):
        where += [(["records", number, part], row[part]) for part in ("sealed", "content", "list") if row.get(part)]
    where += [(["blobs", blob, n], chunk) for blob, chunks in made["blobs"].items() for n, chunk in enumerate(chunks)]
    for path, text in where:
        at = draw.randrange(len(base64.b64decode(text)))
        forged = changed(made, path, flipped(text, at, draw.randrange(8)))
        assert check(signed(forged)).findings, (path, at)


def test_every_field_of_every_kind_is_guarded_by_the_digest():
    """Any value in the bundle, changed and nothing else: its digest is another."""
    made = failed_bundle()
    for path in places({name: value for name, value in made.items() if name != "schema"}):
        value: Any = made
        for step in path:
            value = value[step]
        assert "digest" in kinds(check(changed(made, list(path), other(value)))), path


@pytest.mark.parametrize("sealed", [False, True])
def test_every_kind_of_field_is_guarded_without_the_digest(sealed: bool):
    """One value of each kind that is shown, changed, the digest made anew: found by what the sealed bytes give."""
    made = rich_bundle(sealed=sealed)
    one_of: dict[str, tuple[Any, ...]] = {}
    for path in places({name: value for name, value in made.items() if name not in ("records", "blobs")}):
        one_of.setdefault(re.sub(r"\d+", "#", ".".join(map(str, path))), path)
    assert len(one_of) > 400
    for path in one_of.values():
        if path[0] in (*SAID_ELSEWHERE, "bundle_digest"):
            continue
        value: Any = made
        for step in path:
            value = value[step]
        assert check(signed(changed(made, list(path), other(value)))).findings, path


@pytest.mark.parametrize("part", [*PARTS, "events"])
def test_a_part_that_is_gone_more_or_less_is_found(part: str):
    """Without the part, with null, without its last row, with one more, with a field more or less in a row."""
    made = rich_bundle()
    value = made[part]
    forged = [{name: one for name, one in made.items() if name != part}, {**made, part: None}, {**made, part: 5}]
    if isinstance(value, list) and value:
        forged += [{**made, part: value[:-1]}, {**made, part: [*value, value[-1]]}, {**made, part: value[::-1][:-1]}]
        forged += [{**made, part: [*value[:-1], {**value[-1], "more": None}]}]
        forged += [{**made, part: [*value[:-1], dict(list(value[-1].items())[1:])]}]
        if len(value) > 1:
            forged.append({**made, part: [value[1], value[0], *value[2:]]})
    elif isinstance(value, dict):
        forged += [{**made, part: {**value, "more": None}}, {**made, part: dict(list(value.items())[1:])}]
    else:
        forged.append({**made, part: [{"row": 1}]})
    for one in forged:
        assert check(signed(one)).findings


def test_an_edited_amount_is_found_though_the_digest_was_made_anew():
    """`summary.usd` follows from the sealed events; so do the total of a row and the text of an answer."""
    made = rich_bundle()
    report = check(signed(changed(made, ["summary", "usd"], 0.0)))
    assert [one.detail for one in report.findings] == ["summary.usd is not what the sealed events give"]
    assert report.exit_code == 3
    assert kinds(check(changed(made, ["summary", "usd"], 0.0))) == {"digest", "derived"}
    assert kinds(check(signed(changed(made, ["summary", "usd"], 0.25 + 1e-15)))) == {"derived"}
    assert kinds(check(signed(changed(made, ["summary", "epoch"], 2.0)))) == {"derived"}  # a number of another kind
    assert kinds(check(signed(changed(made, ["summary", "epoch"], True)))) == {"derived"}


# Records, blobs, heads


def test_records_that_are_gone_doubled_or_moved_are_found():
    """With what is shown of them or without, and with a head that fits."""
    made = rich_bundle()
    count = len(made["records"])
    for keep in (
        [*range(1, count)],
        [n for n in range(count) if n != 7],
        [*range(8), 7, *range(8, count)],
        [*range(7), 8, 7, *range(9, count)],
        [*range(count), count - 1],
        [0, *range(2, count)],
        [],
    ):
        for also in ((), ("events", "frames")):
            forged = {**made, **{name: [made[name][n] for n in keep] for name in ("records", *also)}}
            if keep:
                last = forged["records"][-1]
                forged["stream_head"] = {"seq": last["seq"], "stream_seq": len(keep), "hash": last["hash"]}
            assert check(signed(forged)).findings, keep[:9]


def test_a_tail_that_is_cut_off_shows_only_in_the_ledger(runtime: Runtime):
    """All hashes hold up to any event: a bundle cannot prove that it is not the beginning. Whoever has the log can."""
    run_rich(runtime)
    made = as_read(bundle(runtime.log, "s"))
    cut = rebuilt({**made, "records": made["records"][:-2]})

    assert check(cut).ok
    assert check(made, runtime.log).ok
    report = check(cut, runtime.log)
    assert kinds(report) == {"ledger"}
    assert "not in the bundle" in report.findings[0].detail


def test_blobs_that_are_gone_more_or_exchanged_are_found():
    """Without its chunk, a chunk cut in two, another's bytes, one that nobody stored, without the list of many."""
    made = rich_bundle()
    blobs = made["blobs"]
    many = next(blob for blob, chunks in blobs.items() if len(chunks) > 1)
    one, two = list(blobs)[:2]
    glued = base64.b64decode(blobs[many][0])
    cut = [base64.b64encode(piece).decode() for piece in (glued[:100], glued[100:])]
    forged = [
        {name: value for name, value in blobs.items() if name != one},
        {**blobs, many: blobs[many][:-1]},
        {**blobs, many: blobs[many][::-1]},
        {**blobs, many: [*cut, *blobs[many][1:]]},
        {**blobs, one: blobs[two], two: blobs[one]},
        {**blobs, "00" * 16: blobs[one]},
        {**blobs, one: []},
        {**blobs, one: "text"},
        {**blobs, one.upper() + "x": blobs[one]},
    ]
    for sealed in (False, True):
        for value in forged:
            report = check(signed({**rich_bundle(sealed=sealed), "blobs": value}))
            assert kinds(report) == {"blob"}, value.keys() ^ blobs.keys()
    place = next(n for n, row in enumerate(made["records"]) if "list" in row)
    without = copy.deepcopy(made)
    text = without["records"][place].pop("list")
    assert check(signed(without)).findings
    assert kinds(check(signed(changed(made, ["records", 0, "list"], text)))) == {"blob"}


def test_a_head_that_the_records_do_not_end_at_is_found():
    """The run's head is its last record; the log's is not before it, and is the same where it is the same event."""
    made = kid_bundle()
    last = made["stream_head"]["seq"]
    for path, value in (
        (["stream_head", "seq"], last + 1),
        (["stream_head", "stream_seq"], 1),
        (["stream_head", "hash"], "0" * 64),
        (["stream_head"], None),
        (["head", "seq"], last - 1),
        (["head", "seq"], str(last)),
        (["head"], {"seq": last, "hash": "0" * 64}),
        (["head"], {"seq": last + 5, "hash": "0" * 63}),
        (["head"], []),
    ):
        assert kinds(check(signed(changed(made, path, value)))) == {"head"}, (path, value)


# Forged records, hashed and linked anew


def seal_with(number: int, **fields: Any) -> Any:
    """An edit of a header."""

    def edit(place: int, header: chain.Sealed, facts: bytes, content: bytes) -> Any:
        return (header._replace(**fields) if place == number else header), facts, content

    return edit


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"format": 2}, "record"),
        ({"reserved": 1}, "record"),
        ({"flags": 0x41}, "record"),
        ({"stream": 9}, "stream_chain"),
        ({"stream_seq": 7}, "stream_chain"),
        ({"stream_prev_seq": 1}, "stream_chain"),
        ({"time_ns": 1}, "time"),
        ({"flags": 0x03}, "facts"),
        ({"flags": 0x11}, "counts"),
    ],
)
def test_headers_that_do_not_fit_are_found_though_all_hashes_hold(fields: dict[str, Any], kind: str):
    """Whoever can write a file can hash it anew; what does not fit the run is found all the same."""
    forged = resealed(failed_bundle(), seal_with(3, **fields))
    assert kind in kinds(check(signed(forged)))


def test_a_link_to_the_log_is_checked_where_the_log_s_event_before_is_the_run_s():
    """Two events of a run that follow one another in the log also link there."""
    made = failed_bundle()
    assert made["records"][2]["seq"] == made["records"][1]["seq"] + 1
    row = made["records"][2]
    sealed = base64.b64decode(row["sealed"])
    header = chain.Sealed._make(chain.HEADER.unpack_from(sealed))._replace(prev_hash=bytes(32))
    hash_, data = chain.seal(header, sealed[chain.HEADER.size :])
    forged = changed(made, ["records", 2], {**row, "hash": hash_.hex(), "sealed": base64.b64encode(data).decode()})
    found = [one.detail for one in check(signed(forged)).findings if one.kind == "chain"]
    assert found[0] == f"does not link to the event at seq {header.seq - 1}"


def facts_with(type_: str, edit_facts: Any) -> Any:
    """An edit of the facts of events of a type."""

    def edit(_: int, header: chain.Sealed, facts: bytes, content: bytes) -> Any:
        said = codec.decode(facts)
        if said[0] == type_:
            said = edit_facts(said)
        return header, said if isinstance(said, bytes) else codec.encode(said), content

    return edit


@pytest.mark.parametrize(
    ("type_", "edit", "kind"),
    [
        ("run_created", lambda said: said[:7], "facts"),
        ("run_created", lambda said: [*said, 1], "facts"),
        ("run_created", lambda said: {"no": "list"}, "facts"),
        ("run_created", lambda said: codec.encode(said) + b"\xc0", "facts"),
        ("run_created", lambda said: b"\xdd\x00\x00\x00\x08" + codec.encode(said)[1:], "facts"),
        ("run_created", lambda said: [said[0], 0, *said[2:]], "facts"),
        ("run_created", lambda said: [said[0], True, *said[2:]], "facts"),
        ("run_created", lambda said: [7, *said[1:]], "facts"),
        ("run_created", lambda said: [*said[:7], {**said[7], "stream": "run/other"}], "stream_chain"),
        ("run_created", lambda said: [*said[:7], {**said[7], "key_check": b"short"}], "facts"),
        ("run_created", lambda said: [*said[:7], {**said[7], "blobs": []}], "facts"),
        ("run_created", lambda said: [*said[:7], {**said[7], "key_check": bytes(8)}], "key"),
        ("run_created", lambda said: [*said[:6], {**said[6], "run": "other"}, said[7]], "facts"),
        ("step_claimed", lambda said: [*said[:5], 10**9, *said[6:]], "facts"),
        ("step_claimed", lambda said: [*said[:7], {"queue": [5, None, None]}], "facts"),
        ("step_claimed", lambda said: [*said[:7], {"queue": [2, b"", None]}], "facts"),
        ("step_claimed", lambda said: [*said[:7], {"queue": [2, b"k", "x" * 2000]}], "facts"),
        ("run_failed", lambda said: [*said[:6], {**said[6], "counts": {}}, *said[7:]], "counts"),
        ("run_failed", lambda said: [*said[:6], {**said[6], "tools": {"t": 1}}, *said[7:]], "counts"),
        ("step_failed", lambda said: [*said[:6], {**said[6], "error_type": "Other"}, *said[7:]], "shown"),
        ("step_failed", lambda said: [*said[:6], {"nothing": 1}, *said[7:]], "content"),
        ("step_failed", lambda said: ["unheard_of", *said[1:]], "counts"),
        ("run_failed", lambda said: ["unheard_of", *said[1:]], "shown"),
        ("step_failed", lambda said: [*said[:6], {**said[6], "epoch": 2**62}, *said[7:]], "facts"),
    ],
)
def test_facts_that_do_not_fit_are_found_though_all_hashes_hold(type_: str, edit: Any, kind: str):
    """Another shape, another encoding, another account of the run, or what is not shown: each is named."""
    forged = resealed(failed_bundle(), facts_with(type_, edit))
    assert kind in kinds(check(signed(forged)))


def test_a_content_opens_only_in_its_place():
    """Two contents exchanged, with every hash and digest made anew, do not open."""
    made = rich_bundle()
    calls = [n for n, one in enumerate(made["events"], 1) if one["type"] == "tool_call_completed"]
    contents = {n: base64.b64decode(made["records"][n - 1]["content"]) for n in calls}
    swapped = dict(zip(calls, reversed(list(contents.values())), strict=True))

    def edit(place: int, header: chain.Sealed, facts: bytes, content: bytes) -> Any:
        return header, facts, swapped.get(place, content)

    assert kinds(check(signed(resealed(made, edit)))) == {"content"}
    assert "shown" in kinds(check(signed(resealed(rich_bundle(sealed=True), edit))))  # their hashes are others


def test_whoever_rewrites_everything_is_found_by_the_ledger_only(runtime: Runtime):
    """A history that was made anew to its end holds by itself, and says so in what was not checked."""
    run_rich(runtime)
    made = as_read(bundle(runtime.log, "s"))
    edit = facts_with("step_failed", lambda said: [*said[:6], {**said[6], "error_type": "Harmless"}, *said[7:]])
    forged = rebuilt(resealed(made, edit))

    report = check(forged)
    assert report.ok, report
    assert any("made anew" in text for text in report.not_checked)
    assert "ledger" in kinds(check(forged, runtime.log))


# Keys


def test_another_key_is_found():
    """Another run's key, no key where words are shown, a key in a sealed bundle, a key that is none."""
    made = rich_bundle()
    for key, kind in ((kid_bundle()["stream"]["key"], "key"), (None, "shown"), ("00" * 32, "key"), ("xy", "shape")):
        assert kind in kinds(check(signed(changed(made, ["stream", "key"], key)))), key
    assert kinds(check(signed({**made, "sealed": True}))) >= {"shape"}
    sealed = rich_bundle(sealed=True)
    assert "shown" in kinds(check(signed({**sealed, "sealed": False})))
    opened = signed(changed({**sealed, "sealed": False}, ["stream", "key"], made["stream"]["key"]))
    assert "shown" in kinds(check(opened))


def test_words_in_a_sealed_bundle_are_found():
    """What nothing proves may not be shown: a sealed bundle with words in it is no evidence of them."""
    made = rich_bundle(sealed=True)
    for path in (["events", 0, "content", "initial_state"], ["final_state", "output"], ["approvals", 0, "reason"]):
        assert check(signed(changed(made, path, "all is well"))).findings


# Lists of messages


def listed(nodes: list[bytes], key: bytes, root: int) -> tuple[Held, bytes]:
    """A record whose content is a list with this root level over nodes, the last of which is the root."""
    cipher = Cipher(key)
    blobs = {
        cipher.blob_id(one): [cipher.encrypt(one, cipher.blob_id(one) + bytes(4) + b"\1", bytes(12))] for one in nodes
    }
    commitments = []
    for one, chunks in blobs.items():
        digester = chain.blob_digester()
        digester.update(chunks[0])
        commitments.append([one, 1, digester.digest()])
    body = {"path": "1", "attempt": 1, "model": "m", "request": b"r"}
    extras = {"stream": "run/x", "key_check": cipher.check, "blobs": commitments}
    facts = codec.encode(["model_call_requested", 1, "a", None, None, None, body, extras])
    root_id = cipher.blob_id(nodes[-1])
    content = codec.encode_trusted({"messages": codec.Ref(2, bytes([root]) + root_id), "parameters": {}})
    sealed = cipher.encrypt(content, place_of(1, 1), bytes(12))
    flags = chain.CRITICAL | chain.OPENS | chain.STORES
    fields = (1, flags, 0, 2, 1, bytes(32), 1, 1, 0, bytes(32), chain.content_digest(sealed), len(sealed), len(facts))
    hash_, data = chain.seal(chain.Sealed(*fields), facts)
    record = hash_ + data + sealed
    return Held(stream="run/x", number=1, records=[record], blobs=blobs), record


def test_lists_that_no_writer_makes_are_damage(monkeypatch: pytest.MonkeyPatch):
    """A node of another level, without ids, too long, uncut; and a few nodes that ask for any number of messages."""
    key = b"\7" * 32
    cipher = Cipher(key)
    leaf = codec.encode("hi")
    one = cipher.blob_id(leaf)

    def open_(nodes: list[bytes], root: int) -> Any:
        held, data = listed([leaf, *nodes], key, root)
        return Words(held, cipher).of(data, chain.unpack(data))["messages"]

    assert open_([b"\1" + one], 1) == ["hi"]
    low = bytes([0]) + one[1:]
    for nodes, root in (
        ([b"\2" + one], 1),
        ([b"\1" + one], 2),
        ([b"\1" + one], 0),
        ([b"\1"], 1),
        ([b"\1" + one[:15]], 1),
        ([b"\1" + one * 33], 1),
        ([b"\1" + low + one], 1),
        ([b"\1" + bytes([0x20]) * 16], 1),
        ([leaf], 1),
    ):
        with pytest.raises(Damaged):
            open_(nodes, root)
    monkeypatch.setattr(evidence_records, "MOST_MESSAGES", 10_000)
    if one[0] < 0x20:
        pytest.skip("the leaf's id cuts: another key would do")
    nodes, last = [], one
    for level in range(1, 60):
        width = 1 if last[0] < 0x20 else 2
        nodes.append(bytes([level]) + last * width)
        last = cipher.blob_id(nodes[-1])
    with pytest.raises(Damaged, match="10,000 messages"):
        open_(nodes, 59)


# The ledger


def test_a_ledger_says_what_a_bundle_cannot(runtime: Runtime):
    """The same bytes in the same places, the head, how far the run has come since, and that its child is there."""
    log = runtime.log
    assert runtime.run(agent(name="w")(lambda ctx: ctx.wait_signal("go")), run_id="w").status == "waiting"
    early = as_read(bundle(log, "w"))
    assert check(early, log).since == 0
    runtime.signal("w", "go")
    run_rich(runtime)
    report = check(early, log)
    assert (report.ok, report.since, report.checked["in_ledger"]) == (True, 1, len(early["records"]))

    made = as_read(bundle(log, "r"))
    report = check(made, log)
    assert report.ok, report
    assert not any("that the ledger has" in text for text in report.not_checked)
    for path, value in (
        (["head", "hash"], "0" * 64),
        (["head", "seq"], 10**6),
        (["head", "seq"], 2**63),
        (["ledger_id"], "0" * 32),
    ):
        assert "ledger" in kinds(check(signed(changed(made, path, value)), log)), path


def test_another_ledgers_run_of_the_same_name_is_another_run(runtime: Runtime):
    """Under this ledger's id, the records of another one's run are found, whatever they say."""
    run_rich(runtime)
    stranger = signed({**rich_bundle(), "ledger_id": runtime.log.id.hex()})
    found = check(stranger, runtime.log).findings
    assert {one.kind for one in found} >= {"ledger"}
    assert "no such record as event 1" in " ".join(one.detail for one in found)
    assert "ledger" in kinds(check(signed({**rich_bundle(), "ledger_id": Log.in_memory().id.hex()}), Log.in_memory()))


def test_a_ledger_at_hand_is_asked_if_it_has_the_run_or_is_demanded(runtime: Runtime):
    """Another id and none of the records: not checked, or a finding if demanded. Another id and a record: a finding."""
    run_rich(runtime)
    made = as_read(bundle(runtime.log, "s"))
    for log in (Log.in_memory(), runtime.log):
        stranger = failed_bundle()  # of a run of the same name in another ledger
        report = check(stranger, log, demanded=False)
        assert (report.findings, report.exit_code) == ([], 0)
        assert log.id.hex() in " ".join(report.not_checked)
        assert any("that the ledger has this id" in text for text in report.not_checked)
        assert kinds(check(stranger, log)) == {"ledger"}
    renamed = signed({**made, "ledger_id": "ab" * 16})
    for demanded in (False, True):
        report = check(renamed, runtime.log, demanded=demanded)
        assert [(one.kind, "its records are in this one" in one.detail) for one in report.findings] == [
            ("ledger", True)
        ]
    assert check(made, runtime.log, demanded=False).checked["in_ledger"] == len(made["records"])


def test_words_that_were_taken_out_are_found_by_the_ledger_that_has_them(runtime: Runtime):
    """`<forgotten>` without a key is true only where the ledger's key is gone; a bundle that is sealed says so."""
    run_rich(runtime)
    honest = as_read(bundle(runtime.log, "s"))
    held, _ = parse(honest)
    events = list(events_of(held, None, FORGOTTEN))
    stripped = changed(honest, ["stream", "key"], None) | derived(events)
    stripped = as_read(signed({**stripped, "events": [event_json(event) for event in events]}))
    assert check(stripped).ok
    assert [one.detail for one in check(stripped, runtime.log).findings] == [
        "the ledger has the key, and can read what the bundle shows as <forgotten>"
    ]
    assert check(as_read(bundle(runtime.log, "s", sealed=True)), runtime.log).ok
    runtime.log.forget("run/s")
    assert check(stripped, runtime.log).ok


# Children


def test_a_child_that_is_another_or_not_here_is_said():
    """Another end than the parent heard of, another parent, something that is no bundle, and nothing at all."""
    made = rich_bundle()
    kid = kid_bundle()
    assert check(made, children={"kid": kid}).exit_code == 0
    assert check(made, children={}).exit_code == 6
    other_end = changed(kid, ["records", -1, "hash"], "0" * 64)
    other_parent = changed(kid, ["events", 0, "facts", "parent_hash"], "0" * 64)
    for wrong in (other_end, other_parent, failed_bundle(), {}, None, 5, [], {"records": 1, "events": [{}]}):
        report = check(made, children={"kid": wrong})
        assert kinds(report) == {"children"}, wrong
        assert report.exit_code == 3


def test_a_child_in_the_ledger_is_looked_for_there(runtime: Runtime):
    """A parent's bundle with another end of its child does not agree with the ledger."""
    run_rich(runtime)
    made = as_read(bundle(runtime.log, "r"))
    forged = signed(changed(made, ["children", 0, "head", "hash"], "0" * 64))
    assert kinds(check(forged, runtime.log)) == {"derived", "children"}


# Versions


def test_fields_of_another_version_are_said_and_values_are_compared():
    """What only one of two versions has could not be checked; what both have must agree."""
    made = {**rich_bundle(), "agentledger": "0.0.1"}
    del made["summary"]["epoch"]
    made["steps"][0]["colour"] = "blue"
    report = check(signed(made), children=KIDS)
    assert (report.findings, report.exit_code) == ([], 6)
    assert "steps[].colour, summary.epoch" in report.incomplete[0]
    report = check(signed(changed(made, ["summary", "usd"], 7)), children=KIDS)
    assert kinds(report) == {"derived"}
    report = check(signed({**rich_bundle(), "later": 1}), children=KIDS)
    assert (report.findings, report.exit_code) == ([], 6)


def test_events_of_an_unknown_type_are_kept_and_said(log: Log):
    """They are sealed and shown as any other; that nothing was derived from them is said."""
    runtime = Runtime(log)
    runtime.run(agent(name="a")(lambda ctx: "x"), run_id="r")
    log.append(Draft(stream="run/r", body=Unknown(type="from_tomorrow", version=1, facts={"n": 1})))
    made = as_read(bundle(log, "r"))
    assert made["events"][-1]["facts"] == {"n": 1}
    report = check(made, log)
    assert (report.findings, report.exit_code) == ([], 6)
    assert "from_tomorrow" in report.incomplete[0]
    assert check(signed(changed(made, ["events", -1, "facts", "n"], 2))).findings


# Anything at all


def test_findings_are_bounded():
    """A bundle in which everything is wrong does not fill the memory of whoever checks it."""
    made = failed_bundle()
    report = check({**made, "records": [{}] * 5000, "blobs": {str(n): 1 for n in range(5000)}})
    assert len(report.findings) == MOST + 1
    assert report.findings[-1].kind == "more"
    report = check({**made, "run_id": "x" * 10**6, "stream": {"name": "y" * 10**6, "number": 2, "key": "z" * 10**6}})
    assert len(json.dumps(report.as_json())) < 2 * 10**6


def test_what_no_terminal_can_print_is_said_all_the_same():
    """Halves of characters in names and fields: the report is text."""
    made = failed_bundle()
    for forged in ({**made, "run_id": "\ud800"}, {**made, "\ud800": 1}, changed(made, ["summary", "\udfff"], 1)):
        for version in (made["agentledger"], "0.0.1"):
            report = check({**forged, "agentledger": version})
            assert report.findings
            json.dumps(report.as_json(), ensure_ascii=False).encode()


def test_what_is_no_bundle_is_a_finding():
    """Nothing, scalars, lists, objects of other kinds: one finding, and no error."""
    for value in (None, 0, 1.5, True, "x", [], {}, [[]], {"schema": None}, {"schema": "agentledger.evidence.v2"}, b"x"):
        report = check(value)
        assert (kinds(report), report.exit_code) == ({"shape"}, 3), value
    assert check({"schema": "agentledger.evidence.v1"}).findings
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert check({**failed_bundle(), "steps": deep, "events": deep, "records": deep, "stream": deep}).findings
    while deep:  # taken apart by hand: letting go of it whole would end the process
        deep = deep[0]
    for odd in (math.nan, math.inf, b"bytes", {1: 2}, {1: 2, "1": 3}, object(), "\ud800", 10**5000):
        assert check({**failed_bundle(), "steps": odd}).findings


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("00" * 32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PLACES = places(failed_bundle())


def survived(report: EvidenceReport) -> None:
    """There are findings, and none is that the check gave up."""
    assert report.findings
    assert not [one for one in report.findings if one.detail.startswith("the check could not go on")]
    json.dumps(report.as_json())


@settings(max_examples=200)
@given(value=st.dictionaries(st.sampled_from(list(failed_bundle())), json_values))
def test_any_json_under_a_bundles_names_is_survived(value: Bundle):
    """Every field of a bundle holding anything: findings, and no error."""
    survived(check({"schema": "agentledger.evidence.v1", **{k: v for k, v in value.items() if k != "schema"}}))


@settings(max_examples=300)
@given(data=st.data())
def test_anything_in_any_place_of_a_real_bundle_is_survived(data: st.DataObject):
    """At one or two places down to any depth something else stands; the digest is made anew where there can be one."""
    made = failed_bundle()
    for _ in range(data.draw(st.integers(1, 2))):
        path = list(data.draw(st.sampled_from(PLACES)))
        path = path[: data.draw(st.integers(1, len(path)))]
        try:
            made = changed(made, path, data.draw(json_values))
        except (LookupError, TypeError):  # the place is gone with what stood above it
            continue
    try:
        made = signed(made)
    except (TypeError, ValueError):
        pass
    report = check(made)
    assert not [one for one in report.findings if one.detail.startswith("the check could not go on")]
    allowed = {*SAID_ELSEWHERE, "bundle_digest"}
    before = failed_bundle()
    if {name for name in before if not same(made.get(name), before[name])} - allowed:
        assert report.findings


def test_files_with_any_byte_changed_are_found(tmp_path):
    """One bit of a file here and there: it is no bundle any more, or has a finding."""
    from projections import evidence_files as files

    path = tmp_path / "b.json"
    whole = b"".join(files.text(failed_bundle()))
    draw = random.Random(3)
    for at in range(0, len(whole), 37):
        data = bytearray(whole)
        data[at] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            report = check(files.read(path))
        except Damaged:
            continue
        assert report.findings or json.loads(bytes(data)) == json.loads(whole), at


# JSON


def test_one_value_has_one_text():
    """Keys by code point, no blanks, numbers as they are; what has no text is refused."""
    assert canonical({"b": 1, "a": [1.0, True, None, "ü\u2028\U0001f600"], "\U0001f600": 0, "\uffff": 0}) == (
        '{"a":[1.0,true,null,"ü\u2028\U0001f600"],"b":1,"\uffff":0,"\U0001f600":0}'.encode()
    )
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError):
            canonical([value])
    assert not same(1, 1.0)
    assert not same(1, True)
    assert not same(0.0, -0.0)
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})


@pytest.mark.parametrize("sealed", [False, True])
def test_the_digest_is_the_contract_s(sealed: bool):
    """As `contracts/EVIDENCE.md` section 4 has it, by other means than the project's."""
    made = rich_bundle(sealed=sealed)
    rest = {name: value for name, value in made.items() if name != "bundle_digest"}
    text = json.dumps(rest, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    domain = blake3(b"", derive_key_context="AgentLedger format 1 evidence").digest()
    assert made["bundle_digest"] == f"blake3:{blake3(text, key=domain).hexdigest()}"


def test_base64_and_hex_have_one_form():
    """Bytes have one text: with blanks, without padding, with bits behind the end, it is another text and none."""
    for size in range(70):
        data = bytes(range(size))
        assert of_text(to_text(data)) == data
    for text in ("QQ", "QQ=", "QR==", "QQ==\n", " QQ==", "QQ==QQ==", "Q Q==", "QQ=+", "_-==", "ÄÄ==", None, 5, b"QQ=="):
        with pytest.raises(Damaged):
            of_text(text)
    assert of_hex("0aff", 2) == b"\x0a\xff"
    for text in ("0AFF", "0af", "0aff00", " 0aff", "0aff\n", "０aff", None, 5):
        assert of_hex(text, 2) is None


def test_differences_are_named_by_their_place():
    """Each place at which two values differ, and how."""
    said = {"a": 1, "b": [1, 2], "c": {"d": 1, "e": 2}}
    assert list(differences(said, said, "x")) == []
    assert list(differences(said, {"a": 1.0, "b": [1, 3], "c": {"e": 2, "f": 0}}, "x")) == [
        ("other", "x.a"),
        ("other", "x.b[1]"),
        ("less", "x.c.f"),
        ("more", "x.c.d"),
    ]
    assert list(differences([1], [1, 2], "x")) == [("other", "x")]
    assert list(differences(None, {}, "x")) == [("other", "x")]
