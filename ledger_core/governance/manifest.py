"""Tools as others read them: AgentLedger's own rows, OpenAI's function tools, the Model Context Protocol's tools.

Rules: pure. Rows are the source, the other shapes are made of them, so that what is declared as data (`conventions`)
has all three. Tools are in the order of their names, and the same tools give the same manifest. A tool whose
parameters are not annotated shows their names. A sandbox's environment is shown by its names only: its values may be
secrets. An OpenAI name is the tool's with `__` for every dot; the way back is by looking among the tools, and two that
would get one name are refused. This file calls no tools.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, cast, get_args

import attrs

from ledger_core.errors import BadInput
from ledger_core.governance.schema import parameters_of
from ledger_core.governance.tool import ToolSpec

Shape = Literal["agentledger", "openai", "mcp"]
Declared = ToolSpec | Mapping[str, Any]
"""A tool, or a row that describes one."""
SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)
_OPENAI: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_LONGEST: Final = 1024
"""Characters of a description that OpenAI takes."""
_STRICT: Final = frozenset(
    (
        *("$defs", "$ref", "anyOf", "const", "description", "enum", "title", "type"),
        *("additionalProperties", "items", "properties", "required"),
    )
)
"""Keywords that OpenAI's strict mode has always known; one that some models know does not make a schema strict."""
_UNSAID: Final = {
    "idempotency": "none",
    "approval_timeout": None,
    "timeout": None,
    "cost_bound": None,
    "verifiable": False,
    "compensable": False,
}
"""What a row has where nothing was said."""


def manifest(specs: Iterable[Declared], shape: Shape = "agentledger") -> list[dict[str, Any]]:
    """The tools in one of `SHAPES`, by name; `mcp` is the `tools` of a tools/list result.

    Raises `BadInput` where two tools differ under one name, or a name cannot be had.
    """
    if shape not in SHAPES:
        raise BadInput(f"There is no manifest of the shape {shape!r:.50}.", hint=f"Shapes are: {', '.join(SHAPES)}.")
    rows: dict[str, dict[str, Any]] = {}
    for one in map(row, specs):
        if rows.setdefault(one["name"], one) != one:
            raise BadInput(f"Two tools have the name {one['name']}, and differ.", hint="Give one another name.")
    ordered = [rows[name] for name in sorted(rows)]
    if shape == "openai":
        _openai_names(ordered)
    made: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"openai": _openai, "mcp": _mcp}
    return [made[shape](one) for one in ordered] if shape in made else ordered


def row(declared: Declared) -> dict[str, Any]:
    """A tool as AgentLedger's contract has it; a row is copied."""
    if not isinstance(declared, ToolSpec):
        return copy.deepcopy({**declared, **{name: declared.get(name, unsaid) for name, unsaid in _UNSAID.items()}})
    executor, policy = _sandbox(declared.sandbox)
    found: dict[str, Any] = {
        "name": declared.name,
        "version": declared.version,
        "description": declared.description,
        "input_schema": _schema_or_names(declared),
        "output_schema": declared.output_schema,
        "side_effect": declared.side_effect,
        "risk_level": declared.risk_level,
        "idempotency": declared.idempotency,
        "idempotency_required": declared.side_effect != "none",  # who reaches outside is called under a key, always
        "approval_required": declared.approval_required,
        "approval_timeout": declared.approval_timeout,
        "sandbox_required": declared.sandbox_required,
        "sandbox_executor": executor,
        "sandbox_policy": policy,
        "timeout": declared.timeout,
        "cost_bound": declared.cost_bound,
        "verifiable": declared.verify is not None,
        "compensable": declared.compensate is not None,
    }
    return copy.deepcopy(found)


def _schema_or_names(spec: ToolSpec) -> Any:
    schema = spec.input_schema
    return parameters_of(spec.function) if schema is None else schema


