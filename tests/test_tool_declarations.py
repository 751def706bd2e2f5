"""What a tool declares, which functions can be one, and the schemas that somebody wrote for it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json

import attrs
import pytest
from suites.runs import replayed

from agentledger import BadInput, NoEffect, ToolSpec, agent, tool
from ledger_core.governance.tool import BadOutput, spec_of

SECRET = "hunter2-zwölf-\U0001f511"

# Functions of every kind


class Desk:
    """Callable, and with methods that are tools."""

    __hash__ = None  # as a dataclass has it

    def __init__(self):
        self.made = []

    def find(self, title, idempotency_key):
        if title not in self.made:
            raise NoEffect
        return title

    def remove(self, title, result):
        self.made.remove(title)

    @tool(side_effect="external_write", verify=find, compensate=remove)
    def create(self, title: str) -> str:
        """Create it."""
        self.made.append(title)
        return title

    @classmethod
    @tool(risk_level="high")
    def of_class(cls, n: int) -> int:
        return n

    def __call__(self, n: int) -> int:
        """Count."""
        return n


async def fetch(url: str, depth: int = 1, token: str = "") -> list[str]:
    """Fetch it."""
    return [url] * depth


def test_functions_of_every_kind_are_tools():
    """Async functions, methods, objects, partials, classes' methods: names, descriptions and schemas are theirs."""
    desk = Desk()
    made = {
        "fetch": spec_of(fetch),
        "find": spec_of(desk.find),
        "Desk": spec_of(desk),
        "of_class": spec_of(Desk.of_class),
        "create": spec_of(desk.create),
    }
    assert {name: spec.name for name, spec in made.items()} == {name: name for name in made}
    assert made["Desk"].description == "Callable, and with methods that are tools."
    assert made["of_class"].risk_level == "high"
    for name, good, bad in (
        ("fetch", {"url": "u"}, {"url": 1}),
        ("find", {"title": "t"}, {"titel": "t"}),
        ("Desk", {"n": 1}, {"n": "1"}),
        ("of_class", {"n": 1}, {"n": True}),
        ("create", {"title": "t"}, {"title": None}),
    ):
        made[name].check(good)
        with pytest.raises(BadInput):
            made[name].check(bad)
    assert made["fetch"].output_schema == {"type": "array", "items": {"type": "string"}}


def test_a_method_and_its_hooks_belong_to_one_object(runtime):
    """A tool declared in a class is called on the object it is taken from, and so are its hooks."""
    desk = Desk()

    @agent(name="a", tools=[desk.create])
    async def main(ctx):
        return await ctx.call_tool("create", title="t")

    assert runtime.run(main, run_id="r").output == "t"
    assert desk.made == ["t"]
    replayed(runtime, main)
    assert desk.made == ["t"]
    spec = spec_of(desk.create)
    assert spec.verify("t", "key") == "t"
    spec.compensate("t", result="t")
    assert desk.made == []


def test_a_bound_method_can_be_declared(runtime):
    """`tool(...)(object.method)` is a tool, though a method takes no attributes; so is an object with slots."""

    class Slotted:
        __slots__ = ()

        def __call__(self, n: int) -> int:
            return n + 1

    found = tool(name="found", risk_level="high")(Desk().find)
    plus = tool(name="plus")(Slotted())

    assert (spec_of(found).name, spec_of(found).risk_level) == ("found", "high")
    assert plus(1) == 2
    assert spec_of(plus).input_schema["properties"] == {"n": {"type": "integer"}}


def test_a_partial_of_a_tool_is_that_tool_with_something_fixed():
    """What is bound is no parameter, is shown to nobody, cannot be changed, holds for hooks, and loses no rule."""

    def found(title, account, idempotency_key):
        return [title, account]

    @tool(side_effect="external_write", risk_level="critical", approval_required=True, verify=found)
    def create(account: str, title: str):
        """Create it."""

    for given_ in (functools.partial(create, account=SECRET), functools.partial(create, SECRET)):
        spec = spec_of(given_)
        assert (spec.name, spec.side_effect, spec.risk_level, spec.approval_required) == (
            "create",
            "external_write",
            "critical",
            True,
        )
        assert list(spec.input_schema["properties"]) == ["title"]
        assert SECRET not in json.dumps(spec.input_schema)
        spec.check({"title": "t"})
        positional, keywords = spec.bind(spec.verify, {"title": "t"}, "k")
        assert spec.verify(*positional, **keywords) == ["t", SECRET]
        with pytest.raises(BadInput, match="account"):
            spec.check({"title": "t", "account": "other"})
    with pytest.raises(BadInput, match="The partial of create fixes what it does not take"):
        spec_of(functools.partial(create, 1, 2, 3))
    plain = spec_of(functools.partial(fetch, token=SECRET))
    assert (plain.name, plain.description) == ("fetch", "Fetch it.")
    assert inspect.iscoroutinefunction(plain.function)
    assert asyncio.run(plain.function(url="u")) == ["u"]


