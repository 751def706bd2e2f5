"""Commands of what is derived: views (how projections stand, and their rows), rebuild."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import click

from cli.options import open_log, pass_settings
from cli.output import Settings, count, emit, progress, say, short, table
from ledger_core.errors import BadInput
from ledger_core.ids import format_hash
from ledger_core.log.log import Log
from projections import certificates, rebuild, runs
from projections import views as stored
from projections.certificates import Comparison
from projections.folding import summed
from projections.rebuild import Checked, Rebuilt
from projections.views import Views
from projections.wire import plain

_NS = 1_000_000_000
_FAR = 250_000_000_000 * _NS
"""What is later than anybody's time is shown as the number that it is."""
_WIDTH = 9
"""Columns of a table of rows."""


@click.command()
@click.argument("name", required=False)
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--at", "at", type=click.IntRange(0), metavar="SEQ", help="As it was behind the log's event SEQ.")
@click.option("--sums", "group", metavar="GROUP", help="Totals by a group, such as model or day, and not rows.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows to show.")
@pass_settings
def views(
    settings: Settings, name: str | None, run_name: str | None, at: int | None, group: str | None, limit: int
) -> None:
    """Show the projections; or the rows of one, of all runs or of RUN, now or at any past event."""
    if group is not None and name is None:
        raise click.UsageError("--sums needs the NAME of a projection.")
    with ExitStack() as held:
        log = held.enter_context(open_log(settings))
        bar = held.enter_context(progress("catching up", quiet=settings.json))
        if name is not None:
            stored.known(name)
        run = None if run_name is None else runs.resolve(log, run_name)
        if at is None:
            rows = held.enter_context(stored.open_caught_up(log, progress=bar))
        else:
            rows = held.enter_context(stored.at(log, at, names=name and [name], progress=bar))
        if name is None:
            _list(settings, rows)
        elif group is not None:
            sums = _summed(rows, name, group, run)
            emit(settings, {"projection": name, "group": group, "sums": sums}, lambda: _sums(group, sums))
        else:
            found = [plain(row) for row in islice(rows.rows(name, run, newest_first=run is None), limit + 1)]
            more = len(found) > limit
            value = {"projection": name, "rows": found[:limit], "more": more}
            emit(settings, value, lambda: _rows(found[:limit], more=more))


@click.command(name="rebuild")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--check", "only_check", is_flag=True, help="Compare with what is kept, and change nothing.")
@click.option("--certify", is_flag=True, help="Compare, and append to the log what the rows come to.")
@click.option("--jobs", type=click.IntRange(1, 16), help="Processes to fold with.  [default: one a core]")
@pass_settings
def rebuild_(settings: Settings, names: tuple[str, ...], only_check: bool, certify: bool, jobs: int | None) -> int:
    """Make projections anew from the log; or check that what is kept is what the log gives.

    --check also compares the newest certificate of each projection with the log. Exits with 3 if anything differs, and
    with 6 if nothing is kept that could be compared.
    """
    if certify and only_check:
        raise click.UsageError("--certify compares as well: leave --check out.")
    if (certify or only_check) and names:
        raise click.UsageError("All projections are checked and certified: leave the names out.")
    with Log.open(settings.root, readonly=not certify) as log:
        if only_check:
            with progress("checking", quiet=settings.json) as bar:
                checked = list(rebuild.check(log, jobs=jobs, progress=bar))
                compared = list(certificates.compare(log, jobs=jobs, progress=bar))
            return _checked(settings, checked, compared)
        if certify:
            with progress("checking", quiet=settings.json) as bar:
                events = certificates.certify(log, jobs=jobs, progress=bar)
            seqs = [event.seq for event in events]
            words = f"{count(len(seqs), 'projection')} checked and certified, at seq {seqs[0]:,} to {seqs[-1]:,}"
            emit(settings, {"certified": len(seqs), "seqs": seqs}, lambda: click.echo(words))
            return 0
        with progress("rebuilding", quiet=settings.json) as bar:
            done = rebuild.rebuild(log, names or None, jobs=jobs, progress=bar)
        emit(settings, _rebuilt_json(done), lambda: _rebuilt(done))
    return 0


