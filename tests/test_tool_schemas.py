"""What tools say of their arguments and results: schemas of functions, read from annotations and docstrings."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from typing import Annotated, Any, NamedTuple, NewType, NotRequired, Required, TypedDict, TypeVar, Unpack

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger import BadInput, tool
from ledger_core.governance import docstring
from ledger_core.governance.fit import declared
from ledger_core.governance.schema import input_schema_of, output_schema_of, parameters_of
from ledger_core.governance.tool import BadOutput, spec_of


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Raw(enum.Enum):
    BYTES = b"x"


class Level(enum.IntEnum):
    LOW = 1


class Address(TypedDict):
    """Where somebody lives.

    Attributes:
        zip: Digits only.
    """

    zip: str
    street: NotRequired[str]


class Loose(TypedDict, total=False):
    a: Required[int]
    b: Annotated[NotRequired[str], "bee"]


class Tree(TypedDict):
    name: str
    children: list[Tree]


@dataclasses.dataclass
class Point:
    x: int
    y: float = 1.5
    tags: list[str] = dataclasses.field(default_factory=list)
    hidden: int = dataclasses.field(init=False, default=0)
    start: dataclasses.InitVar[int] = 3


@attrs.frozen
class Order:
    _id: int
    lines: list[Point] = attrs.Factory(list)


class Pair(NamedTuple):
    a: int
    b: str


Cents = NewType("Cents", int)
T = TypeVar("T")
B = TypeVar("B", bound=str)


class Unhashable:
    __hash__ = None


SPACE: dict[str, Any] = {**globals()}
exec(
    "import datetime as dt, uuid\n"
    "from collections.abc import Callable, Mapping, Sequence\n"
    "from typing import ForwardRef, Literal, Optional, Union\n"
    "def function(value): ...\n",
    SPACE,
)

KINDS: list[tuple[str, Any]] = [
    ("str", {"type": "string"}),
    ("int", {"type": "integer"}),
    ("float", {"type": "number"}),
    ("bool", {"type": "boolean"}),
    ("None", {"type": "null"}),
    ("bytes", True),
    ("Any", True),
    ("object", True),
    ("Callable[[int], str]", True),
    ("list", {"type": "array"}),
    ("list[int]", {"type": "array", "items": {"type": "integer"}}),
    ("list[bytes]", {"type": "array"}),
    ("Sequence[str]", {"type": "array", "items": {"type": "string"}}),
    ("tuple[int, ...]", {"type": "array", "items": {"type": "integer"}}),
    (
        "tuple[int, str]",
        {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
            "minItems": 2,
            "maxItems": 2,
        },
    ),
    ("set[str]", {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
    ("frozenset", {"type": "array", "uniqueItems": True}),
    ("dict", {"type": "object"}),
    ("dict[str, int]", {"type": "object", "additionalProperties": {"type": "integer"}}),
    ("Mapping[str, Any]", {"type": "object"}),
    (
        "dict[Literal['a', 'b'], int]",
        {
            "type": "object",
            "propertyNames": {"type": "string", "enum": ["a", "b"]},
            "additionalProperties": {"type": "integer"},
        },
    ),
    ("Literal['a', 1, None]", {"type": ["string", "integer", "null"], "enum": ["a", 1, None]}),
    ("Colour", {"type": "string", "enum": ["red", "blue"]}),
    ("Level", {"type": "integer", "enum": [1]}),
    ("Raw", True),
    ("Optional[int]", {"type": ["integer", "null"]}),
    ("int | None", {"type": ["integer", "null"]}),
    ("Union[int, float]", {"type": "number"}),
    ("int | Any", True),
    ("str | bytes", True),
    ("list[int] | None", {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}),
    ("Annotated[int, 'how many']", {"type": "integer", "description": "how many"}),
    ("Annotated[int, {'minimum': 1}]", {"type": "integer", "minimum": 1}),
    ("Annotated[str, {'pattern': '^a'}, 'text']", {"type": "string", "pattern": "^a", "description": "text"}),
    ("dt.datetime", {"type": "string", "format": "date-time"}),
    ("dt.date", {"type": "string", "format": "date"}),
    ("uuid.UUID", {"type": "string", "format": "uuid"}),
    ("Cents", {"type": "integer"}),
    ("T", True),
    ("B", {"type": "string"}),
    ("ForwardRef('int')", {"type": "integer"}),
    ("NotThere", True),
    ("not an annotation (", True),
    ("5", True),
    ("[1]", True),
    ("Unhashable()", True),
    (
        "Pair",
        {
            "type": "array",
            "prefixItems": [{"type": "integer"}, {"type": "string"}],
            "minItems": 2,
            "maxItems": 2,
        },
    ),
]


def meant(annotation):
    """What an annotation's text means, if it means something."""
    try:
        return eval(annotation, SPACE)
    except (NameError, SyntaxError):
        return annotation