def test_a_wrapper_of_a_tool_is_called_itself():
    """What `functools.wraps` made of a tool keeps its declaration, and is not stepped around."""

    @tool(side_effect="external_write")
    def create(title: str):
        return title

    @functools.wraps(create)
    def loud(**arguments):
        return create(**arguments).upper()

    spec = spec_of(loud)

    assert spec.side_effect == "external_write"
    assert spec.function(title="t") == "T"
    spec.check({"title": "t"})
    with pytest.raises(BadInput):
        spec.check({"title": 1})


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_declaration_that_would_be_lost_is_refused(kind):
    """Above @staticmethod, a declaration would never be seen again: its tool would have no rules."""
    with pytest.raises(BadInput, match="above @staticmethod or @classmethod"):
        tool(side_effect="external_write")(kind(lambda: 1))


def test_what_nobody_can_read_is_refused():
    """A callable without a signature gets a sentence, not a ValueError."""
    with pytest.raises(BadInput, match="nobody can tell"):
        ToolSpec(name="max", function=max).check({"a": 1})


# Declarations


@pytest.mark.parametrize(
    "wrong",
    [
        {"risk_level": "huge"},
        {"idempotency": True},
        {"approval_required": 1},
        {"sandbox_required": None},
        {"approval_timeout": 0},
        {"approval_timeout": float("nan")},
        {"cost": -1},
        {"cost": True},
        {"cost": float("inf")},
        {"cost_bound": "1"},
    ],
    ids=str,
)
def test_every_field_is_checked_when_a_tool_is_declared(wrong):
    """A declaration of nonsense is one sentence with the name of what is wrong, and a hint."""
    name = next(iter(wrong)).replace("_level", "")
    with pytest.raises(BadInput, match=f"Tool t has the {name}") as refused:
        ToolSpec(name="t", function=fetch, **wrong)
    assert refused.value.hint


def test_declarations_that_contradict_themselves_are_refused():
    """A key that is honoured must be taken, hooks must be callable, and no cost passes its bound."""
    with pytest.raises(BadInput, match="takes none"):
        tool(idempotency="key")(lambda title: title)
    with pytest.raises(BadInput, match="compensate"):
        ToolSpec(name="t", function=fetch, compensate="undo")
    with pytest.raises(BadInput, match="costs 2 USD a call, which is more than its bound of 1 USD"):
        ToolSpec(name="t", function=fetch, cost=2, cost_bound=1)


def test_a_cost_that_is_a_number_is_its_own_bound():
    """What a call costs at most follows from a fixed price, and not from a function."""
    assert ToolSpec(name="t", function=fetch, cost=0.5).cost_bound == 0.5
    assert ToolSpec(name="t", function=fetch, cost=0.5, cost_bound=2).cost_bound == 2
    assert ToolSpec(name="t", function=fetch, cost=len).cost_bound is None


def test_a_spec_is_a_value():
    """Specs with schemas can be compared, hashed, and changed into others; what was given can change no more."""
    given_ = {"type": "object", "properties": {"url": {"type": "string"}}}
    spec = ToolSpec(name="t", function=fetch, input_schema=given_, sandbox={"time": 1})
    given_["properties"]["url"]["type"] = "integer"

    assert spec.input_schema["properties"]["url"] == {"type": "string"}
    assert hash(spec) == hash(attrs.evolve(spec))
    assert SECRET not in repr(attrs.evolve(spec, sandbox={"environment": {"TOKEN": SECRET}}))
    assert spec == attrs.evolve(spec)
    assert attrs.evolve(spec, input_schema=None).input_schema["required"] == ["url"]
    assert attrs.evolve(spec, function=len).function is len


def test_hooks_are_given_what_they_name():
    """`compensate` gets the arguments, the key and the tool's result, each where it names it; whole ones too."""
    spec = spec_of(fetch)

    assert spec.bind(lambda url, result, idempotency_key: 0, {"url": "u"}, "k", result=[1])[1] == {
        "url": "u",
        "result": [1],
        "idempotency_key": "k",
    }
    assert spec.bind(lambda url: 0, {"url": "u"}, "k", result=[1])[1] == {"url": "u"}
    assert spec.bind(lambda payload, result: 0, {"url": "u"}, "k", result=None) == (({"url": "u"},), {"result": None})
    with pytest.raises(BadInput, match="cannot be called with url"):
        spec.bind(lambda url, result: 0, {"url": "u"}, "k")


def test_a_key_of_the_callers_own_is_no_argument():
    """An idempotency key that a caller passes is taken where the tool names one, and is in no schema."""

    @tool
    def create(title: str, idempotency_key: str): ...

    spec = spec_of(create)

    assert list(spec.input_schema["properties"]) == ["title"]
    spec.check({"title": "t", "idempotency_key": "mine"})
    assert spec.bind(create, {"title": "t", "idempotency_key": "mine"}, "k")[1]["idempotency_key"] == "mine"
    assert spec.bind(lambda title: 0, {"title": "t", "idempotency_key": "mine"}, "k")[1] == {"title": "t"}
    with pytest.raises(BadInput):
        spec_of(fetch).check({"url": "u", "idempotency_key": "mine"})


# Schemas that somebody wrote


