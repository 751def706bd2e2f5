"""Commands that read the log itself: log show, log tail, log head."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator

import click

from cli.options import open_log, pass_settings
from cli.output import Settings, emit, say, short, table
from ledger_core.errors import BadInput
from ledger_core.events import REGISTRY
from ledger_core.log.log import Event, Log
from ledger_core.runtime.recorded import stream_of
from projections import runs
from projections.wire import event_json


@click.group()
def log() -> None:
    """Read the log: show, tail, head."""


@log.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@click.option("--type", "types", multiple=True, help="Only events of this type; may be repeated.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="How many at most.")
@click.option("--after", type=click.IntRange(0), help="Events strictly after this seq, oldest first.")
@click.option("--oldest-first", is_flag=True, help="From the first on.")
@pass_settings
def show(
    settings: Settings, run_name: str | None, types: tuple[str, ...], limit: int, after: int | None, oldest_first: bool
) -> None:
    """Show events, newest first: of the ledger, or of one run."""
    _check_types(types)
    with open_log(settings) as opened:
        events = _events(opened, run_name, after, oldest_first=oldest_first)
        found = list(itertools.islice((event for event in events if not types or event.type in types), limit))

    def render() -> None:
        table(["seq", "time", "stream", "type", ""], [_row(event) for event in found])
        if len(found) == limit:
            say(f"The first {limit}; more with --limit.")

    emit(settings, {"events": [event_json(event) for event in found]}, render)


@log.command()
@click.option("--run", "run_name", help="Only events of this run.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new events as they come, from any process.")
@click.option("--after", type=click.IntRange(0), help="Begin strictly after this seq, instead of ten before the end.")
@pass_settings
def tail(settings: Settings, run_name: str | None, follow: bool, after: int | None) -> None:
    """Print the last events, one a line, and with -f the new ones as they come."""
    with open_log(settings) as opened:
        stream = None if run_name is None else stream_of(runs.resolve(opened, run_name))
        start = max(0, opened.head().seq - 10) if after is None else after
        for event in opened.follow(start) if follow else opened.read(start):
            if stream in (None, event.stream):
                value = event_json(event)
                click.echo(json.dumps(value, ensure_ascii=False) if settings.json else "  ".join(_row(event)))


@log.command()
@pass_settings
def head(settings: Settings) -> None:
    """Print the last event's seq and hash: keep it elsewhere, and `verify --against` it.

    A chain convinces only one who holds a later head: without one, a rewritten history looks like the true one.
    """
    with open_log(settings) as opened:
        found = opened.head()
    emit(settings, {"seq": found.seq, "hash": found.hash.hex()}, lambda: click.echo(str(found)))


def _events(opened: Log, run_name: str | None, after: int | None, *, oldest_first: bool) -> Iterator[Event]:
    if run_name is None:
        return opened.read(after or 0) if oldest_first or after is not None else opened.newest_first()
    events = opened.stream(stream_of(runs.resolve(opened, run_name)))
    if after is not None:
        return (event for event in events if event.seq > after)
    return events if oldest_first else iter(list(events)[::-1])


def _check_types(types: tuple[str, ...]) -> None:
    for name in types:
        if name not in REGISTRY:
            raise BadInput(f"There is no event type {name!r}.", hint="Types are: " + ", ".join(sorted(REGISTRY)) + ".")


def _row(event: Event) -> list[str]:
    value = event_json(event)
    shown = {**value["facts"], **value["content"]}
    for name in ("request", "seed", "code_digest", "key", "path", "run", "step"):
        shown.pop(name, None)
    path = value["facts"].get("path", "")
    clock = time.strftime("%H:%M:%S", time.localtime(event.time_ns // 10**9))
    return [str(event.seq), clock, event.stream, event.type, f"{path} {short(shown)}".strip()]