def _list(settings: Settings, rows: Views) -> None:
    standing, parked = rows.standing(), rows.parked()
    value: dict[str, list[dict[str, Any]]] = {
        "projections": [
            {
                "name": one.name,
                "version": one.version,
                "code_digest": format_hash(one.code),
                "seq": one.seq,
                "rows": one.rows,
                "rows_digest": format_hash(rows.digest(one.name)),
                "parked": one.parked,
            }
            for one in standing
        ],
        "parked": [{"projection": one.projection, "seq": one.seq, "error": one.error} for one in parked],
    }

    def render() -> None:
        lines = [
            [one["name"], f"{one['rows']:,}", f"{one['seq']:,}", str(one["version"]), one["rows_digest"][7:23]]
            for one in value["projections"]
        ]
        table(["projection", "rows", "behind seq", "version", "digest of rows"], lines)
        for one in parked:
            say(f"parked: {one.projection} could not take the event at seq {one.seq:,}: {one.error}")

    emit(settings, value, render)


def _summed(rows: Views, name: str, group: str, run: str | None) -> dict[str, dict[str, int]]:
    """Totals of a group; of one run, summed over its rows. Raises `BadInput` for what nothing is summed by."""
    groups = rows.groups(name)
    if groups and group not in groups:
        raise BadInput(f"{name} is not summed by {group!r:.40}.", hint=f"It is by: {', '.join(groups)}.")
    return rows.sums(name, group) if run is None else summed(name, group, rows.rows(name, run))


def _rows(rows: list[dict[str, Any]], *, more: bool) -> None:
    if not rows:
        click.echo("no rows")
        return
    columns = [name for name in rows[0] if any(row.get(name) not in (None, {}, [], 0) for row in rows)][:_WIDTH]
    table(
        [name.removesuffix("_ns") for name in columns],
        [[_cell(name, row.get(name)) for name in columns] for row in rows],
    )
    left = len(rows[0]) - len(columns)
    if left > 0:
        say(f"{count(left, 'more column')} with --json")
    if more:
        say(f"There are more than {count(len(rows), 'row')}: --limit shows as many as you like.")


def _cell(name: str, value: Any) -> str:
    """A value on one line; a time as people read it, in UTC."""
    if name.endswith("_ns") and isinstance(value, int) and 0 <= value < _FAR:
        return datetime.fromtimestamp(value // _NS, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return "" if value is None else short(value)


def _sums(group: str, sums: dict[str, dict[str, int]]) -> None:
    counters = list(dict.fromkeys(name for found in sums.values() for name in found))
    if not sums:
        click.echo("nothing to sum")
        return
    table([group, *counters], [[key, *(f"{found.get(name, 0):,}" for name in counters)] for key, found in sums.items()])


def _rebuilt_json(done: Rebuilt) -> dict[str, Any]:
    return {"seq": done.seq, "seconds": round(done.seconds, 3), "jobs": done.jobs, "rows": done.rows} | {
        "parked": done.parked
    }


def _rebuilt(done: Rebuilt) -> None:
    rate = f", {done.seq / done.seconds:,.0f} a second" if done.seconds > 0.1 else ""
    click.echo(
        f"{count(len(done.rows), 'projection')} made from {count(done.seq, 'event')} in {done.seconds:.1f} s{rate}: "
        f"{count(sum(done.rows.values()), 'row')}"
    )
    if done.parked:
        say(f"{count(done.parked, 'event')} could not be folded: see `agentledger views`.")


def _checked(settings: Settings, checked: list[Checked], compared: list[Comparison]) -> int:
    value = {
        "same": all(one.same for one in checked) and all(one.outcome != "different" for one in compared),
        "projections": [
            {
                "name": one.name,
                "seq": one.seq,
                "same": one.same,
                "kept": format_hash(one.kept),
                "folded": format_hash(one.folded),
                "different": list(one.different),
            }
            for one in checked
        ],
        "certificates": [
            {
                "seq": one.seq,
                "projection": one.certified.projection,
                "of_seq": one.certified.seq,
                "outcome": one.outcome,
            }
            for one in compared
        ],
    }

    def render() -> None:
        for one in checked:
            words = "as the log gives" if one.same else f"NOT what the log gives: {', '.join(one.different)}"
            click.echo(f"{'ok ' if one.same else 'BAD'}  {one.name:<18} up to seq {one.seq:,}: {words}")
        for found in compared:
            mark = {"same": "ok ", "different": "BAD"}.get(found.outcome, "-- ")
            certified = found.certified
            click.echo(
                f"{mark}  {certified.projection:<18} certificate at seq {found.seq:,}, "
                f"of seq {certified.seq:,}: {found.outcome}"
            )
        if not checked:
            say("Nothing is kept yet: the first report, or `agentledger rebuild`, makes it.")

    emit(settings, value, render)
    return 3 if not value["same"] else 0 if checked else 6
