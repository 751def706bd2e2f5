"""Commands that go through a run event by event: debug, timetravel, trace."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import click

from cli.commands.budget import account_json
from cli.options import DEFAULT_ROOT, open_log, pass_settings
from cli.output import Settings, count, emit, harmless, say, short
from cli.scopes import Asked, scoped
from ledger_core.errors import BadInput
from ledger_core.events.run import RunCreated
from ledger_core.log.log import Log
from ledger_core.log.record import Event
from ledger_core.runtime import liveness
from ledger_core.runtime.recorded import stream_of
from ledger_core.runtime.runtime import WORKERS
from ledger_core.secret import VAULT
from projections import panes, runs, transcript
from projections.dialogue import SPEAKS, Dialogue
from projections.frames import Film, Reel, steps_at
from projections.runs import of_stream
from projections.spans import FORMATS
from projections.standing import cost_words, next_step, waits_lines
from projections.telling import span
from projections.timeline import Line, timeline
from projections.trace import of_scope
from projections.usage import budgets_at
from projections.wire import event_json, status_json

_MARKS = {"": (" ", None), "ok": ("+", "green"), "failed": ("✗", "red"), "doubt": ("?", "red"), "waits": ("·", "blue")}
_MARKS["person"] = ("@", "yellow")
_PAUSE_NS = 50_000_000
"""Shorter gaps are not shown."""
_SAID: Final = 3
"""Messages that plain output ends with."""


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--include-diffs", is_flag=True, help="Also show what each event changed.")
@pass_settings
def debug(settings: Settings, run_name: str, include_diffs: bool) -> None:
    """Show a run's timeline: what happened, what was said, what it waited for, and what to do next."""
    with open_log(settings) as log:
        run_id = runs.resolve(log, run_name)
        state = of_stream(log, stream_of(run_id))
        lost = state.worker is not None and not liveness.alive(settings.root / WORKERS, state.worker)
        lines = timeline(log.stream(stream_of(run_id)), diffs=include_diffs)
        value = status_json(state) | {"worker_lost": lost, "next": next_step(state, lost=lost)}
        if settings.json:
            value["timeline"] = [line.as_json() for line in lines]

        def render() -> None:
            _show(lines)
            root = "" if str(settings.root) == DEFAULT_ROOT else f"--root {settings.root} "
            status = f"{state.status} ({state.waiting})" if state.waiting else state.status
            click.echo()
            click.secho(harmless(f"{state.run} is {status}, {cost_words(state)}"), bold=True)
            for words in waits_lines(state, time.time_ns()):
                click.echo(harmless(f"waits for {words}"))
            for row in state.in_doubt:
                click.secho(harmless(f"in doubt: {row.tool} at effect {row.path}: did it happen?"), fg="red")
            click.echo(harmless(value["next"].replace("agentledger ", f"agentledger {root}")))

        emit(settings, value, render)


def _show(lines: Iterator[Line]) -> None:
    attempt = 1
    for line in lines:
        if line.idle_ns is not None and line.idle_ns >= _PAUSE_NS:
            waited = f"{span(line.idle_ns)} of waiting" + (f" for {line.idle_for}" if line.idle_for else "")
            click.secho(harmless(f"{'':>11}  ⋯ {waited}"), fg="blue")
        if line.attempt != attempt and line.type != "step_retry_scheduled":
            attempt = line.attempt
            click.secho(f"{'':>11}  attempt {attempt}", bold=True)
        click.echo(_line(line))
        if line.patch:
            click.secho(f"{'':>13}± {short(line.patch)}", dim=True)


