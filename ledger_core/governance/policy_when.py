"""A condition on arguments as a JSON Schema 2020-12, held against them.

    when: {required: [to], properties: {to: {type: string, pattern: '^[^@]++@example[.]com$'}}}

Rules: pure, and nothing is fetched: a `$ref` stays in the schema and comes to an end. A keyword that would be ignored
is refused, for in a policy an ignored word opens a door; so are those that cost without bound. Arguments are in doubt
where no JSON could hold them (bytes, NaN), and where holding the schema against them would take too long. `properties`
alone say nothing of what is missing: add `required`, and `type` to what is only for one type. jsonschema is imported
when the first such condition is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

import attrs

from ledger_core import codec
from ledger_core.governance.policy_pattern import Pattern, compiled
from ledger_core.governance.policy_reading import Place, Reading, nearest, shown, spelled
from ledger_core.governance.policy_rule import Asked, Met

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMAS: Final = 2_000
"""Schemas in one `when`, each counted as often as it is referred to: what one decision may have to look at."""
MAX_UNIQUE: Final = 1_000
"""Items of a list that `uniqueItems` is held against; of longer ones it is in doubt."""
_MAX_CHAIN: Final = 100
_MAX_VALUES: Final = 1_000_000
"""Values in the arguments of one call; a list that holds itself would have no end."""
_ONE: Final = ("not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames")
_LIST: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAP: Final = ("properties", "dependentSchemas", "$defs")
_TYPED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"), "number"),
    **dict.fromkeys(("maxLength", "minLength", "pattern"), "string"),
    **dict.fromkeys(("maxItems", "minItems", "uniqueItems", "maxContains", "minContains"), "array"),
    **dict.fromkeys(("maxProperties", "minProperties", "required", "dependentRequired"), "object"),
}
"""Keywords that say nothing of values of any other type."""
_WORDS: Final = ("$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly")
KEYWORDS: Final = (*_ONE, *_LIST, *_MAP, *_TYPED, "type", "const", "enum", "$ref", "$schema", *_WORDS)
_INSTEAD: Final[Mapping[str, str]] = {
    "format": "It is an annotation that nothing checks: write a pattern.",
    "patternProperties": "Write propertyNames, or additionalProperties.",
    "$id": "A schema of a policy refers to nothing outside: leave it out.",
    "definitions": "Write $defs, as drafts since 2019-09 do.",
}


@attrs.frozen(eq=False)
class _Schema:
    """A schema inside the one of a rule, and the pointers of those that are held against what it is held against."""

    place: Place
    schema: dict[str, Any]
    holds: list[str] = attrs.field(factory=list)


class _Doubt(Exception):
    """A schema that cannot be held against these arguments; says why."""


@attrs.frozen(eq=False)
class When:
    """The condition that the arguments are valid under a schema."""

    schema: Mapping[str, Any]
    _validator: Any

    def met(self, asked: Asked) -> Met:
        try:
            arguments = dict(asked.arguments)
            if not is_json(arguments):
                return None, "the arguments hold what no JSON can"
            error = next(self._validator.iter_errors(arguments), None)
        except _Doubt as doubt:
            return None, str(doubt)
        except Exception as error:  # of whatever the arguments are: in doubt, and never an open door
            return None, f"the schema cannot be held against the arguments ({type(error).__name__})"
        if error is None:
            return True, ""
        where = ".".join(map(str, error.absolute_path))[:80] or "the arguments"
        return False, f"when: {where} fails {error.validator}"


def when(reading: Reading, place: Place, value: Any) -> When:
    """The condition that a document says; raises `BadInput` for a schema that is none, or may not be used here."""
    from jsonschema import Draft202012Validator, SchemaError, validators  # noqa: PLC0415 - heavy, and rarely needed
    from referencing import Registry  # noqa: PLC0415

    if type(value) is not dict or not value:
        hint = "It is a JSON Schema 2020-12 over the arguments; leave it out where it has nothing to say."
        raise reading.bad(place, f"{spelled(place)} is {shown(value)}.", hint)
    found: dict[str, _Schema] = {}
    _read(reading, place, "#", value, found)
    patterns = {
        one.schema["pattern"]: compiled(reading, (*one.place, "pattern"), one.schema["pattern"])
        for one in found.values()
        if type(one.schema.get("pattern")) is str
    }
    try:
        Draft202012Validator.check_schema(value)
    except SchemaError as error:
        where = (*place, *error.absolute_path)
        raise reading.bad(where, f"{spelled(where)} is no JSON Schema 2020-12: {error.message:.200}.") from None
    if _size(reading, found, "#", {}) > MAX_SCHEMAS:
        hint = f"Counted with its references it may have {MAX_SCHEMAS:,}."
        raise reading.bad(place, f"{spelled(place)} has too many schemas to be held against every call.", hint)
    own = {"pattern": _holds_pattern(patterns), "uniqueItems": _unique(Draft202012Validator.VALIDATORS["uniqueItems"])}
    kind: Any = validators.extend(Draft202012Validator, own)  # type: ignore[no-untyped-call]
    return When(value, kind(value, registry=Registry()))  # an empty registry: nothing is fetched


def is_json(value: Any) -> bool:
    """Whether JSON can hold all of a value: exact types, finite numbers, text as keys, and not without end."""
    level, seen = [value], 0
    for _ in range(codec.MAX_DEPTH):
        below: list[Any] = []
        for one in level:
            kind = type(one)
            if kind is dict:
                if not all(type(key) is str for key in one):
                    return False
                below.extend(one.values())
            elif kind is list:
                below.extend(one)
            elif not (one is None or kind in (str, bool, int) or (kind is float and math.isfinite(one))):
                return False
            if seen + len(below) > _MAX_VALUES:
                return False
        seen += len(below)
        level = below
    return not level


def _read(reading: Reading, place: Place, pointer: str, schema: dict[str, Any], found: dict[str, _Schema]) -> None:
    """Put a schema and all in it into `found`, by their JSON pointers; raises `BadInput` for words that say nothing."""
    found[pointer] = _Schema(place, schema)
    for word, value in schema.items():
        here = (*place, word)
        if word not in KEYWORDS:
            near = nearest(word, KEYWORDS)
            hint = _INSTEAD.get(word) or (f"Did you mean {near}? " if near else "") + "It would be ignored."
            raise reading.bad(here, f"{spelled(place)} has the keyword {word!r:.60}, which is not used here.", hint)
        if word == "$schema" and value != DIALECT:
            raise reading.bad(here, f"{spelled(place)} is of another dialect.", f"Write {DIALECT}, or nothing.")
        if word == "$ref" and type(value) is str and value.partition("#")[0]:
            hint = "A policy stands for itself: copy it into $defs, and refer to #/$defs/NAME."
            raise reading.bad(here, f"{spelled(here)} refers to another document, {value!r:.80}.", hint)
        below: list[tuple[Place, str, Any]] = []
        if word in _ONE:
            below = [(here, f"{pointer}/{word}", value)]
        elif word in _LIST and type(value) is list:
            below = [((*here, at), f"{pointer}/{word}/{at}", one) for at, one in enumerate(value)]
        elif word in _MAP and type(value) is dict:
            below = [((*here, key), f"{pointer}/{word}/{_escaped(key)}", one) for key, one in value.items()]
        for where, name, one in below:
            if type(one) is dict:
                if word != "$defs":
                    found[pointer].holds.append(name)
                _read(reading, where, name, one, found)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _size(
    reading: Reading, found: Mapping[str, _Schema], pointer: str, sizes: dict[str, int], above: tuple[str, ...] = ()
) -> int:
    """How many schemas are held against a call, each as often as it is referred to; `BadInput` if there is no end."""
    if pointer in sizes:
        return sizes[pointer]
    one = found[pointer]
    if pointer in above or len(above) > _MAX_CHAIN:
        hint = f"References must come to an end, after {_MAX_CHAIN} at most."
        raise reading.bad(one.place, f"{spelled(one.place)} refers to itself, or through too many others.", hint)
    below = list(one.holds)
    if type(one.schema.get("$ref")) is str:
        target = unquote(one.schema["$ref"])
        if target not in found:
            where = (*one.place, "$ref")
            hint = "Write #/$defs/NAME, and a schema of that name in $defs."
            raise reading.bad(where, f"{spelled(where)} refers to {target!r:.80}, where no schema is.", hint)
        below.append(target)
    sizes[pointer] = 1 + sum(_size(reading, found, each, sizes, (*above, pointer)) for each in below)
    return sizes[pointer]


def _holds_pattern(patterns: Mapping[str, Pattern]) -> Any:
    """The keyword `pattern`, with a bound on the text that it is held against."""

    def check(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Any]:
        if type(instance) is str:
            one = patterns[pattern]
            if len(instance) > one.longest:
                raise _Doubt(f"a text has {len(instance):,} characters, and a pattern of its is for {one.longest:,}")
            if one.regex.search(instance) is None:
                yield _failed("pattern")

    return check


def _unique(check: Any) -> Any:
    """The keyword `uniqueItems`, which may compare every item with every other, for lists of a bounded length."""

    def bounded(validator: Any, unique: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if unique and type(instance) is list and len(instance) > MAX_UNIQUE:
            raise _Doubt(f"a list has {len(instance):,} items, and uniqueItems is for {MAX_UNIQUE:,}")
        yield from check(validator, unique, instance, schema)

    return bounded


def _failed(keyword: str) -> Exception:
    from jsonschema import ValidationError  # noqa: PLC0415 - loaded already where this is called

    return ValidationError(f"fails {keyword}")


def loopholes(schema: Mapping[str, Any]) -> list[str]:
    """What an author may not have meant: where a schema is met because it says nothing of the value it is given."""
    found = []
    for name in schema.get("properties", {}):
        if name not in schema.get("required", ()):
            found.append(f"`when` is met where {name} is missing: add it to required")
    for word, kind in _TYPED.items():
        if (
            word in schema
            and word not in ("required", "dependentRequired")
            and not {"type", "const", "enum"} & schema.keys()
        ):
            found.append(f"`when` is met by whatever is no {kind}, for {word} says nothing of it: add a type")
    for word in _ONE:
        if type(schema.get(word)) is dict and word not in ("not", "if", "propertyNames"):
            found += loopholes(schema[word])
    for one in schema.get("properties", {}).values():
        if type(one) is dict:
            found += loopholes(one)
    return found
