"""Which calls and results fit a tool's schemas, and what is said of those that do not."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry
from suites.runs import bodies, replayed

from agentledger import BadInput, ToolSpec, agent, tool
from ledger_core.governance.certain import certain
from ledger_core.governance.fit import Fit, declared
from ledger_core.governance.schema import input_schema_of
from ledger_core.governance.tool import BadOutput, spec_of

SECRET = "hunter2-zwölf-\U0001f511"


class Item(TypedDict):
    a: int
    b: NotRequired[str]


class Tree(TypedDict):
    a: str
    b: list[Tree]


def fetch(url: str) -> list[str]: ...


# What is judged, and what is said


@tool
def order(item: str, count: Annotated[int, {"minimum": 1, "maximum": 9}], price: float = 0.0, tags: list[str] = ()):
    """Order it."""


def test_types_are_json_schemas_types():
    """A boolean is no integer, an integer is a number, and a number without a fraction is an integer."""
    spec = spec_of(order)

    spec.check({"item": "x", "count": 1, "price": 2})
    spec.check({"item": "x", "count": 3.0})
    for wrong in (True, 1.5, "1", None, [1], {"n": 1}):
        with pytest.raises(BadInput, match="/count is"):
            spec.check({"item": "x", "count": wrong})


def test_a_refusal_says_place_and_rule_and_never_the_value():
    """One sentence names at most three places, for programs too; what stood there is not in it."""
    with pytest.raises(BadInput) as refused:
        spec_of(order).check({"item": 5, "count": SECRET, "price": [SECRET], "tags": [SECRET, {SECRET: SECRET}, 7]})

    assert refused.value.sentence == (
        "Tool order does not take these arguments: /item is an integer, not a string; "
        "/count is a string, not an integer; /price is an array, not a number."
    )
    assert refused.value.hint
    assert refused.value.fields["violations"] == [
        {"place": "/item", "rule": "type"},
        {"place": "/count", "rule": "type"},
        {"place": "/price", "rule": "type"},
    ]
    assert SECRET not in json.dumps(refused.value.as_json(), ensure_ascii=False)


SAID = [
    ({"type": ["integer", "null"]}, "x", "is a string, not an integer or null"),
    ({"enum": ["a", "b"]}, "x", 'is none of "a", "b"'),
    ({"const": 1}, "x", "is not 1"),
    ({"minimum": 3}, 2, "is less than 3"),
    ({"exclusiveMaximum": 3}, 3, "is not less than 3"),
    ({"multipleOf": 3}, 4, "is no multiple of 3"),
    ({"minLength": 3}, "x", "has fewer characters than 3"),
    ({"maxItems": 1}, [1, 2], "has more items than 1"),
    ({"required": ["a", "b"]}, {}, "lacks 'a', 'b'"),
    ({"additionalProperties": False}, {"a": 1, "b": 2, "c": 3, "d": 4}, "has 'a', 'b', 'c' and 1 more, which is not"),
    ({"uniqueItems": True}, [1, 1], "has an item more than once"),
    ({"not": {}}, 1, "is what is not allowed"),
    ({"propertyNames": {"maxLength": 1}}, {SECRET: 1}, "has a member whose name is not allowed"),
    ({"anyOf": [{"type": "integer"}, {"type": "array"}]}, "x", "is a string, not an integer or an array"),
    ({"oneOf": [{}, {}]}, 1, "is not exactly one of the kinds"),
    ({"contains": {"const": 1}}, [2], "does not have the items"),
    ({"unevaluatedProperties": False}, {"a": 1}, "has members that are not declared"),
    ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "lacks a member that another one needs"),
    (
        {"anyOf": [{"type": "null"}, {"type": "object", "required": ["zip"]}]},
        {"street": 1},
        "lacks 'zip'",
    ),
]


@pytest.mark.parametrize(("schema", "value", "words"), SAID, ids=[str(next(iter(schema))) for schema, *_ in SAID])
def test_every_rule_has_words(schema, value, words):
    """What is wrong is said in the words of the rule."""
    (violation, *_) = Fit(declared(schema)).violations(value)

    assert words in str(violation)
    assert SECRET not in str(violation)


def test_places_are_pointers_and_short():
    """A place is a JSON pointer, escaped, without control characters, however long the names on its way are."""
    fit = Fit(declared({"additionalProperties": {"additionalProperties": {"type": "integer"}}}))

    assert fit.violations({"a/b~\n": {"c": ""}})[0].place == "/a~1b~0\ufffd/c"
    assert len(str(fit.violations({"x" * 10_000: {"y" * 10_000: ""}})[0])) < 300


def test_bytes_are_no_json_and_no_accident():
    """Documents may hold bytes: they are of no type, and hurt no rule."""
    spec = spec_of(order)
    with pytest.raises(BadInput, match="/item is bytes, which JSON does not have, not a string"):
        spec.check({"item": b"x", "count": 1})
    for schema in (
        {"uniqueItems": True},
        {"items": {"enum": ["x", 1, None, [1]]}},
        {"contains": {"const": [b"".hex()]}},
    ):
        Fit(declared(schema)).violations([b"x", b"x", "x", [b"x"], {"a": b"x"}])

    @tool
    def store(data: bytes, name: str) -> bytes: ...

    spec_of(store).check({"data": b"x", "name": "n"})
    spec_of(store).check_result(b"x")


def test_what_cannot_be_judged_does_not_fit():
    """Of a value without an end nothing is seen, however it is looked at; what is no data is of no type."""
    endless: list[Any] = []
    endless.append(endless)
    quick = {"$ref": "#/$defs/down", "$defs": {"down": {"type": "array", "items": {"$ref": "#/$defs/down"}}}}
    slow = {**quick, "uniqueItems": False}

    for schema in (quick, slow):
        assert Fit(declared(schema)).violations([[], [[]]]) == []
        (violation,) = Fit(declared(schema)).violations(endless)
        assert "cannot be judged by its schema" in str(violation)
        with pytest.raises(BadOutput, match="cannot be judged"):
            ToolSpec(name="t", function=fetch, output_schema=schema).check_result(endless)
    assert str(Fit({"type": "null"}).violations(object())[0]) == "the whole is of the class object, not null"


def test_the_end_of_the_stack_is_no_end_of_the_process():
    """Wherever in the library the stack ends, in its part in Rust too, a value without an end is refused."""
    endless: list[Any] = []
    endless.append(endless)
    fit = Fit(declared({"contains": {"$ref": "#"}}))

    def below(depth):
        return below(depth - 1) if depth else fit.violations(endless)

    assert {str(one) for depth in range(60) for one in below(depth)} <= {
        "the whole cannot be judged by its schema (RecursionError)",
        "the whole cannot be judged by its schema (PanicException)",
    }


class Name(str):
    __slots__ = ()


class Table(dict):
    __slots__ = ()


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"minLength": 3}, Name("x")),
        ({"pattern": "a"}, Name("x")),
        ({"required": ["a"]}, Table()),
        ({"minProperties": 1}, Table()),
        ({"minimum": 3}, Decimal(2)),
        ({"items": {"type": "null"}}, type("Row", (list,), {})([1])),
        ({"enum": [1, False]}, True),
        ({"enum": [0, True]}, 1),
        ({"const": 1}, True),
        ({"type": "integer"}, True),
        ({"type": "number"}, False),
    ],
    ids=str,
)
def test_nothing_is_certain_of_what_only_looks_plain(schema, value):
    """Classes of the user's own, and values that Python calls equal, are left to the library, and refused."""
    assert not certain(schema)(value)
    assert Fit(declared(schema)).violations(value)


