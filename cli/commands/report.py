"""Commands of reports: cost report, failure report, review checklist."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len

from cli.commands.runs import recorded_target
from cli.options import open_log, pass_settings
from cli.output import Settings, count, emit, harmless, progress, say
from cli.scopes import Asked, scoped
from ledger_core.errors import BadInput, LedgerError
from ledger_core.log.verify_jobs import verify_ledger, verify_stream
from ledger_core.runtime import liveness
from ledger_core.runtime import target as targets
from ledger_core.runtime.agent import AgentSpec
from ledger_core.runtime.governing import budgets_of
from ledger_core.runtime.recorded import stream_of
from ledger_core.runtime.runtime import WORKERS, Runtime
from ledger_core.secret import VAULT
from projections import rebuild
from projections.reports import cost as costs
from projections.reports import failure as failures
from projections.reports import review as reviews
from projections.reports import sections
from projections.reports.check import Means, Verdict
from projections.reports.sections import Section
from projections.reports.subject import Subject
from projections.tables import ALL
from projections.views import of_run, open_caught_up
from replay import replaying

_COLOURS = {"good": "green", "bad": "red", "warn": "yellow"}
_HTML = click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write it as a page.")


@click.group()
def cost() -> None:
    """What was paid: cost report."""


@cost.command("report")
@scoped
@click.option(
    "--top", default=10, show_default=True, type=click.IntRange(1, 10_000), help="Runs, steps and sessions at most."
)
@_HTML
@pass_settings
def cost_report(settings: Settings, asked: Asked, top: int, html: Path | None) -> None:
    """What was paid, by run, agent, step, tool, model and day; what came to nothing; how budgets stand."""
    with _subject(settings, asked) as subject:
        rows = None if subject.runs is None else list(subject.rows("runs"))
        accounts = [one for one in budgets_of(subject.log) if rows is None or costs.belongs(one, rows)]
        found = costs.report(subject, accounts=accounts, top=top)
    _emit(settings, f"Costs of {subject.scope.words}", found, costs.sections(found), html)


@click.group()
def failure() -> None:
    """What failed, and why: failure report."""


@failure.command("report")
@scoped
@click.option("--top", default=50, show_default=True, type=click.IntRange(1, 10_000), help="Causes at most.")
@_HTML
@pass_settings
def failure_report(settings: Settings, asked: Asked, top: int, html: Path | None) -> None:
    """What failed, by root cause: how often, whether it came right, what it led to, and what to do next."""
    with _subject(settings, asked) as subject:
        found = failures.report(subject, top=top)
    _emit(settings, f"Failures of {subject.scope.words}", found, failures.sections(found), html)


@click.group()
def review() -> None:
    """Whether a release may stand on what was recorded: review checklist."""


@review.command()
@scoped
@click.option("--fail-on-risk", is_flag=True, help="Exit with 1 where a risk blocks, 6 if not all was checked.")
@click.option("--max-total-usd", type=click.FloatRange(0), help="What it may have cost at most.")
@click.option("--no-replay", is_flag=True, help="Leave the agents' code alone; then that is not checked.")
@_HTML
@pass_settings
def checklist(
    settings: Settings,
    asked: Asked,
    fail_on_risk: bool,
    max_total_usd: float | None,
    no_replay: bool,
    html: Path | None,
) -> int:
    """Check what was recorded before a release stands on it, with the evidence for each risk and what to do.

    The code of agents is loaded, and replayed against the record: no effect is made again, and nothing is appended.
    """
    with _subject(settings, asked) as subject, Runtime(subject.log, policy=[], sandbox={}) as runtime:
        means = Means(
            verify=lambda: _verified(settings, subject),
            replay=None if no_replay else _replaying(runtime),
            agree=lambda: _agrees(subject),
            alive=lambda worker: liveness.alive(settings.root / WORKERS, worker),
            max_usd=max_total_usd,
        )
        found = reviews.review(subject, means)
    _emit(settings, f"Review of {subject.scope.words}", found, reviews.sections(found), html)
    return reviews.exit_code(found) if fail_on_risk else 0


@contextmanager
def _subject(settings: Settings, asked: Asked) -> Iterator[Subject]:
    """What is asked about: a run and its children are folded now, for all else the views are caught up."""
    with open_log(settings) as log:
        scope = asked.scope(log)
        if scope.run is not None:
            yield Subject.of(log, scope, None)
            return
        with progress("catching up", quiet=settings.json) as bar, open_caught_up(log, progress=bar) as views:
            yield Subject.of(log, scope, views)


def _verified(settings: Settings, subject: Subject) -> Verdict:
    """The records, chains, contents and indexes of the runs, or of the whole ledger."""
    if subject.runs is None:
        with progress("verifying", quiet=settings.json) as bar:
            reports = [verify_ledger(settings.root, jobs=os.cpu_count() or 1, progress=bar)]
    else:
        reports = [verify_stream(settings.root, stream_of(run)) for run in subject.runs]
    return Verdict(
        findings=tuple(f"{one.kind}: {one.detail}" for report in reports for one in report.findings),
        not_checked=tuple(text for report in reports for text in report.not_checked),
        looked_at=f"{count(sum(report.sums.events for report in reports), 'event')} are what was written",
    )


def _replaying(runtime: Runtime) -> Callable[[str], Verdict]:
    """Replays a run against the code that it recorded, where that can be imported."""
    loaded: dict[str, AgentSpec] = {}

    def load(target: str) -> AgentSpec:
        try:
            return targets.load(target)
        except (Exception, SystemExit) as error:  # of the agent's module, which may do anything
            why = error.sentence if isinstance(error, LedgerError) else f"{type(error).__name__}: {error}"
            raise BadInput(f"The code of {target} cannot be loaded: {why}") from None

    def replay(run_id: str) -> Verdict:
        try:
            if runtime.state(run_id).driver == "external":
                found = replaying.refold(runtime, run_id)
            else:
                target = recorded_target(runtime.log, run_id)
                with redirect_stdout(sys.stderr):  # what agents print is none of the report
                    if target not in loaded:
                        loaded[target] = load(target)
                    found = replaying.replay(runtime, run_id, loaded[target])
        except LedgerError as error:
            return Verdict(not_checked=(error.sentence,))
        if found.divergence is not None:
            return Verdict(findings=(str(found.divergence.error().sentence),))
        return Verdict()

    return replay


def _agrees(subject: Subject) -> Verdict:
    """What is kept of the views, beside rows that are folded now."""
    log = subject.log
    if subject.runs is None:
        checked = list(rebuild.check(log))
        return Verdict(
            findings=tuple(one.name for one in checked if not one.same),
            looked_at=f"{len(checked)} projections were folded anew, and are the same",
        )
    with open_caught_up(log) as views:
        wrong = [
            f"{name} of run {run}"
            for run in subject.runs
            for folded in (of_run(log, run),)
            for name in ALL
            if list(views.rows(name, run)) != list(folded.rows(name, run))
        ]
    return Verdict(findings=tuple(wrong), looked_at=f"the rows of {count(len(subject.runs), 'run')} are the same")


def _emit(settings: Settings, title: str, found: dict[str, Any], shown: Sequence[Section], html: Path | None) -> None:
    if html is not None:
        text = VAULT.clean_text(sections.page(title, _lead(found), shown))
        try:
            html.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{html} cannot be written: {error.strerror}.") from None
        say(f"{count(len(text), 'character')} in {html}")
    emit(settings, found, lambda: _render(title, shown))


def _lead(found: dict[str, Any]) -> str:
    runs = found["scope"]["runs"]
    return "All runs of the ledger." if runs is None else f"{count(runs, 'run')}."


def _render(title: str, shown: Sequence[Section]) -> None:
    click.secho(harmless(title), bold=True)
    for section in shown:
        click.echo()
        click.secho(harmless(section.title), bold=True, fg=_COLOURS.get(section.mark))
        if section.lead:
            click.echo(harmless(section.lead))
        if section.lines:
            _table(section)


def _table(section: Section) -> None:
    """Columns as wide as they need to be, the lines under a row beneath it."""
    rows = [[harmless(cell) for cell in line.cells] for line in section.lines]
    widths = [max(map(cell_len, column)) for column in zip(section.headings, *rows, strict=True)]
    click.secho(_cells(section.headings, widths, section.numbers), dim=True)
    for line, cells in zip(section.lines, rows, strict=True):
        click.secho(_cells(cells, widths, section.numbers), fg=_COLOURS.get(line.mark))
        for text in line.below:
            click.secho(f"    {harmless(text)}".replace("\n", "\n    "), dim=True)


def _cells(cells: Sequence[str], widths: Sequence[int], numbers: Sequence[int]) -> str:
    shown = []
    for place, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        gap = " " * (width - cell_len(cell))
        shown.append(gap + cell if place in numbers else cell + gap)
    return "  ".join(shown).rstrip()
