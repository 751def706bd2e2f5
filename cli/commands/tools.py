"""What tools there are: `tools manifest`, for people in a table and for other systems in their own words.

Rules: tools are found where agents are, by importing the code that a target names; nothing is called and no ledger is
opened. Without a format, a person sees a table; `--format` prints the document that the other system reads, as it
reads it; `--json` prints one object with it, compact.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import click

from cli.options import pass_settings
from cli.output import Settings, count, emit, say, short, table
from ledger_core.errors import BadInput
from ledger_core.governance.conventions import MEDIA_TOOLS
from ledger_core.governance.manifest import SHAPES, Declared, Shape, manifest
from ledger_core.governance.tool import ToolSpec, spec_of
from ledger_core.runtime import target as targets
from ledger_core.runtime.agent import AgentSpec


@click.group()
def tools() -> None:
    """See what tools agents have: tools manifest."""


@tools.command("manifest")
@click.argument("target_names", metavar="TARGET...", nargs=-1)
@click.option("--format", "shape", type=click.Choice(SHAPES), help="Print the document that such a system reads.")
@click.option("--conventions", is_flag=True, help="Add the media tools of the runtime contract.")
@pass_settings
def manifest_(settings: Settings, target_names: tuple[str, ...], shape: str | None, conventions: bool) -> None:
    """List the tools of agents, with what is known of each.

    TARGET is file.py or module: all tools in it; or file.py:NAME, module:NAME: those of an agent, or one tool.
    """
    if not target_names and not conventions:
        raise click.UsageError("Name a TARGET, or --conventions.")
    found: list[Declared] = [spec for name in target_names for spec in declared(name)]
    if conventions:
        mine = {spec.name for spec in found if isinstance(spec, ToolSpec)}
        found += [row for name, row in MEDIA_TOOLS.items() if name not in mine]
    kind = cast("Shape", shape or "agentledger")
    listed = manifest(found, kind)

    def render() -> None:
        if shape is None:
            _show(listed)
        else:
            document = {"tools": listed} if shape == "mcp" else listed
            click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))

    emit(settings, {"format": kind, "tools": json.loads(json.dumps(listed, default=str))}, render)


def declared(target: str) -> list[ToolSpec]:
    """The tools that a target names, as an agent's, or by themselves; raises `BadInput` if there is none."""
    place, _, name = target.rpartition(":") if ":" in target else (target, "", "")
    found = vars(_module(place))
    agents = {
        key: value.__agentledger_agent__
        for key, value in found.items()
        if isinstance(getattr(value, "__agentledger_agent__", None), AgentSpec)
    }
    single = {
        key: spec_of(value)
        for key, value in found.items()
        if isinstance(value, ToolSpec) or isinstance(getattr(value, "__agentledger_tool__", None), ToolSpec)
    }
    chosen = [agent for key, agent in agents.items() if name in ("", key, agent.name)]
    specs = [spec for agent in chosen for spec in agent.tools.values()]
    specs += [spec for key, spec in single.items() if name in ("", key, spec.name)]
    if not specs and not (name and chosen):
        known = ", ".join(sorted({*agents, *single})) or "none"
        raise BadInput(
            f"{place} has no tool or agent {name!r}." if name else f"{place} has no tools.",
            hint=f"What is decorated with @tool or @agent there: {known}.",
        )
    return specs


def _module(place: str) -> ModuleType:
    return targets._from_file(Path(place)) if place.endswith(".py") else targets._from_module(place)


def _show(rows: list[dict[str, Any]]) -> None:
    """A table, a line a tool."""
    table(
        ["tool", "version", "effect", "risk", "approval", "sandbox", "idempotency", "what it does"],
        [
            [
                row["name"],
                row["version"],
                {"none": "-", "external_read": "reads", "external_write": "writes"}[row["side_effect"]],
                row["risk_level"],
                "required" if row["approval_required"] else "-",
                ("required" if row["sandbox_required"] else "-")
                + (f" ({row['sandbox_executor']})" if row["sandbox_executor"] else ""),
                "-" if row["idempotency"] == "none" else row["idempotency"],
                short(row["description"].partition("\n")[0]),
            ]
            for row in rows
        ],
    )
    say(f"{count(len(rows), 'tool')}. Their schemas: --format {' | '.join(SHAPES)}, or --json.")