def test_a_schema_that_is_given_wins():
    """An explicit schema takes the place of what annotations say."""
    schema = {"type": "object", "properties": {"url": {"type": "string", "pattern": "^https:"}}}
    spec = ToolSpec(name="t", function=fetch, input_schema=schema, output_schema={"maxItems": 1})

    spec.check({"url": "https://x"})
    spec.check_result({"maxItems": "concern arrays"})
    with pytest.raises(BadInput, match=r"/url does not match the pattern \^https:"):
        spec.check({"url": "http://x"})
    with pytest.raises(BadOutput, match="the whole has more items than 1"):
        spec.check_result(["a", "b"])


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ("text", "a str, not a JSON object"),
        (True, "a bool, not a JSON object"),
        ({"type": "strng"}, "no JSON Schema 2020-12: at /type"),
        ({"properties": {"a": {"minimum": "0"}}}, "at /properties/a/minimum"),
        ({"properties": {"a": {"pattern": "("}}}, "at /properties/a/pattern"),
        ({"default": float("nan")}, "no JSON"),
        ({"default": b"x"}, "no JSON"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "written for 'http://json-schema.org/draft-07"),
        ({"properties": {"a": {"$schema": "http://json-schema.org/draft-04/schema#"}}}, "written for"),
        ({"$ref": "https://example.com/schema.json"}, "not whole: 'https://example.com/schema.json'"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "not whole: 'file:///etc/passwd'"),
        ({"$id": "https://example.com/a", "allOf": [{"$ref": "b"}]}, "not whole: 'b'"),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "not whole"),
        ({"$ref": "#/$defs/missing"}, "not whole: '#/\\$defs/missing'"),
        ({"$ref": "#nowhere"}, "not whole"),
        ({"$ref": "#/x", "x": {"$ref": "http://127.0.0.1:1/"}}, "not whole: 'http://127.0.0.1:1/'"),
        ({"$dynamicRef": "http://127.0.0.1:1/#x"}, "not whole"),
        ({"type": "array"}, "another type than object"),
        ({"$ref": "#"}, "endless"),
        ({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}}, "endless"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_meant_is_refused(schema, words):
    """A given schema must be JSON Schema 2020-12, whole in itself, and of an object where it is for arguments."""
    with pytest.raises(BadInput, match=words):
        ToolSpec(name="t", function=fetch, input_schema=schema)


def test_a_schema_may_refer_to_itself():
    """References by pointer, anchor and id are followed inside a schema; words that look like one are only words."""
    schema = {
        "$id": "https://example.com/root",
        "type": "object",
        "properties": {
            "url": {"$ref": "#/$defs/text"},
            "depth": {"$ref": "#number"},
            "token": {"$ref": "inner"},
            "$ref": {"type": "string"},
        },
        "$defs": {
            "text": {"type": "string", "examples": [{"$ref": "http://127.0.0.1:1/"}]},
            "n": {"$anchor": "number", "type": "integer"},
            "i": {"$id": "inner", "type": "string"},
        },
        "default": {"$ref": "http://127.0.0.1:1/"},
    }
    spec = ToolSpec(name="t", function=fetch, input_schema=schema)

    spec.check({"url": "u", "depth": 2, "token": "t"})
    with pytest.raises(BadInput, match=r"/url is an integer.*/depth is a string.*/token is null"):
        spec.check({"url": 1, "depth": "2", "token": None})


def test_a_remote_reference_opens_no_socket_and_no_file(python):
    """A schema that refers to elsewhere is refused, also below its judge, without a look at the network or a file.

    The library by itself would look, and the child sees that it does: what is held here is not given.
    """
    out = python.run(
        """
        import sys, warnings
        from agentledger import BadInput, ToolSpec
        from ledger_core.governance.fit import Fit
        from jsonschema import Draft202012Validator
        import encodings.idna

        warnings.simplefilter("ignore")
        seen = []
        def hook(event, arguments):
            if event.startswith(("socket.", "urllib.")) or (event == "open" and "passwd" in str(arguments[0])):
                seen.append(event)
        sys.addaudithook(hook)

        urls = ["http://127.0.0.1:9/x.json", "https://127.0.0.1:9/x", "file:///etc/passwd", "//127.0.0.1:9/x"]
        for url in urls:
            for schema in ({"$ref": url}, {"properties": {"a": {"$ref": url}}}, {"$dynamicRef": url}, {"$id": url},
                           {"$schema": url}, {"$id": "http://127.0.0.1:9/y", "$ref": "x"}):
                for given in ({"input_schema": schema}, {"output_schema": schema}):
                    try:
                        ToolSpec(name="t", function=print, **given)
                        assert schema == {"$id": url}, schema
                    except BadInput:
                        pass
            fit = Fit({"type": "object", "properties": {"a": {"$ref": url}}})
            assert fit.violations({"a": 1})
            assert fit.violations({"a": 1})
        assert seen == [], seen
        for url in urls[:1]:
            try:
                Draft202012Validator({"$ref": url}).is_valid(1)
            except Exception:
                pass
        print(*sorted(set(seen)))
        """
    )
    assert "socket.connect" in out
