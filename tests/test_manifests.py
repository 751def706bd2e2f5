"""Tools as other systems read them: AgentLedger's rows, OpenAI's functions, the Model Context Protocol's tools."""

from __future__ import annotations

import json
import random
from typing import Any, Literal, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agentledger import BadInput, ToolSpec, tool
from ledger_core.governance.conventions import MEDIA_TOOLS, media_tool
from ledger_core.governance.manifest import SHAPES, manifest, openai_name, tool_name
from ledger_core.governance.tool import BadOutput, spec_of

SECRET = "hunter2-zwölf"


class Item(TypedDict):
    name: str
    parent: Item | None


@tool(
    name="issues.create",
    version="3",
    side_effect="external_write",
    risk_level="high",
    idempotency="key",
    approval_required=True,
    approval_timeout=60,
    sandbox_required=True,
    sandbox={"executor": "bubblewrap", "time": 2, "environment": {"TOKEN": SECRET}},
    timeout=5,
    cost=0.25,
    verify=lambda title: title,
)
def create(title: str, idempotency_key: str, body: str = "") -> dict[str, int]:
    """Create an issue.

    Args:
        title: What it says.
    """
    return {}


@tool(side_effect="external_read")
def look(words: list[str], kind: Literal["open", "all"], item: Item) -> list[str]:
    """Look for issues."""
    return words


def loose(a, b=2): ...


TOOLS = [spec_of(one) for one in (look, loose, create)]


def test_agentledgers_rows_have_the_contracts_fields():
    """A row says all that the runtime holds a tool to, by name; of a sandbox's environment, the names only."""
    rows = manifest(TOOLS)

    assert [one["name"] for one in rows] == ["issues.create", "look", "loose"]
    assert rows[0] == {
        "name": "issues.create",
        "version": "3",
        "description": "Create an issue.",
        "input_schema": {
            "type": "object",
            "properties": {
                "title": {"type": "string", "description": "What it says."},
                "body": {"type": "string", "default": ""},
            },
            "required": ["title"],
            "additionalProperties": False,
        },
        "output_schema": {"type": "object", "additionalProperties": {"type": "integer"}},
        "side_effect": "external_write",
        "risk_level": "high",
        "idempotency": "key",
        "idempotency_required": True,
        "approval_required": True,
        "approval_timeout": 60,
        "sandbox_required": True,
        "sandbox_executor": "bubblewrap",
        "sandbox_policy": {"time": 2, "environment": ["TOKEN"]},
        "timeout": 5,
        "cost_bound": 0.25,
        "verifiable": True,
        "compensable": False,
    }
    assert rows[2]["input_schema"]["properties"] == {"a": True, "b": {"default": 2}}
    assert SECRET not in json.dumps([manifest(TOOLS, shape) for shape in SHAPES], ensure_ascii=False)


def test_sandboxes_of_every_kind_are_shown():
    """A sandbox may be a mapping or an object that says itself as JSON; what cannot be read is shown as nothing."""

    class Policy:
        def as_json(self):
            return {"executor": None, "network": False, "environment": {"A": SECRET}}

    def row(sandbox):
        (one,) = manifest([ToolSpec(name="t", function=loose, sandbox=sandbox)])
        return one["sandbox_executor"], one["sandbox_policy"]

    assert row(Policy()) == (None, {"network": False, "environment": ["A"]})
    assert row(None) == row(object()) == (None, {})