def _line(line: Line) -> str:
    """A line for a terminal, with as much of what was said as fits."""
    mark, colour = _MARKS[line.mark]
    inside = 0 if line.type.startswith("run_") else 1 if line.type == "step_created" else 2
    took = f" ({span(line.took_ns)})" if line.took_ns is not None else ""
    said = "" if line.said is None else f"  {short(line.said)}"
    place = line.path or ""
    head = f"{'+' + span(line.since_ns):>11}  {'  ' * inside}{mark} "
    words = click.style(harmless(f"{line.words}{took}"), fg=colour, bold=line.mark in ("failed", "doubt"))
    return f"{head}{click.style(harmless(place), dim=True)}{' ' if place else ''}{words}{harmless(said)}"


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--at-seq", type=int, help="The run's own event to go to, from 1.")
@click.option("--include-diffs", is_flag=True, help="In the list: what each event changed.")
@click.option("--include-states", is_flag=True, help="In the list: all that the run was after each event.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a page to go through.")
@pass_settings
def timetravel(
    settings: Settings,
    run_name: str,
    at_seq: int | None,
    include_diffs: bool,
    include_states: bool,
    html: Path | None,
) -> None:
    """Go through a run: what it was at any of its events, its state document, and what the event changed.

    With --html, a page, which carries the run's key if it is at hand. With --at-seq, one event: what it changed, and
    the run's state, steps, ledger, budget and transcript behind it. On a terminal and without other options, keys go
    through the run and from one of these to the other. Else a list of all its events.
    """
    with open_log(settings) as log:
        run_id = runs.resolve(log, run_name)
        if html is not None and at_seq is not None:
            raise BadInput("A page holds all events of a run.", hint="Leave out --at-seq; the page has a slider.")
        if html is not None:
            _page(settings, log, run_id, html)
        elif at_seq is not None:
            _one(settings, log, run_id, at_seq)
        elif sys.stdout.isatty() and sys.stdin.isatty() and not settings.json and not include_diffs | include_states:
            _watch(log, run_id)
        else:
            _all(settings, log, run_id, diffs=include_diffs, states=include_states)


def _page(settings: Settings, log: Log, run_id: str, path: Path) -> None:
    from projections import evidence, page  # noqa: PLC0415  # a page's parts are many, and needed here alone
    from projections.evidence_place import outside, write_whole  # noqa: PLC0415

    made = evidence.bundle(log, run_id)
    text = page.render(made)
    write_whole(outside(path, settings.root), [text.encode()], private=made["stream"]["key"] is not None)
    emit(settings, {"run_id": run_id, "html": str(path)}, lambda: say(f"{count(len(text), 'character')} in {path}"))


def _one(settings: Settings, log: Log, run_id: str, seq: int) -> None:
    head = log.stream_head(stream_of(run_id))
    last = 0 if head is None else head.stream_seq
    if not 1 <= seq <= last:
        raise BadInput(
            f"Run {run_id} has {count(last, 'event')}, counted from 1; there is none at {seq:,}.",
            hint=f"Say --at-seq with a number from 1 to {last}.",
        )
    film, taken, patch = Film(), list[Event](), dict[str, Any]()

    def passing() -> Iterator[Event]:
        nonlocal patch, taken
        for one in itertools.islice(log.stream(stream_of(run_id)), seq):
            patch, taken = film.take(one), [*taken[:1], one]
            yield one

    said = transcript.of_events(passing())
    event, forked = taken[-1], _forked(taken[0])
    budgets, steps = budgets_at(log, event, film.use), steps_at(film.steps, seq, film.standing)
    value = {
        "run_id": run_id,
        "seq": seq,
        "last": last,
        "event": event_json(event),
        "standing": film.standing,
        "state": film.draft,
        "diff": patch,
        "steps": [attrs.asdict(one) for one in steps],
        "budget": {**film.use.as_json(), "budgets": [account_json(one) for one in budgets]},
        "transcript": said.as_json(),
        "forked_from": forked,
    }

    def render() -> None:
        click.secho(harmless(f"{run_id}, event {seq:,} of {last:,}: {event.type}"), bold=True)
        click.echo(short({**value["event"]["facts"], **value["event"]["content"]}))
        for title, document in (
            ("what it changed", patch),
            ("the run after it", {name: part for name, part in film.standing.items() if name != "state"}),
            ("the state, as the code sees it", film.draft),
        ):
            click.secho(f"\n{title}", underline=True)
            click.echo(harmless(VAULT.clean_text(json.dumps(document, ensure_ascii=False, indent=2))))
        for title, lines in (
            ("budget", panes.use_short(film.use, budgets)),
            (f"transcript: {panes.transcript_words(said)}", panes.last_lines(said, _SAID)),
        ):
            click.secho(f"\n{title}", underline=True)
            for line in lines:
                click.echo(short(VAULT.clean_text(line)))
        if forked is not None:
            click.echo(harmless(_forked_words(forked)))

    emit(settings, value, render)


