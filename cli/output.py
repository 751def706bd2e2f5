"""How commands speak: data to stdout, words and progress to stderr, one object with `--json`.

Rules: a command hands over its object and a way to render it for a person; only one of the two is used. Nothing is
coloured where nobody looks. This file knows no command.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ledger_core.errors import LedgerError
from ledger_core.secret import VAULT

_SHORT = 100


@attrs.define
class Settings:
    """What the words before a command's name said."""

    root: Path
    policy: str | None = None
    sandbox: str | None = None
    json: bool = False
    debug: bool = False
    command: str | None = None
    """Name of the one that is at work."""


def emit(settings: Settings, value: dict[str, Any], render: Callable[[], None]) -> None:
    """Print a command's object: as JSON, or as `render` does."""
    if settings.json:
        text = json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
        click.echo(VAULT.clean_text(text))
    else:
        render()


def say(text: str) -> None:
    """Words for a person, on stderr."""
    click.echo(VAULT.clean_text(text), err=True)


def complain(settings: Settings, error: LedgerError) -> None:
    """An error: one sentence and a hint on stderr, or the object on stdout."""
    if settings.json:
        click.echo(VAULT.clean_text(json.dumps(error.as_json(), ensure_ascii=False, default=str)))
    say(harmless(f"error: {error.sentence}"))
    if error.hint:
        say(harmless(error.hint.strip("\n")))


class _Paper(Console):
    """A console that leaves it to the program what a closed pipe means."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def table(headings: list[str], rows: list[list[str]]) -> None:
    """A table on stdout, as wide as it needs to be where stdout is no terminal."""
    shown = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(Text(harmless(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 10_000
    _Paper(width=width, highlight=False).print(shown, no_wrap=width is not None)


def harmless(text: str) -> str:
    """Text from a log without what a terminal would obey: control characters are shown as what they are."""
    return "".join(c if c in "\n\t" or c.isprintable() else repr(c)[1:-1] for c in text)


def count(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def ago(time_ns: int) -> str:
    """How long ago something was, in a word."""
    seconds = max(0, time.time_ns() - time_ns) // 1_000_000_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def short(value: Any) -> str:
    """A value on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = harmless(text).replace("\n", "⏎")
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr for long work, where somebody looks: call it with what is done, and all."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
