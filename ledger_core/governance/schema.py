"""JSON Schemas of functions, read from their annotations and docstrings.

Rules: pure; JSON Schema 2020-12. A schema describes the plain, decoded JSON that a function is called with: nothing is
constructed from it, so a parameter annotated with a dataclass, an enum or a datetime gets a dict, the enum's value or
a string. What has no JSON form (bytes, a class of the user's own), and what cannot be resolved, allows anything. An
object that goes in has no members but those that are declared; one that comes out may have more. Defaults are shown:
what must not be seen is bound with `functools.partial`, and then is no parameter. `format` is a word to the reader and
is not enforced, as the specification has it. This file judges no values, and does not know what a tool is.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import inspect
import json
import re
import sys
import types
import typing
import uuid
from collections import abc, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from ledger_core.governance import docstring
from ledger_core.governance.calling import KEY, innermost, signature_of, takes_whole

Schema = dict[str, Any] | bool
_LONGEST_DEFAULT: Final = 200
_SCALARS: Final[dict[Any, dict[str, Any]]] = {
    None: {"type": "null"},
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    dt.datetime: {"type": "string", "format": "date-time"},
    dt.date: {"type": "string", "format": "date"},
    dt.time: {"type": "string", "format": "time"},
    uuid.UUID: {"type": "string", "format": "uuid"},
}
_ARRAYS: Final = (list, deque, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable)
_SETS: Final = (set, frozenset, abc.Set, abc.MutableSet)
_OBJECTS: Final = (dict, abc.Mapping, abc.MutableMapping)
_QUALIFIERS: Final = tuple(
    getattr(typing, name)
    for name in ("Required", "NotRequired", "ReadOnly", "Final", "ClassVar")
    if hasattr(typing, name)  # ReadOnly is of 3.13
)


def input_schema_of(function: Callable[..., Any]) -> dict[str, Any] | None:
    """The schema of a function's arguments; None if no parameter says of which type it is."""
    own = _own(function)
    if own is None or not (takes_whole(own) or any(p.annotation is not p.empty for p in own)):
        return None
    return parameters_of(function)


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """As `input_schema_of`, but always a schema: a parameter that is not annotated may be anything."""
    own = _own(function)
    if own is None:
        return {"type": "object"}
    build, hints = _Builder(closed=True), _hints(function)
    if takes_whole(own):
        whole = build.of(hints.get(own[0].name, dict))
        return build.root(whole if isinstance(whole, dict) and whole.get("type") == "object" else {"type": "object"})
    told = docstring.read(inspect.getdoc(_plain(function))).parameters
    properties: dict[str, Schema] = {}
    required: list[str] = []
    more: Schema = False
    for one in own:
        schema = build.of(hints.get(one.name, Any))
        if one.kind is one.VAR_KEYWORD:
            unpacked = typing.get_args(hints.get(one.name)) if _is_unpack(hints.get(one.name)) else ()
            if unpacked and _is_typed_dict(unpacked[0]):
                there = build.members(unpacked[0])
                properties |= there["properties"]
                required += there.get("required", [])
            else:
                more = schema
        elif one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            properties[one.name] = _described(_defaulted(schema, one.default), told.get(one.name))
            if one.default is one.empty:
                required.append(one.name)
    return build.root(_object(properties, required, more))


def output_schema_of(function: Callable[..., Any]) -> dict[str, Any] | None:
    """The schema of what a function returns, or its coroutine; None if its annotation says nothing of it.

    `-> None` says nothing: what such a tool returns is nobody's contract, and its `verify` hook may find something.
    """
    if isinstance(_plain(function), type):
        return None
    returned = _hints(function).get("return", Any)
    if typing.get_origin(returned) in (abc.Awaitable, abc.Coroutine):
        returned = typing.get_args(returned)[-1]
    if returned in (None, type(None)):
        return None
    build = _Builder(closed=False)
    schema = build.of(returned)
    return build.root(schema) if isinstance(schema, dict) and schema else None