def _forked(first: Event) -> dict[str, Any] | None:
    """What a run was forked from; None if it was not."""
    body = first.body
    if not isinstance(body, RunCreated) or body.ancestor is None:
        return None
    return {"run_id": body.ancestor, "seq": body.ancestor_event}


def _forked_words(forked: dict[str, Any]) -> str:
    return f"It is a fork of {forked['run_id']} behind its event {forked['seq']}: what was before that is told there."


def _all(settings: Settings, log: Log, run_id: str, *, diffs: bool, states: bool) -> None:
    """Every event, written as it is read: with states a long run is more than memory holds."""
    film, begun = Film(), 0
    if settings.json:
        click.echo(f'{{"run_id": {json.dumps(run_id)}, "events": [', nl=False)
    for event in log.stream(stream_of(run_id)):
        patch = film.take(event)
        begun = begun or event.time_ns
        if settings.json:
            value = event_json(event) | ({"diff": patch} if diffs else {})
            if states:
                value |= {"standing": film.standing, "state": film.draft, "budget": film.use.as_json()}
            text = json.dumps(value, ensure_ascii=False)
            click.echo(("" if event.stream_seq == 1 else ",") + "\n" + VAULT.clean_text(text), nl=False)
            continue
        path = event_json(event)["facts"].get("path", "")
        click.echo(
            f"{event.stream_seq:>6}  {'+' + span(event.time_ns - begun):>9}  {event.type:<24} {harmless(str(path))}"
        )
        if diffs and patch:
            click.secho(f"{'':19}± {short(patch)}", dim=True)
        if states:
            click.echo(f"{'':19}= {harmless(json.dumps(film.standing, ensure_ascii=False))}")
    if settings.json:
        click.echo("\n]}")


def _watch(log: Log, run_id: str) -> None:
    from cli import viewer  # noqa: PLC0415  # a terminal's modules, which are needed here alone
    from cli.panes import Panes, watch  # noqa: PLC0415

    reel = Reel(log.stream(stream_of(run_id)))

    def event(seq: int) -> Event:
        return log.event(reel.delta(seq).log_seq)

    def find(text: str, seq: int) -> int | None:
        wanted, first = text.casefold(), None
        for one in log.stream(stream_of(run_id)):
            if wanted in json.dumps(event_json(one), ensure_ascii=False).casefold() and one.stream_seq <= len(reel):
                if one.stream_seq > seq:
                    return one.stream_seq
                first = first or one.stream_seq
        return first

    forked = _forked(event(1))
    shown = Panes(
        view=viewer.View(reel=reel, event=lambda seq: event_json(event(seq)), find=find, title=run_id),
        dialogue=Dialogue(reel.of_types(SPEAKS), event),
        budgets=lambda seq, use: budgets_at(log, event(seq), use),
        note="" if forked is None else _forked_words(forked),
    )
    watch(shown)


@click.command()
@scoped
@click.option("--format", "form", type=click.Choice(sorted(FORMATS)), default="jsonl", show_default=True)
@pass_settings
def trace(settings: Settings, asked: Asked, form: str) -> None:
    """Write runs as spans for systems that show traces: of a run with its children, a session, a time, or all.

    Each line is a JSON object, with --json or without: a span in OpenTelemetry's shape. Nothing that people or models
    said is in it.
    """
    written = 0
    with open_log(settings) as log:
        for span_ in of_scope(log, asked.scope(log)):
            click.echo(FORMATS[form](span_))
            written += 1
    if not written:
        say("There are no runs there.")


for _option in trace.params:
    if _option.name == "as_json" and isinstance(_option, click.Option):
        _option.help = "Changes nothing here: a JSON object a line, always."