@pytest.mark.parametrize(("annotation", "wanted"), KINDS, ids=[kind for kind, _ in KINDS])
def test_an_annotation_becomes_a_schema(annotation, wanted):
    """Every kind of annotation has its schema, as text and as what the text means; what has no JSON form has none."""
    function = SPACE["function"]
    whole = {"type": "object", "properties": {"value": wanted}, "required": ["value"], "additionalProperties": False}
    for form in (annotation, meant(annotation)):
        function.__annotations__ = {"value": form, "return": form}

        assert input_schema_of(function) == (wanted if annotation.startswith("dict") else whole)
        assert output_schema_of(function) == (None if wanted in (True, {"type": "null"}) else wanted)


def test_classes_are_objects_of_their_members():
    """TypedDicts, dataclasses and attrs classes give their members, types, defaults, words, and what must be there."""

    def function(address: Address, loose: Loose, point: Point, order: Order): ...

    schema = input_schema_of(function)

    assert schema["properties"]["address"] == {"$ref": "#/$defs/Address"}
    assert schema["$defs"] == {
        "Address": {
            "type": "object",
            "properties": {"zip": {"type": "string", "description": "Digits only."}, "street": {"type": "string"}},
            "required": ["zip"],
            "additionalProperties": False,
        },
        "Loose": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "string", "description": "bee"}},
            "required": ["a"],
            "additionalProperties": False,
        },
        "Point": {
            "type": "object",
            "properties": {
                "x": {"type": "integer"},
                "y": {"type": "number", "default": 1.5},
                "tags": {"type": "array", "items": {"type": "string"}},
                "start": {"type": "integer", "default": 3},
            },
            "required": ["x"],
            "additionalProperties": False,
        },
        "Order": {
            "type": "object",
            "properties": {"id": {"type": "integer"}, "lines": {"type": "array", "items": {"$ref": "#/$defs/Point"}}},
            "required": ["id"],
            "additionalProperties": False,
        },
    }


def test_what_comes_out_may_have_more_members_than_are_declared():
    """A result's object is open, and stands at the schema's root; an argument's is closed."""

    @tool
    def lookup(address: Address) -> Address:
        return {"zip": "1"}

    spec = spec_of(lookup)

    assert spec.output_schema["type"] == "object"
    assert "additionalProperties" not in spec.output_schema
    spec.check_result({"zip": "1", "more": 2})
    with pytest.raises(BadInput, match=r"/address has 'more', which is not declared"):
        spec.check({"address": {"zip": "1", "more": 2}})


def test_classes_of_one_name_are_kept_apart():
    """Two classes with the same name have two definitions."""

    def make(kind):
        return dataclasses.make_dataclass("Same", [("value", kind)])

    def function(a, b): ...

    function.__annotations__ = {"a": make(int), "b": make(str)}
    schema = input_schema_of(function)

    assert schema["$defs"]["Same"]["properties"]["value"] == {"type": "integer"}
    assert schema["$defs"]["Same_2"]["properties"]["value"] == {"type": "string"}
    assert schema["properties"]["b"] == {"$ref": "#/$defs/Same_2"}


def test_what_names_itself_is_judged_all_the_way_down():
    """A recursive type has a finite schema, and its fault is found fifty levels deep."""

    @tool
    def plant(tree: Tree) -> Tree: ...

    def tree(depth, leaf):
        return {"name": "n", "children": [tree(depth - 1, leaf)] if depth else leaf}

    spec = spec_of(plant)
    spec.check({"tree": tree(50, [])})
    spec.check_result(tree(50, []))
    with pytest.raises(BadInput, match=r"is an integer, not an array"):
        spec.check({"tree": tree(20, 7)})
    with pytest.raises(BadOutput, match=r"/children/0/children is an integer, not an array"):
        spec.check_result(tree(1, 7))


GOOGLE = """Create an issue.

    Nobody is told.

    Args:
        title (str, optional): What it says: in
            one line.
        body: Text.
        **more: Anything.

    Returns:
        dict: The issue.
    """
NUMPY = """Create an issue.

    Nobody is told.

    Parameters
    ----------
    title : str
        What it says: in
        one line.
    body
        Text.
    **more : Any
        Anything.

    Returns
    -------
    dict
        The issue.
    """
