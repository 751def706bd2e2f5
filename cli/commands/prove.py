"""Commands that prove: verify, replay."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli.commands.runs import divergence_code, recorded_target
from cli.options import open_log, pass_settings
from cli.output import Settings, count, emit, progress, say
from ledger_core.errors import BadInput
from ledger_core.ids import Head, parse_head
from ledger_core.log.verify_jobs import Report, verify_ledger, verify_stream
from ledger_core.runtime import target as targets
from ledger_core.runtime.recorded import stream_of
from ledger_core.runtime.runtime import Runtime
from projections import runs
from replay import replaying


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
    """
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
    emit(settings, report.as_json(), lambda: _render(report, whole=run_name is None, held=against is not None))
    return report.exit_code


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--agent", "target", help="The code to replay; else the recorded entry point.")
@pass_settings
def replay(settings: Settings, run_name: str, target: str | None) -> int:
    """Run an agent's code again, the record answering for the world.

    Nothing outside is touched, and nothing is appended.

    Exits with 4 at the first place where the code does something else than was recorded.
    """
    with open_log(settings) as log, Runtime(log, policy=[], sandbox={}) as runtime:
        run_id = runs.resolve(runtime.log, run_name)
        if runtime.state(run_id).driver == "external":
            found = replaying.refold(runtime, run_id)
        else:
            spec = targets.load(target or recorded_target(runtime.log, run_id))
            found = replaying.replay(runtime, run_id, spec)

    def render() -> None:
        if found.ok:
            end = "to its recorded end" if found.complete else "to where the record stops"
            click.echo(f"{run_id}: {count(found.effects, 'effect')} answered from the record, the same {end}")
        if not found.same_code:
            say("The code is not the code that was recorded.")

    emit(settings, found.as_json(), render)
    return 0 if found.divergence is None else divergence_code(settings, found.divergence)


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
