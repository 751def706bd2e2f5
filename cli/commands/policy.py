"""Commands about policies: policy check."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cli.options import pass_settings
from cli.output import Settings, count, emit, harmless, say, short, table
from ledger_core.errors import BadInput
from ledger_core.governance.policy import DEFAULT, RISKS, VERDICTS, Asked, Decision, Policy, Trace, load_policy
from ledger_core.governance.policy_review import Note, review
from ledger_core.governance.policy_rule import SIDE_EFFECTS, Named
from ledger_core.governance.tool import ToolSpec
from ledger_core.ids import format_hash
from ledger_core.runtime import target as targets
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.governing import beside


@click.group()
def policy() -> None:
    """Policies: what agents may do."""


@policy.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--tool", "tool_name", metavar="NAME", help="What is decided of a call of this tool.")
@click.option(
    "--target", metavar="TARGET", help="What is decided of each tool of an agent: file.py[:agent] or module:agent."
)
@click.option("--agent", "agent_name", metavar="NAME", help="The agent that calls.  [default: any]")
@click.option("--role", metavar="NAME", help="The agent's role.")
@click.option("--session", metavar="ID", help="The session of the run.")
@click.option("--tool-version", metavar="TEXT", help="The tool's version.  [default: 1]")
@click.option("--risk", type=click.Choice(RISKS), help="The tool's risk level.  [default: low]")
@click.option("--side-effect", type=click.Choice(SIDE_EFFECTS), help="The tool's side effect.  [default: none]")
@click.option("--arguments", metavar="JSON", help="The arguments of the call, a JSON object.  [default: {}]")
@click.option("--expect", type=click.Choice(VERDICTS), help="Exit with 1 where the verdict is another.")
@click.option("--strict", is_flag=True, help="Exit with 1 for notes, such as a rule that can never decide.")
@pass_settings
def check(
    settings: Settings,
    file: Path | None,
    tool_name: str | None,
    target: str | None,
    expect: str | None,
    strict: bool,
    **call: Any,
) -> int:
    """Check a policy, and ask it what it decides.

    Without --tool or --target: whether FILE is a policy, what is in it, and what its author may not have meant. With
    --tool: the verdict, and why each rule did or did not match; exits with 1 for deny. With --target: the verdict for
    each tool as it is declared. Without FILE the policy that --policy names is asked, else the ledger's, else the
    built-in one.
    """
    if file is not None and settings.policy is not None:
        raise BadInput("FILE and --policy both name a policy.", hint="Leave one of them out.")
    named = file or settings.policy or beside(settings.root, "policy")
    path = None if named is None else Path(named)
    found = DEFAULT if path is None else load_policy(path)
    value = _described(found, path)
    if tool_name is None and target is None:
        _nothing_asked(call, expect)
        notes = review(found)
        rules = found.document.get("rules", [])
        value |= {"ok": not (strict and notes), "rules": rules, "notes": [_note(one) for one in notes]}
        emit(settings, value, lambda: _show(found, path, notes))
        return 1 if strict and notes else 0
    asked = _asked(None if target is None else targets.load(target), tool_name, call)
    decided = [(one, found.decide(one)) for one, _ in asked]
    if tool_name is not None:
        traces = found.explain(asked[0][0])
        ok = decided[0][1].verdict == expect if expect else decided[0][1].verdict != "deny"
        value |= {"ok": ok, "tool": tool_name, **_decision(decided[0][1]), "trace": [_trace(one) for one in traces]}
        emit(settings, value, lambda: _show_decision(*decided[0], traces))
    else:
        if call["arguments"] is None and any(
            not isinstance(one, Named) for rule in found.rules for one in rule.conditions
        ):
            say("Asked of calls without arguments: rules about arguments may decide otherwise of others.")
        ok = all(decision.verdict == expect for _, decision in decided) if expect else True
        own = [_own(tool) for _, tool in asked]
        each = [_declared(one) | _decision(decision) | more for (one, decision), more in zip(decided, own, strict=True)]
        value |= {"ok": ok, "tools": each}
        emit(settings, value, lambda: _show_tools(decided))
        for name, what in (("approval_required", "a person's yes"), ("sandbox_required", "a sandbox")):
            tools = [one["tool"] for one in each if one[name]]
            if tools:
                say(harmless(f"Whatever the policy says, {', '.join(tools)} asks for {what} itself."))
    if expect and not ok:
        others = [f"{one.tool} ({decision.verdict})" for one, decision in decided if decision.verdict != expect]
        say(harmless(f"Expected {expect}, and found another verdict for {', '.join(others)}."))
    return 0 if ok else 1


def _nothing_asked(call: Mapping[str, Any], expect: str | None) -> None:
    """Refuse what says something of a call, where no call was named: a gate that asks nothing would pass."""
    given = [name.removesuffix("_name").replace("_", "-") for name, value in call.items() if value is not None]
    if expect is not None or given:
        named = ", ".join(f"--{name}" for name in [*given, *(["expect"] if expect else [])])
        raise BadInput(f"{named} without a tool asks nothing.", hint="Name one with --tool, or an agent with --target.")


def _asked(
    spec: AgentSpec | None, tool_name: str | None, call: Mapping[str, Any]
) -> list[tuple[Asked, ToolSpec | None]]:
    """The calls that are asked about: what was said of them, else what the agent declares."""
    tools: list[ToolSpec | str] = [tool_name] if tool_name is not None else []
    if spec is not None and tool_name is not None:
        if tool_name not in spec.tools:
            known = ", ".join(sorted(spec.tools)) or "none"
            raise BadInput(f"Agent {spec.name} has no tool {tool_name}.", hint=f"Its tools are: {known}.")
        tools = [spec.tools[tool_name]]
    elif spec is not None:
        tools = list(spec.tools.values())
        if not tools:
            raise BadInput(f"Agent {spec.name} has no tools.", hint="Name a tool with --tool instead.")
    arguments = _arguments(call["arguments"])
    found = []
    for tool in tools:
        declared = tool if isinstance(tool, ToolSpec) else None
        asked = Asked(
            agent=call["agent_name"] or (spec.name if spec else "any"),
            role=call["role"] or (spec.role if spec else None),
            tool=tool.name if isinstance(tool, ToolSpec) else tool,
            version=call["tool_version"] or (declared.version if declared else "1"),
            risk_level=call["risk"] or (declared.risk_level if declared else "low"),
            side_effect=call["side_effect"] or (declared.side_effect if declared else "none"),
            arguments=arguments,
            session=call["session"],
        )
        found.append((asked, declared))
    return found


def _arguments(text: str | None) -> dict[str, Any]:
    def refused(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    try:
        value = json.loads(text or "{}", parse_constant=refused)
    except (ValueError, RecursionError) as error:
        hint = """Write --arguments '{"key": "value"}'."""
        raise BadInput(f"--arguments is no JSON: {error}.", hint=hint) from None
    if not isinstance(value, dict):
        raise BadInput(f"--arguments is a JSON {type(value).__name__}.", hint="Arguments are an object: {…}.")
    return value


def _described(found: Policy, path: Path | None) -> dict[str, Any]:
    return {
        "file": None if path is None else str(path),
        "name": found.name,
        "digest": format_hash(found.digest),
        "defaults": dict(found.defaults),
        "rule_count": len(found.rules),
    }


def _note(note: Note) -> dict[str, str]:
    return {"kind": note.kind, "rule": note.rule, "message": note.message}


def _declared(asked: Asked) -> dict[str, str]:
    names = ("tool", "version", "risk_level", "side_effect")
    return {name: getattr(asked, name) for name in names}


def _own(tool: ToolSpec | None) -> dict[str, bool]:
    """What a tool asks for itself, whatever a policy says."""
    return {name: tool is not None and getattr(tool, name) for name in ("approval_required", "sandbox_required")}


def _decision(decision: Decision) -> dict[str, Any]:
    names = ("verdict", "rule", "reason", "expires", "sandbox")
    return {name: getattr(decision, name) for name in names}


def _trace(trace: Trace) -> dict[str, Any]:
    names = ("rule", "verdict", "matched", "decides", "why")
    return {name: getattr(trace, name) for name in names}


def _show(found: Policy, path: Path | None, notes: Sequence[Note]) -> None:
    click.echo(
        harmless(f"{path or 'the built-in policy'}: {found.name or 'a policy'}, {count(len(found.rules), 'rule')}")
    )
    if found.rules:
        rows = []
        for at, rule in enumerate(found.rules, 1):
            named = [f"{one.field} {', '.join(one.patterns)}" for one in rule.conditions if isinstance(one, Named)]
            named += [type(one).__name__.lower() for one in rule.conditions if not isinstance(one, Named)]
            extra = [f"expires in {rule.expires:g} s"] if rule.expires else []
            extra += ["in a sandbox"] if rule.sandbox else []
            rows.append(
                [str(at), rule.name, ", ".join([rule.verdict, *extra]), short("; ".join(named) or "every call")]
            )
        table(["", "rule", "verdict", "is for"], rows)
    click.echo("else by risk: " + ", ".join(f"{risk} {verdict}" for risk, verdict in found.defaults.items()))
    click.echo(f"digest {format_hash(found.digest)}")
    for note in notes:
        say(harmless(f"note: {note.rule}: {note.message}"))


def _show_decision(asked: Asked, decision: Decision, traces: Sequence[Trace]) -> None:
    extra = [f"within {decision.expires:g} s"] if decision.expires else []
    extra += ["in a sandbox"] if decision.sandbox else []
    click.echo(harmless(f"{decision.verdict}: {asked.tool} ({', '.join([decision.rule, *extra])})"))
    click.echo(harmless(decision.reason))
    words = {True: "matches", False: "no", None: "in doubt"}
    rows = [["→" if one.decides else "", one.rule, one.verdict, words[one.matched], short(one.why)] for one in traces]
    table(["", "rule", "verdict", "", "why not"], rows)


def _show_tools(decided: Sequence[tuple[Asked, Decision]]) -> None:
    rows = [
        [
            one.tool,
            one.version,
            one.risk_level,
            one.side_effect,
            decision.verdict,
            decision.rule,
            short(decision.reason),
        ]
        for one, decision in decided
    ]
    table(["tool", "version", "risk", "side effect", "verdict", "rule", "reason"], rows)