def test_an_annotation_that_is_no_schema_refuses_what_it_would_have_to_judge():
    """Keywords in an annotation that mean nothing are found when they are needed, as a refusal."""

    def function(n: Annotated[int, {"minimum": "one"}]): ...

    with pytest.raises(BadInput, match="cannot be judged: no JSON Schema 2020-12: at /properties/n/minimum"):
        spec_of(function).check({"n": 1})


def test_large_values_are_judged_and_cut_short():
    """A hundred thousand faults make one short sentence."""
    with pytest.raises(BadInput) as refused:
        spec_of(order).check({"item": "x" * 1_000_000, "count": 1, "tags": list(range(100_000))})

    assert len(str(refused.value)) < 500
    assert refused.value.sentence.count("is an integer, not a string") == 3


def test_good_calls_need_no_library(python):
    """Neither the front door nor calls that fit import what explains those that do not."""
    out = python.run(
        """
        import sys
        from agentledger import BadInput, tool
        from ledger_core.governance.tool import spec_of

        @tool
        def order(item: str, count: int = 1, tags: list[str] | None = None) -> dict[str, int]: ...

        spec = spec_of(order)
        spec.check({"item": "x", "tags": ["a"]})
        spec.check_result({"n": 1})
        print("jsonschema" in sys.modules)
        try:
            spec.check({"item": 1})
        except BadInput:
            print("jsonschema" in sys.modules)
        """
    )
    assert out.split() == ["False", "True"]


def test_what_does_not_fit_is_refused_before_anything_is_recorded(runtime):
    """A call with arguments that its schema does not allow reaches neither the log nor the tool."""
    called = []

    @tool(side_effect="external_write")
    def pay(amount: Annotated[int, {"minimum": 1}]):
        called.append(amount)
        return amount

    @agent(name="a", tools=[pay])
    async def main(ctx):
        try:
            await ctx.call_tool("pay", amount=-5)
        except BadInput as error:
            return [error.fields["violations"], await ctx.call_tool("pay", amount=5)]

    result = runtime.run(main, run_id="r")

    assert result.output == [[{"place": "/amount", "rule": "minimum"}], 5]
    assert called == [5]
    assert len(bodies(runtime, "tool_call_requested")) == 1
    replayed(runtime, main)