def test_openai_gets_functions():
    """OpenAI's shape has a name that it allows, a description, and parameters; strict where they are."""
    made = {one["function"]["name"]: one for one in manifest(TOOLS, "openai")}

    assert list(made) == ["issues__create", "look", "loose"]
    assert all(one["type"] == "function" for one in made.values())
    assert made["issues__create"]["function"] == {
        "name": "issues__create",
        "description": "Create an issue.",
        "parameters": manifest(TOOLS)[0]["input_schema"],
    }
    assert made["look"]["function"]["strict"] is True
    assert made["loose"]["function"]["parameters"]["properties"] == {"a": {}, "b": {"default": 2}}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}, False),
        ({"properties": {}, "additionalProperties": False}, False),
        ({"type": "object"}, False),
        ({"type": "object", "properties": {}, "additionalProperties": False, "minProperties": 0}, False),
    ],
)
def test_strict_is_said_only_of_what_is(schema, strict):
    """A schema is called strict if every object is closed, every member required, and every keyword known there."""
    (one,) = manifest([ToolSpec(name="t", function=loose, input_schema=schema)], "openai")

    assert ("strict" in one["function"]) is strict


@pytest.mark.parametrize(
    ("part", "strict"),
    [
        ({"type": "string", "enum": ["a"]}, True),
        ({"type": ["string", "null"]}, True),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/d"}]}, True),
        ({"$ref": "#/$defs/d"}, True),
        ({"$ref": "#/$defs/d", "description": "d"}, False),
        ({"type": "array", "items": {"type": "integer"}}, True),
        ({"type": "array"}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"type": "string", "pattern": "a"}, False),
        ({"type": "string", "default": "a"}, False),
        ({"oneOf": [{"type": "string"}]}, False),
        ({}, False),
        (True, False),
    ],
)
def test_strictness_goes_all_the_way_down(part, strict):
    """One member that strict mode does not take makes the whole schema one that is not strict."""
    schema = {
        "type": "object",
        "properties": {"a": part},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"d": {"type": "integer"}},
    }
    (one,) = manifest([ToolSpec(name="t", function=loose, input_schema=schema)], "openai")

    assert ("strict" in one["function"]) is strict


def test_a_description_is_as_long_as_openai_takes():
    """A description above 1,024 characters is cut, and says so."""
    (one,) = manifest([ToolSpec(name="t", function=loose, description="x" * 5000)], "openai")

    assert one["function"]["description"] == "x" * 1023 + "…"


def test_mcp_gets_tools():
    """The protocol's shape has object schemas, and hints that claim no more than was declared."""
    made = {one["name"]: one for one in manifest(TOOLS, "mcp")}

    assert made["issues.create"] == {
        "name": "issues.create",
        "description": "Create an issue.",
        "inputSchema": manifest(TOOLS)[0]["input_schema"],
        "outputSchema": {"type": "object", "additionalProperties": {"type": "integer"}},
        "annotations": {
            "readOnlyHint": False,
            "destructiveHint": True,
            "idempotentHint": False,
            "openWorldHint": True,
        },
    }
    assert "outputSchema" not in made["look"]
    assert made["look"]["annotations"]["readOnlyHint"]
    assert not made["loose"]["annotations"]["openWorldHint"]
    natural = ToolSpec(name="t", function=loose, side_effect="external_write", idempotency="natural", input_schema={})
    (one,) = manifest([natural], "mcp")
    assert one["annotations"]["idempotentHint"]
    assert one["inputSchema"] == {"type": "object"}


def test_a_manifest_is_the_same_for_the_same_tools():
    """Order of declaration and repeats change nothing, and what was handed out can be changed without harm."""
    for shape in SHAPES:
        wanted = json.dumps(manifest(TOOLS, shape))
        for seed in range(5):
            mixed = [*TOOLS, *TOOLS]
            random.Random(seed).shuffle(mixed)
            assert json.dumps(manifest(mixed, shape)) == wanted
        for one in manifest(TOOLS, shape):
            (one.get("input_schema") or one.get("inputSchema") or one["function"]["parameters"]).clear()
        assert json.dumps(manifest(TOOLS, shape)) == wanted


def test_two_tools_of_one_name_are_refused():
    """The same name for different tools has no manifest; nor has a shape that nobody knows."""
    with pytest.raises(BadInput, match="Two tools have the name look"):
        manifest([*TOOLS, ToolSpec(name="look", function=loose)])
    with pytest.raises(BadInput, match="no manifest of the shape 'yaml'"):
        manifest(TOOLS, "yaml")