SPHINX = """Create an issue.

    Nobody is told.

    :param str title: What it says: in
        one line.
    :type title: str
    :param body: Text.
    :keyword more: Anything.
    :returns: The issue.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_a_docstring_describes_parameters(text):
    """The three ways of writing a docstring say the same of parameters, and leave the prose to the tool."""

    def create(title: str, body: Annotated[str, "What annotations say wins."] = ""): ...

    create.__doc__ = text
    spec = spec_of(tool(create))

    properties = spec.input_schema["properties"]
    assert properties["title"] == {"type": "string", "description": "What it says: in one line."}
    assert properties["body"] == {"type": "string", "description": "What annotations say wins.", "default": ""}
    assert docstring.read(text).parameters["more"] == "Anything."
    assert spec.description.startswith("Create an issue.\n\nNobody is told.\n\n")
    assert "The issue." in spec.description
    assert "one line" not in spec.description


@given(st.text(alphabet=st.sampled_from("ab :\n\t*-()Args:Parameters\n----:param x:"), max_size=300))
def test_any_docstring_can_be_read(text):
    """No docstring is too strange to be read."""
    found = docstring.read(text)

    assert all("\n" not in words for words in found.parameters.values())


def test_without_annotations_only_the_call_is_checked():
    """A function that says nothing of types has no schema; its parameters' names are known all the same."""

    def function(title, body="x", *, idempotency_key): ...

    assert input_schema_of(function) is None
    assert output_schema_of(function) is None
    assert parameters_of(function) == {
        "type": "object",
        "properties": {"title": True, "body": {"default": "x"}},
        "required": ["title"],
        "additionalProperties": False,
    }
    spec = spec_of(function)
    spec.check({"title": object})
    with pytest.raises(BadInput, match="missing a required argument: 'title'"):
        spec.check({})


def test_arguments_that_come_whole_are_an_object():
    """A tool that takes one dict says object, and what its values are if it is known."""

    def plain(payload: dict): ...
    def bare(payload): ...
    def typed(payload: dict[str, int], idempotency_key: str): ...

    assert input_schema_of(plain) == input_schema_of(bare) == {"type": "object"}
    spec_of(plain).check({"anything": [1]})
    spec_of(typed).check({"a": 1})
    with pytest.raises(BadInput, match="/a is a string, not an integer"):
        spec_of(typed).check({"a": "1"})


def test_keywords_open_the_object():
    """`**more` allows other members, of its own type or of a TypedDict's."""

    def some(x: int, **more: int): ...
    def known(x: int, **more: Unpack[Loose]): ...

    assert input_schema_of(some)["additionalProperties"] == {"type": "integer"}
    spec_of(some).check({"x": 1, "y": 2})
    with pytest.raises(BadInput, match="/y is a string"):
        spec_of(some).check({"x": 1, "y": "2"})
    assert input_schema_of(known)["required"] == ["x", "a"]
    with pytest.raises(BadInput, match="'c', which is not declared"):
        spec_of(known).check({"x": 1, "a": 1, "c": 2})


def test_defaults_are_shown_where_json_can_hold_them():
    """Plain defaults stand in the schema, an enum's by its value; a default of None is allowed as an argument."""

    def function(
        a: int = None,
        b: Point = None,
        c: Colour = Colour.RED,
        d: float = float("inf"),
        e: tuple = (1,),
        f: str = "x" * 1000,
        g: Any = None,
    ): ...

    properties = input_schema_of(function)["properties"]

    assert properties["a"] == {"type": ["integer", "null"], "default": None}
    assert properties["b"] == {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}], "default": None}
    assert properties["c"]["default"] == "red"
    assert not any("default" in properties[name] for name in "def")
    assert properties["g"] is True
    spec_of(function).check({"a": None, "b": None})


def test_names_are_resolved_when_they_are_needed():
    """An annotation may name a class that is defined below; one that never is leaves the others checked."""
    space: dict[str, Any] = {"tool": tool}
    exec(
        "from __future__ import annotations\n"
        "from typing import TypedDict\n"
        "@tool\n"
        "def place(order: Later, known: int, unknown: Missing): ...\n"
        "class Later(TypedDict):\n"
        "    id: int\n",
        space,
    )
    spec = spec_of(space["place"])

    with pytest.raises(BadInput, match="/known is a string, not an integer") as refused:
        spec.check({"order": {"id": 1}, "known": "1", "unknown": 2})
    assert "/unknown" not in str(refused.value)


@given(st.lists(st.sampled_from([meant(kind) for kind, _ in KINDS]), min_size=1, max_size=4))
def test_what_is_derived_is_always_a_schema(kinds):
    """Any mixture of annotations gives JSON Schema 2020-12 that is whole in itself, or none."""

    def function(*values): ...

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(f"p{n}", keyword, annotation=kind) for n, kind in enumerate(kinds)]
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": kinds[0]}
    for schema in (input_schema_of(function), parameters_of(function), output_schema_of(function)):
        assert schema is None or declared(schema) == schema
