"""Commands that prove a run to others: evidence, evidence-check."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cli.options import open_log, pass_settings
from cli.output import Settings, count, emit, harmless, say
from ledger_core.errors import BadInput, LedgerError, NotFound
from ledger_core.log.log import Log
from projections import evidence_files as files
from projections import runs as run_list
from projections.evidence import bundle
from projections.evidence_check import EvidenceReport, check
from projections.evidence_place import outside
from projections.evidence_sealed import printable

_SHOWN = 20
"""Findings on the screen, of a bundle."""


@click.command("evidence")
@click.argument("run_name", metavar="RUN")
@click.option(
    "--out", metavar="FILE", help="Write the bundle to a file; - is stdout, where it goes if nothing is said."
)
@click.option("--dir", "directory", metavar="DIR", help="Write it as a directory, with extracts for people.")
@click.option("--html", metavar="FILE", help="Write it as a page that checks itself in a browser.")
@click.option("--sealed", is_flag=True, help="Leave out the run's key and all contents: integrity without disclosure.")
@click.option("--with-children", is_flag=True, help="Also of all runs that it started; needs --dir.")
@pass_settings
def evidence(
    settings: Settings,
    run_name: str,
    out: str | None,
    directory: str | None,
    html: str | None,
    sealed: bool,
    with_children: bool,
) -> None:
    """Export what proves a run: its sealed bytes, what they say, and what follows from them.

    The bundle carries the run's key: whoever has it can read the run. Check it with: agentledger evidence-check FILE
    """
    if with_children and (directory is None or out or html):
        raise BadInput("The evidence of a run's children takes a directory.", hint="Write --with-children --dir DIR.")
    for place in (directory, html, None if out == "-" else out):
        if place is not None:
            outside(Path(place), settings.root)
    with open_log(settings) as log:
        run_id = run_list.resolve(log, run_name)
        if with_children:
            digests = files.write_family(_family(log, run_id, sealed=sealed), Path(str(directory)))
            value = {"run_id": run_id, "sealed": sealed, "dir": directory, "bundles": digests}
            emit(settings, value, lambda: say(f"{count(len(digests), 'bundle')} in {directory}"))
            return
        made = bundle(log, run_id, sealed=sealed)
    if out == "-" or not (out or directory or html):
        sys.stdout.buffer.writelines(files.text(made))
        sys.stdout.buffer.flush()
    if out and out != "-":
        files.write_file(made, Path(out))
    if directory:
        files.write_directory(made, Path(directory))
    if html:
        files.write_page(made, Path(html))
    if out != "-" and (out or directory or html):
        _say_written(settings, made, {"out": out, "dir": directory, "html": html})


@click.command("evidence-check")
@click.argument("what", metavar="RUN|FILE")
@click.option(
    "--ledger/--no-ledger", default=None, help="Hold it against the ledger here.  [default: if it has the run]"
)
@pass_settings
def evidence_check(settings: Settings, what: str, ledger: bool | None) -> int:
    """Check a bundle: a file, a page, a directory; or a run of the ledger, as it would be exported.

    Needs no ledger. Exits with 3 for findings, and with 6 if something that could be checked was not there.
    """
    path = Path(what)
    if not path.exists() and (os.sep in what or path.suffix in (".json", ".html")):
        raise NotFound(f"There is no file {what}.", hint="Make one: agentledger evidence RUN --out FILE")
    with _ledger(settings, wanted=True if not path.exists() else ledger) as log:
        if not path.exists():
            assert log is not None
            made = bundle(log, run_list.resolve(log, what))
            reports = [check(made, None if ledger is False else log)]
        else:
            reports = list(_of_files(path, log, forced=ledger is True))
    value = {"ok": all(one.ok for one in reports), "bundles": [one.as_json() for one in reports]}
    emit(settings, value, lambda: _render(reports))
    codes = [one.exit_code for one in reports]
    return min((code for code in codes if code), default=0)


def _family(log: Log, run_id: str, *, sealed: bool) -> Iterator[dict[str, Any]]:
    """The bundles of a run, its children, and theirs."""
    waiting, seen = deque([run_id]), {run_id}
    while waiting:
        made = bundle(log, waiting.popleft(), sealed=sealed)
        yield made
        for row in made["children"]:
            if row["child"] not in seen and log.stream_head(f"run/{row['child']}") is not None:
                seen.add(row["child"])
                waiting.append(row["child"])


@contextmanager
def _ledger(settings: Settings, *, wanted: bool | None) -> Iterator[Log | None]:
    """The ledger here: if it must be, or if there is one."""
    try:
        log = open_log(settings) if wanted is not False else None
    except LedgerError:
        if wanted:
            raise
        log = None
    if log is None:
        yield None
    else:
        with log:
            yield log


def _of_files(path: Path, log: Log | None, *, forced: bool) -> Iterator[EvidenceReport]:
    """Reports on what is at a path; that the ledger at hand is another one is a finding only where it is `forced`."""
    whole = files.is_family(path)
    places = files.family(path) if whole else {"": path}
    found = files.read_family(path) if whole else {"": files.read(path)}
    around = files.beside_family(path) if whole else []
    for name, one in found.items():
        report = check(one, log, children=found, demanded=forced)
        findings, left = files.beside(places[name], one)
        report.add(*findings)
        report.incomplete += [printable(text, 500) or "" for text in (*around, *left)]
        around = []
        yield report


def _say_written(settings: Settings, made: dict[str, Any], places: dict[str, str | None]) -> None:
    key = made["stream"]["key"]
    value = {
        "run_id": made["run_id"],
        "bundle_digest": made["bundle_digest"],
        "sealed": made["sealed"],
        "key": key is not None,
        "events": len(made["events"]),
        **places,
    }

    def render() -> None:
        named = ", ".join(place for place in places.values() if place)
        click.echo(f"{made['run_id']}: {count(len(made['events']), 'event')} in {named}")
        click.echo(made["bundle_digest"])
        if key is not None:
            say("It carries the run's key: whoever has it can read the run. Without: --sealed")

    emit(settings, value, render)


def _render(reports: list[EvidenceReport]) -> None:
    for report in reports:
        for finding in report.findings[:_SHOWN]:
            place = f" at seq {finding.seq}" if finding.seq is not None else ""
            click.echo(harmless(f"{finding.kind}{place}: {finding.detail}"))
        if len(report.findings) > _SHOWN:
            click.echo(f"… and {len(report.findings) - _SHOWN:,} more: --json shows them")
        for text in report.incomplete:
            click.echo(harmless(f"incomplete: {text}"))
        done = report.checked
        words = (
            count(len(report.findings), "finding")
            if report.findings
            else "incomplete"
            if report.incomplete
            else "intact"
        )
        counted = f"{done['records']:,} records, {done['contents']:,} contents ({done['opened']:,} opened), "
        counted += f"{done['blobs']:,} blobs; {done['events']:,} events and {done['parts']} parts as they are sealed"
        counted += f"; {done['in_ledger']:,} records in the ledger" if report.since is not None else ""
        click.echo(harmless(f"{report.run_id}: {words}: {counted}"))
        if report.digest is not None:
            click.echo(report.digest)
        if report.since:
            click.echo(f"the run has had {count(report.since, 'event')} more since")
    for text in dict.fromkeys(text for report in reports for text in report.not_checked):
        click.echo(harmless(f"not checked: {text}"))