def test_names_go_to_openai_and_come_back():
    """A dot becomes two underscores; the way back is by the tools there are, and a clash is refused both ways."""
    assert tool_name("issues__create", TOOLS) == "issues.create"
    assert tool_name("look", TOOLS) == "look"
    with pytest.raises(BadInput, match="no tool 'issues.create'"):
        tool_name("issues.create", TOOLS)
    clash = [ToolSpec(name=name, function=loose) for name in ("a.b", "a__b")]
    with pytest.raises(BadInput, match="a.b and a__b would both be a__b"):
        manifest(clash, "openai")
    with pytest.raises(BadInput, match="would both be"):
        tool_name("a__b", clash)
    for name in ("zwölf", "a b", "a" * 65, "a." * 30):
        with pytest.raises(BadInput, match="cannot have a name with OpenAI"):
            openai_name(name)


@given(st.sets(st.from_regex(r"[a-z._-]{1,12}", fullmatch=True), min_size=1, max_size=8))
def test_every_name_that_openai_gets_leads_back_to_its_tool(names):
    """For any set of tools, names go there and back without loss, or the set is refused."""
    specs = [ToolSpec(name=name, function=loose) for name in names]
    try:
        made = [one["function"]["name"] for one in manifest(specs, "openai")]
    except BadInput:
        assert len({name.replace(".", "__") for name in names}) < len(names)
        return

    assert [tool_name(name, specs) for name in made] == sorted(names)


# Conventions

TEXT: dict[str, Any] = {"type": "string"}
REF: dict[str, Any] = {"type": "string", "minLength": 1}
THING: dict[str, Any] = {"type": "object"}
THINGS: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
PLACE: dict[str, Any] = {"type": ["integer", "string"]}
CONTRACT: dict[str, tuple[str, str, dict[str, Any], list[str], dict[str, Any], list[str]]] = {
    "audio.transcribe": (
        "Transcribe an audio artifact ref and return transcript artifact refs.",
        "external_read",
        {"language": TEXT, "mime_type": TEXT, "options": THING, "source_ref": REF},
        ["source_ref"],
        {"artifact_id": TEXT, "language": TEXT, "metadata": THING, "segments": THINGS, "transcript_ref": REF},
        ["transcript_ref"],
    ),
    "video.extract_frames": (
        "Extract frame artifact refs from a video artifact ref.",
        "external_read",
        {
            "interval_seconds": {"type": "number", "minimum": 0},
            "max_frames": {"type": "integer", "minimum": 1},
            "options": THING,
            "source_ref": REF,
        },
        ["source_ref"],
        {"frame_refs": THINGS, "metadata": THING, "timeline_ref": TEXT},
        ["frame_refs"],
    ),
    "frame.describe": (
        "Describe a frame artifact ref and return a derived text artifact ref.",
        "external_read",
        {"frame_ref": REF, "options": THING, "prompt": TEXT},
        ["frame_ref"],
        {"artifact_id": TEXT, "description": TEXT, "description_ref": TEXT, "metadata": THING},
        ["description"],
    ),
    "video.summarize": (
        "Summarize video, frame, transcript, or segment artifact refs.",
        "external_read",
        {"options": THING, "prompt": TEXT, "source_refs": {"type": "array", "items": TEXT, "minItems": 1}},
        ["source_refs"],
        {"metadata": THING, "summary": TEXT, "summary_ref": TEXT},
        ["summary"],
    ),
    "stream.consume": (
        "Consume a stream chunk and return a durable checkpoint or partial result refs.",
        "external_read",
        {
            "consumer_id": REF,
            "max_chunks": {"type": "integer", "minimum": 1},
            "offset": PLACE,
            "stream_id": REF,
        },
        ["stream_id", "consumer_id", "offset"],
        {"checkpoint": THING, "chunks": THINGS, "partial_result_ref": TEXT},
        ["checkpoint"],
    ),
    "stream.emit": (
        "Emit a stream event or derived chunk through a managed adapter.",
        "external_write",
        {"partition_key": TEXT, "payload_ref": REF, "stream_id": REF},
        ["stream_id", "payload_ref"],
        {"external_id": TEXT, "metadata": THING, "offset": PLACE},
        ["external_id"],
    ),
}
"""What the published contract says of each media tool, copied from it by hand."""