def openai_name(name: str) -> str:
    """A tool's name as OpenAI allows it: `__` for every dot. Raises `BadInput` where that does not do."""
    found = name.replace(".", "__")
    if not _OPENAI.fullmatch(found):
        raise BadInput(
            f"The tool {name!r} cannot have a name with OpenAI.",
            hint="Use 1 to 64 ASCII letters, digits, - and _; a dot counts twice, as __.",
        )
    return found


def tool_name(openai_name: str, specs: Iterable[Declared]) -> str:
    """The tool that an OpenAI name means: the way back of `openai_name`. Raises `BadInput` if it is none of these."""
    known = _openai_names([row(one) for one in specs])
    if openai_name not in known:
        raise BadInput(
            f"There is no tool {openai_name!r:.100}.", hint=f"Known are: {', '.join(sorted(known)) or 'none'}."
        )
    return known[openai_name]


def _openai_names(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Tools by their OpenAI names; raises `BadInput` where two would get the same."""
    known: dict[str, str] = {}
    for one in rows:
        name = openai_name(one["name"])
        if known.setdefault(name, one["name"]) != one["name"]:
            raise BadInput(
                f"The tools {known[name]} and {one['name']} would both be {name} with OpenAI.",
                hint="Give one another name.",
            )
    return known


def _openai(one: dict[str, Any]) -> dict[str, Any]:
    parameters = one["input_schema"]
    function: dict[str, Any] = {
        "name": openai_name(one["name"]),
        "description": _cut(one["description"]),
        "parameters": {"type": "object", **_spelled(parameters)},
    }
    if _is_strict(parameters) and parameters.get("type") == "object":
        function["strict"] = True
    return {"type": "function", "function": function}


def _mcp(one: dict[str, Any]) -> dict[str, Any]:
    writes, reaches = one["side_effect"] == "external_write", one["side_effect"] != "none"
    found = {
        "name": one["name"],
        "description": one["description"],
        "inputSchema": {**_spelled(one["input_schema"]), "type": "object"},
    }
    output = one["output_schema"]
    if output is not None and output.get("type") == "object":  # the protocol has structured results of this kind only
        found["outputSchema"] = _spelled(output)
    found["annotations"] = {
        "readOnlyHint": not writes,
        "destructiveHint": writes,  # nobody has declared that it only adds
        "idempotentHint": not writes or one.get("idempotency") == "natural",
        "openWorldHint": reaches,
    }
    return found


def _spelled(schema: Any) -> Any:
    """A schema with `{}` for members that are `true`: both systems want an object for each."""
    if not isinstance(schema, Mapping):
        return schema
    named = {
        keyword: {name: {} if one is True else _spelled(one) for name, one in schema[keyword].items()}
        for keyword in ("properties", "$defs")
        if isinstance(schema.get(keyword), Mapping)
    }
    return {**schema, **named}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes a schema as it is: closed objects, all members required, known keywords."""
    if not isinstance(schema, Mapping) or not schema.keys() <= _STRICT or not schema.keys() & {"type", "anyOf", "$ref"}:
        return False
    if "$ref" in schema and len(schema) > 1:  # strict mode takes a reference only where it stands alone
        return False
    kinds = schema.get("type")
    if kinds == "object" or (isinstance(kinds, list) and "object" in kinds):
        properties = schema.get("properties")
        if schema.get("additionalProperties") is not False or not isinstance(properties, Mapping):
            return False
        if properties.keys() != set(schema.get("required", ())):
            return False
    if kinds == "array" and "items" not in schema:
        return False
    below = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    return all(map(_is_strict, [*below, schema["items"]] if "items" in schema else below))


def _sandbox(given: Any) -> tuple[str | None, dict[str, Any]]:
    """A sandbox's executor and its rules as plain data, whatever says them."""
    if given is None:
        return None, {}
    if isinstance(given, Mapping):
        rules = dict(given)
    elif callable(getattr(given, "as_json", None)):
        rules = dict(given.as_json())
    else:
        rules = attrs.asdict(given, retain_collection_types=False) if attrs.has(type(given)) else {}
    if isinstance(rules.get("environment"), Mapping):
        rules["environment"] = sorted(rules["environment"])
    return cast("str | None", rules.pop("executor", None)), rules
