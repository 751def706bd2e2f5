"""What fits a JSON Schema 2020-12, and what to say of what does not: the place and the rule, never the value.

Rules: "yes" is quick (`certain`), "why not" may take longer and is the `jsonschema` library's, imported when first
asked. What cannot be judged does not fit. A schema means what it says by itself: one that refers to anything outside
itself is refused, and nothing is ever fetched. A place is a JSON pointer (RFC 6901); names of members are shown, cut
short, values never are, because a value may be a secret. Values that JSON has no type for (bytes) are of no type.
This file does not know tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger_core.errors import BadInput
from ledger_core.governance.certain import Predicate, certain

if TYPE_CHECKING:
    from jsonschema import ValidationError

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MOST: Final = 3
"""Violations that are told of one value."""
_LOOKED_AT: Final = 100
_LONGEST_NAME: Final = 40
_LONGEST_PLACE: Final = 160
_LONGEST_RULE: Final = 120
_BOUNDS: Final = {
    "minimum": "is less than",
    "maximum": "is greater than",
    "exclusiveMinimum": "is not greater than",
    "exclusiveMaximum": "is not less than",
    "multipleOf": "is no multiple of",
    "minLength": "has fewer characters than",
    "maxLength": "has more characters than",
    "minItems": "has fewer items than",
    "maxItems": "has more items than",
    "minProperties": "has fewer members than",
    "maxProperties": "has more members than",
}
_SAYINGS: Final = {
    "anyOf": "is none of the kinds that are allowed",
    "oneOf": "is not exactly one of the kinds that are allowed",
    "not": "is what is not allowed",
    "uniqueItems": "has an item more than once",
    "contains": "does not have the items that it must have",
    "propertyNames": "has a member whose name is not allowed",
    "unevaluatedProperties": "has members that are not declared",
    "unevaluatedItems": "has items that are not declared",
    "dependentRequired": "lacks a member that another one needs",
    "format": "has not the format that is declared",
}

_NAMED: Final = ("properties", "patternProperties", "$defs", "dependentSchemas")
"""Keywords below which names stand that somebody has chosen."""

_PANIC: Final = "PanicException"
"""What the library's part in Rust raises where the stack ends in it; no `Exception`."""


class Violation(NamedTuple):
    """Where a value breaks a schema (a JSON pointer, empty for the whole value), which keyword, and words for it."""

    place: str
    rule: str
    words: str

    def __str__(self) -> str:
        return f"{self.place or 'the whole'} {self.words}"


class Fit:
    """Judges values by one schema; what it needs is made when it is first needed, and kept."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._certain: Predicate | None = certain(schema)
        self._judge: Any = None

    def violations(self, value: Any) -> list[Violation]:
        """What keeps `value` from fitting, at most `MOST`; nothing if it fits. Raises nothing."""
        try:
            if self._certain is not None and self._certain(value):
                return []
            return list(islice(_distinct(self._errors(value)), MOST))
        except BadInput as error:
            return [Violation("", "schema", f"cannot be judged: {error.sentence}")]
        except BaseException as error:  # a value too deep, or no data: it was not seen to fit
            if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
                raise
            return [Violation("", "schema", f"cannot be judged by its schema ({type(error).__name__})")]

    def _errors(self, value: Any) -> Iterator[ValidationError]:
        if self._judge is None:
            from jsonschema import Draft202012Validator  # noqa: PLC0415 - heavy, and rarely needed
            from referencing import Registry  # noqa: PLC0415

            check_schema(self._schema)
            self._judge = Draft202012Validator(self._schema, registry=Registry())  # without one, it would fetch
        return islice(self._judge.iter_errors(value), _LOOKED_AT)


def declared(schema: Any) -> dict[str, Any]:
    """A copy of a schema that somebody wrote, checked; raises `BadInput` with words that follow "is"."""
    if not isinstance(schema, Mapping):
        raise BadInput(f"a {type(schema).__name__}, not a JSON object")
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(schema), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"no JSON ({type(error).__name__})") from None
    check_schema(copy)
    return copy


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise `BadInput`, with words that follow "is", unless this is JSON Schema 2020-12 that is whole in itself."""
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415 - heavy, and rarely needed

    try:
        Draft202012Validator.check_schema(schema)
        _check_references(schema)
    except SchemaError as error:
        raise BadInput(
            f"no JSON Schema 2020-12: at {_place(error.absolute_path) or 'its root'}, {error.message:.200}"
        ) from None
    except BadInput:
        raise
    except Exception as error:  # too deep, or no data: whatever it is, it is no schema that can be used
        raise BadInput(f"no JSON Schema 2020-12 that can be read ({type(error).__name__})") from None


def _check_references(schema: Mapping[str, Any]) -> None:
    """Every reference must lead to a place in the schema itself, and in the end to a rule.

    The registry knows nothing but the schema, and fetches nothing.
    """
    from referencing import Registry  # noqa: PLC0415 - as above
    from referencing.exceptions import Unresolvable  # noqa: PLC0415
    from referencing.jsonschema import DRAFT202012  # noqa: PLC0415

    root = DRAFT202012.create_resource(schema)
    left: list[Any] = [(root, Registry().resolver_with_root(root))]
    ways: dict[int, list[int]] = {}
    while left:
        resource, resolver = left.pop()
        one = resource.contents
        if not isinstance(one, Mapping) or id(one) in ways:
            continue
        if one.get("$schema", DIALECT).rstrip("#") != DIALECT:
            raise BadInput(f"written for {one['$schema']!r:.100}, not for JSON Schema 2020-12")
        ways[id(one)] = [id(other) for other in _of_the_same_value(one)]
        for keyword in ("$ref", "$dynamicRef"):
            if keyword in one:
                try:
                    found = resolver.lookup(one[keyword])
                except Unresolvable:
                    raise BadInput(
                        f"not whole: {one[keyword]!r:.100} is nowhere in it, and nothing is fetched"
                    ) from None
                ways[id(one)].append(id(found.contents))
                left.append((DRAFT202012.create_resource(found.contents), found.resolver))
        left.extend((sub, resolver.in_subresource(sub)) for sub in resource.subresources())
    try:
        TopologicalSorter(ways).prepare()
    except CycleError:
        raise BadInput("endless: it refers to itself for one and the same value") from None