def test_conventions_are_the_contracts():
    """Every field of the six media tools is what the runtime contract says."""
    assert list(MEDIA_TOOLS) == list(CONTRACT)
    for name, (description, side_effect, arguments, required, result, returned) in CONTRACT.items():
        assert MEDIA_TOOLS[name] == {
            "name": name,
            "version": "v1",
            "description": description,
            "side_effect": side_effect,
            "risk_level": "medium",
            "idempotency_required": True,
            "approval_required": False,
            "sandbox_required": False,
            "sandbox_executor": None,
            "sandbox_policy": {},
            "input_schema": {
                "type": "object",
                "properties": {**arguments, "_logical_operation": TEXT},
                "required": required,
                "additionalProperties": False,
            },
            "output_schema": {
                "type": "object",
                "properties": result,
                "required": returned,
                "additionalProperties": False,
            },
        }


def test_a_media_tool_keeps_its_convention():
    """A function becomes the tool of a convention: its schemas hold, and the runtime's own word is not passed on."""

    def transcribe(source_ref, language="en", idempotency_key=None):
        return {"transcript_ref": source_ref + ".txt", "language": language}

    spec = media_tool("audio.transcribe", transcribe, timeout=30, risk_level="high")
    arguments = {"source_ref": "blob:1", "_logical_operation": "once"}

    assert (spec.name, spec.version, spec.timeout, spec.risk_level) == ("audio.transcribe", "v1", 30, "high")
    assert spec.description == MEDIA_TOOLS["audio.transcribe"]["description"]
    spec.check(arguments)
    positional, keywords = spec.bind(spec.function, arguments, "k")
    assert keywords == {"source_ref": "blob:1", "idempotency_key": "k"}
    spec.check_result(spec.function(*positional, **keywords))
    for wrong in ({"source_ref": ""}, {"source_ref": "b", "_logical_operation": 1}, {"source_ref": "b", "more": 1}):
        with pytest.raises(BadInput):
            spec.check(wrong)
    with pytest.raises(BadOutput, match="lacks 'transcript_ref'"):
        spec.check_result({})


def test_the_runtimes_word_is_refused_where_no_schema_declares_it():
    """`_logical_operation` is let through to nobody who has not declared it: nothing is deduplicated by mistake."""
    with pytest.raises(BadInput):
        spec_of(create).check({"title": "t", "_logical_operation": "once"})

    def whole(payload: dict): ...
    def named(source_ref, _logical_operation): ...

    assert spec_of(whole).bind(whole, {"_logical_operation": "o"}, "k")[0] == ({"_logical_operation": "o"},)
    spec = media_tool("audio.transcribe", named)
    assert spec.bind(named, {"source_ref": "b", "_logical_operation": "o"}, "k")[1]["_logical_operation"] == "o"


def test_every_convention_makes_a_tool_and_a_manifest():
    """All six can be declared; as data and as tools they have the same manifest in every shape."""
    specs = [media_tool(name, lambda **arguments: {}) for name in MEDIA_TOOLS]

    for shape in SHAPES:
        assert manifest(specs, shape) == manifest(MEDIA_TOOLS.values(), shape)
    for one in manifest(MEDIA_TOOLS.values()):
        Draft202012Validator.check_schema(one["input_schema"])
        Draft202012Validator.check_schema(one["output_schema"])


