"""Commands about sandboxes: sandbox inspect."""

from __future__ import annotations

from typing import Any

import click

from cli.options import pass_settings
from cli.output import Settings, emit, table
from ledger_core.governance.sandbox import Ability, Sandboxes
from ledger_core.governance.sandbox.executor import ABILITIES
from ledger_core.runtime.governing import beside


@click.group()
def sandbox() -> None:
    """The sandboxes that governed tools run in."""


@sandbox.command()
@pass_settings
def inspect(settings: Settings) -> int:
    """Try what each executor can really keep on this machine.

    Exits with 1 if the default executor is disabled, or not available here: sandboxed tools would not run.
    """
    sandboxes = Sandboxes.of(settings.sandbox or beside(settings.root, "sandbox"), hide=[settings.root])
    default = sandboxes.configuration.default
    found = {name: executor.inspect() for name, executor in sandboxes.executors.items()}
    value = {"default": default, "executors": [_as_json(sandboxes, name, ability) for name, ability in found.items()]}
    emit(settings, value, lambda: _render(sandboxes, found))
    usable = default in found and found[default].available and sandboxes.enabled(default)
    return 0 if usable else 1


def _as_json(sandboxes: Sandboxes, name: str, ability: Ability) -> dict[str, Any]:
    return {
        "name": name,
        "available": ability.available,
        "enabled": sandboxes.enabled(name),
        "abilities": ability.as_json(),
        "reason": ability.reason,
        "notes": dict(ability.notes),
    }


def _render(sandboxes: Sandboxes, found: dict[str, Ability]) -> None:
    default = sandboxes.configuration.default
    names = [f"{name} (default)" if name == default else name for name in found]
    rows = [["available", *("yes" if one.available else "no" for one in found.values())]]
    rows.append(["enabled", *("yes" if sandboxes.enabled(name) else "no" for name in found)])
    rows += [[what, *(getattr(one, what) for one in found.values())] for what in ABILITIES]
    table(["", *names], rows)
    for name, ability in found.items():
        said = [ability.reason] if ability.reason else [f"{what}: {why}" for what, why in ability.notes.items()]
        click.echo("".join(f"\n{name}: {line}" for line in said))
    if default not in found:
        click.echo(f"\nThe default, {default}, comes later as an adapter: no tool runs in it.")
