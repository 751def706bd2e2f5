"""The command that proves that nothing was changed: verify."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli.options import open_log, pass_settings
from cli.output import Settings, count, emit, progress, say
from ledger_core.errors import BadInput
from ledger_core.events.ledger import STREAM
from ledger_core.ids import Head, parse_head
from ledger_core.log.verify import Finding
from ledger_core.log.verify_jobs import Report, verify_ledger, verify_stream
from ledger_core.runtime.recorded import stream_of
from projections import replayed, runs
from projections.replayed import Certificate


@click.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--against", metavar="HEAD", help="A head kept earlier, SEQ:HASH, or @FILE that holds one.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Processes to verify with.  [default: one a core]")
@click.option("--deep", is_flag=True, help="Decode the facts of every event as well: slower.")
@pass_settings
def verify(settings: Settings, run_name: str | None, against: str | None, jobs: int | None, deep: bool) -> int:
    """Check the ledger against itself, and against a head that you kept.

    Re-hashes every record, content and blob, follows both chains, and recounts the indexes. Needs no keys. With RUN,
    checks that run's stream alone. Exits with 3 for findings, and with 6 if something could not be checked.

    The newest certificate of a replay is held against the log as well, where one is there.
    """
    certificate = None
    if run_name is not None:
        if against is not None:
            raise BadInput("A run cannot be verified against a head of the log.", hint="Leave RUN or --against out.")
        with open_log(settings) as log:
            stream = stream_of(runs.resolve(log, run_name))
        report = verify_stream(settings.root, stream)
    else:
        held = _held(against)
        with progress("verifying", quiet=settings.json) as bar:
            cores = jobs or os.cpu_count() or 1
            report = verify_ledger(settings.root, jobs=cores, against=held, deep=deep, progress=bar)
        if report.ok:  # a damaged log is not read for what it says
            certificate = _certificate(settings, report)
    value = report.as_json()
    if run_name is None:
        value["replay_certificate"] = None if certificate is None else certificate.as_json()

    def render() -> None:
        _render(report, whole=run_name is None, held=against is not None)
        if certificate is not None:
            click.echo(certificate.words())

    emit(settings, value, render)
    return report.exit_code


def _certificate(settings: Settings, report: Report) -> Certificate | None:
    """The newest certificate of a replay; what does not fit the log becomes a finding."""
    with open_log(settings) as log:
        found = replayed.newest(log)
    if found is not None:
        report.findings += [
            Finding(kind="replay_certificate", seq=found.seq, stream=STREAM, detail=detail) for detail in found.findings
        ]
    return found


def _held(text: str | None) -> Head | None:
    if text is None:
        return None
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{text[1:]} cannot be read: {error.strerror}.") from None
    return parse_head(text)


def _render(report: Report, *, whole: bool, held: bool) -> None:
    for finding in report.findings:
        place = f" at seq {finding.seq}" if finding.seq is not None else ""
        stream = f" ({finding.stream})" if finding.stream else ""
        click.echo(f"{finding.kind}{place}{stream}: {finding.detail}")
    for text in report.not_checked:
        click.echo(f"not checked: {text}")
    sums = report.sums
    verdict = "intact" if report.ok else count(len(report.findings), "finding") if report.findings else "incomplete"
    counted = f"{sums.events:,} events, {sums.streams:,} streams, {sums.contents:,} contents, {sums.blobs:,} blobs"
    click.echo(f"{verdict}: {counted}")
    if report.head is not None:
        click.echo(f"head {report.head}")
    if whole and not held and report.ok:
        say("Nobody's head was held against it, so a history rewritten to its end would not show. Keep the head above.")