def _of_the_same_value(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The schemas below that judge the same value, not a part of it."""
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(keyword, ())
    for keyword in ("not", "if", "then", "else"):
        if keyword in schema:
            yield schema[keyword]
    yield from schema.get("dependentSchemas", {}).values()


# Words


def _distinct(errors: Iterable[ValidationError]) -> Iterator[Violation]:
    """Violations without repeats: the library names each member that is missing by itself."""
    told = set()
    for error in errors:
        violation = _worded(error)
        if violation not in told:
            told.add(violation)
            yield violation


def _worded(error: ValidationError) -> Violation:
    if _is_of_a_name(error):
        return Violation(_place(error.absolute_path), "propertyNames", _SAYINGS["propertyNames"])
    if error.validator in ("anyOf", "oneOf") and error.context:
        deeper = _the_one_that_was_meant(error)
        if deeper is not None:
            return _worded(deeper)
        if all(one.validator == "type" and not one.relative_path for one in error.context):
            kinds = [name for one in error.context for name in _listing(one.validator_value)]
            return Violation(_place(error.absolute_path), "type", _not_of(error.instance, kinds))
    return Violation(_place(error.absolute_path), str(error.validator or "false"), _words(error))


def _is_of_a_name(error: ValidationError) -> bool:
    """Whether it is a member's name that is wrong; the library speaks of it as of a value at the object's place."""
    path = list(error.absolute_schema_path)
    return any(
        keyword == "propertyNames" and (place == 0 or path[place - 1] not in _NAMED)
        for place, keyword in enumerate(path)
    )


def _the_one_that_was_meant(error: ValidationError) -> ValidationError | None:
    """Of several alternatives, the first error of the only one that is of the value's own type."""
    by_kind: dict[Any, list[ValidationError]] = {}
    for one in error.context or ():
        by_kind.setdefault(one.relative_schema_path[0], []).append(one)
    meant = [
        errors
        for errors in by_kind.values()
        if not any(one.validator in ("type", "enum", "const") and not one.relative_path for one in errors)
    ]
    return meant[0][0] if len(meant) == 1 else None


def _words(error: ValidationError) -> str:
    rule: Any = error.validator
    wanted: Any = error.validator_value
    value: Any = error.instance
    if rule is None:
        return "is not allowed"
    if rule == "type":
        return _not_of(value, _listing(wanted))
    if rule == "required":
        return f"lacks {_names([name for name in wanted if name not in value])}"
    if rule == "additionalProperties" and isinstance(error.schema, Mapping) and wanted is False:
        known = error.schema.get("properties", {})
        return f"has {_names([name for name in value if name not in known])}, which is not declared"
    if rule == "enum":
        return f"is none of {_listed(wanted)}"
    if rule == "const":
        return f"is not {_short(json.dumps(wanted, ensure_ascii=False))}"
    if rule == "pattern":
        return f"does not match the pattern {_short(wanted)}"
    if rule in _BOUNDS:
        return f"{_BOUNDS[rule]} {_short(str(wanted))}"
    return _SAYINGS.get(rule, f"breaks the rule {_short(str(rule))}")


def _not_of(value: Any, names: list[str]) -> str:
    return f"is {_kind(value)}, not {' or '.join(_article(name) for name in dict.fromkeys(names))}"


def _listing(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _kind(value: Any) -> str:
    for kind, name in (
        (type(None), "null"),
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a number"),
        (str, "a string"),
        (list, "an array"),
        (dict, "an object"),
        (bytes, "bytes, which JSON does not have"),
    ):
        if isinstance(value, kind):
            return name
    return f"of the class {_short(type(value).__name__)}"


def _article(name: str) -> str:
    return name if name == "null" else f"an {name}" if name[0] in "aio" else f"a {name}"


def _names(names: list[Any]) -> str:
    shown = ", ".join(f"'{_name(name)}'" for name in names[:MOST])
    return shown + (f" and {len(names) - MOST} more" if len(names) > MOST else "")


def _name(name: Any) -> str:
    text = "".join(c if c.isprintable() else "\ufffd" for c in str(name)[: _LONGEST_NAME + 1])
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


def _listed(values: Iterable[Any]) -> str:
    return _short(", ".join(json.dumps(value, ensure_ascii=False) for value in values))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_RULE else text[: _LONGEST_RULE - 1] + "…"


def _place(path: Iterable[Any]) -> str:
    """A JSON pointer; the end of one that is too long."""
    tokens = [_name(token).replace("~", "~0").replace("/", "~1") for token in path]
    pointer = "".join(f"/{token}" for token in tokens)
    return pointer if len(pointer) <= _LONGEST_PLACE else "…" + pointer[1 - _LONGEST_PLACE :]
