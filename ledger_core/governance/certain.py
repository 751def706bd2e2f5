"""Whether a value certainly fits a JSON Schema: the quick yes, for the schemas that tools have.

Rules: a predicate says True only of what the whole of JSON Schema 2020-12 says True of; its False means "ask those who
know". A call of a tool, live and replayed, is judged in about a microsecond, and the library that knows all of JSON
Schema, 0.1 s to import, is asked only when there is something to say (or where a schema is not of the plain kind). This
file knows no reasons.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

Predicate = Callable[[Any], bool]
_WORDS: Final = frozenset(
    (
        "$comment",
        "$defs",
        "default",
        "deprecated",
        "description",
        "examples",
        "format",
        "readOnly",
        "title",
        "writeOnly",
    )
)
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}
_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes, list, dict))
"""Of these a keyword for another type has nothing to say; of any other class nothing is certain."""
_NUMBERS: Final = frozenset((int, float))
_COUNTED: Final[dict[str, tuple[type, bool]]] = {
    "minLength": (str, True),
    "maxLength": (str, False),
    "minItems": (list, True),
    "maxItems": (list, False),
    "minProperties": (dict, True),
    "maxProperties": (dict, False),
}
_COMPARED: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "minimum": lambda value, bound: bool(value >= bound),
    "maximum": lambda value, bound: bool(value <= bound),
    "exclusiveMinimum": lambda value, bound: bool(value > bound),
    "exclusiveMaximum": lambda value, bound: bool(value < bound),
}
_DEF: Final = re.compile(r"#/\$defs/([A-Za-z0-9_.-]+)")


class _Unclear(Exception):
    """A schema with something in it that is not judged here."""


def certain(schema: Mapping[str, Any]) -> Predicate | None:
    """A predicate that is True only of what fits `schema`; None if it is none of the plain kind."""
    try:
        return _Maker(schema).of(schema)
    except Exception:  # something that is not judged here, or something that is no schema: left to those who know
        return None


class _Maker:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._defs = root.get("$defs", {})
        self._made: dict[str, Predicate] = {}

    def of(self, schema: Any) -> Predicate:
        if schema is True or schema is False:
            return _always if schema else _never
        if not isinstance(schema, Mapping):
            raise _Unclear
        tests: list[Predicate] = []
        if schema.keys() & {"properties", "required", "additionalProperties"}:
            tests.append(self._object(schema))
        for keyword, argument in schema.items():
            if keyword not in _WORDS and keyword not in ("properties", "required", "additionalProperties"):
                tests.append(self._keyword(keyword, argument))
        return tests[0] if len(tests) == 1 else _all(tests) if tests else _always

    def _keyword(self, keyword: str, argument: Any) -> Predicate:
        if keyword == "type":
            return _typed(argument)
        if keyword in ("enum", "const"):
            return _among(argument if keyword == "enum" else [argument])
        if keyword == "items":
            return _items(self.of(argument))
        if keyword in ("anyOf", "allOf") and isinstance(argument, list):
            made = [self.of(one) for one in argument]
            return _any(made) if keyword == "anyOf" else _all(made)
        if keyword == "$ref":
            return self._reference(argument)
        if keyword == "pattern":
            return _matching(argument)
        if keyword in _COUNTED and type(argument) is int:
            return _counted(*_COUNTED[keyword], argument)
        if keyword in _COMPARED and type(argument) in _NUMBERS:
            return _compared(_COMPARED[keyword], argument)
        raise _Unclear

    def _object(self, schema: Mapping[str, Any]) -> Predicate:
        declared, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(declared, Mapping) or not isinstance(required, list) or "patternProperties" in schema:
            raise _Unclear
        members = {name: self.of(one) for name, one in declared.items()}
        needed = frozenset(required)
        more = self.of(schema.get("additionalProperties", True))

        def fits(value: Any) -> bool:
            if type(value) is not dict:
                return type(value) in _PLAIN
            if not needed <= value.keys():
                return False
            for name, one in value.items():  # noqa: SIM110 - a generator costs more than the test
                if not members.get(name, more)(one):
                    return False
            return True

        return fits

    def _reference(self, target: Any) -> Predicate:
        found = _DEF.fullmatch(target) if isinstance(target, str) else None
        if found is None or not isinstance(self._defs, Mapping) or found[1] not in self._defs:
            raise _Unclear
        name = found[1]
        if name not in self._made:
            self._made[name] = _never  # the name is taken while what it means is made
            self._made[name] = self.of(self._defs[name])

        def fits(value: Any) -> bool:
            return self._made[name](value)  # looked up when it is called: what names itself is not made yet

        return fits


def _always(_: Any) -> bool:
    return True


def _never(_: Any) -> bool:
    return False


def _all(tests: list[Predicate]) -> Predicate:
    def fits(value: Any) -> bool:
        for test in tests:  # noqa: SIM110 - as above
            if not test(value):
                return False
        return True

    return fits


def _any(tests: list[Predicate]) -> Predicate:
    return lambda value: any(test(value) for test in tests)


def _typed(names: Any) -> Predicate:
    named = [names] if isinstance(names, str) else names
    if not isinstance(named, list) or not all(isinstance(name, str) and name in _TYPES for name in named):
        raise _Unclear
    kinds = frozenset(kind for name in named for kind in _TYPES[name])
    return lambda value: type(value) in kinds


def _among(values: Any) -> Predicate:
    if not isinstance(values, list):
        raise _Unclear
    known = frozenset((type(value), value) for value in values if type(value) in (str, int, bool, type(None)))
    scalars = frozenset(kind for kind, _ in known)
    return lambda value: type(value) in scalars and (type(value), value) in known


def _items(one: Predicate) -> Predicate:
    def fits(value: Any) -> bool:
        if type(value) is not list:
            return type(value) in _PLAIN
        for item in value:  # noqa: SIM110 - as above
            if not one(item):
                return False
        return True

    return fits


def _matching(pattern: Any) -> Predicate:
    try:
        search = re.compile(pattern).search
    except (re.error, TypeError, OverflowError):
        raise _Unclear from None
    return lambda value: search(value) is not None if type(value) is str else type(value) in _PLAIN


def _counted(kind: Any, at_least: bool, bound: int) -> Predicate:
    def fits(value: Any) -> bool:
        if type(value) is not kind:
            return type(value) in _PLAIN
        return len(value) >= bound if at_least else len(value) <= bound

    return fits


def _compared(holds: Callable[[Any, Any], bool], bound: float) -> Predicate:
    return lambda value: holds(value, bound) if type(value) in _NUMBERS else type(value) in _PLAIN
