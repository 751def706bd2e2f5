"""How a body is declared, and how it becomes facts and content and comes back.

Rules: a body is a frozen attrs class with keyword fields, past tense, never subclassed further, checked when it is
made. Each field is `fact()`, `content()` or `messages()`. A fact that is None is left out of the facts. One
decorator, `event`, registers the type; an unknown type is kept as `Unknown`, never refused. Older versions come
through upcasters, one version at a time. This file does not know streams, seqs, keys or storage.
"""

from __future__ import annotations

import operator
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, ClassVar, Final, TypeVar, dataclass_transform

import attrs

from ledger_core.errors import BadInput, Damaged

JSON = Any
"""A value of the canonical encoding (`codec`)."""


class Missing:
    """Stands for content that is not there to read; one instance per reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.reason}>"

    def __bool__(self) -> bool:
        return False


UNREAD: Final = Missing("not read")
"""The reader asked for facts only."""
FORGOTTEN: Final = Missing("forgotten")
"""The stream's key is gone: destroyed, or not among the keys at hand."""


class Body:
    """Base of every event body; `kind` is its registered type."""

    __slots__ = ()
    kind: ClassVar[EventType]


@attrs.frozen(kw_only=True)
class EventType:
    """What the registry knows of a type."""

    name: str
    version: int
    cls: type[Body]
    critical: bool
    closes: bool
    """The last event of a run: `counts` and `tools` are compared with the stream."""
    facts: tuple[str, ...]
    keys: tuple[str, ...]
    """Facts that are tags with a row in the key index."""
    content: tuple[str, ...]
    messages: tuple[str, ...]
    """Content fields that are lists of messages, stored once each."""
    read_facts: Callable[[Any], Iterable[tuple[str, Any]]]
    read_content: Callable[[Any], Iterable[tuple[str, Any]]]


@attrs.frozen(kw_only=True)
class Unknown(Body):
    """A body whose type this version does not know: kept, verified, skipped."""

    type: str
    version: int
    facts: Mapping[str, JSON]
    critical: bool = False
    """Nobody who does not know the type may decide on its stream."""


REGISTRY: Final[dict[str, EventType]] = {}
Upcaster = Callable[[dict[str, JSON]], dict[str, JSON]]
UPCASTERS: Final[dict[tuple[str, int], Upcaster]] = {}
"""`(type, version) -> facts of version + 1`; content is upcast where it is read, by the same rule of names."""

_B = TypeVar("_B", bound=Body)


def fact(*, key: bool = False, default: Any = attrs.NOTHING) -> Any:
    """A field of sealed plain facts: minted ids, names, status, amounts, keyed tags; never personal."""
    return attrs.field(default=default, metadata={"part": "facts", "key": key})


def content(*, default: Any = attrs.NOTHING) -> Any:
    """A field of encrypted content: what people, models and tools said."""
    return attrs.field(default=default, metadata={"part": "content"})


def messages(*, default: Any = attrs.NOTHING) -> Any:
    """A content field that is a list of messages: each stored once per stream, however often it is sent."""
    return attrs.field(default=default, metadata={"part": "messages"})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(fact, content, messages))
def event(
    name: str, *, version: int = 1, critical: bool = False, closes: bool = False
) -> Callable[[type[_B]], type[_B]]:
    """Register a body class as the event type `name`."""

    def register(cls: type[_B]) -> type[_B]:
        assert name not in REGISTRY, f"event type {name!r} is registered twice"
        hints = typing.get_type_hints(cls)
        done = attrs.frozen(kw_only=True, slots=True, field_transformer=lambda _, fields: _checked(hints, fields))(cls)
        fields: Iterable[attrs.Attribute[Any]] = attrs.fields(done)  # type: ignore[arg-type]  # attrs made the class

        def of(*parts: str) -> tuple[str, ...]:
            return tuple(f.name for f in fields if f.metadata["part"] in parts)

        done.kind = REGISTRY[name] = EventType(
            name=name,
            version=version,
            cls=done,
            critical=critical,
            closes=closes,
            facts=of("facts"),
            keys=tuple(f.name for f in fields if f.metadata.get("key")),
            content=of("content", "messages"),
            messages=of("messages"),
            read_facts=_reader(of("facts")),
            read_content=_reader(of("content", "messages")),
        )
        return done

    return register


def facts_of(body: Body) -> dict[str, JSON]:
    """The facts of a body, None left out."""
    if isinstance(body, Unknown):
        return dict(body.facts)
    return {name: value for name, value in body.kind.read_facts(body) if value is not None}


def content_of(body: Body) -> dict[str, JSON]:
    """The content of a body; empty where it has none. None is a value here (a tool may return it)."""
    return {} if isinstance(body, Unknown) else dict(body.kind.read_content(body))


def key_tags(body: Body) -> Sequence[bytes]:
    """The tags of a body that the key index holds."""
    if isinstance(body, Unknown) or not body.kind.keys:
        return ()
    return [value for name in body.kind.keys if (value := getattr(body, name)) is not None]


def build(
    type_: str, version: int, facts: dict[str, JSON], content: Mapping[str, JSON] | Missing, *, critical: bool = False
) -> Body:
    """The body of decoded facts and content; raises `Damaged` if a known type does not fit its own declaration."""
    kind = REGISTRY.get(type_)
    if kind is None or version > kind.version:
        return Unknown(type=type_, version=version, facts=facts, critical=critical)
    while version < kind.version:
        facts = UPCASTERS[type_, version](facts)
        version += 1
    values: dict[str, JSON] = dict(facts)
    for name in kind.content:
        values[name] = content if isinstance(content, Missing) else content.get(name)
    try:
        return kind.cls(**values)
    except (TypeError, BadInput) as error:
        raise Damaged(f"The facts of a {type_} (version {version}) do not fit its declaration: {error}") from None


def _reader(names: tuple[str, ...]) -> Callable[[Any], Iterable[tuple[str, Any]]]:
    """What reads some fields of a body, with their names, in one go: bodies are taken apart for every append."""
    if not names:
        return lambda _: ()
    if len(names) == 1:
        return lambda body: ((names[0], getattr(body, names[0])),)
    values = operator.attrgetter(*names)
    return lambda body: zip(names, values(body), strict=True)


def _checked(hints: Mapping[str, Any], fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    return [f.evolve(validator=_validator(hints[f.name])) if f.metadata["part"] == "facts" else f for f in fields]


def _validator(hint: Any) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """A check of a fact against its annotation: exact types, so that no subclass slips past the encoding."""
    plain, literals = _plain_types(hint)
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    maps = [typing.get_args(part)[1] for part in parts if typing.get_origin(part) is dict]
    values = () if not maps or maps[0] is Any else _plain_types(maps[0])[0]

    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if type(value) not in plain or (literals and value is not None and value not in literals):
            wanted = ", ".join(map(repr, literals)) or " or ".join(t.__name__ for t in plain)
            raise BadInput(f"{field.name} is {value!r:.100}; it must be {wanted}.")
        if values and value is not None and not all(type(k) is str and type(v) in values for k, v in value.items()):
            raise BadInput(f"{field.name} is {value!r:.100}; it must be a map of text to numbers.")

    return check


def _plain_types(hint: Any) -> tuple[tuple[type, ...], tuple[Any, ...]]:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, UnionType):
        parts = [_plain_types(part) for part in typing.get_args(hint)]
        return tuple(t for types, _ in parts for t in types), tuple(v for _, values in parts for v in values)
    if origin is typing.Literal:
        values = typing.get_args(hint)
        return (str,), values
    if origin is not None:
        return (origin,), ()
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return (hint,), ()