class _Builder:
    """Makes schemas of types; what has a name goes to `$defs`, where it may name itself."""

    def __init__(self, *, closed: bool) -> None:
        self._closed = closed
        self._names: dict[Any, str] = {}
        self._defs: dict[str, Schema] = {}

    def root(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A whole schema: a reference at its root gives way to what it means."""
        defs = dict(self._defs)
        name = schema.get("$ref", "").removeprefix("#/$defs/")
        if name and isinstance(defs[name], dict):
            schema = {**defs[name], **{key: value for key, value in schema.items() if key != "$ref"}}  # type: ignore[dict-item]
            if f'"#/$defs/{name}"' not in json.dumps(self._defs, default=str):
                del defs[name]
        return {**schema, "$defs": defs} if defs else schema

    def of(self, kind: Any) -> Schema:
        """The schema of a type, or of anything else that stands where a type does."""
        try:
            scalar = _SCALARS.get(kind)
        except Exception:  # what cannot be hashed is no scalar; it may be annotated with what cannot be
            scalar = None
        if scalar is not None:
            return dict(scalar)
        if isinstance(kind, typing.NewType):
            return self.of(kind.__supertype__)
        if isinstance(kind, typing.TypeVar):
            return self._any_of(kind.__constraints__) if kind.__constraints__ else self.of(kind.__bound__ or Any)
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        whole = origin or kind
        if type(whole).__name__ == "TypeAliasType":  # of 3.12, and of typing_extensions
            space = vars(sys.modules.get(whole.__module__, typing))
            return self._named(whole, lambda: self.of(_resolved(whole.__value__, space)))
        if origin is typing.Annotated:
            return self._annotated(*args)
        if origin is typing.Literal:
            return _one_of(args)
        if origin in (typing.Union, types.UnionType):
            return self._any_of(args)
        if origin in _QUALIFIERS:
            return self.of(args[0])
        return self._of_class(whole, args) if isinstance(whole, type) else True

    def _of_class(self, kind: type, args: tuple[Any, ...]) -> Schema:
        if issubclass(kind, enum.Enum):
            return _one_of(tuple(kind))
        if _is_typed_dict(kind) or dataclasses.is_dataclass(kind) or attrs.has(kind):
            return self._named(kind, lambda: self.members(kind))
        if issubclass(kind, (bytes, bytearray, memoryview)):
            return True
        if issubclass(kind, tuple):
            return self._tuple(kind, args)
        for scalar in (str, int, float):
            if issubclass(kind, scalar):
                return dict(_SCALARS[scalar])
        if kind in _OBJECTS or issubclass(kind, dict):
            return self._mapping(args)
        unique = kind in _SETS or issubclass(kind, (set, frozenset))
        if unique or kind in _ARRAYS or issubclass(kind, (list, deque)):
            items = self.of(args[0]) if args else True
            array: dict[str, Any] = {"type": "array"} if items is True else {"type": "array", "items": items}
            return {**array, "uniqueItems": True} if unique else array
        return True

    def members(self, kind: type) -> dict[str, Any]:
        """The object that a class describes: its members, and which must be there."""
        doc = vars(kind).get("__doc__")
        told = docstring.read(doc if isinstance(doc, str) else None).parameters
        properties: dict[str, Schema] = {}
        required = []
        for name, hint, default, needed in _fields(kind):
            properties[name] = _described(_defaulted(self.of(hint), default), told.get(name))
            if needed:
                required.append(name)
        return _object(properties, required, not self._closed)

    def _named(self, kind: Any, make: Callable[[], Schema]) -> dict[str, Any]:
        name = self._names.get(kind)
        if name is None:
            plain = re.sub(r"[^A-Za-z0-9_.-]", "_", str(getattr(kind, "__name__", "value"))) or "value"
            name, number = plain, 1
            while name in self._defs:
                number += 1
                name = f"{plain}_{number}"
            self._names[kind] = name
            self._defs[name] = True  # the name is taken while what it means is made
            self._defs[name] = make()
        return {"$ref": f"#/$defs/{name}"}

    def _annotated(self, kind: Any, *notes: Any) -> Schema:
        schema = self.of(kind)
        for note in notes:
            if isinstance(note, str):
                schema = _described(schema, note)
            elif isinstance(note, Mapping) and all(isinstance(key, str) for key in note):
                schema = {**(schema if isinstance(schema, dict) else {}), **note}
        return schema

    def _any_of(self, kinds: Iterable[Any]) -> Schema:
        schemas = [self.of(kind) for kind in kinds]
        if any(schema is True for schema in schemas):
            return True
        alternatives = [
            one for place, one in enumerate(schemas) if isinstance(one, dict) and one not in schemas[:place]
        ]
        names = [one["type"] for one in alternatives if _is_bare(one)]
        if "number" in names and "integer" in names:
            names.remove("integer")
        alternatives = [one for one in alternatives if not _is_bare(one)]
        if names:
            alternatives.append({"type": names[0] if len(names) == 1 else names})
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}

    def _tuple(self, kind: type, args: tuple[Any, ...]) -> Schema:
        fields: tuple[str, ...] = getattr(kind, "_fields", ())
        if fields:
            hints = _hints(kind)
            args = tuple(hints.get(name, Any) for name in fields)
        if len(args) == 2 and args[1] is ...:
            items = self.of(args[0])
            return {"type": "array"} if items is True else {"type": "array", "items": items}
        if not args:
            return {"type": "array"}
        return {
            "type": "array",
            "prefixItems": [self.of(arg) for arg in args],
            "minItems": len(args),
            "maxItems": len(args),
        }

    def _mapping(self, args: tuple[Any, ...]) -> Schema:
        if len(args) != 2:
            return {"type": "object"}
        names, values = self.of(args[0]), self.of(args[1])
        schema: dict[str, Any] = {"type": "object"}
        if isinstance(names, dict) and names != {"type": "string"} and names.get("type") == "string":
            schema["propertyNames"] = names
        if values is not True:
            schema["additionalProperties"] = values
        return schema


def _fields(kind: type) -> Iterable[tuple[str, Any, Any, bool]]:
    """The members of a class: name, type, default (`Parameter.empty` if none) and whether it must be there."""
    hints, none = _hints(kind), inspect.Parameter.empty
    if _is_typed_dict(kind):
        always: frozenset[str] = getattr(kind, "__required_keys__", frozenset(hints))
        for name, hint in hints.items():
            said = _required(hint)
            yield name, hint, none, name in always if said is None else said
    elif dataclasses.is_dataclass(kind):
        for name, field in kind.__dataclass_fields__.items():  # `fields` leaves out what is for `__init__` only
            hint = hints.get(name, Any)
            if field.init and hint is not typing.ClassVar and typing.get_origin(hint) is not typing.ClassVar:
                made = field.default_factory is not dataclasses.MISSING
                default = none if field.default is dataclasses.MISSING else field.default
                yield (
                    name,
                    getattr(hint, "type", Any) if isinstance(hint, dataclasses.InitVar) else hint,
                    default,
                    (default is none and not made),
                )
    else:
        for one in attrs.fields(kind):
            if one.init:
                default = none if isinstance(one.default, attrs.Factory) else one.default  # type: ignore[arg-type]  # a class
                bare = one.default is attrs.NOTHING
                yield one.alias or one.name, hints.get(one.name, Any), none if bare else default, bare


def _required(hint: Any) -> bool | None:
    """What a member of a TypedDict says of itself, below whatever else qualifies it."""
    while (origin := typing.get_origin(hint)) is typing.Annotated or origin in _QUALIFIERS:
        if origin in (typing.Required, typing.NotRequired):
            return origin is typing.Required
        hint = typing.get_args(hint)[0]
    return None


def _own(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """The parameters that are the caller's to fill; None if nobody can tell."""
    try:
        return [p for p in signature_of(function).parameters.values() if p.name != KEY]
    except (TypeError, ValueError):
        return None


def _plain(function: Any) -> Any:
    """What holds a callable's annotations and docstring."""
    function = innermost(function)
    if isinstance(function, type) or inspect.isroutine(function):
        return function
    return type(function).__call__


def _hints(kind: Any) -> dict[str, Any]:
    """Annotations of a function or a class, resolved; those that cannot be are left out."""
    kind = _plain(kind)
    if isinstance(kind, type) and not (_is_typed_dict(kind) or dataclasses.is_dataclass(kind) or attrs.has(kind)):
        kind = kind if issubclass(kind, tuple) else kind.__init__
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception:  # one name that is imported for type checkers only spoils them all: ask for one at a time
        where = vars(sys.modules.get(kind.__module__, typing)) if isinstance(kind, type) else None
        space = where or getattr(inspect.unwrap(kind), "__globals__", {})
    found = {}
    bases = reversed(kind.__mro__) if isinstance(kind, type) else (kind,)
    for base in bases:
        for name, annotation in getattr(base, "__annotations__", {}).items():
            found[name] = _resolved(annotation, space)
    return found


def _resolved(annotation: Any, space: Mapping[str, Any]) -> Any:
    """One annotation, by the names that a module has; `Any` if it cannot be resolved."""
    carrier = types.FunctionType(_nothing.__code__, dict(space))
    carrier.__annotations__ = {"it": annotation}
    try:
        return typing.get_type_hints(carrier, include_extras=True)["it"]
    except Exception:
        return Any


def _nothing() -> None: ...


def _is_typed_dict(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__total__")


def _is_unpack(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Unpack


def _one_of(values: Iterable[Any]) -> Schema:
    plain = [value.value if isinstance(value, enum.Enum) else value for value in values]
    if not plain or not all(type(value) in (str, int, float, bool, type(None)) for value in plain):
        return True  # a member that JSON cannot hold comes in some form that nobody has declared
    kinds = list(dict.fromkeys(_SCALARS[type(value)]["type"] for value in plain))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": plain}


def _object(properties: dict[str, Schema], required: list[str], more: Schema) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema if more is True else {**schema, "additionalProperties": more}


def _defaulted(schema: Schema, default: Any) -> Schema:
    """A schema that shows a default, if JSON can; a default of None is allowed, whatever the annotation says."""
    if default is inspect.Parameter.empty or (default is None and schema is True):
        return schema
    if isinstance(default, enum.Enum):
        default = default.value
    try:
        text = json.dumps(default, allow_nan=False)
        if len(text) > _LONGEST_DEFAULT or json.loads(text) != default:
            return schema
    except (TypeError, ValueError, RecursionError):
        return schema
    base = schema if isinstance(schema, dict) else {}
    if default is None and not _allows_null(base):
        base = {"type": [base["type"], "null"]} if _is_bare(base) else {"anyOf": [base, {"type": "null"}]}
    return {**base, "default": default}


def _is_bare(schema: Schema) -> bool:
    return isinstance(schema, dict) and schema.keys() == {"type"} and isinstance(schema["type"], str)


def _allows_null(schema: dict[str, Any]) -> bool:
    """Whether a schema that was made here has a place for null; a reference is looked into by nobody."""
    kinds = schema.get("type", ())
    return (
        not schema
        or "null" in ([kinds] if isinstance(kinds, str) else kinds)
        or any(isinstance(one, dict) and _allows_null(one) for one in schema.get("anyOf", ()))
    )


def _described(schema: Schema, text: str | None) -> Schema:
    if not text or (isinstance(schema, dict) and "description" in schema):
        return schema
    return {**(schema if isinstance(schema, dict) else {}), "description": text}
