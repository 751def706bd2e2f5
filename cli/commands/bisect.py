"""The command that finds where two runs part: bisect."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator

import click

from cli.commands.compare import NARROWEST, clean, difference_lines, ledger_of
from cli.options import pass_settings
from cli.output import Settings, emit
from replay import bisecting
from replay.bisecting import Bisection


@click.command("bisect")
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@pass_settings
def bisect(settings: Settings, left: str, right: str) -> None:
    """Find the first difference of two runs, however long they are, by comparing a few digests.

    A and B are what `diff` takes; A is the recorded one. The first time a run is read whole; what is kept of it beside
    the ledger finds the next difference in an instant. Exits with 0 whether they differ or not: the gate is
    `divergence --fail-on-divergence`.
    """
    with ledger_of(settings, left, right) as log:
        one = bisecting.load(left, log)
        other = one if right == left else bisecting.load(right, log)
        found = bisecting.bisect(one, other)

    def render() -> None:
        click.secho(clean(found.verdict()), bold=True)
        for line in _explained(found, max(NARROWEST, shutil.get_terminal_size((100, 24)).columns)):
            click.echo(line)
        if not found.same:
            click.echo(clean(f"\nAll that differs: agentledger diff {shlex.quote(left)} {shlex.quote(right)}"))

    emit(settings, found.as_json(), render)


def _explained(found: Bisection, width: int) -> Iterator[str]:
    last, first = found.last_equal, found.divergence
    if first is None:
        return
    yield ""
    if last is None or last.left is None or last.right is None:
        yield "Nothing before it is the same." if first.path == "start" else "No effect comes before it."
    else:
        yield clean(f"The last that is the same: effect {last.left.path}, {last.left.words()}")
        for side, effect in ((found.left, last.left), (found.right, last.right)):
            where = _event(effect.seq, effect.log_seq, effect.hash)
            yield click.style(clean(f"  {side.source}: {where or 'not recorded'}"), dim=True)
    yield ""
    yield click.style(clean(first.sentence()), fg="red")
    if where := _event(first.event, first.seq, first.hash):
        yield click.style(clean(f"  {found.left.source}: {where}"), dim=True)
    yield from difference_lines(first, width, inside=2)
    yield f"  {first.kind.cause}"


def _event(number: int | None, seq: int | None, digest: str | None) -> str:
    """Where an effect is recorded; empty where it is not."""
    said = [f"event {number:,} of the run"] if number is not None else []
    said += [f"seq {seq:,}"] if seq is not None else []
    return ", ".join([*said, f"{digest[:16]}…"] if digest else said)