# Anything at all

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(["a", "b", "c"])
KEYWORDS = sorted({*Draft202012Validator.VALIDATORS, "$defs", "$id", "$anchor", "$schema", "default", "x"})


def _plain_schemas() -> st.SearchStrategy[Any]:
    """Schemas of the kind that tools have, with every keyword that is judged quickly."""
    kinds = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
    small = st.integers(0, 3)
    numbers = st.integers(-2, 3) | st.floats(-2, 3)
    leaf = st.booleans() | st.fixed_dictionaries(
        {},
        optional={
            "type": kinds | st.lists(kinds, min_size=1, max_size=3, unique=True),
            "enum": st.lists(st.sampled_from(["a", 1, 1.0, True, None, 0, False, [1]]), min_size=1, max_size=4),
            "const": st.sampled_from(["a", 1, 1.0, True, None, {}]),
            **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties"), small),
            **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), numbers),
            "pattern": st.sampled_from(["a", "^b$", "", "[0-9]"]),
            "$ref": st.sampled_from(["#/$defs/a", "#/$defs/b", "#"]),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "uniqueItems": st.booleans(),
        },
    )

    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(names, inner, max_size=3),
                "required": st.lists(names, max_size=2, unique=True),
                "additionalProperties": inner,
                "patternProperties": st.dictionaries(st.just("^a"), inner, max_size=1),
                "items": inner,
                "prefixItems": st.lists(inner, min_size=1, max_size=2),
                "anyOf": st.lists(inner, min_size=1, max_size=3),
                "allOf": st.lists(inner, min_size=1, max_size=3),
                "not": inner,
                "type": kinds,
            },
        )

    whole = st.recursive(leaf, deeper, max_leaves=8)
    return st.builds(
        lambda schema, a, b: {**(schema if isinstance(schema, dict) else {"not": schema}), "$defs": {"a": a, "b": b}},
        whole,
        whole,
        leaf,
    )


def _can_be_declared(schema: Any) -> bool:
    try:
        return declared(schema) == schema
    except BadInput as error:
        assert "endless" in error.sentence
        return False


plain_values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 2, 1.0, 0.5, -1, "", "a", "b", "ab", "a1", b"", b"a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(_plain_schemas().filter(_can_be_declared), st.lists(plain_values, min_size=1, max_size=6))
def test_the_quick_yes_is_the_librarys_yes(schema, judged):
    """What is certain without the library is so with it, for every schema and value; and both agree on what fits."""
    quick, fit = certain(schema), Fit(schema)
    judge = Draft202012Validator(schema, registry=Registry())
    for value in judged:
        known = judge.is_valid(value)
        sure = quick is not None and quick(value)
        assert known or not sure
        assert known == (fit.violations(value) == [])


@given(plain_values.filter(lambda value: "1.0" not in repr(value)))
def test_what_tools_have_is_judged_quickly(value):
    """What annotations of plain types give is decided without the library, but for whole numbers with a point."""

    def function(
        a: str, b: int | None, c: list[Item], d: dict[str, int], e: Literal["a", "b"], f: Tree, g: list[Any]
    ): ...

    def judge(schema):
        return Draft202012Validator(schema, registry=Registry())

    schema = input_schema_of(function)
    for name, part in schema["properties"].items():
        whole = {**(part if isinstance(part, dict) else {}), "$defs": schema["$defs"]}
        quick = certain(whole)
        assert quick is not None, name
        assert quick(value) == judge(whole).is_valid(value)


schemas = st.dictionaries(
    st.sampled_from(KEYWORDS) | st.text(max_size=3), values | _plain_schemas() | st.lists(_plain_schemas(), max_size=2)
)


@given(schemas, values)
def test_nothing_but_a_refusal_comes_of_any_schema_and_any_value(schema, value):
    """Whatever somebody writes as a schema, and whatever comes to be judged: it fits, or is refused in words."""

    def function(**anything): ...

    specs = []
    for given_ in ({"input_schema": schema}, {"output_schema": schema}):
        try:
            specs.append(ToolSpec(name="t", function=function, **given_))
        except BadInput as error:
            assert error.sentence.startswith("Tool t has an")
    for spec in specs:
        try:
            spec.check({"value": value})
        except BadInput as error:
            assert 1 <= len(error.fields["violations"]) <= 3
        try:
            spec.check_result(value)
        except BadOutput as error:
            assert str(error).startswith("Tool t returned")
    Fit(schema).violations(value)


@given(_plain_schemas(), st.recursive(st.just(SECRET), lambda one: st.lists(one) | st.dictionaries(names, one)))
def test_no_refusal_holds_a_value(schema, value):
    """No rule's words repeat what they refuse."""
    for violation in Fit(schema).violations(value):
        assert SECRET not in str(violation)
