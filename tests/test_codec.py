"""The canonical encoding: one encoding for a value and its order, strict in both directions."""

from __future__ import annotations

import math
import threading
from functools import reduce
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger_core import codec
from ledger_core.errors import Damaged, NotStorable

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


def same(one: Any, two: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, -0.0 from 0.0, and one order of keys from another."""
    return repr(one) == repr(two)


@given(VALUES)
def test_a_value_comes_back(value: Any) -> None:
    """What is encoded is decoded as it was: types, order of keys, signs of zero; and its encoding is its only one."""
    data = codec.encode(value)

    assert same(value, codec.decode(data))
    assert same(value, codec.decode_trusted(data))
    assert same(value, codec.roundtrip(value))
    assert data == codec.encode(codec.decode(memoryview(data))) == codec.encode_trusted(value)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), VALUES, max_size=6), st.randoms())
def test_canonical_bytes_do_not_depend_on_order(value: dict[str, Any], chance: Any) -> None:
    """`canonical` sorts the keys of every map by their UTF-8 bytes, and changes nothing else."""
    items = list(value.items())
    chance.shuffle(items)

    assert codec.canonical(value) == codec.canonical(dict(items))
    decoded = codec.decode(codec.canonical(value))
    assert decoded == value
    assert list(decoded) == sorted(decoded, key=lambda key: key.encode())


@pytest.mark.invariant(3)
@given(st.binary(max_size=40))
def test_bytes_are_canonical_or_damaged(data: bytes) -> None:
    """Any bytes are the encoding of a value, or `Damaged`: nothing else is accepted, nothing else is raised."""
    try:
        value = codec.decode(data)
    except Damaged as damage:
        assert str(len(data)) in damage.sentence or "stored document" in damage.sentence
    else:
        assert codec.encode(value) == data


@given(VALUES, st.data())
def test_changed_bytes_are_another_value_or_damaged(value: Any, data: Any) -> None:
    """An encoding that is altered, cut short or followed by more is never taken for the same value."""
    encoded = codec.encode(value)
    place = data.draw(st.integers(0, len(encoded) - 1))
    flipped = bytearray(encoded)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    for changed in (bytes(flipped), encoded[:place], encoded + b"\xc0"):
        try:
            assert not same(codec.decode(changed), value)
        except Damaged:
            pass


WIDE = {
    "uint8 for 5": b"\xcc\x05",
    "uint16 for 255": b"\xcd\x00\xff",
    "int8 for -1": b"\xd0\xff",
    "int64 for 1": b"\xd3" + (1).to_bytes(8, "big"),
    "float32": b"\xca" + b"\x3f\x80\x00\x00",
    "str8 for a": b"\xd9\x01a",
    "bin16 for a": b"\xc5\x00\x01a",
    "array16 of none": b"\xdc\x00\x00",
    "map16 of none": b"\xde\x00\x00",
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "a number as key": b"\x81\x01\x01",
    "bytes as key": b"\x81\xc4\x01a\x01",
    "not a number": b"\xcb\x7f\xf8" + bytes(6),
    "infinity": b"\xcb\x7f\xf0" + bytes(6),
    "a surrogate": b"\xa3\xed\xa0\x80",
    "no UTF-8": b"\xa1\xff",
    "a time": b"\xd6\xff\x00\x00\x00\x00",
    "an extension": b"\xd4\x01x",
    "an extension within": b"\x91\xd4\x01x",
    "a byte that means nothing": b"\xc1",
    "nothing": b"",
    "two values": b"\x01\x01",
    "a list of four billion": b"\xdd\xff\xff\xff\xff",
    "too deep": b"\x91" * 65 + b"\x01",
    "much too deep": b"\x91" * 100_000 + b"\x01",
}


@pytest.mark.parametrize("what", WIDE)
def test_what_encode_would_not_write_is_damaged(what: str) -> None:
    """Every other spelling of a value, and every value that has no place, is `Damaged`."""
    with pytest.raises(Damaged):
        codec.decode(WIDE[what])


class _Text(str):
    __slots__ = ()


class _Map(dict):  # type: ignore[type-arg]
    pass


REFUSED: list[tuple[Any, str]] = [
    (float("nan"), "value is nan"),
    ({"a": [1, math.inf]}, "value.a[1] is inf"),
    (2**64, "value is an integer of more than 64 bits"),
    ([-(2**63) - 1], "value[0] is an integer of more than 64 bits"),
    ({"a": {1: 2}}, "value.a has the key 1, which is not text"),
    ({"a": [{"b": object()}]}, "value.a[0].b is a object"),
    ({"a": (1, 2)}, "value.a is a tuple"),
    ({"a": {1}}, "value.a is a set"),
    (_Text("a"), "_Text"),
    ([_Map()], "value[0] is a test_codec._Map"),
    ({_Text("a"): 1}, "which is not text"),
    (bytearray(b"a"), "value is a bytearray"),
    (memoryview(b"a"), "value is a memoryview"),
    (codec.Ref(1, b"x"), "ExtType"),
    (msgpack.Timestamp(1), "Timestamp"),
    (reduce(lambda inner, _: [inner], range(65), 1), "nested more than 64 deep"),
    (reduce(lambda inner, _: {"a": inner}, range(65), 1), "nested more than 64 deep"),
    (reduce(lambda inner, _: [inner], range(100_000), 1), "nested more than 64 deep"),
    ("\ud800", "cannot be stored"),
    ({"\udfff": 1}, "cannot be stored"),
]


@pytest.mark.parametrize(("value", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_has_no_encoding_is_refused_with_its_place(value: Any, sentence: str) -> None:
    """A value that has no place is `NotStorable`, in a sentence that says where it is; and the next one is not hurt."""
    with pytest.raises(NotStorable) as refused:
        codec.encode(value)

    assert sentence in refused.value.sentence
    assert refused.value.hint or "surrogates" in refused.value.sentence
    assert b"\x93\x01\xa1a\xc0" == codec.encode([1, "a", None])


def test_the_limits_themselves_are_within() -> None:
    """Sixty-four deep, and the largest and smallest integers, are stored; one more is not."""
    deep = reduce(lambda inner, _: [inner], range(64), 1)
    assert deep == codec.decode(codec.encode(deep))
    for number in (2**64 - 1, -(2**63)):
        assert number == codec.decode(codec.encode(number))


def test_a_value_of_more_than_the_limit_is_refused_both_ways() -> None:
    """A value of more than `MAX_BYTES` is neither encoded nor decoded; one of just as many is."""
    room = codec.MAX_BYTES - 5

    assert codec.MAX_BYTES == len(codec.encode(bytes(room)))
    with pytest.raises(NotStorable, match="67,108,865 bytes"):
        codec.encode(bytes(room + 1))
    with pytest.raises(Damaged):
        codec.decode(b"\xc6" + (room + 1).to_bytes(4, "big") + bytes(room + 1))


def test_a_container_that_holds_itself_is_refused() -> None:
    """A value that contains itself is refused as too deep, and does not take the process with it."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotStorable, match="deep"):
        codec.encode(value)


def test_references_are_read_only_where_they_are_asked_for() -> None:
    """A reference is damage, unless the reader asked for references; it is never written by `encode`."""
    data = codec.encode_trusted({"a": codec.Ref(1, b"x" * 16)})

    assert {"a": codec.Ref(1, b"x" * 16)} == codec.decode(data, refs=True) == codec.decode_trusted(data, refs=True)
    for decode in (codec.decode, codec.decode_trusted):
        with pytest.raises(Damaged):
            decode(data)


def test_threads_that_encode_at_once_do_not_mix() -> None:
    """Threads that encode side by side, some of them what is refused, each get their own bytes."""
    wrong: list[bytes] = []

    def work(number: int) -> None:
        value = {"n": number, "list": list(range(200))}
        expected = msgpack.packb(value, use_bin_type=True)
        for _ in range(300):
            try:
                codec.encode([value, "\ud800"])
            except NotStorable:
                pass
            if (data := codec.encode(value)) != expected:
                wrong.append(data)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert [] == wrong
