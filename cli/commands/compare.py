"""Commands that compare two runs: diff, divergence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from rich.cells import cell_len, set_cell_size

from cli.options import open_log, pass_settings
from cli.output import Settings, count, emit, harmless, say
from ledger_core.errors import LedgerError
from ledger_core.log.log import Log
from ledger_core.run.divergence import Difference, Divergence
from ledger_core.secret import VAULT
from projections.course import Course, Effect
from replay import sides
from replay.alignment import Aligned, Op
from replay.comparing import Comparison, compare, cost_words
from replay.texts import is_text, text_diff

_MARKS: Final[dict[Op, tuple[str, str | None]]] = {
    "same": (" ", None),
    "changed": ("≠", "yellow"),
    "missing": ("-", "red"),
    "extra": ("+", "green"),
    "moved": ("↷", "blue"),
}
_AROUND: Final = 2
"""Equal effects that are shown around one that differs."""
_MOST: Final = 200
"""Rows that are shown without --all, and divergences of the gate."""
_FIELDS: Final = 10
"""Fields of one effect in which it differs."""
_LINES: Final = 40
"""Lines of one text."""
NARROWEST: Final = 40
_ABSENT: Final = "<absent>"
"""As `divergence.differences` names what is not there."""


@click.command("diff")
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a page.")
@click.option("--all", "every", is_flag=True, help="Show what is equal as well.")
@pass_settings
def diff(settings: Settings, left: str, right: str, html: Path | None, every: bool) -> None:
    """Show two runs side by side: what they asked for, what came of it, what they cost, and how they ended.

    A and B are runs (ids, prefixes, `latest`), evidence (a file, a page, a directory) or saved replays. Effects are
    compared by what they ask for, so that one more shifts nothing. Exits with 0 whether they differ or not.
    """
    found = _compared(settings, left, right)
    value = found.as_json(every=every) if settings.json else {}
    if html is not None:
        _page(settings, found, html)
        value["html"] = str(html)

    def render() -> None:
        click.secho(clean(found.verdict()), bold=True)
        if html is not None:
            say(f"The page is {html}.")
            return
        show(found, every=every)

    emit(settings, value, render)


def show(found: Comparison, *, every: bool = False) -> None:
    """Print two runs side by side, as wide as the terminal is: what they are, what differs, how they ended."""
    width = max(NARROWEST, shutil.get_terminal_size((100, 24)).columns)
    for lines in (_sides(found, width), _rows(found, width, every=every), _ends(found, width)):
        for line in lines:
            click.echo(line)


@click.command("divergence")
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@click.option("--fail-on-divergence", is_flag=True, help="Exit with 4 if there are any.")
@pass_settings
def divergence(settings: Settings, left: str, right: str, fail_on_divergence: bool) -> int:
    """List where a run diverges from another: each with its code, what differs, and the usual cause.

    A and B are what `diff` takes; A is the recorded one. Codes: contracts/DIVERGENCE.md
    """
    found = _compared(settings, left, right)
    names = ("same", "left", "right", "cut_short", "divergences")
    value = {name: part for name, part in found.as_json().items() if name in names} if settings.json else {}

    def render() -> None:
        click.secho(clean(found.verdict()), bold=True)
        width = max(NARROWEST, shutil.get_terminal_size((100, 24)).columns)
        for one in found.divergences[:_MOST]:
            click.echo()
            click.secho(clean(one.sentence()), fg="red")
            if one.hash is not None:
                click.secho(clean(f"  event {one.event} of the run, seq {one.seq}, {one.hash[:16]}…"), dim=True)
            for line in difference_lines(one, width, inside=2):
                click.echo(line)
            click.echo(f"  {one.kind.cause}")
        if len(found.divergences) > _MOST:
            click.echo(f"\n… and {count(len(found.divergences) - _MOST, 'more divergence')}: --json has all")

    emit(settings, value, render)
    return 4 if fail_on_divergence and not found.same else 0


def _compared(settings: Settings, left: str, right: str) -> Comparison:
    with ledger_of(settings, left, right) as log:
        one = sides.load(left, log)
        other = one if right == left else sides.load(right, log)
        return compare(one, other)


@contextmanager
def ledger_of(settings: Settings, *names: str) -> Iterator[Log | None]:
    """The ledger here, if there is one; there must be one unless both names are files."""
    if all(sides.is_file_name(name) for name in names):
        yield None
        return
    try:
        log = open_log(settings)
    except LedgerError:
        if not all(sides.is_file_name(name) or os.path.exists(name) for name in names):
            raise
        yield None
        return
    with log:
        yield log


def _page(settings: Settings, found: Comparison, path: Path) -> None:
    from projections.evidence_place import outside, write_whole  # noqa: PLC0415  # what writes, for whoever writes
    from replay import page  # noqa: PLC0415  # a page's parts are many, and needed here alone

    text = VAULT.clean_text(page.render(found))
    write_whole(outside(path, settings.root), [text.encode()], private=True)


# What is shown


def _sides(found: Comparison, width: int) -> Iterator[str]:
    names = ("source", "agent", "status", "effects", "code")
    pairs = [(_about(found.recorded), _about(found.attempted))]
    for one, other in pairs:
        for name in names:
            yield _two(" ", f"{name:<8}{one[name]}", f"{name:<8}{other[name]}", width, dim=one[name] == other[name])
    yield ""


def _about(course: Course) -> dict[str, str]:
    code = "" if course.code_digest is None else f"{course.code_digest[:16]}…"
    source = course.source if course.source == course.run_id else f"{course.source} ({course.run_id})"
    effects = f"{len(course.effects):,}"
    return {"source": source, "agent": course.agent, "status": course.status, "effects": effects, "code": code}


def _rows(found: Comparison, width: int, *, every: bool) -> Iterator[str]:
    if found.begins is not None:
        yield from _told(found.begins, width)
        yield ""
    numbers = iter(range(len(found.aligned))) if every else found.shown(_AROUND)
    told = 0
    for number in numbers:
        if isinstance(number, range):
            yield click.style(f"  … {count(len(number), 'equal effect')} …", dim=True)
            continue
        if told >= _MOST and not every:
            more = sum(1 for other in found.at if other >= number)
            yield f"… and {count(more, 'more effect')} that differ: --all shows them"
            return
        row, one = found.aligned[number], found.at.get(number)
        mark, colour = _MARKS[row.op]
        code = "" if one is None else one.kind.code
        told += one is not None
        yield _two(mark, _words(row.left), _words(row.right), width, colour=colour, end=code, dim=one is None)
        if one is not None:
            yield from difference_lines(one, width)
            yield from _alone(row, width)


def _words(effect: Effect | None) -> str:
    if effect is None:
        return ""
    said = effect.request["arguments"] if _has_arguments(effect) else effect.request
    came = "" if effect.outcome == "done" else f" [{effect.outcome}]"
    gist = "" if said in (None, {}) or effect.kind == "model" else f"  {_flat(said, 200)}"
    return f"{effect.path:<5} {effect.words()}{came}{gist}"


def _has_arguments(effect: Effect) -> bool:
    return isinstance(effect.request, dict) and effect.request.keys() == {"arguments"}


def _alone(row: Aligned, width: int) -> Iterator[str]:
    """What an effect that has no partner came to."""
    effect = row.right if row.op == "extra" else row.left if row.op == "missing" else None
    if effect is not None and effect.value is not None:
        mark, colour = _MARKS[row.op]
        yield click.style(_cut(f"      {mark} came to {_flat(effect.value, width)}", width), fg=colour)


def _ends(found: Comparison, width: int) -> Iterator[str]:
    for one in found.ends:
        yield ""
        yield from _told(one, width)
    state = list(islice(found.state(), 2 * _FIELDS))
    if state:
        yield ""
        yield click.style("state at the end", bold=True)
        yield from _fields(state, width)
    yield ""
    cost = found.cost
    if not any(cost["difference"].values()):
        yield clean(f"cost      both {cost_words(cost['left'])}")
        return
    for name in ("left", "right"):
        yield clean(f"cost      {name:<6}{cost_words(cost[name])}")
    more = {name: amount for name, amount in cost["difference"].items() if amount}
    signed = ", ".join(("+" if amount > 0 else "-") + cost_words({name: abs(amount)}) for name, amount in more.items())
    yield clean(f"          right {signed}")


def _told(one: Divergence, width: int) -> Iterator[str]:
    yield click.style(clean(one.sentence()), bold=True)
    yield from difference_lines(one, width, inside=2)


def difference_lines(one: Divergence, width: int, *, inside: int = 6) -> Iterator[str]:
    """What differs in a divergence, field by field, texts as text diffs."""
    yield from _fields(one.differences, width, inside=inside)


def _fields(found: Sequence[Difference], width: int, *, inside: int = 6) -> Iterator[str]:
    margin = " " * inside
    for one in found[:_FIELDS]:
        pairs = [("-", one.recorded, "red"), ("+", one.attempted, "green")]
        there = [(mark, _flat(value, width), colour) for mark, value, colour in pairs if value != _ABSENT]
        signs = [f"{mark} {said}" for mark, said, _ in there] if len(there) == 1 else [said for _, said, _ in there]
        text = is_text(one.recorded, one.attempted)
        if not text and cell_len(clean(f"{margin}{one.at}  {' → '.join(signs)}")) <= width:
            coloured = [click.style(clean(said), fg=colour) for said, (_, _, colour) in zip(signs, there, strict=True)]
            yield click.style(clean(f"{margin}{one.at}  "), dim=True) + " → ".join(coloured)
            continue
        yield click.style(_cut(f"{margin}{one.at}", width), dim=True)
        if text:
            lines = text_diff(one.recorded, one.attempted)
            for line in lines[:_LINES]:
                colour = {"-": "red", "+": "green", "@": "blue"}.get(line[0])
                yield click.style(_cut(f"{margin}{line}", width), fg=colour)
            if len(lines) > _LINES:
                yield f"{margin}… and {count(len(lines) - _LINES, 'more line')}: --html shows them"
            continue
        for mark, said, colour in there:
            yield click.style(_cut(f"{margin}{mark} {said}", width), fg=colour)
    if len(found) > _FIELDS:
        yield f"{margin}… and {count(len(found) - _FIELDS, 'more field')}: --json has them"


def _two(
    mark: str, left: str, right: str, width: int, *, colour: str | None = None, end: str = "", dim: bool = False
) -> str:
    """A line of two columns."""
    half = (width - 12) // 2
    left, right = (_fit(clean(text), half) for text in (left, right))
    return click.style(f"{mark} {left}  {right}  {end}".rstrip(), fg=colour, dim=dim)


def _fit(text: str, width: int) -> str:
    """A text in so many cells of a terminal."""
    text = text.replace("\n", "⏎")
    return set_cell_size(text, width - 1) + "…" if cell_len(text) > width else set_cell_size(text, width)


def _cut(text: str, width: int) -> str:
    text = clean(text).replace("\n", "⏎")
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _flat(value: Any, most: int) -> str:
    """A value on one line; no more of a long one is spelled than is shown."""
    if isinstance(value, str):
        return json.dumps(value[: most + 1], ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False, default=str)[: most + 1]


def clean(text: str) -> str:
    """Text without secrets, and without what a terminal would obey."""
    return harmless(VAULT.clean_text(text))