def test_a_convention_that_is_none_is_refused():
    """A name that is no convention, and a field that no tool has, are refused with what there is."""
    with pytest.raises(BadInput, match=r"no convention 'audio\.play'"):
        media_tool("audio.play", loose)
    with pytest.raises(BadInput, match="colour cannot be overridden"):
        media_tool("audio.transcribe", loose, colour="red")


# The command

AGENTS = """
from agentledger import agent, tool

@tool(name="issues.create", side_effect="external_write", risk_level="high", approval_required=True)
def create(title: str, body: str = "") -> dict:
    "Create an issue."

@tool
def look(words: str) -> list[str]:
    "Look for \\x1b[31missues."

@agent(name="Triage", tools=[create])
def triage(ctx): ...

@agent
def bare(ctx): ...
"""
COMMAND = """
    import sys
    from cli.commands import tools
    from cli.main import cli, main
    cli.add_command(tools.tools)
    main(["tools", "manifest", *sys.argv[1:]])
    """


@pytest.fixture
def listed(python, tmp_path, monkeypatch):
    """`tools manifest` in a process of its own, in a directory with agents: code, data and words."""
    (tmp_path / "agents.py").write_text(AGENTS)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        child = python.start(COMMAND, *arguments)
        out, err = child.communicate(timeout=60)
        return child.returncode, out, err

    return run


def test_the_command_shows_a_person_one_line_a_tool(listed, tmp_path):
    """Without a format there is a table on stdout, and on stderr where the schemas are; no ledger is made."""
    code, out, err = listed("agents.py")

    assert code == 0
    heading, first, second = out.splitlines()
    assert heading.split()[:4] == ["tool", "version", "effect", "risk"]
    assert first.split()[:5] == ["issues.create", "1", "writes", "high", "required"]
    assert "\x1b" not in second
    assert "2 tools" in err
    assert "--format agentledger | openai | mcp" in err
    assert listed("agents.py", "--root", "ledger")[0] == 0
    assert not [path.name for path in tmp_path.iterdir() if path.name not in ("agents.py", "__pycache__")]


def test_the_command_finds_agents_and_tools_by_name(listed):
    """A target is a file or module, whole, or with the name of an agent or of a tool in it; several are joined."""

    def names(*targets):
        code, out, err = listed(*targets, "--json")
        assert code == 0, err
        return [one["name"] for one in json.loads(out)["tools"]]

    assert names("agents.py") == names("agents") == ["issues.create", "look"]
    assert names("agents:triage") == names("agents.py:Triage") == names("agents:create") == ["issues.create"]
    assert names("agents:issues.create", "agents.py:look", "agents.py") == ["issues.create", "look"]
    assert names("agents.py:bare") == []
    assert len(names("--conventions")) == 6
    assert len(names("agents.py", "--conventions")) == 8


def test_the_command_prints_what_other_systems_read(listed):
    """`--format` prints the document itself; `--json` one object with it, on one line."""
    code, out, _ = listed("agents.py", "--format", "openai")
    openai = json.loads(out)
    assert code == 0
    assert [one["function"]["name"] for one in openai] == ["issues__create", "look"]
    assert json.loads(listed("agents.py", "--format", "mcp")[1])["tools"][0]["name"] == "issues.create"
    assert json.loads(listed("agents.py", "--format", "agentledger")[1])[0]["risk_level"] == "high"
    out = listed("agents.py", "--format", "openai", "--json")[1]
    assert json.loads(out) == {"format": "openai", "tools": openai}
    assert out.count("\n") == 1


def test_the_command_says_what_there_is(listed):
    """What cannot be found is one sentence with what there is; no target at all is a matter of usage."""
    code, out, err = listed("agents.py:nobody")
    assert (code, out) == (1, "")
    assert "agents.py has no tool or agent 'nobody'" in err
    assert "bare, create, look, triage" in err
    assert listed()[0] == 2
    assert listed("nowhere.py")[0] == 1
    code, out, _ = listed("nowhere", "--json")
    assert (code, json.loads(out)["error"]) == (1, "BadInput")
