"""Commands of budgets: budget, budget set."""

from __future__ import annotations

from typing import Any

import click

from cli.options import open_log, open_runtime, pass_settings, with_default
from cli.output import Settings, emit, say, table
from ledger_core.run.budget import DIMENSIONS, Account, Budget, account_words, amount_words
from ledger_core.runtime.folds import account_at
from ledger_core.runtime.governing import budgets_of
from projections import runs as run_list

_HEADINGS = ["budget", "of", "bound", "spent", "reserved", "left"]


@click.group(cls=with_default("list"))
def budget() -> None:
    """What may be used: budget lists the bounds, and how much of each is left; budget set changes them.

    See `agentledger budget list --help`.
    """


@budget.command("list")
@click.argument("run_name", metavar="[RUN]", required=False)
@pass_settings
def list_(settings: Settings, run_name: str | None) -> None:
    """List budgets, with what is spent and reserved of each."""
    with open_log(settings) as log:
        if run_name is None:
            found = budgets_of(log)
        else:
            one = account_at(log, f"run:{run_list.resolve(log, run_name)}")
            found = [] if one is None else [one]
    rows = [row for account in found for row in _rows(account)]

    def render() -> None:
        if not rows:
            say("There are no budgets. Set one: agentledger budget set --run RUN --usd 5")
            return
        table(_HEADINGS, [_cells(row) for row in rows])

    emit(settings, {"budgets": [account_json(account) for account in found]}, render)


@budget.command("set")
@click.option("--run", "run_name", help="Bound a run, with its children.")
@click.option("--session", help="Bound the runs of a session.")
@click.option("--agent", help="Bound the runs of an agent.")
@click.option("--calls", type=click.IntRange(0))
@click.option("--tool-calls", type=click.IntRange(0))
@click.option("--model-calls", type=click.IntRange(0))
@click.option("--tokens", type=click.IntRange(0))
@click.option("--input-tokens", type=click.IntRange(0))
@click.option("--output-tokens", type=click.IntRange(0))
@click.option("--cached-tokens", type=click.IntRange(0))
@click.option("--usd", type=click.FloatRange(0))
@click.option("--wall-seconds", type=click.FloatRange(0), help="Of work; waiting does not count.")
@click.option("--because", default="", help="Why; stands in the log.")
@pass_settings
def set_(
    settings: Settings, run_name: str | None, session: str | None, agent: str | None, because: str, **bounds: Any
) -> None:
    """Set the bounds of a run, a session or an agent; those that are left out are taken away, what is spent stays."""
    with open_runtime(settings) as runtime:
        run_id = None if run_name is None else run_list.resolve(runtime.log, run_name)
        account = runtime.set_budget(Budget(**bounds), run=run_id, session=session, agent=agent, reason=because)
    emit(settings, account_json(account), lambda: table(_HEADINGS, [_cells(row) for row in _rows(account)]))


def account_json(account: Account) -> dict[str, Any]:
    """A budget as other systems read it; amounts in facts' units (billionths of a dollar, ns)."""
    left = {name: account.left(name) for name in account.limits}
    return {
        "budget": account.name,
        "limits": account.limits,
        "spent": account.spent,
        "reserved": account.reserved,
        "left": left,
        "open": account.open,
    }


def _rows(account: Account) -> list[tuple[Account, str]]:
    return [(account, name) for name in DIMENSIONS if name in account.limits]


def _cells(row: tuple[Account, str]) -> list[str]:
    account, name = row
    spent, reserved = account.spent.get(name, 0), account.reserved.get(name, 0)
    left = account.left(name) or 0
    words = [amount_words(name, amount) for amount in (account.limits[name], spent, reserved, left)]
    return [account_words(account.name), DIMENSIONS[name], *words]
