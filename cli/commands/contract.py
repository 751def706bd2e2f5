"""Commands of the runtime contract: contract export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cli.options import pass_settings
from cli.output import Settings, emit
from ledger_core.errors import BadInput
from projections import contract as contracts

_REGRESSION = 4


@click.group()
def contract() -> None:
    """The runtime contract: what other languages and tools may rely on."""


@contract.command()
@click.option("--out", metavar="FILE", help=f"Where to write it, such as {contracts.CONTRACT}.  [default: stdout]")
@click.option("--check", metavar="FILE", help="Compare with a published one: names that are gone exit with 4.")
@pass_settings
def export(settings: Settings, out: str | None, check: str | None) -> int:
    """Write the contract as JSON, made from the code; or compare it with one that was published."""
    made = contracts.contract()
    if check is not None:
        gone = contracts.removed(_read(check), made)

        def render() -> None:
            for place in gone:
                click.echo(f"gone or changed: {place}")
            click.echo("every published name keeps its place" if not gone else f"{len(gone):,} published names do not")

        emit(settings, {"same": not gone, "gone": gone}, render)
        return _REGRESSION if gone else 0
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        try:
            Path(out).write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{out} cannot be written: {error.strerror}.") from None
        emit(settings, {"out": out, "event_types": len(made["event_types"])}, lambda: click.echo(out))
    return 0


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {error}.") from None
