"""Every registered event type, by what its declaration says: built, stored, read back, and refused where it must be."""

from __future__ import annotations

import types
import typing
from typing import Any

import attrs
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from test_codec import VALUES

from ledger_core.errors import BadInput, Damaged
from ledger_core.events import REGISTRY, UNREAD, Body, EventType, Unknown, base
from ledger_core.events.base import UPCASTERS, build, event, fact
from ledger_core.log.log import Log
from ledger_core.log.record import Draft

NAMES = sorted(REGISTRY)
MESSAGES = st.lists(st.dictionaries(st.text(max_size=8), VALUES, max_size=3), max_size=5) | VALUES
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    bytes: st.binary(min_size=1, max_size=32),
    type(None): st.none(),
    Any: VALUES,
}


def of(hint: Any) -> st.SearchStrategy[Any]:
    """Values that fit an annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(of, arguments))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is dict:
        return st.dictionaries(of(arguments[0]), of(arguments[1]), max_size=4)
    if origin is list:
        return st.lists(of(arguments[0]), max_size=4)
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return PLAIN[hint]


def bodies(kind: EventType) -> st.SearchStrategy[Any]:
    """Bodies of a type, from its fields' annotations; closing types count nothing, so that their streams may verify."""
    hints = typing.get_type_hints(kind.cls)
    fields = {}
    for field in attrs.fields(kind.cls):
        part = field.metadata["part"]
        fields[field.name] = {"facts": of(hints[field.name]), "messages": MESSAGES, "content": VALUES}[part]
        if part == "facts" and field.metadata["key"]:
            fields[field.name] = st.binary(min_size=32, max_size=32)
        if kind.closes and field.name in ("counts", "tools"):
            fields[field.name] = st.just({})
    return st.builds(kind.cls, **fields)


def test_the_registry_is_what_its_classes_say() -> None:
    """Types are named in snake case, each by its own class, with fields that are facts or content."""
    for name, kind in REGISTRY.items():
        assert name == kind.name == kind.cls.kind.name
        assert name == "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.cls.__name__).lstrip("_")
        assert set(kind.facts) | set(kind.content) == {field.name for field in attrs.fields(kind.cls)}
        assert not set(kind.facts) & set(kind.content)
        assert set(kind.messages) <= set(kind.content)
        assert set(kind.keys) <= set(kind.facts)
        assert kind.cls.__doc__
        assert not kind.closes or {"counts", "tools"} <= set(kind.facts)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20)
@given(data=st.data())
def test_every_body_comes_back_from_a_log(findings: Any, name: str, data: Any) -> None:
    """A body of any values that fit reads back equal, its facts alone as well, and the log verifies."""
    written = data.draw(st.lists(bodies(REGISTRY[name]), min_size=1, max_size=3))
    with Log.in_memory() as log:
        events = log.append(*[Draft(stream=f"s/{n}", body=body) for n, body in enumerate(written)])
        read = list(log.read(1))
        assert [repr(body) for body in written] == [repr(event.body) for event in read]
        assert [name] * len(written) == [event.type for event in events]
        for event, body in zip(log.read(1, contents=False), written, strict=True):
            assert base.facts_of(event.body) == base.facts_of(body)
            assert all(getattr(event.body, field) is UNREAD for field in REGISTRY[name].content)
        assert {one.kind for one in findings(log._store)} <= {"origin"}  # what a run says it came of is not there


@pytest.mark.parametrize("name", NAMES)
def test_a_fact_of_another_type_is_refused(name: str) -> None:
    """Each fact refuses each value that its annotation does not name, subclasses too, in a sentence with its name."""
    kind = REGISTRY[name]
    hints = typing.get_type_hints(kind.cls)
    right = {field: _example(of(hints[field])) for field in kind.facts} | dict.fromkeys(kind.content)
    kind.cls(**right)
    for field in kind.facts:
        allowed = _types(hints[field])
        wrong = [
            value for value in (None, True, 1, 1.5, "?", b"?", [1], {"a": 1}, (1,), Odd()) if type(value) not in allowed
        ]
        if typing.get_origin(hints[field]) is typing.Literal:
            wrong.append("?")
        for value in wrong:
            with pytest.raises(BadInput, match=field):
                kind.cls(**{**right, field: value})


class Odd(str):
    """A text that is not plain text."""

    __slots__ = ()


def _types(hint: Any) -> set[type]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(_types, typing.get_args(hint)))
    if origin is typing.Literal:
        return {type(value) for value in typing.get_args(hint)}
    return {origin or getattr(hint, "__supertype__", hint)}


def _example(strategy: st.SearchStrategy[Any]) -> Any:
    return find(strategy, lambda _: True)


@pytest.mark.parametrize("name", NAMES)
def test_a_body_is_frozen_and_named(name: str) -> None:
    """A body cannot be changed or given fields by position, and says nothing that was not declared."""
    kind = REGISTRY[name]
    hints = typing.get_type_hints(kind.cls)
    body = kind.cls(**{field: _example(of(hints[field])) for field in kind.facts}, **dict.fromkeys(kind.content))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(body, (kind.facts + kind.content)[0], 1)
    with pytest.raises(TypeError):
        kind.cls(1)
    with pytest.raises(TypeError):
        kind.cls(nothing_like_this=1)


@pytest.mark.invariant(9)
def test_an_unknown_type_is_kept(log: Log) -> None:
    """A type, or a version, that this program does not know is kept with its facts, and read as `Unknown`."""
    log.append(
        Draft(stream="s", body=Unknown(type="from_the_future", version=2, facts={"b": [1, None], "a": {"x": b"y"}})),
        Draft(stream="s", body=Unknown(type="run_created", version=99, facts={"other": "shape"})),
    )

    first, second = (event.body for event in log.stream("s"))
    assert Unknown(type="from_the_future", version=2, facts={"b": [1, None], "a": {"x": b"y"}}) == first
    assert ["b", "a"] == list(first.facts)
    assert Unknown(type="run_created", version=99, facts={"other": "shape"}) == second
    assert ["from_the_future", "run_created"] == [event.type for event in log.stream("s")]


def test_facts_that_do_not_fit_their_type_are_damaged() -> None:
    """Stored facts of a known type and version that lack a field, or have one of another type, are `Damaged`."""
    for facts in ({}, {"path": 1, "source": "now", "name": "n"}, {"path": "1", "source": "?", "name": "n"}):
        with pytest.raises(Damaged, match="value_captured"):
            base.build("value_captured", 1, facts, {})
    with pytest.raises(Damaged):
        base.build("value_captured", 1, {"path": "1", "source": "now", "name": "n", "more": 1}, {})


def test_an_older_version_comes_through_its_upcasters() -> None:
    """Facts of an older version become today's body, one version at a time; a newer one is kept as unknown."""

    @event("test_upcast", version=3)
    class Upcast(Body):
        total: int = fact()
        unit: str = fact()

    try:
        UPCASTERS["test_upcast", 1] = lambda facts: {"total": facts["amount"]}
        UPCASTERS["test_upcast", 2] = lambda facts: {**facts, "unit": "EUR"}

        assert build("test_upcast", 1, {"amount": 5}, {}) == Upcast(total=5, unit="EUR")
        assert build("test_upcast", 2, {"total": 6}, {}) == Upcast(total=6, unit="EUR")
        assert isinstance(build("test_upcast", 4, {"total": 6}, {}), Unknown)
    finally:
        del REGISTRY["test_upcast"], UPCASTERS["test_upcast", 1], UPCASTERS["test_upcast", 2]
