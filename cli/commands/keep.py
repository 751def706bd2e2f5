"""Commands that keep a ledger: init, doctor."""

from __future__ import annotations

import click

from cli import checks
from cli.options import pass_settings
from cli.output import Settings, emit
from ledger_core.log.log import Log


@click.command()
@pass_settings
def init(settings: Settings) -> None:
    """Create a ledger; an existing one is left as it is."""
    with Log.open(settings.root) as log:
        value = {"root": str(settings.root), "ledger": log.id.hex(), "events": log.head().seq}
    emit(settings, value, lambda: click.echo(f"ledger {value['ledger']} in {settings.root}, {value['events']} events"))


@click.command()
@pass_settings
def doctor(settings: Settings) -> int:
    """Check the environment, and the ledger if there is one."""
    found = checks.all_checks(settings.root)
    ok = all(check.ok for check in found)

    def render() -> None:
        for check in found:
            click.echo(f"{'ok ' if check.ok else 'BAD'}  {check.name:<12} {check.detail}")

    emit(settings, {"ok": ok, "checks": [check.as_json() for check in found]}, render)
    return 0 if ok else 1
